//! Clients that leave, come back, or change their mind.

use aihub::config::sections::Disconnect;
use aihub_domain::request::event::{CancelReason, RequestEvent};
use aihub_infrastructure::simulated_providers::served::Outcome;
use aihub_tests::{
    app::TestApp,
    audit::Audit,
    client::{Client, chat, with},
};
use chrono::TimeDelta;
use serde_json::json;

#[tokio::test]
async fn a_client_that_lost_its_connection_reads_on_after_the_chunk_it_had() {
    let app = TestApp::start(|_| ()).await;
    let mut client = app.connect("ann").await;
    let uninterrupted = client.ask(&chat("before", "Why is the sky blue?")).await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "tokens_per_second": 100 }));
    client.send(&chat("a", "Why is the sky blue?")).await;
    let mut text = client.chunks("a", 5).await.concat();
    drop(client);

    let mut client = app.connect("ann").await;
    client.send(&json!({ "type": "resume", "id": "a", "after": 5 })).await;
    let rest = client.answer_after("a", 5).await;
    text.push_str(&rest.text());
    assert_eq!(text, uninterrupted.text());
    assert_eq!(rest.done()["usage"], uninterrupted.done()["usage"], "billed in full, and once");

    // Also after its end, from wherever, and as often as asked.
    for after in [0, 30] {
        client.send(&json!({ "type": "resume", "id": "a", "after": after })).await;
        let again = client.answer_after("a", after).await;
        assert!(
            text.ends_with(&again.text()) && again.chunks.len() as u64 + after == uninterrupted.chunks.len() as u64
        );
        assert_eq!(again.done()["metadata"]["requestId"], rest.request_id());
    }
    assert_eq!(app.providers.calls_of(rest.request_id()).len(), 1);
    assert_eq!(app.audit().await.accounts["ann"].spent, rest.charged() * 2);
    app.stop().await;
}

#[tokio::test]
async fn an_answer_is_resumed_by_nobody_else() {
    let app = TestApp::start(|_| ()).await;
    app.connect("ann").await.ask(&chat("a", "mine")).await.done();
    let resume = json!({ "type": "resume", "id": "a", "after": 0 });
    for (user, account) in [("eve", "eve"), ("eve", "ann"), ("ann", "eve")] {
        let token = app.token_for(user, account, TimeDelta::hours(1));
        Client::connect(app.address, &token).await.ask(&resume).await.error("NOT_FOUND");
    }
    app.connect("ann").await.ask(&resume).await.done();
    app.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_for_good_is_billed_for_the_whole_answer_that_was_kept_for_it() {
    let app = TestApp::start(|_| ()).await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "tokens_per_second": 200, "output_tokens": 60 }));
    let mut client = app.connect("ann").await;
    client.send(&chat("a", "Why is the sky blue?")).await;
    client.chunks("a", 3).await;
    drop(client);
    let audit = Audit::at_rest(app.database.pool()).await;
    assert!(matches!(audit.request().end, Some(RequestEvent::RequestCompleted { client_left: true, .. })));
    let (outcome, call) = (audit.request().outcome(), &app.providers.calls()[0]);
    assert_eq!((outcome.usage.output, outcome.estimated), (60, false));
    assert_eq!((call.outcome, call.output_tokens), (Outcome::Completed, 60));
    app.stop().await;
}

#[tokio::test]
async fn a_stream_cut_by_the_client_is_billed_for_what_was_produced() {
    let app = TestApp::start(|config| config.gateway.on_disconnect = Disconnect::Abort).await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "hang_after_tokens": 7 }));
    let mut client = app.connect("ann").await;
    client.send(&chat("a", "Why is the sky blue?")).await;
    client.chunks("a", 7).await;
    drop(client);
    let audit = Audit::at_rest(app.database.pool()).await;
    let Some(RequestEvent::RequestCancelled { reason, outcome, .. }) = &audit.request().end else {
        panic!("{:?}", audit.request().end)
    };
    assert_eq!((*reason, outcome.usage.output, outcome.estimated), (CancelReason::ClientLeft, 7, true));
    assert_eq!(app.providers.calls()[0].output_tokens, 7);
    let input = i64::try_from(outcome.usage.input).unwrap();
    assert_eq!(audit.accounts["ann"].spent, input * 100 + 7 * 500);
    app.stop().await;
}

#[tokio::test]
async fn with_abort_the_call_is_dropped_when_the_client_leaves() {
    let app = TestApp::start(|config| config.gateway.on_disconnect = Disconnect::Abort).await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "tokens_per_second": 100, "output_tokens": 10_000 }));
    let mut client = app.connect("ann").await;
    client.send(&with(chat("a", "Go on"), &json!({ "maxTokens": 10_000 }))).await;
    client.chunks("a", 3).await;
    drop(client);
    let call = app.providers.ended(Outcome::ClientLeft).await;
    let audit = Audit::at_rest(app.database.pool()).await;
    let outcome = audit.request().outcome();
    assert!((3..=u64::from(call.output_tokens)).contains(&outcome.usage.output), "{outcome:?} {call:?}");
    assert!(call.output_tokens < 1_000, "the provider went on: {call:?}");
    app.stop().await;
}

#[tokio::test]
async fn a_cancelled_request_ends_at_once_and_is_billed_for_what_was_produced() {
    let app = TestApp::start(|_| ()).await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "hang_after_tokens": 5 }));
    let mut client = app.connect("ann").await;
    client.send(&chat("a", "Why is the sky blue?")).await;
    client.chunks("a", 5).await;
    client.send(&json!({ "type": "cancel", "id": "a" })).await;
    let answer = client.answer_after("a", 5).await;
    let (usage, metadata) = (&answer.done()["usage"], &answer.end["metadata"]);
    assert_eq!((&usage["completionTokens"], &metadata["estimated"]), (&json!(5), &json!(true)));
    assert_eq!(metadata["finishReason"], "cancelled");
    let audit = app.audit().await;
    let end = &audit.request().end;
    let by_client = RequestEvent::RequestCancelled {
        asked: audit.request().accepted.asked(),
        reason: CancelReason::ClientCancelled,
        outcome: Box::new(audit.request().outcome().clone()),
    };
    assert_eq!(end.as_ref(), Some(&by_client));
    app.stop().await;
}

#[tokio::test]
async fn a_request_that_is_cancelled_before_anything_was_produced_costs_its_input_and_is_over() {
    let app = TestApp::start(|_| ()).await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "hang": true }));
    let mut client = app.connect("ann").await;
    client.send(&chat("a", "Why is the sky blue?")).await;
    app.providers.ended(Outcome::Hung).await;
    client.send(&json!({ "type": "cancel", "id": "a" })).await;
    let answer = client.answer("a").await;
    assert_eq!(answer.done()["metadata"]["finishReason"].as_str(), Some("cancelled"));
    let (audit, usage) = (app.audit().await, &answer.done()["usage"]);
    assert_eq!((&usage["completionTokens"], &answer.end["metadata"]["estimated"]), (&json!(0), &json!(true)));
    let input = usage["promptTokens"].as_i64().unwrap();
    assert_eq!((audit.accounts["ann"].spent, audit.accounts["ann"].held()), (input * 100, 0));
    // There is nothing left to cancel.
    let told = client.ask(&json!({ "type": "cancel", "id": "a" })).await;
    assert_eq!(told.error("CONFLICT")["details"]["requestId"], answer.request_id());
    client.ask(&json!({ "type": "cancel", "id": "b" })).await.error("NOT_FOUND");
    app.stop().await;
}
