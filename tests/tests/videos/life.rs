//! A job's whole life.

use std::collections::BTreeMap;

use aihub::config::amount::Credits;
use aihub_domain::{
    money::Microcredits,
    video::{event::VideoEvent, format::Resolution},
};
use aihub_tests::{app::TestApp, until};
use reqwest::{StatusCode, header::RANGE};
use serde_json::{Value, json};

use super::{ended, generate, video};

#[tokio::test]
async fn a_video_is_made_watched_downloaded_in_ranges_and_played() {
    let app = TestApp::start(|_| {}).await;
    let id = generate(&app, "ada", &video("a calm sea at sunset")).await;
    let answer = ended(&app, "ada", &id).await;
    assert_eq!(answer["status"], "completed", "{answer}");
    // Four seconds at $0.10 each, and 1,000 credits a dollar.
    assert_eq!(answer["creditsUsed"], 400.0, "{answer}");
    assert_eq!((&answer["provider"], &answer["model"]), (&json!("sora"), &json!("sora-2")));

    let client = &app.http;
    let url = answer["url"].as_str().unwrap();
    let whole = client.get(url).send().await.unwrap();
    assert_eq!(whole.status(), StatusCode::OK);
    let whole = whole.bytes().await.unwrap();
    let half = whole.len() / 2;
    let mut parts = Vec::new();
    for range in [format!("bytes=0-{}", half - 1), format!("bytes={half}-")] {
        let part = client.get(url).header(RANGE, range).send().await.unwrap();
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
        parts.extend_from_slice(&part.bytes().await.unwrap());
    }
    assert_eq!(parts, whole);
    let film = re_mp4::Mp4::read_bytes(&whole).unwrap();
    let (_, track) = film.tracks().first_key_value().unwrap();
    assert_eq!((track.width, track.height), (1280, 720));
    assert_eq!(track.duration / track.timescale, 4);
    let thumbnail = client.get(answer["thumbnailUrl"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(thumbnail.headers()["content-type"], "image/jpeg");
    let forged = url.replace("signature=", "signature=A");
    assert_eq!(client.get(forged).send().await.unwrap().status(), StatusCode::FORBIDDEN);

    let audit = app.audit().await;
    let events: Vec<_> = audit.videos[&id].events.iter().map(cqrs_es::DomainEvent::event_type).collect();
    assert_eq!(events.first().map(String::as_str), Some("SubmissionStarted"));
    assert!(events.ends_with(&["VideoStored".to_owned(), "VideoCompleted".to_owned()]), "{events:?}");
    assert_eq!(audit.accounts["ada"].spent, 400_000_000);
    let made = app.providers.simulator.videos();
    assert_eq!(made.iter().map(|video| video.submissions).collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn a_length_that_no_model_makes_is_made_as_its_next_longer_one_which_is_told_held_and_paid_for() {
    let app =
        TestApp::start(|config| config.credits.welcome = Some(Credits(Microcredits::from_credits(100_000)))).await;
    // Twelve seconds are the most of the cheaper model.
    for (asked, whole, made, credits) in
        [(json!(1), 1, 4, 400.0), (json!(4.0), 4, 4, 400.0), (json!(10.5), 11, 12, 1200.0), (json!(15), 15, 16, 4800.0)]
    {
        let body = json!({ "prompt": "a calm sea", "duration": asked, "fallback": false });
        let (status, queued) = app.post("/api/mcp/sora2/generate", &app.token("ada"), &body).await;
        assert_eq!((status, &queued["duration"]), (StatusCode::ACCEPTED, &json!(made)), "{queued}");
        let differs = if whole == made { Value::Null } else { json!(whole) };
        assert_eq!((&queued["requestedDuration"], &queued["creditsReserved"]), (&differs, &json!(credits)));
        let answer = ended(&app, "ada", queued["videoId"].as_str().unwrap()).await;
        assert_eq!((&answer["duration"], &answer["creditsUsed"]), (&json!(made), &json!(credits)), "{answer}");
        assert_eq!(answer["requestedDuration"], differs);
    }
    until("the views have them", async || {
        let (_, _, listed) = app.get("/api/mcp/sora2/videos?status=completed", Some(&app.token("ada"))).await;
        (listed["videos"].as_array()?.len() == 4).then_some(())
    })
    .await;
    app.stop().await;
}

#[tokio::test]
async fn who_makes_the_length_that_is_asked_for_is_before_who_makes_more_and_the_least_more_before_others() {
    let app = TestApp::start(|config| {
        let mut exact = config.video_providers["sora"].clone();
        exact.priority = 9;
        for model in exact.models.values_mut() {
            model.durations = BTreeMap::from([(Resolution::P720, vec![5, 7])]);
        }
        config.video_providers.insert("exact".to_owned(), exact);
    })
    .await;
    for (asked, provider, made) in [(5, "exact", 5), (6, "sora", 8), (4, "sora", 4)] {
        let body = json!({ "prompt": "a calm sea", "duration": asked, "fallback": false });
        let id = generate(&app, "ada", &body).await;
        let answer = ended(&app, "ada", &id).await;
        assert_eq!((&answer["provider"], &answer["duration"]), (&json!(provider), &json!(made)), "{answer}");
        app.grant("ada", Microcredits::from_credits(1_000)).await;
    }
    app.stop().await;
}

#[tokio::test]
async fn a_provider_that_delivers_short_is_paid_for_what_came() {
    let app = TestApp::start(|_| {}).await;
    app.providers.rule(json!({ "short_s": 2 }));
    let id = generate(&app, "ada", &json!({ "prompt": "a short one", "duration": 8 })).await;
    let answer = ended(&app, "ada", &id).await;
    assert_eq!((&answer["duration"], &answer["creditsUsed"]), (&json!(6), &json!(600.0)), "{answer}");
}

#[tokio::test]
async fn a_failure_gives_the_whole_hold_back() {
    let app = TestApp::start(|_| {}).await;
    app.providers.rule(json!({ "fail_late": true, "video_time_ms": 200 }));
    let id = generate(&app, "ada", &video("something forbidden")).await;
    let answer = ended(&app, "ada", &id).await;
    assert_eq!((&answer["status"], &answer["error"]["code"]), (&json!("failed"), &json!("moderation_blocked")));
    let audit = app.audit().await;
    assert_eq!((audit.accounts["ada"].spent, audit.accounts["ada"].held()), (0, 0));
    assert!(matches!(audit.videos[&id].end(), Some(VideoEvent::VideoFailed { .. })));
}
