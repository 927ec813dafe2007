//! Over a limit the caller gets a typed error that states it, never a hang.

use std::num::NonZeroU32;

use aihub_application::ports::clock::{Clock, SystemClock};
use aihub_infrastructure::simulated_providers::served::Outcome;
use aihub_tests::{
    app::TestApp,
    client::{Client, chat, open, upgrade, with},
    until,
};
use chrono::TimeDelta;
use serde_json::{Value, json};

/// Sends a request that stays at the provider until it is cancelled.
async fn occupy(app: &TestApp, client: &mut Client, id: &str) {
    app.providers.rule(json!({ "model": "gpt-6-astra", "hang": true }));
    let before = app.providers.calls().len();
    client.send(&with(chat(id, "Wait"), &json!({ "model": "gpt-6-astra" }))).await;
    until("the provider has it", async || (app.providers.calls().len() > before).then_some(())).await;
}

async fn cancel(client: &mut Client, id: &str) {
    client.send(&json!({ "type": "cancel", "id": id })).await;
    assert_eq!(client.answer(id).await.done()["metadata"]["finishReason"], "cancelled");
}

fn too_many(what: &str, scope: &str, limit: u32) -> Value {
    json!({ "what": what, "scope": scope, "limit": limit })
}

#[tokio::test]
async fn so_many_requests_run_at_once_for_one_user_for_one_account_and_on_one_socket() {
    let app = TestApp::start(|config| {
        config.limits.per_user.concurrent_requests = 2;
        config.limits.per_account.concurrent_requests = 3;
        config.server.max_requests_per_socket = 1;
    })
    .await;
    let of = async |user: &str| Client::connect(app.address, &app.token_for(user, "acme", TimeDelta::hours(1))).await;
    let (mut first, mut second, mut third) = (of("ann").await, of("ann").await, of("ann").await);
    occupy(&app, &mut first, "a").await;
    let refused = first.ask(&chat("b", "hello")).await;
    assert_eq!(refused.error("RATE_LIMIT_EXCEEDED")["details"], too_many("running requests", "socket", 1));
    occupy(&app, &mut second, "a").await;
    let refused = third.ask(&chat("a", "hello")).await;
    let error = refused.error("RATE_LIMIT_EXCEEDED");
    assert_eq!(error["details"], too_many("concurrent requests", "user", 2));
    assert!(error["retryAfterMs"].as_u64() > Some(0));
    let (mut fourth, mut fifth) = (of("bob").await, of("bob").await);
    occupy(&app, &mut fourth, "a").await;
    let refused = fifth.ask(&chat("a", "hello")).await;
    assert_eq!(refused.error("RATE_LIMIT_EXCEEDED")["details"], too_many("concurrent requests", "account", 3));
    // Whoever is done makes room.
    cancel(&mut first, "a").await;
    third.ask(&chat("a", "hello")).await.done();
    fifth.ask(&chat("a", "hello")).await.done();
    app.stop().await;
}

#[tokio::test]
async fn so_many_requests_and_tokens_a_minute_are_allowed() {
    let app = TestApp::start(|config| {
        config.limits.per_user.requests_per_minute = NonZeroU32::new(3).unwrap();
        config.limits.per_user.tokens_per_minute = NonZeroU32::new(1_000).unwrap();
    })
    .await;
    let mut client = app.connect("ann").await;
    for _ in 0..3 {
        client.ask(&chat("a", "hello")).await.done();
    }
    let refused = client.ask(&chat("a", "hello")).await;
    let error = refused.error("RATE_LIMIT_EXCEEDED");
    assert_eq!(error["details"], too_many("requests a minute", "user", 3));
    // One comes back every 20 seconds.
    assert!((1..=20_000).contains(&error["retryAfterMs"].as_u64().unwrap()), "{error}");

    let mut client = app.connect("bob").await;
    client.ask(&with(chat("a", "hello"), &json!({ "maxTokens": 900 }))).await.done();
    let refused = client.ask(&with(chat("a", "hello"), &json!({ "maxTokens": 900 }))).await;
    assert_eq!(refused.error("RATE_LIMIT_EXCEEDED")["details"], too_many("tokens a minute", "user", 1_000));
    let refused = client.ask(&with(chat("a", "hello"), &json!({ "maxTokens": 2_000 }))).await;
    assert_eq!(refused.error("RATE_LIMIT_EXCEEDED")["details"], too_many("tokens in one request", "user", 1_000));
    app.stop().await;
}

#[tokio::test]
async fn beyond_its_places_a_node_queues_so_many_and_refuses_the_rest() {
    let app = TestApp::start(|config| {
        config.limits.node.running_requests = 1;
        config.limits.node.waiting_requests = 2;
    })
    .await;
    let mut client = app.connect("ann").await;
    occupy(&app, &mut client, "a").await;
    for (id, position) in [("b", 1), ("c", 2)] {
        client.send(&chat(id, "hello")).await;
        let queued = client.next_of(id).await;
        assert_eq!((&queued["type"], &queued["position"]), (&json!("queued"), &json!(position)));
    }
    let refused = client.ask(&chat("d", "hello")).await;
    let error = refused.error("QUEUE_FULL");
    assert_eq!(error["details"], json!({ "running": 1, "waiting": 2 }));
    assert!(error["retryAfterMs"].as_u64() > Some(0));
    assert_eq!(app.audit().await.requests.len(), 1, "nothing is held for what waits");
    let all_wait = SystemClock.now();
    cancel(&mut client, "a").await;
    client.answer("b").await.done();
    client.answer("c").await.done();
    // A price that changes while a request waits is not the one that it has.
    assert!(app.audit().await.requests.values().all(|request| request.accepted.accepted_at < all_wait));
    app.stop().await;
}

#[tokio::test]
async fn of_ten_requests_of_one_user_at_four_places_the_first_come_are_the_first_served_and_all_hear_where_they_stand()
{
    let app = TestApp::start(|config| {
        config.limits.node.running_requests = 4;
        config.limits.per_user.concurrent_requests = 20;
    })
    .await;
    app.providers.rule(json!({ "model": "gpt-6-astra", "hang": true }));
    let mut client = app.connect("ann").await;
    let ids: Vec<String> = (0..10).map(|nth| nth.to_string()).collect();
    for id in &ids {
        client.send(&with(chat(id, "Wait"), &json!({ "model": "gpt-6-astra" }))).await;
    }
    for (id, position) in ids[4..].iter().zip(1..) {
        let queued = client.next_of(id).await;
        assert_eq!((&queued["type"], &queued["position"]), (&json!("queued"), &json!(position)), "{queued}");
    }
    until("four are at the provider", async || (app.providers.calls().len() == 4).then_some(())).await;
    for (nth, waits) in ids[..6].iter().enumerate() {
        cancel(&mut client, waits).await;
        until("the next one is there", async || (app.providers.calls().len() == nth + 5).then_some(())).await;
        // Those behind it have moved up, and hear so.
        for (id, position) in ids[nth + 5..].iter().zip(1..) {
            let queued = client.next_of(id).await;
            assert_eq!((&queued["type"], &queued["position"]), (&json!("queued"), &json!(position)), "{queued}");
        }
        let open = app.audit().await.open().len();
        assert_eq!(open, 4);
    }
    for id in &ids[6..] {
        cancel(&mut client, id).await;
    }
    let audit = app.audit().await;
    assert_eq!((audit.requests.len(), audit.open().len()), (10, 0));
    app.stop().await;
}

#[tokio::test]
async fn a_request_waits_no_longer_than_it_may_and_can_be_cancelled_meanwhile() {
    let app = TestApp::start(|config| {
        config.limits.node.running_requests = 1;
        config.limits.node.wait_ms = 1_000;
    })
    .await;
    let mut client = app.connect("ann").await;
    occupy(&app, &mut client, "a").await;
    client.send(&chat("b", "hello")).await;
    assert_eq!(client.next_of("b").await["type"], "queued");
    cancel(&mut client, "b").await;
    let refused = client.ask(&chat("c", "hello")).await;
    assert_eq!(refused.queued, [1]);
    refused.error("QUEUE_FULL");
    cancel(&mut client, "a").await;
    assert_eq!(app.audit().await.requests.len(), 1);
    assert_eq!(app.providers.calls().iter().filter(|call| call.outcome == Outcome::Completed).count(), 0);
    app.stop().await;
}

#[tokio::test]
async fn beyond_so_many_sockets_an_upgrade_is_refused_until_one_is_closed() {
    let app = TestApp::start(|config| config.server.max_sockets = 2).await;
    let (first, _second) = (app.connect("ann").await, app.connect("bob").await);
    let refused = open(upgrade(app.address, &app.token("eve"))).await.err().expect("no third one");
    assert_eq!(refused.status(), 503);
    let problem: Value = serde_json::from_slice(refused.body().as_ref().unwrap()).unwrap();
    assert_eq!(problem["code"], "QUEUE_FULL");
    drop(first);
    until("there is room", async || open(upgrade(app.address, &app.token("eve"))).await.ok()).await;
    app.stop().await;
}
