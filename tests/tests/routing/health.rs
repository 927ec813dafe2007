//! What is remembered of a provider that failed.

use aihub_tests::{
    app::TestApp,
    client::{chat, with},
    until,
};
use chrono::TimeDelta;
use serde_json::{Value, json};

/// How `GET /api/providers` shows this provider.
async fn shown(app: &TestApp, name: &str) -> Value {
    let (status, _, body) = app.get("/api/providers", Some(&app.token("ann"))).await;
    assert_eq!(status, 200);
    let providers = body["providers"].as_array().unwrap();
    providers.iter().find(|provider| provider["name"] == name).unwrap().clone()
}

#[tokio::test]
async fn a_provider_that_says_when_to_come_back_is_left_alone_until_then() {
    let app = TestApp::start(|_| ()).await;
    let too_many = json!({ "kind": "rate_limit", "retry_after_ms": 60_000 });
    app.providers.rule(json!({ "model": "gpt-6-luna", "fail_before": too_many, "times": 1 }));
    let mut client = app.connect("ann").await;
    for attempts in [2, 1] {
        let answer = client.ask(&chat("a", "Why is the sky blue?")).await;
        let metadata = &answer.done()["metadata"];
        assert_eq!((&metadata["provider"], &metadata["attempts"]), (&json!("claude"), &json!(attempts)));
    }
    assert!((50_000..=60_000).contains(&shown(&app, "openai").await["coolingDownMs"].as_u64().unwrap()));
    let audit = app.audit().await;
    let last = audit.requests.values().last().unwrap().outcome();
    assert_eq!((last.attempts[0].skipped, last.attempts[0].failure.as_deref()), (true, Some("cooling_down")));
    app.stop().await;
}

#[tokio::test]
async fn where_nobody_else_can_the_wait_is_waited() {
    let app = TestApp::start(|_| ()).await;
    let too_many = json!({ "kind": "rate_limit", "retry_after_ms": 1_000 });
    app.providers.rule(json!({ "model": "gpt-6-luna", "fail_before": too_many, "times": 1 }));
    let request = with(chat("a", "Why is the sky blue?"), &json!({ "fallback": false }));
    let answer = app.connect("ann").await.ask(&request).await;
    let [refused, answered] = &app.providers.calls_of(answer.request_id())[..] else { panic!("{:?}", answer.end) };
    assert!(answered.arrived_at - refused.arrived_at >= TimeDelta::seconds(1));
    assert_eq!(answer.done()["metadata"]["attempts"], 2);
    app.stop().await;
}

#[tokio::test]
async fn a_provider_that_keeps_failing_is_no_longer_asked_until_a_probe_succeeds() {
    let app = TestApp::start(|config| {
        let breaker = &mut config.providers.get_mut("openai").unwrap().breaker;
        (breaker.min_calls, breaker.open_for_ms) = (4, 3_000);
    })
    .await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "fail_before": { "kind": "server_error" } }));
    let mut client = app.connect("ann").await;
    assert_eq!(shown(&app, "openai").await["breaker"], "closed");
    for _ in 0..4 {
        client.ask(&chat("a", "Why is the sky blue?")).await.done();
    }
    assert_eq!(shown(&app, "openai").await["breaker"], "open");
    assert_eq!(shown(&app, "openai").await["breakers"], json!({ "gpt-6-luna": "open" }));
    assert_eq!(shown(&app, "claude").await["breaker"], "closed");
    // What one model does keeps nobody from another.
    let other = json!({ "provider": "openai", "model": "gpt-6-astra", "fallback": false });
    client.ask(&with(chat("b", "Why is the sky blue?"), &other)).await.done();
    let skipping = client.ask(&chat("a", "Why is the sky blue?")).await;
    assert_eq!(app.providers.calls_of(skipping.request_id()).len(), 1);
    let first = &app.audit().await.requests[skipping.request_id()].outcome().attempts[0].clone();
    assert_eq!((first.skipped, first.failure.as_deref()), (true, Some("breaker_open")));
    // It is well again: the first call after its time finds that out.
    app.providers.rule(json!({ "model": "gpt-6-luna" }));
    until("openai answers again", async || {
        let answer = client.ask(&chat("a", "Why is the sky blue?")).await;
        (answer.done()["metadata"]["provider"] == "openai").then_some(())
    })
    .await;
    assert_eq!(shown(&app, "openai").await["breaker"], "closed");
    app.stop().await;
}

#[tokio::test]
async fn what_the_client_is_to_blame_for_does_not_open_the_breaker() {
    let app = TestApp::start(|config| config.providers.get_mut("openai").unwrap().breaker.min_calls = 2).await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "fail_before": { "kind": "bad_request" } }));
    let mut client = app.connect("ann").await;
    for _ in 0..6 {
        client.ask(&chat("a", "Why is the sky blue?")).await.error("VALIDATION_ERROR");
    }
    assert_eq!(shown(&app, "openai").await["breaker"], "closed");
    app.stop().await;
}
