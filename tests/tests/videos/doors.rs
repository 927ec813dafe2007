//! What comes in, and what is refused at the door.

use aihub::auth::mint::{NewToken, mint};
use aihub_application::ports::clock::{Clock, SystemClock};
use aihub_tests::app::{TestApp, auth};
use chrono::TimeDelta;
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{ended, generate, in_state, video};

const GENERATE: &str = "/api/mcp/sora2/generate";

#[tokio::test]
async fn the_same_key_is_the_same_job_and_with_another_body_it_is_refused() {
    let app = TestApp::start(|_| {}).await;
    let (token, key) = (app.token("ada"), [("idempotency-key", "order-1")]);
    let body = video("a calm sea");
    let (_, first) = app.send(Method::POST, GENERATE, &token, Some(&body), &key).await;
    let (status, again) = app.send(Method::POST, GENERATE, &token, Some(&body), &key).await;
    assert_eq!((status, &again["videoId"]), (StatusCode::ACCEPTED, &first["videoId"]), "{again}");
    for other in [video("a wild sea"), json!({ "prompt": "a calm sea", "duration": 8 })] {
        let (status, refused) = app.send(Method::POST, GENERATE, &token, Some(&other), &key).await;
        assert_eq!((status, &refused["code"]), (StatusCode::CONFLICT, &json!("DUPLICATE_REQUEST")), "{refused}");
    }
    // Another user's key is another key.
    let (_, bobs) = app.send(Method::POST, GENERATE, &app.token("bob"), Some(&body), &key).await;
    assert_ne!(bobs["videoId"], first["videoId"]);
    ended(&app, "ada", first["videoId"].as_str().unwrap()).await;
    assert_eq!(app.audit().await.videos.len(), 2);
}

#[tokio::test]
async fn what_cannot_be_made_is_refused_at_once_and_told_what_could_be() {
    let app = TestApp::start(|_| {}).await;
    let token = app.token("ada");
    for body in [
        json!({ "prompt": "x", "duration": 20.5 }),
        json!({ "prompt": "x", "duration": 4, "resolution": "4K" }),
        json!({ "prompt": "x", "duration": 4, "aspectRatio": "1:1" }),
        json!({ "prompt": "x", "duration": 4, "model": "sora-9" }),
    ] {
        let (status, refused) = app.post(GENERATE, &token, &body).await;
        assert_eq!((status, &refused["code"]), (StatusCode::BAD_REQUEST, &json!("VIDEO_NOT_OFFERED")), "{refused}");
        let offered = refused["details"]["available"].as_array().unwrap();
        assert!(
            offered
                .iter()
                .any(|offer| offer["model"] == "sora-2" && offer["durations"] == json!({ "720p": [4, 8, 12] }))
        );
    }
    let nobody = json!({ "prompt": "x", "duration": 4, "provider": "nobody" });
    let (status, refused) = app.post(GENERATE, &token, &nobody).await;
    assert_eq!((status, &refused["message"]), (StatusCode::BAD_REQUEST, &json!("provider: is none of auto, sora")));
    let (status, refused) = app.post(GENERATE, &token, &json!({ "prompt": "", "seconds": 4, "userId": "bob" })).await;
    assert_eq!((status, &refused["code"]), (StatusCode::BAD_REQUEST, &json!("VALIDATION_ERROR")));
    assert_eq!(refused["details"]["fields"].as_array().unwrap().len(), 4, "{refused}");
    assert!(app.audit().await.videos.is_empty());
}

#[tokio::test]
async fn who_cannot_pay_is_told_what_is_missing() {
    let app = TestApp::start(|_| {}).await;
    let body = json!({ "prompt": "x", "duration": 20, "resolution": "1080p" });
    let (status, refused) = app.post(GENERATE, &app.token("ada"), &body).await;
    assert_eq!((status, &refused["code"]), (StatusCode::PAYMENT_REQUIRED, &json!("INSUFFICIENT_CREDITS")));
    assert_eq!(refused["details"]["required"], 10_000.0, "{refused}");
}

#[tokio::test]
async fn a_job_is_its_owners_business_alone() {
    let app = TestApp::start(|_| {}).await;
    let id = generate(&app, "ada", &video("mine")).await;
    let colleague = app.token_for("bob", "ada", TimeDelta::hours(1));
    for (method, path) in [
        (Method::GET, format!("/api/mcp/sora2/status/{id}")),
        (Method::POST, format!("/api/mcp/sora2/{id}/cancel")),
        (Method::DELETE, format!("/api/mcp/sora2/{id}")),
    ] {
        for token in [&app.token("eve"), &colleague] {
            let (status, answer) = app.send(method.clone(), &path, token, None, &[]).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{answer}");
        }
        assert_eq!(app.send(method, &path, "forged", None, &[]).await.0, StatusCode::UNAUTHORIZED);
    }
    let (_, _, listed) = app.get("/api/mcp/sora2/videos", Some(&colleague)).await;
    assert_eq!(listed["videos"], json!([]));
    ended(&app, "ada", &id).await;
}

#[tokio::test]
async fn whoever_reads_all_reports_is_told_of_a_job_and_neither_given_it_nor_let_near_it() {
    let app = TestApp::start(|_| {}).await;
    let id = generate(&app, "ada", &video("mine")).await;
    ended(&app, "ada", &id).await;
    let roles = ["finance".to_owned()];
    let (ttl, now) = (TimeDelta::hours(1), SystemClock.now());
    let finance = mint(&auth(), &NewToken { sub: "fin", account: None, roles: &roles, ttl, now }).unwrap();
    let (status, _, told) = app.get(&format!("/api/mcp/sora2/status/{id}"), Some(&finance)).await;
    assert_eq!((status, &told["status"], &told["url"]), (StatusCode::OK, &json!("completed"), &json!(null)));
    for (method, path) in
        [(Method::POST, format!("/api/mcp/sora2/{id}/cancel")), (Method::DELETE, format!("/api/mcp/sora2/{id}"))]
    {
        let (status, refused) = app.send(method, &path, &finance, None, &[]).await;
        assert_eq!((status, &refused["code"]), (StatusCode::FORBIDDEN, &json!("FORBIDDEN")), "{refused}");
    }
}

#[tokio::test]
async fn a_status_that_has_not_changed_is_not_told_again() {
    let app = TestApp::start(|_| {}).await;
    let id = generate(&app, "ada", &video("a calm sea")).await;
    ended(&app, "ada", &id).await;
    let path = format!("/api/mcp/sora2/status/{id}");
    let (_, headers, _) = app.get(&path, Some(&app.token("ada"))).await;
    let tag = headers["etag"].to_str().unwrap();
    let (status, _) = app.send(Method::GET, &path, &app.token("ada"), None, &[("if-none-match", tag)]).await;
    assert_eq!(status, StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn a_job_that_is_cancelled_costs_nothing_and_is_called_off_at_its_provider() {
    let app = TestApp::start(|_| {}).await;
    app.providers.rule(json!({ "hang_late": true }));
    let id = generate(&app, "ada", &video("never mind")).await;
    in_state(&app, "ada", &id, "rendering").await;
    let path = format!("/api/mcp/sora2/{id}/cancel");
    let (status, answer) = app.post(&path, &app.token("ada"), &json!({})).await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::OK, &json!("cancelled")), "{answer}");
    let again = app.post(&path, &app.token("ada"), &json!({})).await;
    assert_eq!(again.0, StatusCode::OK, "a cancelled job is cancelled: {}", again.1);
    aihub_tests::until("the provider is told", async || {
        app.providers.simulator.videos().iter().all(|video| video.deleted).then_some(())
    })
    .await;
    let audit = app.audit().await;
    assert_eq!((audit.accounts["ada"].spent, audit.accounts["ada"].held()), (0, 0));
}

#[tokio::test]
async fn deleting_a_video_takes_its_files_and_leaves_its_record() {
    let app = TestApp::start(|_| {}).await;
    let id = generate(&app, "ada", &video("for a moment")).await;
    let path = format!("/api/mcp/sora2/{id}");
    let (status, early) = app.send(Method::DELETE, &path, &app.token("ada"), None, &[]).await;
    assert_eq!((status, &early["code"]), (StatusCode::CONFLICT, &json!("CONFLICT")), "{early}");
    let url = ended(&app, "ada", &id).await["url"].as_str().unwrap().to_owned();
    for _ in 0..2 {
        let (status, answer) = app.send(Method::DELETE, &path, &app.token("ada"), None, &[]).await;
        assert_eq!((status, &answer["status"], &answer["url"]), (StatusCode::OK, &json!("completed"), &json!(null)));
        assert_eq!(answer["mediaErased"], "deleted");
    }
    let client = &app.http;
    assert_eq!(client.get(url).send().await.unwrap().status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_list_is_paged_from_the_newest_on() {
    let app = TestApp::start(|_| {}).await;
    let mut made = Vec::new();
    for nth in 0..2 {
        let body = json!({ "prompt": format!("number {nth}"), "duration": 4, "sessionId": "tour" });
        made.push(generate(&app, "ada", &body).await);
    }
    for id in &made {
        ended(&app, "ada", id).await;
    }
    let page = async |query: &str| app.get(&format!("/api/mcp/sora2/videos?{query}"), Some(&app.token("ada"))).await.2;
    aihub_tests::until("both are listed as completed", async || {
        (page("status=completed&sessionId=tour").await["videos"].as_array()?.len() == 2).then_some(())
    })
    .await;
    let first = page("limit=1").await;
    assert_eq!(first["videos"][0]["videoId"], *made[1], "{first}");
    let second = page(&format!("limit=1&cursor={}", first["nextCursor"].as_str().unwrap())).await;
    assert_eq!(second["videos"][0]["videoId"], *made[0], "{second}");
    for faulty in ["limit=0", "status=lost", "state=lost", "status=rendering", "cursor=x", "colour=red"] {
        assert_eq!(page(faulty).await["code"], "VALIDATION_ERROR", "{faulty}");
    }
    let refused = page("from=yesterday").await;
    assert_eq!(refused["message"], "from: must be a time like 2026-12-01T00:00:00Z", "{refused}");
}
