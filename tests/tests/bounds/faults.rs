//! However much is wrong with a request, what is said about it is short: ten faults and a count.

use aihub_tests::{app::TestApp, client::chat, crowd::many_unknown_fields};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

/// Ten faults of it are told, and `more` counted; in few bytes.
fn ten_and(more: usize, error: &Value) {
    assert_eq!(error["code"], "VALIDATION_ERROR", "{error:.500}");
    assert_eq!((error["details"]["fields"].as_array().unwrap().len(), &error["details"]["more"]), (10, &json!(more)));
    assert!(error.to_string().len() < 20_000, "{}", error.to_string().len());
}

#[tokio::test]
async fn a_frame_with_hundreds_of_thousands_of_unknown_fields_is_answered_with_ten_faults_and_a_count() {
    let app = TestApp::start(|_| ()).await;
    let mut client = app.connect("ann").await;
    for _ in 0..3 {
        let frame = many_unknown_fields(300_000);
        client.send_message(Message::text(frame)).await;
        ten_and(299_990, &client.next_of("a").await["error"]);
    }
    client.ask(&chat("a", "Why is the sky blue?")).await.done();
    app.stop().await;
}

#[tokio::test]
async fn over_http_it_is_the_same() {
    let app = TestApp::start(|_| ()).await;
    let fields = (0..150_000).fold(String::new(), |fields, nth| fields + &format!(",\"u{nth}\":0"));
    for path in ["/api/mcp/sora2/generate", "/api/mcp/gpt/video-workflow"] {
        let body = format!(r#"{{"prompt":"a calm sea","duration":8,"workflowType":"enhance"{fields}}}"#);
        let request = app.http.post(format!("http://{}{path}", app.address)).bearer_auth(app.token("ann")).body(body);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 400);
        let told = response.bytes().await.unwrap();
        assert!(told.len() < 20_000, "{}", told.len());
        let problem: Value = serde_json::from_slice(&told).unwrap();
        assert_eq!(problem["details"]["fields"].as_array().unwrap().len(), 10);
        // The type of a workflow is a field that a video has not.
        let more = problem["details"]["more"].as_u64().unwrap();
        assert!((149_990..=149_991).contains(&more), "{more}");
    }
    app.stop().await;
}

#[tokio::test]
async fn what_a_client_sent_is_repeated_only_in_part() {
    let app = TestApp::start(|_| ()).await;
    let mut client = app.connect("ann").await;
    let long = "x".repeat(1_000_000);
    for wrong in [
        json!({ "id": "a", "type": "chat", "prompt": "x", "stream": long }),
        json!({ "id": "a", "type": "chat", "prompt": "x", long.as_str(): 1 }),
        json!({ "id": "a", "type": long }),
        json!({ "id": "a", "type": "chat", "messages": [{ "role": long }] }),
        json!({ "id": "a", "type": "subscribe", "topics": [long] }),
        json!({ "id": "a", "type": "chat", "prompt": "x", "provider": long }),
    ] {
        client.send(&wrong).await;
        let told = client.next_of("a").await;
        assert_eq!(told["error"]["code"], "VALIDATION_ERROR");
        assert!(told.to_string().len() < 3_000, "{}", told.to_string().len());
    }
    let path = format!("/api/reports/{}", "y".repeat(50_000));
    let told = app.get(&path, Some(&app.token("ann"))).await;
    assert!(told.0 == 404 && told.2.to_string().len() < 20_000, "{}", told.0);
    app.stop().await;
}
