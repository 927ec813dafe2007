//! Fifty who mean harm do all of it at once, and ten who do not notice nothing but that it takes a little longer. It is alone in its
//! program: what else is tested meanwhile would be among those who are to wait.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should say where")]

use std::time::Duration;

use aihub_tests::{
    app::{auth, http_client, token, variables},
    client::{Client, chat},
    crowd::{Crowd, Harm},
    database,
    process::Process,
    providers::Providers,
    until_ok,
};
use chrono::TimeDelta;
use futures::future::join_all;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const MEMORY_BYTES: usize = 512 << 20;
const HOSTILE: u8 = 50;
const HONEST: usize = 10;
/// In the gate. `AIHUB_TEST_CROWD_SECONDS=120` is what the issue asks for.
const SECONDS: u64 = 20;

#[tokio::test]
async fn fifty_hostile_users_and_addresses_fail_no_honest_request_and_the_service_stays_within_its_memory() {
    let (database, providers) = (database().await, Providers::start().await);
    providers.rule(json!({ "model": "gpt-6-astra", "hang": true }));
    providers.rule(json!({ "model": "sora-2", "hang": true }));
    let seconds = std::env::var("AIHUB_TEST_CROWD_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let time = Duration::from_secs(seconds.unwrap_or(SECONDS));
    let mut variables = variables(&database, &providers);
    variables.retain(|(name, _)| name != "AIHUB__LIMITS__NODE__MAX_LAG_MS");
    let service = Process::start(env!("CARGO_BIN_EXE_aihub-under-test"), &variables).await;
    let address = service.address;
    let of = |name: &str| token(&auth(), name, name, TimeDelta::hours(1));

    let mut honest = Vec::new();
    for nth in 0..HONEST {
        honest.push(Client::connect(address, &of(&format!("honest-{nth}"))).await);
    }
    let before = service.memory_bytes();
    let crowd = Crowd::start(address, &auth(), HOSTILE, Harm::OF_FIFTY);
    let enough = CancellationToken::new();
    let tasks = TaskTracker::new();
    let asking: Vec<_> = honest
        .into_iter()
        .map(|mut client| {
            let enough = enough.clone();
            tasks.spawn(async move {
                let mut answered = 0;
                while !enough.is_cancelled() {
                    client.ask(&chat("a", "Why is the sky blue?")).await.done();
                    answered += 1;
                    sleep(Duration::from_millis(50)).await;
                }
                answered
            })
        })
        .collect();
    let started = Instant::now();
    let http = http_client();
    while started.elapsed() < time {
        for (path, token) in
            [("/health/live", None), ("/metrics", None), ("/health/ready", None), ("/api/credits", Some("honest-0"))]
        {
            let mut request = http.get(format!("http://{address}{path}"));
            if let Some(name) = token {
                request = request.bearer_auth(of(name));
            }
            let told = timeout(Duration::from_secs(10), request.send())
                .await
                .unwrap_or_else(|_| panic!("{path} is not answered"));
            assert_eq!(told.unwrap().status(), 200, "{path}");
        }
        // One that comes anew, too.
        let mut client = Client::connect(address, &of("honest-new")).await;
        client.ask(&chat("a", "Why is the sky blue?")).await.done();
        let now = service.memory_bytes();
        assert!(now < MEMORY_BYTES, "{} MB after {:?}", now >> 20, started.elapsed());
        sleep(Duration::from_millis(500)).await;
    }
    enough.cancel();
    let answered: Vec<usize> =
        join_all(asking).await.into_iter().map(|answered| answered.expect("all are answered")).collect();
    assert!(answered.iter().all(|answered| *answered > 0), "{answered:?}");
    crowd.stop().await;
    let most = service.most_memory_bytes();
    assert!(most < MEMORY_BYTES, "{} MB", most >> 20);
    // And nothing of it stays.
    until_ok("all is given back", async || {
        let megabytes = service.memory_bytes() >> 20;
        if megabytes < (before >> 20) + 64 { Ok(()) } else { Err(megabytes) }
    })
    .await;
    service.kill().await;
}
