//! `kill -9` at every step, and two nodes at once.

use std::sync::Arc;

use aihub_domain::video::event::VideoEvent;
use aihub_infrastructure::{event_store::reader, video_queue::PostgresVideoQueue};
use aihub_tests::{
    app::{TestApp, auth, http_client, token, variables},
    audit::Audit,
    database,
    process::Process,
    providers::Providers,
    until,
};
use chrono::TimeDelta;
use serde_json::json;

use super::{ended, generate, video};

const JOBS: usize = 100;
const ROUNDS: usize = 16;

#[tokio::test]
async fn killed_at_every_step_each_of_a_hundred_jobs_ends_once_is_billed_once_and_was_submitted_once() {
    // With a provider that knows a submission again, and with one that has to be asked what it has.
    for idempotent in [true, false] {
        kill_at_every_step(idempotent).await;
    }
}

async fn kill_at_every_step(idempotent: bool) {
    let (database, providers) = (database().await, Providers::start().await);
    providers
        .rule(json!({ "ttft_ms": 30, "video_time_ms": 300, "idempotency": if idempotent { "on" } else { "off" } }));
    let mut variables = variables(&database, &providers);
    variables.extend(
        [
            ("AIHUB__VIDEO_PROVIDERS__SORA__IDEMPOTENT", idempotent.to_string()),
            ("AIHUB__VIDEO_PROVIDERS__SORA__LIMITS__MAX_CONCURRENCY", "20".to_owned()),
            // The provider is in this process and may be slow to see what a killed one sent: only after that it is asked.
            ("AIHUB__VIDEO_PROVIDERS__SORA__TIMEOUTS__FIRST_BYTE_MS", "3000".to_owned()),
            ("AIHUB__VIDEOS__RECOVER_AFTER_MS", "5000".to_owned()),
            ("AIHUB__CREDITS__WELCOME", "1000000".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    let token = token(&auth(), "ann", "ann", TimeDelta::hours(1));
    let program = env!("CARGO_BIN_EXE_aihub-under-test");
    let client = http_client();
    let (mut requested, mut kills_before_the_last_end) = (0, 0);
    for round in 0..=ROUNDS {
        let process = Process::start(program, &variables).await;
        let before = reader::head(database.pool()).await.unwrap().position;
        // A part of the jobs in each round. One whose answer is lost is asked for again: the key finds it.
        while requested < (JOBS * (round + 1)).div_ceil(ROUNDS).min(JOBS) {
            let url = format!("http://{}/api/mcp/sora2/generate", process.address);
            // Some cannot be told apart at the provider.
            let body = video(&format!("a calm sea, number {}", requested % 10)).to_string();
            let key = requested.to_string();
            let request = client.post(url).bearer_auth(&token).header("idempotency-key", key).body(body);
            match request.send().await {
                Ok(answer) if answer.status().is_success() => requested += 1,
                other => panic!("{other:?}"),
            }
        }
        if round == ROUNDS {
            let audit = Audit::of_ended_videos(database.pool()).await;
            process.kill().await;
            check(&audit, &providers, idempotent);
            break;
        }
        // Anywhere among what follows: each job has half a dozen steps.
        let instant = before + rand::random_range(10..60);
        let reached = until("so much is in the log, or all is done", async || {
            let head = reader::head(database.pool()).await.unwrap().position;
            let open: i64 =
                sqlx::query_scalar("SELECT count(*) FROM open_videos").fetch_one(database.pool()).await.unwrap();
            (head >= instant || open == 0).then_some(open > 0)
        })
        .await;
        kills_before_the_last_end += usize::from(reached);
        process.kill().await;
    }
    assert!(kills_before_the_last_end > ROUNDS / 2, "the kills came too late: {kills_before_the_last_end}");
}

fn check(audit: &Audit, providers: &Providers, idempotent: bool) {
    assert_eq!(audit.videos.len(), JOBS);
    for (id, video) in &audit.videos {
        assert!(matches!(video.end(), Some(VideoEvent::VideoCompleted { .. })), "{id}: {:?}", video.end());
        assert_eq!(video.provider_jobs().len(), 1, "{id}");
    }
    let account = &audit.accounts["ann"];
    assert_eq!((account.spent, account.held()), (400_000_000 * i64::try_from(JOBS).unwrap(), 0));
    let mut made: Vec<_> = providers.simulator.videos().into_iter().map(|video| video.id).collect();
    let mut ours: Vec<_> = audit.videos.values().flat_map(|video| video.provider_jobs()).map(str::to_owned).collect();
    made.sort();
    ours.sort();
    assert_eq!(made, ours, "the provider made each once, idempotent: {idempotent}");
}

#[tokio::test]
async fn a_file_that_a_killed_node_stored_of_a_job_that_ended_without_it_is_deleted() {
    let (database, providers) = (Arc::new(database().await), Arc::new(Providers::start().await));
    // The thumbnail comes after the video, and slowly: time enough to die in between.
    providers.rule(json!({ "video_time_ms": 1, "content_bytes_per_second": 10_000 }));
    let process = Process::start(env!("CARGO_BIN_EXE_aihub-under-test"), &variables(&database, &providers)).await;
    let request = http_client().post(format!("http://{}/api/mcp/sora2/generate", process.address));
    let request = request.bearer_auth(token(&auth(), "ann", "ann", TimeDelta::hours(1))).body(video("x").to_string());
    let answer: serde_json::Value = request.send().await.unwrap().json().await.unwrap();
    let id = answer["videoId"].as_str().unwrap();
    let file = database.folder.path().join("media").join(id).join("video.mp4");
    until("the video is stored", async || file.exists().then_some(())).await;
    process.kill().await;
    let is_stored = |event: &VideoEvent| matches!(event, VideoEvent::VideoStored { .. });
    assert!(!Audit::of(database.pool()).await.videos[id].events.iter().any(is_stored), "the log does not know of it");

    // The next node does not have the provider any more.
    let gone = |config: &mut aihub::config::Config| config.video_providers.get_mut("sora").unwrap().enabled = false;
    let app = TestApp::start_on(&database, &providers, gone).await;
    assert_eq!(ended(&app, "ann", id).await["state"], "expired");
    let (videos, queue) = (&app.hub.videos, PostgresVideoQueue::new(database.database.clone()));
    let left = async |ended_before| videos.delete_leftovers(&queue, ended_before).await.unwrap();
    assert_eq!(left(videos.nothing_comes_before()).await, 0, "somebody may be at it still");
    assert!(file.exists());
    let later = videos.jobs.clock.now() + TimeDelta::days(1);
    until("it is known that there may be something", async || (left(later).await == 1).then_some(())).await;
    assert!(!file.exists());
    assert_eq!(left(later).await, 0, "and that is forgotten");
}

#[tokio::test]
async fn two_nodes_on_one_database_share_the_work_and_one_that_goes_leaves_it_to_the_other() {
    let change = |config: &mut aihub::config::Config| {
        config.credits.welcome =
            Some(aihub::config::amount::Credits(aihub_domain::money::Microcredits::from_credits(1_000_000)));
    };
    let first = TestApp::start(change).await;
    let second = TestApp::start_on(&first.database, &first.providers, change).await;
    first.providers.rule(json!({ "video_time_ms": 300 }));
    for nth in 0..15 {
        generate(&first, "ada", &video(&format!("first {nth}"))).await;
        generate(&second, "ada", &video(&format!("second {nth}"))).await;
    }
    let providers = first.providers.clone();
    first.stop().await;
    let audit = Audit::of_ended_videos(second.database.pool()).await;
    check_all(&audit, &providers, 30);
}

fn check_all(audit: &Audit, providers: &Providers, count: usize) {
    let completed =
        audit.videos.values().filter(|video| matches!(video.end(), Some(VideoEvent::VideoCompleted { .. })));
    assert_eq!((completed.count(), providers.simulator.videos().len()), (count, count));
}
