//! A view that cannot go on says so wherever somebody looks.

use aihub_tests::{
    app::{auth, http_client, token, variables},
    client::{Client, chat},
    database,
    process::Process,
    providers::Providers,
    until_ok,
};
use chrono::TimeDelta;
use sqlx::Executor;

use crate::audit::cli::done;

const PROGRAM: &str = env!("CARGO_BIN_EXE_aihub-under-test");

async fn get(service: &Process, path: &str) -> (u16, String) {
    let response = http_client().get(format!("http://{}{path}", service.address)).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

/// Waits until readiness has this status and says this.
async fn ready(service: &Process, status: u16, saying: &str) {
    until_ok("readiness says it", async || {
        let (found, text) = get(service, "/health/ready").await;
        if found == status && text.contains(saying) { Ok(()) } else { Err((found, text)) }
    })
    .await;
}

#[tokio::test]
async fn a_view_that_fails_says_where_in_status_readiness_and_metrics_and_goes_on_when_it_is_resumed() {
    let (database, providers) = (database().await, Providers::start().await);
    let service = Process::start(PROGRAM, &variables(&database, &providers)).await;
    let mut client = Client::connect(service.address, &token(&auth(), "ann", "acme", TimeDelta::hours(1))).await;
    client.ask(&chat("a", "Why is the sky blue?")).await.done();
    ready(&service, 200, "ready").await;

    // What follows does not fit into the view any more.
    let constraint = "ALTER TABLE read.request_status_v1 ADD CONSTRAINT nothing_more CHECK (account = '') NOT VALID";
    database.pool().execute(constraint).await.unwrap();
    let answer = client.ask(&chat("b", "Why is the sky blue?")).await;
    answer.done();
    ready(&service, 503, "handler request_status_v1 stopped at position ").await;
    let metrics = get(&service, "/metrics").await.1;
    assert!(metrics.contains(r#"subscription_stopped{name="request_status_v1"} 1"#), "{metrics}");
    let status = done(&database, &["projections", "status"]).await;
    let line = status.lines().find(|line| line.starts_with("request_status_v1")).unwrap();
    assert!(line.contains("stopped at position") && line.contains("nothing_more"), "{line}");

    database.pool().execute("ALTER TABLE read.request_status_v1 DROP CONSTRAINT nothing_more").await.unwrap();
    done(&database, &["projections", "resume", "request_status"]).await;
    ready(&service, 200, "ready").await;
    until_ok("the view has caught up", async || {
        let shown = "SELECT status FROM request_status_v1 WHERE request_id = $1";
        let shown: Option<String> =
            sqlx::query_scalar(shown).bind(answer.request_id()).fetch_optional(database.pool()).await.unwrap();
        if shown.as_deref() == Some("completed") { Ok(()) } else { Err(shown) }
    })
    .await;
    let metrics = get(&service, "/metrics").await.1;
    assert!(metrics.contains(r#"subscription_stopped{name="request_status_v1"} 0"#), "{metrics}");
}
