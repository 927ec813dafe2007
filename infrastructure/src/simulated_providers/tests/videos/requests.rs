use reqwest::Method;
use serde_json::{Value, json};

use super::{Harness, PROMPT, json_of, refused};

#[tokio::test]
async fn a_form_is_read_as_json_is() {
    let harness = Harness::start().await;
    let form = [("prompt", PROMPT), ("model", "sora-2-pro+ttft=0s"), ("seconds", "8"), ("size", "1280x720")];
    let video = json_of(harness.form(&form).await).await;
    assert_eq!((&video["model"], &video["prompt"]), (&json!("sora-2-pro"), &json!(PROMPT)));
    assert_eq!((&video["seconds"], &video["size"]), (&json!("8"), &json!("1280x720")));
}

#[tokio::test]
async fn what_is_not_said_has_openais_defaults() {
    let harness = Harness::start().await;
    for video in [
        harness.form(&[("prompt", "x")]).await,
        harness.videos(Method::POST, "").json(&json!({"prompt": "x", "size": null})).send().await.unwrap(),
    ] {
        let video = json_of(video).await;
        assert_eq!(
            (&video["model"], &video["seconds"], &video["size"]),
            (&json!("sora-2"), &json!("4"), &json!("720x1280"))
        );
    }
}

#[tokio::test]
async fn a_wrong_field_is_a_400_that_names_it() {
    let harness = Harness::start().await;
    let wrong = [
        (json!({"prompt": null}), Some("prompt"), "missing_required_parameter"),
        (json!({"prompt": ""}), Some("prompt"), "invalid_value"),
        (json!({"prompt": "x".repeat(32_001)}), Some("prompt"), "invalid_value"),
        (json!({"prompt": ["x"]}), Some("prompt"), "invalid_type"),
        (json!({"model": "gpt-6-luna"}), Some("model"), "invalid_value"),
        (json!({"seconds": "0"}), Some("seconds"), "invalid_value"),
        (json!({"seconds": "61"}), Some("seconds"), "invalid_value"),
        (json!({"seconds": "4.5"}), Some("seconds"), "invalid_value"),
        (json!({"seconds": "+4"}), Some("seconds"), "invalid_value"),
        (json!({"seconds": 4}), Some("seconds"), "invalid_type"),
        (json!({"size": "1280x721"}), Some("size"), "invalid_value"),
        (json!({"size": "4096x4096"}), Some("size"), "invalid_value"),
        (json!({"input_reference": {"file_id": "file-1"}}), Some("input_reference"), "unsupported_parameter"),
        (json!({"fps": 24}), None, "unknown_parameter"),
        (json!({"fps": "24"}), None, "unknown_parameter"),
    ];
    for (more, param, code) in wrong {
        let error = refused(harness.order("", more).send().await.unwrap(), 400).await;
        assert_eq!((error["param"].as_str(), error["code"].as_str()), (param, Some(code)), "{error}");
        assert_eq!(error["type"], "invalid_request_error");
    }
    let no_model = refused(harness.order("", json!({"model": "sora-9"})).send().await.unwrap(), 404).await;
    assert_eq!(no_model["code"], "model_not_found");
    let reference = harness.form(&[("prompt", "x"), ("input_reference", "…")]).await;
    assert_eq!(refused(reference, 400).await["param"], "input_reference");
    assert_eq!(harness.simulator.videos(), []);
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_refused_in_openais_envelope() {
    let harness = Harness::start().await;
    let send = async |kind: &str, body: String, status| {
        let request = harness.videos(Method::POST, "").header("content-type", kind);
        refused(request.body(body).send().await.unwrap(), status).await
    };
    assert_eq!(send("text/plain", "prompt".to_owned(), 400).await["code"], "unsupported_content_type");
    send("application/json", "{".to_owned(), 400).await;
    send("application/json", "[]".to_owned(), 400).await;
    send("multipart/form-data", String::new(), 400).await;
    send("multipart/form-data; boundary=x", "--x\r\n".to_owned(), 400).await;
    let big = "x".repeat(super::super::super::MAX_BODY_BYTES + 1);
    let form = format!("--x\r\ncontent-disposition: form-data; name=\"prompt\"\r\n\r\n{big}\r\n--x--\r\n");
    send("multipart/form-data; boundary=x", form, 413).await;
    let long_key = harness.order("", json!({})).header("idempotency-key", "x".repeat(256));
    assert_eq!(refused(long_key.send().await.unwrap(), 400).await["code"], "invalid_idempotency_key");
}

#[tokio::test]
async fn every_call_needs_a_key() {
    let harness = Harness::start().await;
    let id = harness.create("").await;
    let calls = [
        (Method::POST, String::new()),
        (Method::GET, String::new()),
        (Method::GET, format!("/{id}")),
        (Method::DELETE, format!("/{id}")),
        (Method::GET, format!("/{id}/content")),
    ];
    for (method, path) in calls {
        let call = harness.request(method, &format!("/v1/videos{path}")).bearer_auth("sk-invalid");
        let error = refused(call.json(&json!({"prompt": "x"})).send().await.unwrap(), 401).await;
        assert_eq!(error["code"], "invalid_api_key");
    }
    let models = harness.request(Method::GET, "/v1/models").bearer_auth("sk-any").send().await.unwrap();
    let models: Value = json_of(models).await;
    let named = |name: &str| models["data"].as_array().unwrap().iter().any(|model| model["id"] == name);
    assert!(named("sora-2") && named("sora-2-pro"), "{models}");
}
