//! Before the first visible piece, another provider answers for one that cannot.

use aihub::config::{
    Config,
    providers::{ProviderKind, ProviderSettings},
};
use aihub_tests::{
    app::TestApp,
    client::{chat, with},
};
use chrono::TimeDelta;
use serde_json::json;

/// A provider that goes wrong as the knobs say, and its only model, for which claude-haiku-5-5 may answer.
fn add_faulty(config: &mut Config, name: &str, like: &str, knobs: &str) {
    let pattern = &config.providers[like];
    let model = if pattern.kind == ProviderKind::OpenAi { "gpt-6-luna" } else { "claude-sonnet-5-5" };
    let mut settings: ProviderSettings = pattern.clone();
    let mut terms = settings.models.remove(model).unwrap();
    terms.upstream_name = Some(format!("{model}{knobs}"));
    terms.default = false;
    settings.models = [(format!("{name}-model"), terms)].into();
    settings.priority = 50;
    settings.timeouts.first_byte_ms = 400;
    settings.timeouts.first_piece_ms = 400;
    config.providers.insert(name.to_owned(), settings);
    config.routing.equivalents.push(vec![format!("{name}-model"), "claude-haiku-5-5".to_owned()]);
}

const FAILURES: [(&str, &str, &str, Option<u16>); 15] = [
    ("openai", "+fail=before:429", "rate_limited", Some(429)),
    ("claude", "+fail=before:429", "rate_limited", Some(429)),
    ("openai", "+fail=before:insufficient_quota", "quota_exceeded", Some(429)),
    ("openai", "+fail=before:503", "overloaded", Some(503)),
    ("claude", "+fail=before:529", "overloaded", Some(529)),
    ("openai", "+fail=before:500", "server_error", Some(500)),
    ("openai", "+fail=before:401", "unauthorized", Some(401)),
    ("openai", "+fail=before:404", "model_unavailable", Some(404)),
    ("openai", "+fail=before:context_length", "context_too_long", Some(400)),
    ("openai", "+hang=before", "timeout", None),
    // Inside an HTTP 200, before the first delta.
    ("openai", "+hang=after:0", "timeout", Some(200)),
    ("openai", "+fail=after:0", "server_error", Some(200)),
    ("claude", "+fail=after:0", "overloaded", Some(200)),
    ("openai", "+tear=after:0", "connection", Some(200)),
    ("claude", "+tear=after:0", "connection", Some(200)),
];

#[tokio::test]
async fn for_every_kind_of_failure_before_the_first_piece_the_next_provider_answers() {
    let app = TestApp::start(|config| {
        for (nth, (like, knobs, _, _)) in FAILURES.iter().enumerate() {
            add_faulty(config, &format!("faulty{nth}"), like, knobs);
        }
    })
    .await;
    let mut client = app.connect("ann").await;
    for (nth, (like, knobs, kind, status)) in FAILURES.iter().enumerate() {
        let name = format!("faulty{nth}");
        let more = json!({ "provider": name, "model": format!("{name}-model") });
        let answer = client.ask(&with(chat("a", "Why is the sky blue?"), &more)).await;
        let case = format!("{like}{knobs}");
        let metadata = &answer.done()["metadata"];
        assert_eq!((&metadata["provider"], &metadata["attempts"]), (&json!("claude"), &json!(2)), "{case}");
        assert!(answer.text().starts_with("Simulated"), "{case}");
        let audit = app.audit().await;
        let request = &audit.requests[answer.request_id()];
        let [failed, answered] = &request.calls()[..] else { panic!("{case}: {:?}", request.outcome()) };
        assert_eq!((failed.provider.as_str(), failed.failure.as_deref()), (name.as_str(), Some(*kind)), "{case}");
        assert_eq!((failed.status, answered.failure.as_ref()), (*status, None), "{case}");
        let [_, call] = &app.providers.calls_of(answer.request_id())[..] else { panic!("{case}") };
        assert_eq!(answer.end["usage"]["promptTokens"], call.input_tokens, "{case}: only who answered is paid");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_provider_that_nobody_can_connect_to_is_passed_over() {
    let app = TestApp::start(|config| {
        // Nothing listens on a port that was bound and given back.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        config.providers.get_mut("openai").unwrap().base_url = Some(format!("http://{free}/v1"));
    })
    .await;
    let answer = app.connect("ann").await.ask(&chat("a", "Why is the sky blue?")).await;
    assert_eq!(answer.done()["metadata"]["provider"], "claude");
    let audit = app.audit().await;
    let failed = audit.request().calls()[0];
    assert_eq!((failed.failure.as_deref(), failed.status), (Some("connection"), None));
    app.stop().await;
}

#[tokio::test]
async fn after_a_known_failure_the_next_provider_is_called_within_50_ms() {
    let app = TestApp::start(|_| ()).await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "fail_before": { "kind": "server_error" } }));
    let mut client = app.connect("ann").await;
    let mut delays = Vec::new();
    // More in a row, and it is not asked any more.
    for nth in 0..5 {
        let answer = client.ask(&chat(&nth.to_string(), "Why is the sky blue?")).await;
        let [failed, answered] = &app.providers.calls_of(answer.request_id())[..] else { panic!("{:?}", answer.end) };
        delays.push(answered.arrived_at - failed.arrived_at);
    }
    // The quickest, because other tests run beside this one; a wait in the product would be in each.
    let quickest = delays.iter().min().unwrap();
    assert!(*quickest < TimeDelta::milliseconds(50), "{delays:?}");
    app.stop().await;
}

#[tokio::test]
async fn a_request_that_is_itself_at_fault_is_not_tried_elsewhere() {
    let app = TestApp::start(|_| ()).await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "fail_before": { "kind": "bad_request" } }));
    let answer = app.connect("ann").await.ask(&chat("a", "Why is the sky blue?")).await;
    answer.error("VALIDATION_ERROR");
    assert_eq!(app.providers.calls().len(), 1);
    assert_eq!(app.audit().await.accounts["ann"].spent, 0);
    app.stop().await;
}

#[tokio::test]
async fn when_no_provider_can_the_client_hears_of_every_attempt_and_pays_nothing() {
    let app = TestApp::start(|_| ()).await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "fail_before": { "kind": "unauthorized" } }));
    app.providers.rule(json!({ "model": "claude-haiku-5-5", "fail_before": { "kind": "not_found" } }));
    let answer = app.connect("ann").await.ask(&chat("a", "Why is the sky blue?")).await;
    let attempts = &answer.error("ALL_PROVIDERS_FAILED")["details"]["attempts"];
    let told: Vec<_> =
        attempts.as_array().unwrap().iter().map(|one| with(one.clone(), &json!({ "ms": null }))).collect();
    let expected = json!([
        { "provider": "openai", "model": "gpt-6-luna", "kind": "unauthorized", "skipped": false, "status": 401 },
        { "provider": "claude", "model": "claude-haiku-5-5", "kind": "model_unavailable", "skipped": false, "status": 404 },
    ]);
    assert_eq!(json!(told), expected);
    assert!(attempts[0]["ms"].is_u64());
    let audit = app.audit().await;
    assert_eq!((audit.accounts["ann"].spent, audit.accounts["ann"].held()), (0, 0));
    app.stop().await;
}

#[tokio::test]
async fn without_fallback_nobody_else_is_asked() {
    let app = TestApp::start(|_| ()).await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "fail_before": { "kind": "unauthorized" } }));
    let request = with(chat("a", "Why is the sky blue?"), &json!({ "fallback": false }));
    let answer = app.connect("ann").await.ask(&request).await;
    assert_eq!(answer.error("ALL_PROVIDERS_FAILED")["details"]["attempts"].as_array().unwrap().len(), 1);
    app.stop().await;
}

#[tokio::test]
async fn a_model_that_nobody_has_is_named_with_those_that_are_known() {
    let app = TestApp::start(|_| ()).await;
    let mut client = app.connect("ann").await;
    for more in [json!({ "model": "gpt-0" }), json!({ "provider": "auto", "model": "x" })] {
        let answer = client.ask(&with(chat("a", "hello"), &more)).await;
        let error = answer.error("MODEL_NOT_FOUND");
        assert!(error["details"]["known"].is_array(), "{error}");
    }
    let known =
        client.ask(&with(chat("a", "hello"), &json!({ "model": "gpt-0" }))).await.end["error"]["details"]["known"]
            .clone();
    assert!(known.as_array().unwrap().contains(&json!("gpt-6-luna")), "{known}");
    let nobody = client.ask(&with(chat("a", "hello"), &json!({ "provider": "nobody" }))).await;
    let fault = &nobody.error("VALIDATION_ERROR")["details"]["fields"][0];
    assert_eq!(fault, &json!({ "field": "provider", "reason": "is none of auto, claude, openai" }));
    // One of another kind is told to be that, with those that could.
    let vectors = client.ask(&with(chat("a", "hello"), &json!({ "model": "text-embedding-3-small" }))).await;
    let error = vectors.error("MODEL_NOT_FOUND");
    assert!(error["message"].as_str().unwrap().contains("makes embeddings"), "{error}");
    assert!(error["details"]["known"].as_array().unwrap().contains(&json!("gpt-6-luna")), "{error}");
    assert!(app.audit().await.requests.is_empty());
    app.stop().await;
}
