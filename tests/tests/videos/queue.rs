//! The queue: in order, within its limits, fair to every account.

use std::collections::BTreeMap;

use aihub_application::ports::{
    event_log::StreamAppend,
    jobs::JobKind,
    seats::{Applicant, Depth, Seats, Taken},
};
use aihub_domain::video::{VideoJob, event::VideoEvent};
use aihub_infrastructure::{
    event_store::{
        reader::{self, ReadLimit},
        subscription::checkpoint,
    },
    seats::PostgresSeats,
};
use aihub_tests::{
    app::TestApp,
    audit::Audit,
    database,
    log::{self, Node, unit},
    until,
};
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

/// Waits until the job is told to stand there.
async fn in_place(app: &TestApp, user: &str, id: &str, place: u64) {
    until("the place in the queue is told", async || {
        let (_, _, answer) = app.get(&format!("/api/mcp/sora2/status/{id}"), Some(&app.token(user))).await;
        (answer["queuePosition"] == place).then_some(())
    })
    .await;
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
        let (_, answer) = app.post("/api/mcp/sora2/generate", &app.token("ada"), &body).await;
        assert_eq!(answer["queuePosition"], 1, "before those that were there: {answer}");
        waiting.push(answer["videoId"].as_str().unwrap().to_owned());
    }
    for (id, place) in waiting.iter().zip([3, 2, 1]) {
        in_place(&app, "ada", id, place).await;
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
async fn a_job_is_accepted_and_told_of_while_the_queue_does_not_read_the_log() {
    let app = TestApp::start(at_most(1)).await;
    app.providers.rule(json!({ "video_time_ms": 1 }));
    until("the queue has been read once, and is not any more", async || {
        checkpoint::pause(app.database.pool(), "open-videos").await.unwrap().then_some(())
    })
    .await;
    let (status, answer) = app.post("/api/mcp/sora2/generate", &app.token("ada"), &video("patience")).await;
    assert_eq!(
        (status, &answer["state"], &answer["queuePosition"]),
        (StatusCode::ACCEPTED, &json!("queued"), &json!(null))
    );
    let id = answer["videoId"].as_str().unwrap();
    let (status, _, answer) = app.get(&format!("/api/mcp/sora2/status/{id}"), Some(&app.token("ada"))).await;
    assert_eq!((status, &answer["state"], &answer["queuePosition"]), (StatusCode::OK, &json!("queued"), &json!(null)));
    assert!(checkpoint::resume(app.database.pool(), "open-videos").await.unwrap());
    until("the video is made", async || {
        let (_, _, answer) = app.get(&format!("/api/mcp/sora2/status/{id}"), Some(&app.token("ada"))).await;
        (answer["status"] == "completed").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_provider_is_given_no_more_jobs_a_minute_than_it_takes() {
    let app = TestApp::start(|config| {
        at_most(10)(config);
        config.video_providers.get_mut("sora").unwrap().limits.requests_per_minute = Some(2.try_into().unwrap());
    })
    .await;
    app.providers.rule(json!({ "video_time_ms": 1 }));
    let mut ids = Vec::new();
    for nth in 0..4 {
        ids.push(generate(&app, "ada", &video(&format!("{nth}"))).await);
    }
    for id in &ids[..2] {
        assert_eq!(ended(&app, "ada", id).await["status"], "completed");
    }
    for (id, place) in ids[2..].iter().zip([1, 2]) {
        in_place(&app, "ada", id, place).await;
    }
    assert_eq!(app.providers.simulator.videos().len(), 2);
}

#[tokio::test]
async fn however_many_ask_at_once_on_two_nodes_no_more_wait_than_may_and_nothing_is_held_for_the_others() {
    let change = |config: &mut Config| {
        at_most(1)(config);
        (config.videos.max_queued, config.videos.max_queued_per_account) = (20, 7);
    };
    let first = TestApp::start(change).await;
    let second = TestApp::start_on(&first.database, &first.providers, change).await;
    first.providers.rule(json!({ "hang_late": true }));
    let running = generate(&first, "ada", &video("first")).await;
    in_state(&first, "ada", &running, "rendering").await;

    // Of one account 60 at once, then of sixty others.
    let ask = async |nth: usize, user: &str| {
        let node = if nth.is_multiple_of(2) { &first } else { &second };
        node.post("/api/mcp/sora2/generate", &node.token(user), &video(&format!("{nth}"))).await
    };
    for (users, room) in [(1, 7), (60, 13)] {
        let answers: Vec<_> = stream::iter(0..60)
            .map(|nth| async move { ask(nth, &format!("user-{users}-{}", nth % users)).await })
            .buffer_unordered(60)
            .collect()
            .await;
        let (accepted, refused): (Vec<_>, Vec<_>) =
            answers.into_iter().partition(|(status, _)| *status == StatusCode::ACCEPTED);
        assert_eq!(accepted.len(), room);
        for (status, refused) in refused {
            assert_eq!(
                (status, &refused["code"]),
                (StatusCode::SERVICE_UNAVAILABLE, &json!("QUEUE_FULL")),
                "{refused}"
            );
            assert_eq!(refused["details"]["waiting"], if users == 1 { 7 } else { 20 });
            assert!(refused["retryAfterMs"].as_u64().is_some());
        }
    }
    let audit = first.audit().await;
    assert_eq!(audit.videos.len(), 21);
    assert_eq!(audit.accounts.values().map(|account| account.holds.len()).sum::<usize>(), 21);
}

#[tokio::test]
async fn a_place_in_the_queue_is_free_again_when_who_took_it_was_refused_or_started() {
    let app = TestApp::start(|config| {
        at_most(1)(config);
        config.videos.max_queued = 1;
        config.credits.welcome = Some(Credits(Microcredits::from_credits(500)));
    })
    .await;
    // Three times more than there is room, and each is refused for what it costs.
    for nth in 0..3 {
        let dear = json!({ "prompt": format!("{nth}"), "duration": 12, "resolution": "720p" });
        let (status, answer) = app.post("/api/mcp/sora2/generate", &app.token("ada"), &dear).await;
        assert_eq!(status, StatusCode::PAYMENT_REQUIRED, "{answer}");
    }
    app.providers.rule(json!({ "hang_late": true }));
    let running = generate(&app, "ada", &video("first")).await;
    in_state(&app, "ada", &running, "rendering").await;
    generate(&app, "bob", &video("second")).await;
    let (status, answer) = app.post("/api/mcp/sora2/generate", &app.token("eve"), &video("third")).await;
    assert_eq!((status, &answer["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("QUEUE_FULL")));
}

#[tokio::test]
async fn a_seat_of_long_ago_is_held_only_for_who_is_in_the_log_and_not_in_the_queue_yet() {
    let database = database().await;
    let (node, seats) = (Node::start(&database.database), PostgresSeats::new(database.database.clone()));
    let is_let_in = async |id: &str| {
        let applicant = Applicant { kind: JobKind::Video, id, account: "ada" };
        matches!(seats.take(applicant, Depth { all: 1, of_account: 1 }).await.unwrap(), Taken::Seat(_))
    };
    let later = "UPDATE queue_seats SET taken_at = taken_at - interval '2 minutes'";
    let time_passes = async || _ = sqlx::query(later).execute(database.pool()).await.unwrap();

    assert!(is_let_in("never comes").await);
    assert!(!is_let_in("too soon").await);
    time_passes().await;
    assert!(is_let_in("comes").await);
    let requested = StreamAppend { aggregate_type: VideoJob::TYPE, ..log::stream("comes", 0, 1) };
    node.append(unit([requested])).await.unwrap();
    time_passes().await;
    assert!(!is_let_in("too soon").await);
    // Read by the queue: what is still there is of a second try that found the first one's job.
    let read = "INSERT INTO subscriptions (name, position, chain_hash, updated_at)
                SELECT 'open-videos', position, chain_hash, now() FROM events";
    sqlx::query(read).execute(database.pool()).await.unwrap();
    assert!(is_let_in("the next").await);
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
