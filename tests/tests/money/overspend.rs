//! No overspend and no phantom refusal.

use std::time::Duration;

use aihub::config::{Config, amount::Credits};
use aihub_domain::{account::UsageLimits, money::Microcredits, request::event::RequestEvent};
use aihub_infrastructure::simulated_providers::served::Outcome;
use aihub_tests::{
    PATIENCE,
    app::TestApp,
    audit::Audit,
    client::{Client, chat, microcredits, with},
    until,
};
use chrono::TimeDelta;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

/// What is held for [`question`].
async fn hold(app: &TestApp) -> i64 {
    app.connect("probe").await.ask(&question(0)).await.done();
    app.audit().await.request().accepted.reserved_microcredits.0
}

fn question(nth: usize) -> Value {
    // Of the same length whatever the number, so that all of them hold the same.
    with(chat(&format!("{nth}"), &format!("Question {nth:03}")), &json!({ "fallback": false }))
}

/// Sends `count` requests before it reads anything.
async fn ask_all(client: &mut Client, count: usize) {
    for nth in 0..count {
        client.send(&question(nth)).await;
    }
}

/// An account that can pay for ten of the fifty requests that two nodes get at once, or one node alone.
async fn fifty_at_once_on_an_account_that_can_pay_for_ten(nodes: usize) {
    let top_up = |config: &mut Config| config.credits.top_up = Some("https://shop.example/credits".to_owned());
    let first = TestApp::start(|config| {
        config.server.max_requests_per_socket = 100;
        top_up(config);
    })
    .await;
    let hold = hold(&first).await;
    let rest = hold / 2;
    first.grant("poor", Microcredits(10 * hold + rest)).await;
    first.providers.rule(json!({ "provider": "openai", "hang": true }));
    let mut apps = vec![first];
    for _ in 1..nodes {
        apps.push(TestApp::start_on(&apps[0].database, &apps[0].providers, top_up).await);
    }
    let mut clients = Vec::new();
    for app in &apps {
        clients.push(app.connect("poor").await);
    }
    let each = 50 / nodes;
    futures::future::join_all(clients.iter_mut().map(|client| ask_all(client, each))).await;

    // Those that fit hang at the provider; every other one is refused, each with the balance that was true.
    let (mut refused, deadline) = (0, Instant::now() + PATIENCE);
    while refused < 40 {
        assert!(Instant::now() < deadline, "{refused} refused");
        for client in &mut clients {
            let Ok(frame) = timeout(Duration::from_millis(50), client.next()).await else { continue };
            assert_eq!(frame["error"]["code"], "INSUFFICIENT_CREDITS", "{frame}");
            let details = &frame["error"]["details"];
            assert_eq!((microcredits(&details["available"]), microcredits(&details["required"])), (rest, hold));
            assert_eq!(details["topUp"], "https://shop.example/credits", "{details}");
            refused += 1;
        }
    }
    until("ten are asked of the provider", async || {
        let hung = apps[0].providers.calls().iter().filter(|call| call.outcome == Outcome::Hung).count();
        (hung >= 10).then_some(())
    })
    .await;
    let audit = apps[0].audit().await;
    let poor = &audit.accounts["poor"];
    assert_eq!((poor.held(), poor.available(), poor.spent), (10 * hold, rest, 0));
    assert_eq!(apps[0].providers.calls().len(), 11, "ten, and the probe");
}

#[tokio::test]
async fn of_fifty_concurrent_requests_on_an_account_that_can_pay_for_ten_exactly_ten_are_served() {
    fifty_at_once_on_an_account_that_can_pay_for_ten(1).await;
}

#[tokio::test]
async fn the_same_holds_when_two_nodes_share_the_database() {
    fifty_at_once_on_an_account_that_can_pay_for_ten(2).await;
}

#[tokio::test]
async fn whoever_gives_back_what_was_not_used_makes_room_for_others_and_nothing_is_overspent() {
    let app = TestApp::start(|_| ()).await;
    let hold = hold(&app).await;
    app.grant("poor", Microcredits(3 * hold)).await;
    let mut client = app.connect("poor").await;
    ask_all(&mut client, 50).await;
    let (mut served, mut refused) = (0, 0);
    for nth in 0..50 {
        let answer = client.answer(&nth.to_string()).await;
        if answer.end["type"] == "done" {
            served += 1;
        } else {
            let details = &answer.error("INSUFFICIENT_CREDITS")["details"];
            assert!(microcredits(&details["available"]) < hold, "there was enough: {details}");
            refused += 1;
        }
    }
    assert!(served >= 3, "{served} served, {refused} refused");
    let audit = Audit::at_rest(app.database.pool()).await;
    assert_eq!(audit.accounts["poor"].held(), 0);
    let completed = |request: &&aihub_tests::audit::AuditedRequest| {
        matches!(request.end, Some(RequestEvent::RequestCompleted { .. })) && request.accepted.account == "poor"
    };
    assert_eq!(audit.requests.values().filter(completed).count(), served);
    app.stop().await;
}

#[tokio::test]
async fn what_one_node_gave_back_another_one_can_spend_at_once() {
    // What is cancelled at the provider gives everything back.
    let first = TestApp::start(|config| config.gateway.charge_abandoned = false).await;
    let hold = hold(&first).await;
    let second = TestApp::start_on(&first.database, &first.providers, |_| ()).await;
    first.grant("poor", Microcredits(hold)).await;
    let (mut here, mut there) = (first.connect("poor").await, second.connect("poor").await);
    first.providers.rule(json!({ "model": "gpt-6-luna", "hang": true, "times": 1 }));
    here.send(&question(1)).await;
    first.providers.ended(Outcome::Hung).await;
    let refused = there.ask(&question(2)).await;
    assert_eq!(microcredits(&refused.error("INSUFFICIENT_CREDITS")["details"]["available"]), 0);
    here.send(&json!({ "type": "cancel", "id": "1" })).await;
    here.answer("1").await.done();
    // What the second node remembers is that there was nothing left.
    let spent = there.ask(&question(3)).await.charged();
    there.ask(&question(4)).await.error("INSUFFICIENT_CREDITS");
    first.grant("poor", Microcredits(spent)).await;
    there.ask(&question(5)).await.done();
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn beyond_its_usage_limit_an_account_is_told_when_it_may_go_on() {
    let app = TestApp::start(|_| ()).await;
    let hold = hold(&app).await;
    app.grant("ann", Microcredits(100 * hold)).await;
    let daily = Some(Microcredits(hold + 1));
    app.set_usage_limits("ann", UsageLimits { daily_microcredits: daily, monthly_microcredits: None }).await;
    let mut client = app.connect("ann").await;
    let spent = client.ask(&question(1)).await.charged();
    let refused = client.ask(&with(question(2), &json!({ "maxTokens": 10_000 }))).await;
    let error = refused.error("USAGE_LIMIT_EXCEEDED");
    assert_eq!(microcredits(&error["details"]["used"]), spent);
    assert_eq!(microcredits(&error["details"]["limit"]), hold + 1);
    let retry_after = error["retryAfterMs"].as_i64().unwrap();
    assert!((1..=TimeDelta::days(1).num_milliseconds()).contains(&retry_after), "{retry_after}");
    assert_eq!(error["details"]["period"], "day");
    app.stop().await;
}

#[tokio::test]
async fn an_account_that_nobody_opened_is_refused_where_none_is_opened_by_asking() {
    let app = TestApp::start(|config| config.credits.welcome = Some(Credits(Microcredits::ZERO))).await;
    let mut client = app.connect("nobody").await;
    assert_eq!(client.ready["credits"], 0.0);
    client.ask(&question(0)).await.error("FORBIDDEN");
    assert!(app.audit().await.requests.is_empty() && app.providers.calls().is_empty());
    app.stop().await;
}
