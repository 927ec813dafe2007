//! Who may ask for what.

use aihub_tests::{app::TestApp, until};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{DOOR, ended, names, show, start, workflow};

#[tokio::test]
async fn faults_are_told_before_anything_is_paid_for() {
    let app = TestApp::start(|_| {}).await;
    let post = async |body: &Value| app.post(DOOR, &app.token("ada"), body).await;
    let (status, problem) = post(&workflow("opera", "a calm sea")).await;
    assert_eq!((status, &problem["code"]), (StatusCode::BAD_REQUEST, &json!("VALIDATION_ERROR")), "{problem}");
    let reason = problem["details"]["fields"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("enhance, social, storyboard, translate"), "{reason}");

    let (status, problem) = post(&json!({ "prompt": "", "duration": 4, "steps": [] })).await;
    let faulty: Vec<_> =
        problem["details"]["fields"].as_array().unwrap().iter().map(|fault| fault["field"].as_str().unwrap()).collect();
    assert_eq!((status, faulty), (StatusCode::BAD_REQUEST, vec!["workflowType", "prompt", "steps"]));
    let (_, problem) = post(&json!({ "workflowType": "enhance", "prompt": "a sea", "duration": 599 })).await;
    assert_eq!(problem["code"], "VIDEO_NOT_OFFERED", "{problem}");
    let mut loopback = workflow("enhance", "a sea");
    loopback["webhookUrl"] = json!("http://127.0.0.1/hook");
    let (_, problem) = post(&loopback).await;
    assert_eq!(problem["details"]["fields"][0]["field"], "webhookUrl", "{problem}");
    let dear = json!({ "workflowType": "enhance", "prompt": "a sea", "duration": 12 });
    let (_, problem) = post(&dear).await;
    assert_eq!(problem["code"], "INSUFFICIENT_CREDITS", "{problem}");
    assert!(app.providers.calls().is_empty());
}

#[tokio::test]
async fn the_same_key_is_the_same_workflow_and_with_another_body_refused() {
    let app = TestApp::start(|_| {}).await;
    let post = async |body: &Value| {
        app.send(Method::POST, DOOR, &app.token("ada"), Some(body), &[("idempotency-key", "k")]).await
    };
    let body = workflow("enhance", "a calm sea");
    let (first, again) = tokio::join!(post(&body), post(&body));
    assert_eq!((first.0, again.0), (StatusCode::ACCEPTED, StatusCode::ACCEPTED));
    assert_eq!(first.1["workflowId"], again.1["workflowId"]);
    let id = first.1["workflowId"].as_str().unwrap();
    ended(&app, id).await;
    assert_eq!(post(&body).await.1["status"], "completed");
    for other in [workflow("enhance", "a wild sea"), workflow("social", "a calm sea")] {
        let (status, problem) = post(&other).await;
        assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("DUPLICATE_REQUEST")), "{problem}");
    }
    assert_eq!(app.providers.simulator.videos().len(), 1);
}

#[tokio::test]
async fn a_workflow_is_seen_and_cancelled_by_its_owner_alone() {
    let app = TestApp::start(|_| {}).await;
    app.providers.rule(json!({ "video_time_ms": 60_000 }));
    let id = start(&app, &workflow("social", "a calm sea")).await;
    let cancel = format!("{DOOR}/{id}/cancel");
    let (_, _, problem) = app.get(&format!("{DOOR}/{id}"), Some(&app.token("eve"))).await;
    assert_eq!(problem["code"], "NOT_FOUND", "{problem}");
    assert_eq!(app.post(&cancel, &app.token("eve"), &json!({})).await.0, StatusCode::NOT_FOUND);

    until("its video is made", async || (show(&app, &id).await["videos"][0]["state"] == "rendering").then_some(()))
        .await;
    let (status, answer) = app.post(&cancel, &app.token("ada"), &json!({})).await;
    assert_eq!((status, &answer["state"]), (StatusCode::OK, &json!("cancelled")), "{answer}");
    assert_eq!(names(&answer), [("enhance", "completed"), ("make", "cancelled"), ("describe", "cancelled")]);
    assert_eq!(answer["videos"][0]["state"], "cancelled", "{answer}");
    // Again is the same again.
    assert_eq!(app.post(&cancel, &app.token("ada"), &json!({})).await.0, StatusCode::OK);
    let audit = app.audit().await;
    assert_eq!(audit.accounts["ada"].held(), 0);

    let (_, _, own) = app.get(&format!("{DOOR}s"), Some(&app.token("ada"))).await;
    assert_eq!(own["workflows"][0]["workflowId"], json!(id), "{own}");
    let (_, _, none) = app.get(&format!("{DOOR}s"), Some(&app.token("eve"))).await;
    assert_eq!(none["workflows"], json!([]));
}

#[tokio::test]
async fn the_list_is_told_page_by_page_latest_first() {
    let app = TestApp::start(|_| {}).await;
    app.grant("ada", aihub_domain::money::Microcredits::from_credits(5_000)).await;
    let mut started = Vec::new();
    for _ in 0..3 {
        started.push(start(&app, &workflow("enhance", "a calm sea")).await);
    }
    for id in &started {
        ended(&app, id).await;
    }
    started.reverse();
    let (mut listed, mut cursor) = (Vec::new(), String::new());
    loop {
        let (_, _, page) = app.get(&format!("{DOOR}s?limit=2{cursor}"), Some(&app.token("ada"))).await;
        for one in page["workflows"].as_array().unwrap() {
            listed.push(one["workflowId"].as_str().unwrap().to_owned());
        }
        let Some(next) = page["nextCursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(listed, started);
}
