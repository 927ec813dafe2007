//! A node whose own clock is wrong. Time that decides over others is the database's.

use std::time::Duration;

use aihub_domain::{account::command::AccountCommand, money::Microcredits};
use aihub_tests::{
    app::{Ahead, TestApp},
    audit::Audit,
    client::chat,
    until,
};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use uuid::Uuid;

use super::notices;

/// A house is kept once a second: so long a wrong one had its chances.
const THREE_ROUNDS: Duration = Duration::from_secs(3);

async fn beside(app: &TestApp, ahead: TimeDelta) -> TestApp {
    TestApp::try_start(&app.database, &app.providers, Ahead(ahead), |_| {}).await.unwrap()
}

async fn grant_until(app: &TestApp, account: &str, credits: i64, expires_at: DateTime<Utc>) {
    let command = AccountCommand::GrantCredits {
        grant_id: Uuid::now_v7().to_string(),
        amount: Microcredits::from_credits(credits),
        expires_at: Some(expires_at),
        reason: "a test".to_owned(),
        actor: "a test".to_owned(),
        granted_at: app.hub.gateway.clock.now(),
    };
    let accounts = &app.hub.gateway.accounts;
    accounts.execute(account, &command, &|_| Ok(vec![]), &std::sync::Arc::default()).await.unwrap();
}

#[tokio::test]
async fn a_node_whose_clock_is_far_ahead_ends_no_request_of_another() {
    let app = TestApp::start(|_| {}).await;
    app.providers.rule(json!({ "tokens_per_second": 5, "output_tokens": 30 }));
    let mut client = app.connect("ann").await;
    client.send(&chat("long", "Why is the sky blue?")).await;
    client.chunks("long", 1).await;
    let wrong = beside(&app, TimeDelta::seconds(400)).await;
    let answer = client.answer_after("long", 1).await;
    assert_eq!(answer.done()["usage"]["completionTokens"], 30);
    assert!(notices(&wrong).await.contains("s ahead of the database's"), "{}", notices(&wrong).await);
    assert!(!notices(&app).await.contains("clock"), "{}", notices(&app).await);
    wrong.stop().await;
    app.stop().await;
}

#[tokio::test]
async fn a_node_whose_clock_is_days_ahead_lets_nothing_expire_and_one_that_is_right_does() {
    let app = TestApp::start(|_| {}).await;
    let now = app.hub.gateway.clock.now();
    grant_until(&app, "acme", 50, now + TimeDelta::days(1)).await;
    let wrong = beside(&app, TimeDelta::days(2)).await;
    tokio::time::sleep(THREE_ROUNDS).await;
    let account = app.hub.gateway.accounts.load("acme").await.unwrap();
    assert_eq!((account.available(), account.expired()), (Microcredits::from_credits(50), Microcredits::ZERO));
    wrong.stop().await;
    grant_until(&app, "acme", 7, now - TimeDelta::seconds(1)).await;
    until("what is due has expired", async || {
        let account = app.hub.gateway.accounts.load("acme").await.unwrap();
        (account.expired() == Microcredits::from_credits(7)).then_some(())
    })
    .await;
    app.stop().await;
}

#[tokio::test]
async fn a_node_whose_clock_is_wrong_takes_requests_at_the_databases_time() {
    let app = TestApp::start(|_| {}).await;
    for ahead in [TimeDelta::days(40), TimeDelta::days(-40)] {
        let wrong = beside(&app, ahead).await;
        wrong.connect("ann").await.ask(&chat("a", "Why is the sky blue?")).await.done();
        wrong.stop().await;
    }
    let audit = Audit::of(app.database.pool()).await;
    assert_eq!(audit.requests.len(), 2);
    for request in audit.requests.values() {
        let now = app.hub.gateway.clock.now();
        assert!((now - request.accepted.accepted_at).abs() < TimeDelta::minutes(2), "{:?}", request.accepted);
        let (_, ended_at) = request.end.as_ref().unwrap().ended().unwrap();
        assert!((now - ended_at).abs() < TimeDelta::minutes(2), "{ended_at}");
    }
    app.stop().await;
}
