//! Providers that do not do what they should.

use std::sync::Arc;

use aihub::{
    auth::secret::Secret,
    config::{Config, amount::Credits, videos::VideoProviderKind},
};
use aihub_application::{
    ports::clock::{Clock, SystemClock},
    videos::{jobs::ChangeError, operator::Decision},
};
use aihub_domain::{
    money::Microcredits,
    video::event::{Doubt, VideoEvent},
};
use aihub_infrastructure::simulated_providers::{served::Operation, webhooks::Webhook};
use aihub_tests::{TestDatabase, app::TestApp, providers::Providers, until};
use cqrs_es::DomainEvent;
use reqwest::StatusCode;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use super::{ended, generate, in_state, video};

const WEBHOOK_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

#[tokio::test]
async fn a_provider_that_never_finishes_is_given_up_at_the_deadline_and_called_off() {
    let app = TestApp::start(|config| config.videos.deadline_ms = 1_500).await;
    app.providers.rule(json!({ "hang_late": true }));
    let id = generate(&app, "ada", &video("for ever")).await;
    let answer = ended(&app, "ada", &id).await;
    assert_eq!((&answer["error"]["code"], &answer["creditsUsed"]), (&json!("expired"), &json!(0.0)), "{answer}");
    until("the provider is told", async || app.providers.simulator.videos()[0].deleted.then_some(())).await;
    assert_eq!(app.audit().await.accounts["ada"].held(), 0);
}

#[tokio::test]
async fn a_file_that_cannot_be_played_is_not_kept_and_not_paid_for() {
    for content in ["garbage", "truncated"] {
        let app = TestApp::start(|config| config.videos.whole_within_ms = 500).await;
        app.providers.rule(json!({ "content": content, "video_time_ms": 100 }));
        let id = generate(&app, "ada", &video("broken")).await;
        let answer = ended(&app, "ada", &id).await;
        assert_eq!(answer["error"]["code"], "unusable_video", "{content}: {answer}");
        assert_eq!(app.audit().await.accounts["ada"].spent, 0);
    }
}

#[tokio::test]
async fn a_request_that_a_provider_refuses_fails_and_says_so() {
    let app = TestApp::start(|_| {}).await;
    app.providers.rule(json!({ "fail_before": { "kind": "bad_request" } }));
    let id = generate(&app, "ada", &video("no")).await;
    let answer = ended(&app, "ada", &id).await;
    assert_eq!(answer["error"]["code"], "rejected_by_provider", "{answer}");
    assert_eq!(answer["refusals"][0]["status"], 400);
    assert!(app.providers.simulator.videos().is_empty());
}

#[tokio::test]
async fn a_submission_whose_answer_was_lost_is_found_again_and_made_once() {
    for idempotent in [true, false] {
        let app = TestApp::start(|config| {
            config.videos.recover_after_ms = 1_000;
            let sora = config.video_providers.get_mut("sora").unwrap();
            (sora.idempotent, sora.timeouts.first_byte_ms) = (idempotent, 900);
        })
        .await;
        app.providers.rule(json!({ "tear_created": true, "times": 1, "video_time_ms": 100 }));
        let id = generate(&app, "ada", &video("lost")).await;
        let answer = ended(&app, "ada", &id).await;
        assert_eq!(answer["status"], "completed", "idempotent: {idempotent}, {answer}");
        let made = app.providers.simulator.videos();
        assert_eq!(made.len(), 1, "idempotent: {idempotent}, {made:?}");
        assert_eq!(made[0].submissions, if idempotent { 2 } else { 1 });
    }
}

#[tokio::test]
async fn a_repeat_that_is_refused_does_not_speak_for_the_first_try_whose_answer_was_lost() {
    for status in [429, 503] {
        let app = TestApp::start(|_| {}).await;
        // The provider has it, and takes long enough to say so that the next word can be another one.
        app.providers.rule(json!({ "tear_created": true, "ttft_ms": 500, "video_time_ms": 100 }));
        let id = generate(&app, "ada", &video("lost")).await;
        until("the first try is taken", async || app.providers.simulator.videos().pop()).await;
        app.providers.rule(json!({ "fail_before": { "status": status }, "times": 3 }));
        let answer = ended(&app, "ada", &id).await;
        assert_eq!((&answer["status"], &answer["refusals"]), (&json!("completed"), &json!(null)), "{status}: {answer}");

        let made = app.providers.simulator.videos();
        assert_eq!((made.len(), made[0].submissions), (1, 2), "{status}: the first one, found again: {made:?}");
        let calls = app.providers.calls().into_iter().filter(|call| call.operation == Operation::Videos);
        let tokens: Vec<_> = calls.map(|call| call.client_request_id).collect();
        assert_eq!(tokens, vec![Some(format!("{id}-1")); 5], "{status}: lost, refused three times, answered");
        let audit = app.audit().await;
        let events: Vec<String> = audit.videos[&id].events.iter().map(DomainEvent::event_type).collect();
        assert_eq!(events[..2], ["SubmissionStarted", "VideoSubmitted"], "{status}: {events:?}");
        assert_eq!(audit.accounts["ada"].spent, 400_000_000);
    }
}

#[tokio::test]
async fn submissions_of_the_same_that_were_lost_one_after_the_other_are_looked_for_together() {
    let app = TestApp::start(|config| {
        config.videos.recover_after_ms = 3_000;
        config.credits.welcome = Some(Credits(Microcredits::from_credits(1_200)));
        let sora = config.video_providers.get_mut("sora").unwrap();
        (sora.idempotent, sora.timeouts.first_byte_ms) = (false, 900);
    })
    .await;
    let lose_one = || app.providers.rule(json!({ "tear_created": true, "times": 1, "video_time_ms": 100 }));
    lose_one();
    let first = generate(&app, "ada", &video("the same")).await;
    until("the first was taken", async || (app.providers.simulator.videos().len() == 1).then_some(())).await;
    // Long enough after the first that it is to be looked for well before the second.
    let between = generate(&app, "ada", &video("another")).await;
    assert_eq!(ended(&app, "ada", &between).await["status"], "completed");
    lose_one();
    let second = generate(&app, "ada", &video("the same")).await;
    for id in [first, second] {
        let answer = ended(&app, "ada", &id).await;
        assert_eq!(answer["status"], "completed", "{answer}");
    }
    assert_eq!(app.providers.simulator.videos().len(), 3);
}

/// Jobs whose answers are lost are looked for in the provider's list.
fn looked_for(config: &mut Config) {
    config.videos.recover_after_ms = 1_000;
    config.credits.welcome = Some(Credits(Microcredits::from_credits(100_000)));
    let sora = config.video_providers.get_mut("sora").unwrap();
    (sora.idempotent, sora.timeouts.first_byte_ms) = (false, 900);
}

#[tokio::test]
async fn a_provider_that_shows_no_prompts_gives_no_account_the_video_of_another() {
    let app = TestApp::start(|config| {
        looked_for(config);
        config.videos.recover_after_ms = 3_000;
    })
    .await;
    // Of the one job nothing is there, of the other one everything but its prompt. Both answers are lost.
    app.providers.rule(json!({ "fail_before": { "status": 500 } }));
    let never_made = generate(&app, "ada", &video("a calm sea")).await;
    until("it was asked for", async || app.providers.calls().pop()).await;
    app.providers.simulator.clear_rules();
    app.providers.rule(json!({ "tear_created": true, "times": 1, "video_time_ms": 100, "prompt": "hidden" }));
    let made = generate(&app, "bob", &video("my own face")).await;
    for (user, id) in [("ada", &never_made), ("bob", &made)] {
        in_state(&app, user, id, "in_doubt").await;
    }
    let audit = app.audit().await;
    for id in [&never_made, &made] {
        assert!(audit.videos[id].provider_jobs().is_empty(), "nobody can know whose it is");
        let is_ambiguous =
            |event: &VideoEvent| matches!(event, VideoEvent::SubmissionDoubted { doubt: Doubt::Ambiguous, .. });
        assert!(audit.videos[id].events.iter().any(is_ambiguous), "{:?}", audit.videos[id].events);
    }
    // An operator can ask the provider. A job there is one of our videos, and not two.
    let [there] = &app.providers.simulator.videos()[..] else { panic!("one was made") };
    let (jobs, queue) = (&app.hub.videos.jobs, &*app.hub.videos.queue);
    let adopt = Decision::Adopt { provider_job_id: there.id.clone() };
    jobs.decide(queue, &made, adopt.clone(), "operator").await.unwrap();
    let refused = jobs.decide(queue, &never_made, adopt, "operator").await;
    assert!(matches!(refused, Err(ChangeError::Taken(_))), "{refused:?}");
    jobs.decide(queue, &never_made, Decision::Resubmit, "operator").await.unwrap();
    for (user, id) in [("ada", &never_made), ("bob", &made)] {
        assert_eq!(ended(&app, user, id).await["status"], "completed");
    }
}

#[tokio::test]
async fn what_a_job_in_doubt_may_own_is_not_given_to_another_one_that_asked_for_the_same() {
    let (database, providers) = left_in_doubt("the same").await;
    let app = TestApp::start_on(&database, &providers, looked_for).await;
    app.providers.rule(json!({ "tear_created": true, "times": 2, "video_time_ms": 100 }));
    let (lost, other) =
        (generate(&app, "bob", &video("the same")).await, generate(&app, "bob", &video("another")).await);
    in_state(&app, "bob", &lost, "in_doubt").await;
    assert_eq!(ended(&app, "bob", &other).await["status"], "completed", "nobody else may own that one");
    assert!(app.audit().await.videos[&lost].provider_jobs().is_empty());
}

#[tokio::test]
async fn one_in_doubt_that_cannot_be_read_keeps_nobody_waiting_who_asked_for_something_else() {
    let (database, providers) = left_in_doubt("nobody knows what").await;
    let spoil = "UPDATE subject_keys SET wrapped_key = set_byte(wrapped_key, 0, get_byte(wrapped_key, 0) # 1)";
    sqlx::query(spoil).execute(database.pool()).await.unwrap();
    let app = TestApp::start_on(&database, &providers, looked_for).await;
    app.providers.rule(json!({ "tear_created": true, "times": 2, "video_time_ms": 100 }));
    let longer = json!({ "prompt": "a sea", "duration": 8, "resolution": "720p" });
    let (alike, other) = (generate(&app, "bob", &video("a sea")).await, generate(&app, "bob", &longer).await);
    in_state(&app, "bob", &alike, "in_doubt").await;
    assert_eq!(ended(&app, "bob", &other).await["status"], "completed", "that one cannot be the one in doubt");
}

#[tokio::test]
async fn a_lost_submission_is_not_put_off_beyond_its_deadline_by_others_like_it() {
    let app = TestApp::start(|config| {
        looked_for(config);
        (config.videos.recover_after_ms, config.videos.deadline_ms) = (2_000, 3_000);
    })
    .await;
    app.providers.rule(json!({ "tear_created": true }));
    let first = generate(&app, "ada", &video("the same")).await;
    for others in 1..20 {
        until("it is taken", async || (app.providers.simulator.videos().len() == others).then_some(())).await;
        let path = format!("/api/mcp/sora2/status/{first}?wait=1");
        let (_, _, answer) = app.get(&path, Some(&app.token("ada"))).await;
        if !["queued", "submitting"].contains(&answer["state"].as_str().unwrap()) {
            assert_eq!(answer["state"], "in_doubt", "{answer}");
            return;
        }
        generate(&app, "ada", &video("the same")).await;
    }
    panic!("it waits for ever");
}

/// What a service leaves behind that has one job in doubt, of ada, at a provider that neither answers nor can be looked through.
async fn left_in_doubt(prompt: &str) -> (Arc<TestDatabase>, Arc<Providers>) {
    let silent = silent_provider().await;
    let app = TestApp::start(|config| {
        looked_for(config);
        let sora = config.video_providers.get_mut("sora").unwrap();
        (sora.kind, sora.base_url, sora.api_key) = (VideoProviderKind::Xai, Some(silent), Some(Secret::new("k")));
    })
    .await;
    let in_doubt = generate(&app, "ada", &video(prompt)).await;
    in_state(&app, "ada", &in_doubt, "in_doubt").await;
    let left = (app.database.clone(), app.providers.clone());
    app.stop().await;
    left
}

/// A provider of another kind that takes what it is sent and says nothing.
async fn silent_provider() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    TaskTracker::new().spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = vec![0; 4_096];
            let _ = tokio::io::AsyncReadExt::read(&mut socket, &mut request).await;
        }
    });
    format!("http://{address}/v1")
}

fn only_xai(base_url: String) -> impl FnOnce(&mut Config) {
    move |config| {
        config.videos.recover_after_ms = 1_000;
        config.video_providers.get_mut("sora").unwrap().enabled = false;
        let xai = config.video_providers.get_mut("xai").unwrap();
        (xai.base_url, xai.api_key, xai.timeouts.first_byte_ms) = (Some(base_url), Some(Secret::new("k")), 900);
    }
}

#[tokio::test]
async fn what_nobody_can_know_waits_for_an_operator_who_gives_it_up_or_finds_it() {
    let app = TestApp::start(only_xai(silent_provider().await)).await;
    let (given_up, found) = (generate(&app, "ada", &video("one")).await, generate(&app, "ada", &video("two")).await);
    for id in [&given_up, &found] {
        let answer = in_state(&app, "ada", id, "in_doubt").await;
        assert_eq!((&answer["status"], &answer["error"]["code"]), (&json!("processing"), &json!("in_doubt")));
    }
    assert_eq!(app.audit().await.accounts["ada"].holds.len(), 2, "what may have been made is held for");
    let jobs = &app.hub.videos.jobs;
    let queue = &*app.hub.videos.queue;
    jobs.decide(queue, &given_up, Decision::Fail, "operator").await.unwrap();
    let adopt = Decision::Adopt { provider_job_id: "job-7".to_owned() };
    jobs.decide(queue, &found, adopt.clone(), "operator").await.unwrap();
    assert!(jobs.decide(queue, &given_up, adopt, "operator").await.is_err(), "what has ended is not decided on again");
    let audit = app.audit().await;
    assert!(matches!(audit.videos[&given_up].end(), Some(VideoEvent::VideoFailed { .. })));
    assert_eq!(audit.videos[&found].provider_jobs(), ["job-7"]);
    assert_eq!(audit.accounts["ada"].holds.keys().collect::<Vec<_>>(), [&found]);
}

#[tokio::test]
async fn an_outage_before_the_submission_makes_the_job_another_providers() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let app = TestApp::start(|config| {
        let sora = config.video_providers["sora"].clone();
        let mut down = sora.clone();
        down.base_url = Some(format!("http://{closed}/v1"));
        down.priority = 0;
        (down.breaker.min_calls, down.breaker.open_for_ms) = (1, 60_000);
        config.video_providers.insert("down".to_owned(), down);
    })
    .await;
    app.providers.rule(json!({ "video_time_ms": 100 }));
    let id = generate(&app, "ada", &video("somewhere")).await;
    let answer = ended(&app, "ada", &id).await;
    assert_eq!((&answer["status"], &answer["provider"]), (&json!("completed"), &json!("sora")), "{answer}");
    assert_eq!(answer["refusals"][0]["provider"], "down");
    // Where no other one is wanted, it waits.
    let body = json!({ "prompt": "there only", "duration": 4, "provider": "down", "fallback": false });
    let waiting = generate(&app, "ada", &body).await;
    in_state(&app, "ada", &waiting, "queued").await;
}

#[tokio::test]
async fn a_providers_webhook_is_taken_when_it_is_signed_and_repeated_or_forged_ones_change_nothing() {
    let app = TestApp::start(|config| {
        config.video_providers.get_mut("sora").unwrap().webhook_secret = Some(Secret::new(WEBHOOK_SECRET));
    })
    .await;
    let url = format!("http://{}/api/webhooks/providers/sora", app.address);
    app.providers.simulator.put_webhook(&Webhook { url: url.clone(), secret: WEBHOOK_SECRET.to_owned() }).unwrap();
    app.providers.rule(json!({ "webhook": "twice", "video_time_ms": 300 }));
    let id = generate(&app, "ada", &video("told")).await;
    assert_eq!(ended(&app, "ada", &id).await["status"], "completed");
    let client = &app.http;
    for url in [url.clone(), url.replace("/sora", "/nobody")] {
        let forged = client
            .post(url)
            .header("webhook-id", "evt_1")
            .header("webhook-timestamp", SystemClock.now().timestamp())
            .header("webhook-signature", "v1,AAAA")
            .body(json!({ "type": "video.completed", "data": { "id": "x" } }).to_string());
        assert_eq!(forged.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!(app.audit().await.accounts["ada"].spent, 400_000_000);
}
