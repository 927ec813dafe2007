//! The queue: in order, within its limits, fair to every account.

use std::collections::BTreeMap;

use aihub_domain::video::{VideoJob, event::VideoEvent};
use aihub_infrastructure::event_store::reader::{self, ReadLimit};
use aihub_tests::{app::TestApp, audit::Audit};
use cqrs_es::Aggregate;
use futures::{StreamExt, stream};
use reqwest::StatusCode;
use serde_json::json;

use super::{ended, generate, in_state, video};
use aihub::config::{Config, amount::Credits};
use aihub_domain::money::Microcredits;

/// At most so many at a time, and an account that can pay for all.
fn at_most(places: usize) -> impl FnOnce(&mut Config) {
    move |config| {
        config.credits.welcome = Some(Credits(Microcredits::from_credits(10_000_000)));
        config.limits.per_user.requests_per_minute = 100_000.try_into().unwrap();
        config.limits.per_account.requests_per_minute = 100_000.try_into().unwrap();
        config.video_providers.get_mut("sora").unwrap().limits.max_concurrency = places;
    }
}

#[tokio::test]
async fn a_thousand_jobs_at_five_in_parallel_are_started_in_order_of_fairness() {
    let app = TestApp::start(at_most(5)).await;
    // All places are taken until everybody has asked.
    app.providers.rule(json!({ "hang_late": true, "times": 5 }));
    let mut first = Vec::new();
    for nth in 0..5 {
        first.push(generate(&app, "first", &video(&format!("first {nth}"))).await);
    }
    for video_id in &first {
        in_state(&app, "first", video_id, "rendering").await;
    }
    app.providers.rule(json!({ "video_time_ms": 1 }));
    // One account wants most of it, and wants it first.
    let wanted = [("big", 700), ("middle", 200), ("small", 100)];
    for (user, count) in wanted {
        stream::iter(0..count)
            .for_each_concurrent(8, async |nth| _ = generate(&app, user, &video(&format!("{nth}"))).await)
            .await;
    }
    let all_requested = reader::head(app.database.pool()).await.unwrap().position;
    for video_id in &first {
        let path = format!("/api/mcp/sora2/{video_id}/cancel");
        let (status, answer) = app.post(&path, &app.token("first"), &json!({})).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }
    let audit = Audit::of_ended_videos(app.database.pool()).await;
    let completed =
        |video: &&aihub_tests::audit::AuditedVideo| matches!(video.end(), Some(VideoEvent::VideoCompleted { .. }));
    assert_eq!(audit.videos.values().filter(completed).count(), 1_000);
    assert_eq!(app.providers.simulator.videos().len(), 1_005);

    let mut started: BTreeMap<String, usize> = BTreeMap::new();
    for video_id in starts(&app, all_requested).await {
        let account = &audit.videos[&video_id].request.account;
        *started.entry(account.clone()).or_default() += 1;
        if started.get("small").is_some_and(|small| *small >= 95) {
            break;
        }
    }
    // While all three waited, each got a third, give or take what was in hand.
    let (most, least) = (started.values().max().unwrap(), started.values().min().unwrap());
    assert!(started.len() == 3 && most - least <= 10, "{started:?}");
}

/// The jobs that were given to the provider after `position`, in their order.
async fn starts(app: &TestApp, position: u64) -> Vec<String> {
    let (mut at, mut found) = (position, Vec::new());
    loop {
        let events = reader::events_from(app.database.pool(), at + 1, ReadLimit::default()).await.unwrap();
        let Some(last) = events.last() else { return found };
        at = last.position;
        let starts = events
            .iter()
            .filter(|event| event.aggregate_type == VideoJob::TYPE && event.event_type == "SubmissionStarted");
        found.extend(starts.map(|event| event.aggregate_id.clone()));
    }
}

#[tokio::test]
async fn jobs_that_wait_say_where_they_stand_and_the_urgent_go_first() {
    let app = TestApp::start(at_most(1)).await;
    app.providers.rule(json!({ "hang_late": true }));
    let running = generate(&app, "ada", &video("first")).await;
    in_state(&app, "ada", &running, "rendering").await;
    let mut waiting = Vec::new();
    for priority in ["low", "standard", "high"] {
        let body = json!({ "prompt": priority, "duration": 4, "priority": priority });
        waiting.push(generate(&app, "ada", &body).await);
    }
    for (id, place) in waiting.iter().zip([3, 2, 1]) {
        aihub_tests::until("the place in the queue is told", async || {
            let (_, _, answer) = app.get(&format!("/api/mcp/sora2/status/{id}"), Some(&app.token("ada"))).await;
            (answer["queuePosition"] == place).then_some(())
        })
        .await;
    }
    app.providers.simulator.clear_rules();
    app.providers.rule(json!({ "video_time_ms": 1 }));
    app.post(&format!("/api/mcp/sora2/{running}/cancel"), &app.token("ada"), &json!({})).await;
    for id in &waiting {
        ended(&app, "ada", id).await;
    }
    waiting.reverse();
    let all = starts(&app, 0).await;
    assert_eq!(all[1..], waiting[..]);
}

#[tokio::test]
async fn a_full_queue_refuses_and_says_so() {
    let app = TestApp::start(|config| {
        at_most(1)(config);
        config.videos.max_queued = 2;
    })
    .await;
    app.providers.rule(json!({ "hang_late": true }));
    let running = generate(&app, "ada", &video("first")).await;
    in_state(&app, "ada", &running, "rendering").await;
    for nth in 0..2 {
        generate(&app, "ada", &video(&format!("{nth}"))).await;
    }
    let refused = aihub_tests::until("the queue is seen to be full", async || {
        let (status, answer) = app.post("/api/mcp/sora2/generate", &app.token("bob"), &video("one too many")).await;
        (status == StatusCode::SERVICE_UNAVAILABLE).then_some(answer)
    })
    .await;
    assert_eq!(refused["code"], "QUEUE_FULL", "{refused}");
    assert!(refused["retryAfterMs"].as_u64().is_some());
}

#[tokio::test]
async fn a_job_that_nobody_had_room_for_in_time_is_ended_and_costs_nothing() {
    let app = TestApp::start(|config| {
        at_most(1)(config);
        config.videos.max_wait_ms = 5_000;
    })
    .await;
    app.providers.rule(json!({ "hang_late": true }));
    let running = generate(&app, "ada", &video("first")).await;
    in_state(&app, "ada", &running, "rendering").await;
    let waiting = generate(&app, "ada", &video("second")).await;
    let answer = ended(&app, "ada", &waiting).await;
    assert_eq!((&answer["error"]["code"], &answer["creditsUsed"]), (&json!("expired"), &json!(0.0)), "{answer}");
}
