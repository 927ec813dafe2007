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

/// Of a model whose output is shown as it is made, and without a limit.
fn unlimited(id: &str) -> Value {
    let shown = json!({ "maxTokens": null, "provider": "claude", "model": "claude-haiku-5-5" });
    with(chat(id, "Go on for a while"), &shown)
}

#[tokio::test]
async fn no_provider_is_called_before_the_request_and_its_hold_are_committed() {
    let app = TestApp::start(|_| ()).await;
    let mut client = app.connect("ann").await;
    client.ask(&chat("warm", "up")).await.done();
    // As a slow disk would, this keeps every commit waiting.
    let mut brake = PgConnection::connect(&app.database.options.url).await.unwrap();
    let mut transaction = brake.begin().await.unwrap();
    sqlx::query("LOCK TABLE log_lock IN SHARE UPDATE EXCLUSIVE MODE").execute(&mut *transaction).await.unwrap();
    client.send(&chat("a", "Why is the sky blue?")).await;
    let waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'log_lock'::regclass AND NOT granted
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
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
    app.providers.rule(json!({ "model": "claude-haiku-5-5", "output_tokens": 100 }));
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
    // 20 tokens at a time, ahead of half again as much as was seen.
    assert_eq!(extended, 7);
    app.stop().await;
}

/// Grants `poor` what pays for 50 tokens of output beside the input, at its most, of [`unlimited`].
async fn grant_fifty_tokens(app: &TestApp) -> Microcredits {
    app.connect("probe").await.ask(&with(unlimited("probe"), &json!({ "maxTokens": 50 }))).await.done();
    let granted = app.audit().await.request().accepted.reserved_microcredits;
    app.grant("poor", granted).await;
    granted
}

#[tokio::test]
async fn the_last_extension_takes_what_the_account_has_left_and_the_cut_comes_when_that_is_used() {
    let app = TestApp::start(|config| config.gateway.output_hold_tokens = 20).await;
    let granted = grant_fifty_tokens(&app).await;
    app.providers.rule(json!({ "model": "claude-haiku-5-5", "output_tokens": 10_000, "tokens_per_second": 500 }));
    let answer = app.connect("poor").await.ask(&unlimited("a")).await;
    assert_eq!(answer.done()["metadata"]["finishReason"], "credits_exhausted");
    assert_eq!(answer.chunks.len(), 50, "all that there was: steps of 20 make no difference");
    let call = app.providers.ended(Outcome::Completed).await;
    assert_eq!(call.output_tokens, 50, "the provider was told");
    let audit = Audit::at_rest(app.database.pool()).await;
    let account = &audit.accounts["poor"];
    assert_eq!((account.spent, account.held(), account.uncovered), (answer.charged(), 0, 0));
    assert!(account.spent <= granted.0);
    let Some(RequestEvent::RequestCancelled { reason, .. }) = &audit.requests[answer.request_id()].end else {
        panic!()
    };
    assert_eq!(*reason, CancelReason::CreditsExhausted);
    app.stop().await;
}

#[tokio::test]
async fn a_stream_that_goes_on_where_the_account_cannot_pay_ends_cleanly_and_is_not_overspent() {
    let app = TestApp::start(|config| config.gateway.output_hold_tokens = 20).await;
    let granted = grant_fifty_tokens(&app).await;
    let endless =
        json!({ "model": "claude-haiku-5-5", "output_tokens": 10_000, "tokens_per_second": 500, "cap": "ignored" });
    app.providers.rule(endless);
    let answer = app.connect("poor").await.ask(&unlimited("a")).await;
    assert_eq!(answer.done()["metadata"]["finishReason"], "credits_exhausted");
    assert_eq!(answer.chunks.len(), 50);
    app.providers.ended(Outcome::ClientLeft).await;
    let audit = Audit::at_rest(app.database.pool()).await;
    let account = &audit.accounts["poor"];
    assert_eq!((account.spent, account.held(), account.uncovered), (answer.charged(), 0, 0));
    assert!(account.spent <= granted.0);
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
