//! Workflows: models write, then videos are made from what they wrote.

mod crashes;
mod doors;
mod failures;
mod life;
mod told;

use aihub_tests::{app::TestApp, until};
use reqwest::StatusCode;
use serde_json::{Value, json};

pub const DOOR: &str = "/api/mcp/gpt/video-workflow";

/// A request for the shortest videos.
pub fn workflow(workflow_type: &str, prompt: &str) -> Value {
    json!({ "workflowType": workflow_type, "prompt": prompt, "duration": 4 })
}

/// Starts a workflow of `ada`, which is accepted.
pub async fn start(app: &TestApp, body: &Value) -> String {
    let (status, answer) = app.post(DOOR, &app.token("ada"), body).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    assert_eq!(answer["status"], "processing", "{answer}");
    answer["workflowId"].as_str().unwrap().to_owned()
}

async fn show(app: &TestApp, workflow_id: &str) -> Value {
    let (status, _, answer) = app.get(&format!("{DOOR}/{workflow_id}"), Some(&app.token("ada"))).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

/// The response, once it has ended.
async fn ended(app: &TestApp, workflow_id: &str) -> Value {
    until("the workflow ends", async || {
        let answer = show(app, workflow_id).await;
        (answer["status"] != "processing").then_some(answer)
    })
    .await
}

pub fn names(answer: &Value) -> Vec<(&str, &str)> {
    let steps = answer["steps"].as_array().unwrap().iter();
    steps.map(|step| (step["name"].as_str().unwrap(), step["status"].as_str().unwrap())).collect()
}
