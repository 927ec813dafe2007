//! What is held, when, and how far it goes.

use aihub_domain::{
    money::Microcredits,
    request::event::{CancelReason, RequestEvent},
};
use aihub_infrastructure::simulated_providers::served::Outcome;
use aihub_tests::{
    app::TestApp,
    audit::Audit,
    client::{chat, with},
};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

fn unlimited(id: &str) -> Value {
    with(chat(id, "Go on for a while"), &json!({ "maxTokens": null }))
}

#[tokio::test]
async fn no_provider_is_called_before_the_request_and_its_hold_are_committed() {
    let app = TestApp::start(|_| ()).await;
    let mut client = app.connect("ann").await;
    client.ask(&chat("warm", "up")).await.done();
    // As a slow disk would, this keeps every commit waiting.
    let mut brake = PgConnection::connect(&app.database.options.url).await.unwrap();
    let mut transaction = brake.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(418380281186)").execute(&mut *transaction).await.unwrap();
    client.send(&chat("a", "Why is the sky blue?")).await;
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    aihub_tests::until("the request waits for its commit", async || {
        let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(app.database.pool()).await.unwrap();
        (waiting > 0).then_some(())
    })
    .await;
    client.ping().await;
    assert_eq!(app.providers.calls().len(), 1, "only the one before");
    transaction.rollback().await.unwrap();
    client.answer("a").await.done();
    assert_eq!(app.audit().await.reconcile(app.providers.calls()).len(), 2);
    app.stop().await;
}

#[tokio::test]
async fn a_stream_that_outgrows_its_hold_extends_it() {
    let app = TestApp::start(|config| config.gateway.output_hold_tokens = 20).await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "output_tokens": 100 }));
    let answer = app.connect("ann").await.ask(&unlimited("a")).await;
    assert_eq!(answer.chunks.len(), 100);
    assert_eq!(answer.done()["metadata"]["finishReason"], "stop");
    let audit = app.audit().await;
    let (request, account) = (audit.request(), &audit.accounts["ann"]);
    assert_eq!(request.accepted.max_output_tokens, 20);
    assert!(account.spent > request.accepted.reserved_microcredits.0, "more than was held at first");
    assert_eq!((account.spent, account.uncovered), (answer.charged(), 0));
    let extended = "SELECT count(*) FROM events WHERE event_type = 'ReservationExtended'";
    let extended: i64 = sqlx::query_scalar(extended).fetch_one(app.database.pool()).await.unwrap();
    // 20 tokens at a time, ahead of need.
    assert!((4..=5).contains(&extended), "{extended}");
    app.stop().await;
}

#[tokio::test]
async fn a_stream_that_the_account_cannot_pay_further_ends_cleanly_and_is_not_overspent() {
    let app = TestApp::start(|config| config.gateway.output_hold_tokens = 20).await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "output_tokens": 10_000, "tokens_per_second": 500 }));
    // The input, and 50 tokens of output.
    let granted = 20 * 100 + 50 * 500;
    app.grant("poor", Microcredits(granted)).await;
    let answer = app.connect("poor").await.ask(&unlimited("a")).await;
    assert_eq!(answer.done()["metadata"]["finishReason"], "credits_exhausted");
    assert!((30..=60).contains(&answer.chunks.len()), "{}", answer.chunks.len());
    app.providers.ended(Outcome::ClientLeft).await;
    let audit = Audit::at_rest(app.database.pool()).await;
    let account = &audit.accounts["poor"];
    assert_eq!((account.spent, account.held(), account.uncovered), (answer.charged(), 0, 0));
    assert!(account.spent <= granted);
    let Some(RequestEvent::RequestCancelled { reason, .. }) = &audit.request().end else { panic!() };
    assert_eq!(*reason, CancelReason::CreditsExhausted);
    app.stop().await;
}

#[tokio::test]
async fn what_a_request_did_not_use_is_given_back_with_its_end() {
    let app = TestApp::start(|_| ()).await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "output_tokens": 10 }));
    let answer = app.connect("ann").await.ask(&chat("a", "Briefly, please")).await;
    let audit = app.audit().await;
    let account = &audit.accounts["ann"];
    assert!(audit.request().accepted.reserved_microcredits.0 > answer.charged());
    assert_eq!((account.held(), account.available()), (0, account.granted - answer.charged()));
    app.stop().await;
}
