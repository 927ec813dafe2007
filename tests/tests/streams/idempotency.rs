//! The same key names the same request, for ever.

use std::sync::Arc;

use aihub_tests::{
    app::TestApp,
    client::{chat, with},
};
use serde_json::json;

#[tokio::test]
async fn the_same_request_under_the_same_key_has_the_same_answer_and_is_charged_once() {
    let app = TestApp::start(|_| ()).await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "tokens_per_second": 200 }));
    let mut client = app.connect("ann").await;
    let keyed = |id: &str| with(chat(id, "Why is the sky blue?"), &json!({ "idempotencyKey": "k" }));
    // While it runs, on the same socket and on another one, and after its end.
    client.send(&keyed("a")).await;
    client.chunks("a", 3).await;
    client.send(&keyed("b")).await;
    let mut other = app.connect("ann").await;
    other.send(&keyed("c")).await;
    let (b, c) = tokio::join!(client.answer("b"), other.answer("c"));
    client.answer_after("a", 3).await.done();
    let d = client.ask(&keyed("d")).await;
    for answer in [&c, &d] {
        assert_eq!((answer.text(), answer.done()["metadata"].clone()), (b.text(), b.done()["metadata"].clone()));
    }
    assert_eq!(app.providers.calls().len(), 1);
    let audit = app.audit().await;
    assert_eq!(audit.accounts["ann"].spent, b.charged());
    assert_eq!(audit.request().accepted.user, "ann");
    app.stop().await;
}

#[tokio::test]
async fn another_request_under_the_same_key_is_refused() {
    let app = TestApp::start(|_| ()).await;
    let mut client = app.connect("ann").await;
    let keyed = |id: &str, prompt: &str| with(chat(id, prompt), &json!({ "idempotencyKey": "k" }));
    let first = client.ask(&keyed("a", "one thing")).await;
    let refused = client.ask(&keyed("b", "another thing")).await;
    assert_eq!(refused.error("DUPLICATE_REQUEST")["details"]["requestId"], first.request_id());
    // Somebody else's key is somebody else's.
    app.connect("eve").await.ask(&keyed("a", "another thing")).await.done();
    assert_eq!(app.audit().await.requests.len(), 2);
    app.stop().await;
}

#[tokio::test]
async fn a_key_that_another_process_has_seen_is_not_served_again() {
    let first = TestApp::start(|_| ()).await;
    let keyed = with(chat("a", "Why is the sky blue?"), &json!({ "idempotencyKey": "k" }));
    let answer = first.connect("ann").await.ask(&keyed).await;
    let (database, providers) = (first.database.clone(), first.providers.clone());
    first.stop().await;
    let second = TestApp::start_on(&database, &providers, |_| ()).await;
    let refused = second.connect("ann").await.ask(&keyed).await;
    assert_eq!(refused.error("DUPLICATE_REQUEST")["details"]["requestId"], answer.request_id());
    assert_eq!(providers.calls().len(), 1);
    second.stop().await;
}

#[tokio::test]
async fn two_nodes_that_get_the_same_key_at_once_serve_it_once() {
    let first = TestApp::start(|_| ()).await;
    let second = TestApp::start_on(&first.database, &Arc::clone(&first.providers), |_| ()).await;
    let (mut one, mut other) = (first.connect("ann").await, second.connect("ann").await);
    for round in 0..5 {
        let key = format!("k{round}");
        let keyed = with(chat(&key, "Why is the sky blue?"), &json!({ "idempotencyKey": key }));
        let (here, there) = tokio::join!(one.ask(&keyed), other.ask(&keyed));
        let (served, refused) = if here.end["type"] == "done" { (here, there) } else { (there, here) };
        assert_eq!(refused.error("DUPLICATE_REQUEST")["details"]["requestId"], served.request_id());
        assert_eq!(first.providers.calls_of(served.request_id()).len(), 1);
    }
    assert_eq!(first.audit().await.requests.len(), 5);
    first.stop().await;
    second.stop().await;
}
