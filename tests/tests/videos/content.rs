//! What clients write and get is theirs: sealed, told to them alone, deleted when its time is over.

use std::sync::Arc;

use aihub::auth::mint::{NewToken, mint};
use aihub_application::{
    erasure::erase_subject,
    ports::clock::{Clock, SystemClock},
};
use aihub_domain::subject::SubjectCommand;
use aihub_infrastructure::video_queue::PostgresVideoQueue;
use aihub_tests::{
    app::{TestApp, auth},
    receiver::Receiver,
    until,
};
use chrono::TimeDelta;
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{ended, generate, video};

const PROMPT: &str = "an otter that nobody else may hear of";

#[tokio::test]
async fn prompts_styles_and_webhook_urls_stand_nowhere_in_clear() {
    let app = TestApp::start(|config| config.webhooks.allow_private = true).await;
    let body = json!({
        "prompt": PROMPT, "style": "as in a hidden diary", "duration": 4,
        "webhookUrl": format!("http://{}/a-secret-path", app.address),
    });
    let id = generate(&app, "ada", &body).await;
    ended(&app, "ada", &id).await;
    // Each table as text, whatever it has.
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT format('%I.%I', table_schema, table_name) FROM information_schema.tables
         WHERE table_schema IN ('public', 'read', 'work') AND table_type = 'BASE TABLE'",
    )
    .fetch_all(app.database.pool())
    .await
    .unwrap();
    assert!(tables.len() > 20, "{tables:?}");
    for table in tables {
        for word in ["otter", "hidden diary", "a-secret-path"] {
            let found = format!("SELECT count(*) FROM {table} AS row WHERE row::text LIKE '%{word}%'");
            let found: i64 = sqlx::query_scalar(&found).fetch_one(app.database.pool()).await.unwrap();
            assert_eq!(found, 0, "{word} in {table}");
        }
    }
}

#[tokio::test]
async fn erasing_an_account_takes_its_videos_along() {
    let app = TestApp::start(|_| {}).await;
    let id = generate(&app, "ada", &video(PROMPT)).await;
    let url = ended(&app, "ada", &id).await["url"].as_str().unwrap().to_owned();
    let gateway = &app.hub.gateway;
    let command = SubjectCommand::EraseSubject {
        reason: "asked for".to_owned(),
        actor: "privacy".to_owned(),
        erased_at: gateway.clock.now(),
        key_ids: vec![],
    };
    erase_subject(&*gateway.log, "ada", &command, &Arc::default()).await.unwrap();
    let client = &app.http;
    until("the file is gone", async || {
        (client.get(&url).send().await.unwrap().status() == StatusCode::NOT_FOUND).then_some(())
    })
    .await;
    until("the job says why", async || {
        let (_, _, answer) = app.get(&format!("/api/mcp/sora2/status/{id}"), Some(&app.token("ada"))).await;
        (answer["mediaErased"] == "subject_erased").then_some(())
    })
    .await;
}

#[tokio::test]
async fn media_that_was_kept_for_long_enough_is_deleted_and_nothing_else() {
    let app = TestApp::start(|_| {}).await;
    let id = generate(&app, "ada", &video("old")).await;
    ended(&app, "ada", &id).await;
    let (videos, queue) = (&app.hub.videos, PostgresVideoQueue::new(app.database.database.clone()));
    let now = videos.jobs.clock.now();
    assert_eq!(videos.erase_due_media(&queue, None).await.unwrap(), 0);
    assert_eq!(videos.erase_due_media(&queue, Some(now - TimeDelta::days(1))).await.unwrap(), 0);
    until("it is due", async || {
        (videos.erase_due_media(&queue, Some(now + TimeDelta::days(1))).await.unwrap() == 1).then_some(())
    })
    .await;
    let (_, _, answer) = app.get(&format!("/api/mcp/sora2/status/{id}"), Some(&app.token("ada"))).await;
    assert_eq!((&answer["status"], &answer["mediaErased"]), (&json!("completed"), &json!("retention")));
}

#[tokio::test]
async fn a_client_is_told_on_its_own_server_in_a_message_that_only_we_can_have_signed() {
    let mut receiver = Receiver::start().await;
    let strict = TestApp::start(|_| {}).await;
    let body = json!({ "prompt": "x", "duration": 4, "webhookUrl": receiver.url });
    let (status, refused) = strict.post("/api/mcp/sora2/generate", &strict.token("ada"), &body).await;
    assert_eq!((status, &refused["details"]["fields"][0]["field"]), (StatusCode::BAD_REQUEST, &json!("webhookUrl")));

    let app = TestApp::start(|config| config.webhooks.allow_private = true).await;
    let id = generate(&app, "ada", &body).await;
    let (_, secret) = app.send(Method::GET, "/api/webhooks/secret", &app.token("ada"), None, &[]).await;
    let message = receiver.next(secret["secret"].as_str().unwrap()).await;
    assert_eq!((&message["type"], &message["data"]["videoId"]), (&json!("video.completed"), &json!(id)));
    assert!(message["data"]["url"].as_str().is_some(), "{message}");
    until("it is listed as delivered", async || {
        let (_, _, listed) = app.get("/api/webhooks/deliveries", Some(&app.token("ada"))).await;
        (listed["deliveries"][0]["state"] == "delivered").then_some(())
    })
    .await;
    // A colleague is not told of it, unless they read all reports.
    let (ttl, now) = (TimeDelta::hours(1), SystemClock.now());
    for (role, seen) in [("user", 0), ("finance", 1)] {
        let roles = [role.to_owned()];
        let colleague = mint(&auth(), &NewToken { sub: "bob", account: Some("ada"), roles: &roles, ttl, now }).unwrap();
        let (_, _, listed) = app.get("/api/webhooks/deliveries", Some(&colleague)).await;
        assert_eq!(listed["deliveries"].as_array().unwrap().len(), seen, "{listed}");
    }
    // And then that is on record.
    let sql = "SELECT metadata->>'actor' FROM events WHERE payload->'AccessRecorded'->>'action' = 'webhooks.list'";
    let looked: Vec<String> = sqlx::query_scalar(sql).fetch_all(app.database.pool()).await.unwrap();
    assert_eq!(looked, ["bob"]);
}
