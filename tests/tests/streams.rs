//! Streams: many on one socket, each whole, whoever leaves meanwhile.

use aihub_domain::request::event::{CancelReason, RequestEvent};
use aihub_infrastructure::simulated_providers::served::Outcome;
use aihub_tests::{
    app::TestApp,
    client::{chat, with},
    until,
};
use serde_json::json;

#[tokio::test]
async fn a_stream_is_passed_on_piece_by_piece_and_charged_by_its_tokens() {
    let app = TestApp::start(|_| ()).await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "output_tokens": 40 }));
    let mut client = app.connect("ann").await;
    assert_eq!(client.ready["credits"], 1_000.0);
    let answer = client.ask(&chat("a", "Why is the sky blue?")).await;
    assert_eq!(answer.chunks.len(), 40);
    assert!(answer.text().starts_with("Simulated answer"), "{}", answer.text());
    let call = app.providers.ended(Outcome::Completed).await;
    let done = answer.done();
    assert_eq!(done["usage"]["promptTokens"], call.input_tokens);
    assert_eq!(done["usage"]["completionTokens"], 40);
    assert_eq!(done["usage"]["totalTokens"], call.input_tokens + 40);
    // 0.1 and 0.5 dollars a million tokens, 1,000 credits a dollar.
    assert_eq!(answer.charged(), i64::from(call.input_tokens * 100 + 40 * 500));
    assert_eq!(done["metadata"]["finishReason"], "stop");
    assert_eq!(done["metadata"]["estimated"], false);
    assert_eq!(call.client_request_id.as_deref(), Some(answer.request_id()));
    let audit = app.audit().await;
    assert_eq!(audit.accounts["ann"].spent, answer.charged());
    app.stop().await;
}
