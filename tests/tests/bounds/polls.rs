//! Waiting counts against whoever waits.

use super::super::videos::in_state;
use aihub_tests::{app::TestApp, client::chat, until};
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};

#[tokio::test]
async fn a_thousand_long_polls_of_one_user_on_one_video_refuse_this_user_more_and_nobody_anything() {
    let app = TestApp::start(|_| ()).await;
    app.providers.rule(json!({ "model": "sora-2", "hang": true }));
    let token = app.token("ann");
    let (status, video) =
        app.post("/api/mcp/sora2/generate", &token, &json!({ "prompt": "a calm sea", "duration": 8 })).await;
    assert_eq!(status, 202, "{video}");
    let id = video["videoId"].as_str().unwrap();
    // A change would end the waiting.
    in_state(&app, "ann", id, "submitting").await;
    let path = format!("/api/mcp/sora2/status/{id}?wait=60");
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
    let waiting = join_all((0..1_000).map(|_| async {
        let mut connection = TcpStream::connect(app.address).await.unwrap();
        connection.write_all(request.as_bytes()).await.unwrap();
        connection
    }))
    .await;
    // Else one that asks now would have a place, and wait itself.
    let polls = &app.hub.doors.long_polls;
    until("all places are taken", async || (polls.taken() >= polls.portions().of_user).then_some(())).await;
    let (what, refused) = until("no more may wait", async || {
        let (status, headers, problem) = app.get(&path, Some(&token)).await;
        // So many calls of one user at once have a limit as well.
        (status == 429 && problem["details"]["what"] == "long polls").then(|| (headers["retry-after"].clone(), problem))
    })
    .await;
    assert_eq!(what, "1");
    assert_eq!(refused["code"], "RATE_LIMIT_EXCEEDED");
    assert_eq!(refused["details"]["scope"], "user");
    // Without waiting the same user is told, and others may wait.
    let told: Value = app.get(path.trim_end_matches("?wait=60"), Some(&token)).await.2;
    assert_eq!(told["status"], "processing", "{told}");
    let bob = app.token("bob");
    app.connect("bob").await.ask(&chat("a", "Why is the sky blue?")).await.done();
    until("the views know bob", async || (app.get("/api/credits", Some(&bob)).await.0 == 200).then_some(())).await;
    for path in ["/api/credits", "/api/usage", "/api/mcp/sora2/videos"] {
        assert_eq!(app.get(path, Some(&bob)).await.0, 200, "{path}");
    }
    drop(waiting);
    until("whoever is gone waits no more", async || (app.hub.doors.long_polls.taken() == 0).then_some(())).await;
    app.stop().await;
}
