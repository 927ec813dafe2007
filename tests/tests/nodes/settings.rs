//! Nodes that are configured differently.

use std::time::Duration;

use aihub_application::ports::clock::SystemClock;
use aihub_tests::{
    app::{TestApp, auth, token, variables},
    client::{Client, chat},
    database,
    process::Process,
    providers::Providers,
    until_ok,
};
use chrono::TimeDelta;
use serde_json::json;

use super::notices;

async fn try_beside(app: &TestApp, change: impl FnOnce(&mut aihub::config::Config)) -> anyhow::Result<TestApp> {
    TestApp::try_start(&app.database, &app.providers, SystemClock, change).await
}

/// Until the node's notices say all of these.
async fn says(app: &TestApp, parts: &[&str]) {
    until_ok("it is told", async || {
        let notices = notices(app).await;
        if parts.iter().all(|part| notices.contains(part)) { Ok(()) } else { Err(notices) }
    })
    .await;
}

#[tokio::test]
async fn a_node_with_another_node_timeout_abandons_no_request_of_a_healthy_one() {
    let app = TestApp::start(|config| config.gateway.node_timeout_ms = 30_000).await;
    app.providers.rule(json!({ "tokens_per_second": 5, "output_tokens": 30 }));
    let mut client = app.connect("ann").await;
    client.send(&chat("long", "Why is the sky blue?")).await;
    client.chunks("long", 1).await;
    // It is heard of five times a second, and the other one every six seconds.
    let impatient = try_beside(&app, |config| config.gateway.node_timeout_ms = 1_000).await.unwrap();
    client.answer_after("long", 1).await.done();
    // Named on both.
    says(&impatient, &["has other settings than this node", "gateway.node_timeout_ms"]).await;
    says(&app, &["has other settings than this node", "gateway.node_timeout_ms"]).await;
    impatient.stop().await;
    app.stop().await;
}

#[tokio::test]
async fn a_node_that_would_charge_otherwise_does_not_start_and_says_for_what_and_beside_whom() {
    let app = TestApp::start(|config| config.server.node = Some("first".to_owned())).await;
    let dearer = |config: &mut aihub::config::Config| {
        let model = config.providers.get_mut("openai").unwrap().models.get_mut("gpt-6-luna").unwrap();
        model.prices[0].input_usd_per_mtok = serde_json::from_value(json!("0.2")).unwrap();
    };
    let refused = try_beside(&app, dearer).await.err().expect("it does not start").to_string();
    for part in ["first-", "price openai/gpt-6-luna@2026-11-22", "--allow-other-prices"] {
        assert!(refused.contains(part), "{refused}");
    }
    let rate = |config: &mut aihub::config::Config| {
        config.credits.per_usd = serde_json::from_value(json!(999)).unwrap();
    };
    let refused = try_beside(&app, rate).await.err().expect("it does not start").to_string();
    assert!(refused.contains("credits.per_usd"), "{refused}");
    // Meant, it starts, and both say so.
    let meant = try_beside(&app, |config| {
        rate(config);
        config.server.allow_other_prices = true;
    });
    let meant = meant.await.unwrap();
    says(&meant, &["credits.per_usd"]).await;
    says(&app, &["credits.per_usd"]).await;
    meant.stop().await;
    // A new price beside the old one, which gets its last day, contradicts nothing.
    let rolling = try_beside(&app, |config| {
        let model = config.providers.get_mut("openai").unwrap().models.get_mut("gpt-6-luna").unwrap();
        let mut next = model.prices[0].clone();
        (next.id, next.valid_from) = (Some("openai/gpt-6-luna@2100".to_owned()), Some("2100-01-01".parse().unwrap()));
        next.input_usd_per_mtok = serde_json::from_value(json!("0.2")).unwrap();
        model.prices[0].valid_until = next.valid_from;
        model.prices.push(next);
    });
    rolling.await.unwrap().stop().await;
    app.stop().await;
}

#[tokio::test]
async fn a_secret_that_nodes_do_not_share_is_named_on_both_and_not_told() {
    let app = TestApp::start(|_| {}).await;
    let other = try_beside(&app, |config| {
        config.auth.hs256_secret = Some(aihub::auth::secret::Secret::new("quite another secret, of 32 bytes and more"));
    });
    let other = other.await.unwrap();
    says(&app, &["auth.hs256_secret"]).await;
    says(&other, &["auth.hs256_secret"]).await;
    let stored: String = sqlx::query_scalar("SELECT string_agg(settings::text, '') FROM nodes")
        .fetch_one(app.database.pool())
        .await
        .unwrap();
    assert!(!stored.contains("secret, of 32 bytes") && !stored.contains("a secret of the tests"), "{stored}");
    other.stop().await;
    app.stop().await;
}

#[tokio::test]
async fn two_nodes_that_live_cannot_have_the_same_name() {
    let app = TestApp::start(|config| config.server.node = Some("one".to_owned())).await;
    let refused = try_beside(&app, |config| config.server.node = Some("one".to_owned())).await;
    let refused = refused.err().expect("it does not start").to_string();
    assert!(refused.contains("`server.node` is one") && refused.contains("lives"), "{refused}");
    // One that says goodbye makes room at once.
    let (database, providers) = (app.database.clone(), app.providers.clone());
    app.stop().await;
    let again = TestApp::start_on(&database, &providers, |config| config.server.node = Some("one".to_owned())).await;
    again.stop().await;
}

#[tokio::test]
async fn a_node_that_died_keeps_nobody_from_its_name_or_from_other_prices() {
    let (database, providers) = (database().await, Providers::start().await);
    let mut variables = variables(&database, &providers);
    variables.push(("AIHUB__SERVER__NODE".to_owned(), "one".to_owned()));
    let program = env!("CARGO_BIN_EXE_aihub-under-test");
    Process::start(program, &variables).await.kill().await;
    // Its row says that it lives, for half a minute yet.
    variables.push(("AIHUB__CREDITS__PER_USD".to_owned(), "999".to_owned()));
    let started = tokio::time::timeout(Duration::from_secs(20), Process::start(program, &variables));
    let again = started.await.expect("it is not kept waiting");
    let token = token(&auth(), "ann", "ann", TimeDelta::hours(1));
    Client::connect(again.address, &token).await.ask(&chat("a", "Why is the sky blue?")).await.done();
    again.kill().await;
}

#[tokio::test]
async fn a_media_folder_that_nodes_do_not_share_is_named_and_one_that_they_share_is_not() {
    let app = TestApp::start(|_| {}).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let store = format!("file://{}", elsewhere.path().display());
    let other = try_beside(&app, |config| config.media.store = Some(store)).await.unwrap();
    says(&app, &["media.store"]).await;
    says(&other, &["media.store"]).await;
    // Neither has what the other one keeps, and does not say that nobody has.
    let url = aihub_application::ports::media_store::MediaStore::url(&*other.hub.settings.media, "0198/video.mp4");
    let url = url.await.unwrap();
    let path = url.split_once("/media/").unwrap().1;
    let (status, _, problem) = other.get(&format!("/media/{path}"), None).await;
    assert_eq!((status.as_u16(), problem["code"].as_str()), (404, Some("NOT_FOUND")));
    assert!(problem["detail"].as_str().unwrap().contains("this node does not have this file"), "{problem}");
    other.stop().await;
    // The same folder under another name.
    let shared = app.database.folder.path().join("media");
    let link = elsewhere.path().join("link");
    std::os::unix::fs::symlink(shared, &link).unwrap();
    let store = format!("file://{}", link.display());
    let same = try_beside(&app, |config| config.media.store = Some(store)).await.unwrap();
    until_ok("nothing is named any more", async || {
        let notices = notices(&same).await;
        if notices.contains("media.store") { Err(notices) } else { Ok(()) }
    })
    .await;
    same.stop().await;
    app.stop().await;
}
