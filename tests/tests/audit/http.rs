//! `/api/audit/…`: for auditors, and each use is on record.

use aihub::auth::mint::{NewToken, mint};
use aihub_application::ports::clock::{Clock, SystemClock};
use aihub_infrastructure::{
    audit::file::{LogFile, verify_bundle},
    event_store::reader,
};
use aihub_projections::rebuild::views;
use aihub_tests::{
    PATIENCE,
    app::{TestApp, auth},
    client::chat,
    until,
};
use chrono::TimeDelta;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::videos::{ended, generate, video};

pub fn auditor() -> String {
    with_role("auditor")
}

fn with_role(role: &str) -> String {
    let roles = [role.to_owned()];
    let new = NewToken {
        sub: "ada",
        account: Some("auditors"),
        roles: &roles,
        ttl: TimeDelta::hours(1),
        now: SystemClock.now(),
    };
    mint(&auth(), &new).unwrap()
}

pub async fn get(app: &TestApp, path: &str, token: &str) -> (StatusCode, String) {
    let client = &app.http;
    let response = client.get(format!("http://{}{path}", app.address)).bearer_auth(token).send().await.unwrap();
    (response.status(), response.text().await.unwrap())
}

pub fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn an_auditor_checks_proves_and_reads_and_each_use_is_in_the_log_before_its_answer() {
    let app = TestApp::start(|config| config.audit.checkpoint_interval_ms = 50).await;
    let answer = app.connect("ann").await.ask(&chat("a", "Why is the sky blue?")).await;
    let request = answer.request_id().to_owned();
    for path in ["verify", "checkpoint", "prove/1", "trail?account=ann", "events"] {
        let (status, _) = get(&app, &format!("/api/audit/{path}"), &app.token("ann")).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{path}");
        assert_eq!(app.get(&format!("/api/audit/{path}"), None).await.0, StatusCode::UNAUTHORIZED);
    }
    let token = auditor();
    let checkpoint = until("a checkpoint covers the request", async || {
        let (status, checkpoint) = get(&app, "/api/audit/checkpoint", &token).await;
        let checkpoint: Value = serde_json::from_str(&checkpoint).unwrap();
        (status == StatusCode::OK && checkpoint["position"].as_u64().unwrap() >= 6).then_some(checkpoint)
    })
    .await;
    let key = checkpoint["key"].as_str().unwrap().parse().unwrap();
    let (_, proof) = get(&app, "/api/audit/prove/4", &token).await;
    assert_eq!(verify_bundle(proof.as_bytes(), &[key]).unwrap().to, 4);
    assert_eq!(get(&app, "/api/audit/prove/100000", &token).await.0, StatusCode::NOT_FOUND);
    let (status, refused) = get(&app, "/api/audit/prove/abc", &token).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(refused.contains("position: must be a whole number from 0 on"), "{refused}");

    let (_, trail) = get(&app, &format!("/api/audit/trail?request={request}"), &token).await;
    let events: Vec<Value> = lines(&trail).into_iter().map(|entry| entry["event"].clone()).collect();
    assert_eq!(events, ["CreditsReserved", "RequestAccepted", "CreditsSettled", "RequestCompleted"]);
    assert!(!trail.contains("\"sealed\":\""), "{trail}");

    let (_, log) = get(&app, "/api/audit/events?from=2&to=5", &token).await;
    let mut file = LogFile::open(log.as_bytes()).unwrap();
    while file.next_event().unwrap().is_some() {}
    assert_eq!(file.finish().unwrap().0.position, 5);

    let (_, verified) = get(&app, "/api/audit/verify", &token).await;
    let last = lines(&verified).pop().unwrap();
    assert_eq!(last["result"], json!({ "verdict": "intact" }), "{verified}");
    let (status, faulty) = get(&app, "/api/audit/verify?from=yesterday", &token).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{faulty}");

    // The last one is the one that was answered last.
    let sql = "SELECT user_id || ' ' || account || ' ' || action || ' ' || parameters::text
               FROM access_log_v1 WHERE action <> 'audit.checkpoint' ORDER BY position";
    let seen = until("the view has them", async || {
        let seen: Vec<String> = sqlx::query_scalar(sql).fetch_all(app.database.pool()).await.unwrap();
        (seen.len() >= 5).then_some(seen)
    })
    .await;
    assert_eq!(
        seen,
        [
            "ada auditors audit.prove {\"position\":\"4\"}".to_owned(),
            "ada auditors audit.prove {\"position\":\"100000\"}".to_owned(),
            format!("ada auditors audit.trail {{\"request\":\"{request}\"}}"),
            "ada auditors audit.events {\"from\":\"2\",\"to\":\"5\"}".to_owned(),
            "ada auditors audit.verify {}".to_owned(),
        ]
    );
}

#[tokio::test]
async fn who_is_shown_a_balance_a_request_or_a_video_of_somebody_else_is_on_record_once_a_call() {
    let app = TestApp::start(|_| ()).await;
    let request = app.connect("ann").await.ask(&chat("a", "Why is the sky blue?")).await.request_id().to_owned();
    let video_id = generate(&app, "ann", &video("a calm sea")).await;
    let (_, headers, _) = app.get(&format!("/api/mcp/sora2/status/{video_id}"), Some(&auditor())).await;
    let seen = headers["etag"].to_str().unwrap().to_owned();
    ended(&app, "ann", &video_id).await;
    let head = reader::head(app.database.pool()).await.unwrap().position;
    for view in views() {
        app.hub.subscriptions.wait_for(view.name(), head, PATIENCE).await.unwrap();
    }
    let (balance, standing) = ("/api/credits?account=ann", format!("/api/requests/{request}"));
    // What is one's own, or is not shown, is nobody's look.
    for (path, token, status) in [
        (balance, app.token("ann"), StatusCode::OK),
        (&standing, app.token("ann"), StatusCode::OK),
        (balance, app.token("eve"), StatusCode::FORBIDDEN),
        (&standing, app.token("eve"), StatusCode::NOT_FOUND),
        ("/api/credits?account=nobody", auditor(), StatusCode::NOT_FOUND),
        ("/api/requests/none", auditor(), StatusCode::NOT_FOUND),
        ("/api/mcp/sora2/status/none", auditor(), StatusCode::NOT_FOUND),
        (balance, auditor(), StatusCode::OK),
        (&standing, auditor(), StatusCode::OK),
    ] {
        assert_eq!(get(&app, path, &token).await.0, status, "{path}");
    }
    // It waits, and looks at the video more than once.
    let path = format!("/api/mcp/sora2/status/{video_id}?wait=10");
    assert_eq!(app.get_if(&path, &auditor(), &seen).await.0, StatusCode::OK);
    // What cannot be done is told with how the video stands.
    let (cancel, admin) = (format!("/api/mcp/sora2/{video_id}/cancel"), with_role("admin"));
    assert_eq!(app.post(&cancel, &auditor(), &json!({})).await.0, StatusCode::FORBIDDEN);
    assert_eq!(app.post(&cancel, &admin, &json!({})).await.0, StatusCode::CONFLICT);
    let recorded = "SELECT payload #>> '{AccessRecorded,action}' || ' ' || (payload #>> '{AccessRecorded,parameters}')
                    FROM events WHERE aggregate_type = 'access' ORDER BY position";
    let recorded: Vec<String> = sqlx::query_scalar(recorded).fetch_all(app.database.pool()).await.unwrap();
    let shown = format!("video.show {{\"video\":\"{video_id}\"}}");
    assert_eq!(
        recorded,
        [
            shown.clone(),
            "account.show {\"account\":\"ann\"}".to_owned(),
            format!("request.show {{\"request\":\"{request}\"}}"),
            shown,
            format!("video.cancel {{\"video\":\"{video_id}\"}}"),
        ]
    );
    app.stop().await;
}
