//! Video jobs, from the request to the file.

mod bad_days;
mod content;
mod doors;
mod kills;
mod life;
mod odd;
mod providers;
mod queue;

use aihub_tests::{app::TestApp, until};
use reqwest::StatusCode;
use serde_json::{Value, json};

/// A request for the shortest video.
pub fn video(prompt: &str) -> Value {
    json!({ "prompt": prompt, "duration": 4, "resolution": "720p" })
}

/// Requests a video of `user`, which is accepted.
pub async fn generate(app: &TestApp, user: &str, body: &Value) -> String {
    let (status, answer) = app.post("/api/mcp/sora2/generate", &app.token(user), body).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    says_where_it_waits(&answer);
    answer["videoId"].as_str().unwrap().to_owned()
}

/// The video response, once it has ended.
pub async fn ended(app: &TestApp, user: &str, video_id: &str) -> Value {
    until("the video ends", async || {
        let path = format!("/api/mcp/sora2/status/{video_id}?wait=10");
        let (status, _, answer) = app.get(&path, Some(&app.token(user))).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        says_where_it_waits(&answer);
        (answer["status"] != "processing").then_some(answer)
    })
    .await
}

/// The response, once the job is in `state`.
pub async fn in_state(app: &TestApp, user: &str, video_id: &str, state: &str) -> Value {
    until(&format!("the video is {state}"), async || {
        let (_, _, answer) = app.get(&format!("/api/mcp/sora2/status/{video_id}"), Some(&app.token(user))).await;
        says_where_it_waits(&answer);
        (answer["state"] == state).then_some(answer)
    })
    .await
}

/// As every answer about a job in the queue does, the first one too.
pub fn says_where_it_waits(answer: &Value) {
    let place = &answer["queuePosition"];
    assert!(if answer["state"] == "queued" { place.as_u64() > Some(0) } else { place.is_null() }, "{answer}");
}
