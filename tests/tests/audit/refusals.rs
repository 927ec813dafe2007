//! Why something was refused, where nothing was accepted.

use std::num::NonZeroU32;

use aihub::config::amount::Credits;
use aihub_domain::money::Microcredits;
use aihub_tests::{
    app::TestApp,
    client::{Client, chat, microcredits, with},
    until,
};
use chrono::TimeDelta;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{
    cli::done,
    http::{auditor, get, lines},
};

/// The reasons that the trail tells of, by code.
async fn refused(app: &TestApp, of: &str, codes: &[&str]) -> Vec<Value> {
    until("the trail has it", async || {
        let (status, trail) = get(app, &format!("/api/audit/trail?{of}"), &auditor()).await;
        assert_eq!(status, StatusCode::OK, "{trail}");
        let told = lines(&trail).into_iter().filter(|entry| entry["event"] == "RequestsRefused");
        let mut told: Vec<Value> = told
            .flat_map(|entry| {
                assert_eq!((&entry["actor"], &entry["data"]["user"]), (&json!("ann"), &json!("ann")));
                entry["data"]["reasons"].as_array().unwrap().clone()
            })
            .collect();
        told.sort_by_key(|reason| reason["code"].to_string());
        let found: Vec<_> = told.iter().map(|reason| reason["code"].as_str().unwrap()).collect();
        (found == codes).then_some(told)
    })
    .await
}

#[tokio::test]
async fn the_trail_tells_what_was_refused_to_whom_how_often_and_on_which_balance_it_was_decided() {
    let app = TestApp::start(|config| {
        config.audit.refusals_interval_ms = 50;
        config.credits.welcome = Some(Credits(Microcredits(7)));
    })
    .await;
    let token = app.token_for("ann", "acme", TimeDelta::hours(1));
    let mut client = Client::connect(app.address, &token).await;
    let required =
        client.ask(&chat("a", "How much is too much?")).await.error("INSUFFICIENT_CREDITS")["details"]["required"]
            .clone();
    client
        .ask(&with(chat("b", "Who are you?"), &json!({ "model": "gpt-7", "provider": "auto" })))
        .await
        .error("MODEL_NOT_FOUND");
    let secret = with(chat("c", "Who are you?"), &json!({ "model": "@my-diagnosis-is-bad", "provider": "auto" }));
    client.ask(&secret).await.error("MODEL_NOT_FOUND");
    let (status, _) = app.post("/api/mcp/sora2/generate", &token, &json!({ "prompt": "x", "duration": 21 })).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(get(&app, "/api/audit/verify", &token).await.0, StatusCode::FORBIDDEN);
    // Faulty input and repetitions say nothing about what somebody may.
    client.ask(&with(chat("d", "x"), &json!({ "temperature": 9 }))).await.error("VALIDATION_ERROR");

    let codes = ["FORBIDDEN", "INSUFFICIENT_CREDITS", "MODEL_NOT_FOUND", "MODEL_NOT_FOUND", "VIDEO_NOT_OFFERED"];
    let told = refused(&app, "account=acme", &codes).await;
    assert_eq!(
        told[0]["because"],
        json!({ "capability": { "needed": "`audit = true`", "model": null, "provider": null } })
    );
    let credits = &told[1]["because"]["credits"];
    assert_eq!(credits["available_microcredits"], 7);
    assert_eq!(credits["required_microcredits"], microcredits(&required));
    let models: Vec<_> = told[2..4].iter().map(|reason| &reason["because"]["model"]["model"]).collect();
    assert!(models.contains(&&json!("gpt-7")) && models.contains(&&Value::Null), "{models:?}");
    assert_eq!(told[4]["because"]["video"]["asked"], "21 s of 720p in 16:9");
    refused(&app, "user=ann", &codes).await;
    refused(&app, "user=bob", &[]).await;
    // An account whose name begins as this one's streams do is another account.
    refused(&app, "account=ac", &[]).await;

    let trail = done(&app.database, &["audit", "trail", "--account", "acme"]).await;
    assert!(trail.contains("(available 0.000007 credits required"), "{trail}");
    let log: Vec<String> =
        sqlx::query_scalar("SELECT payload::text FROM events").fetch_all(app.database.pool()).await.unwrap();
    assert!(!log.concat().contains("diagnosis"), "content came into the log");
    app.stop().await;
}

#[tokio::test]
async fn a_flood_of_refusals_is_a_few_events_and_none_of_them_is_lost_at_the_end() {
    const ASKED: u64 = 500;
    let app = TestApp::start(|config| {
        // Nothing is written down before the service stops.
        config.audit.refusals_interval_ms = 3_600_000;
        config.limits.per_user.requests_per_minute = NonZeroU32::MIN;
    })
    .await;
    let mut client = app.connect("ann").await;
    client.ask(&chat("first", "hello")).await.done();
    for nth in 0..ASKED {
        client.ask(&chat(&format!("{nth}"), "hello")).await.error("RATE_LIMIT_EXCEEDED");
    }
    let database = app.database.clone();
    app.stop().await;
    let told: Vec<String> = sqlx::query_scalar(
        "SELECT payload #>> '{RequestsRefused,reasons,0,count}' FROM events WHERE aggregate_type = 'refusal'",
    )
    .fetch_all(database.pool())
    .await
    .unwrap();
    assert_eq!(told, [ASKED.to_string()]);
}
