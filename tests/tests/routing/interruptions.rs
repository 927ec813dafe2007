//! After the first visible piece no other provider is asked.

use aihub_domain::request::event::RequestEvent;
use aihub_tests::{
    app::TestApp,
    audit::Audit,
    client::{chat, with},
};
use serde_json::json;

#[tokio::test]
async fn a_provider_that_dies_after_the_first_chunk_is_not_replaced_and_its_chunks_are_billed() {
    let app = TestApp::start(|config| {
        for provider in config.providers.values_mut() {
            provider.timeouts.idle_ms = 400;
        }
    })
    .await;
    let mut client = app.connect("ann").await;
    for (provider, model, error_event) in
        [("openai", "gpt-6-luna", "server_error"), ("claude", "claude-haiku-5-5", "overloaded")]
    {
        for (trouble, kind) in
            [("fail_after_tokens", error_event), ("tear_after_tokens", "connection"), ("hang_after_tokens", "timeout")]
        {
            app.providers.rule(json!({ "model": model, trouble: 3, "tokens_per_second": 100 }));
            let request = with(chat("a", "Why is the sky blue?"), &json!({ "provider": provider, "model": model }));
            let answer = client.ask(&request).await;
            let case = format!("{provider} {trouble}");
            assert_eq!(answer.chunks.len(), 3, "{case}");
            let details = answer.error("STREAM_INTERRUPTED")["details"].clone();
            let call = app.providers.calls().pop().unwrap();
            let request_id = call.client_request_id.as_deref().unwrap();
            assert_eq!(app.providers.calls_of(request_id).len(), 1, "{case}");
            let audit = app.audit().await;
            let Some(RequestEvent::RequestFailed { code, outcome, .. }) = &audit.requests[request_id].end else {
                panic!("{case}: {:?}", audit.requests[request_id].end)
            };
            assert_eq!((code.as_str(), outcome.usage.output), ("STREAM_INTERRUPTED", 3), "{case}");
            let price = outcome.usage.prompt_tokens() * 100 + 3 * 500;
            assert_eq!(outcome.charge.amount.0, i64::try_from(price).unwrap(), "{case}");
            let credits = outcome.charge.amount.as_credits();
            assert_eq!(details, json!({ "provider": provider, "kind": kind, "credits": credits }), "{case}");
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_ended_with_a_timeout() {
    let app = TestApp::start(|config| config.gateway.request_timeout_ms = 1_000).await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "hang": true }));
    app.providers.rule(json!({ "model": "gpt-6-astra", "hang_after_tokens": 2 }));
    let mut client = app.connect("ann").await;
    let request = with(chat("a", "Why is the sky blue?"), &json!({ "fallback": false }));
    let nothing_came = client.ask(&request).await;
    let details = &nothing_came.error("TIMEOUT")["details"];
    assert_eq!((&details["limitMs"], &details["attempts"][0]["provider"]), (&json!(1_000), &json!("openai")));
    let audit = app.audit().await;
    let usage = audit.request().outcome().usage;
    // The provider had it all that time.
    assert!(usage.input > 0 && usage.output == 0, "{usage:?}");
    let input = i64::try_from(usage.input * 100).unwrap();
    assert_eq!(audit.accounts["ann"].spent, input);
    let some_came = client.ask(&with(chat("a", "Why is the sky blue?"), &json!({ "model": "gpt-6-astra" }))).await;
    some_came.error("TIMEOUT");
    assert_eq!(some_came.chunks.len(), 2);
    let audit = Audit::at_rest(app.database.pool()).await;
    assert!(audit.accounts["ann"].spent >= input + 2 * 50_000, "{:?}", audit.accounts["ann"]);
    app.stop().await;
}
