//! Readers that are slow, or stand still.

use std::time::Duration;

use aihub_tests::{
    app::TestApp,
    audit::Audit,
    client::{Client, chat, upgrade, with},
    until,
};
use serde_json::json;
use tokio::net::TcpSocket;
use tokio_tungstenite::{MaybeTlsStream, client_async};

/// A socket whose kernel takes next to nothing that is not read.
async fn narrow(app: &TestApp, user: &str) -> Client {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let stream = MaybeTlsStream::Plain(socket.connect(app.address).await.unwrap());
    let (socket, _) = client_async(upgrade(app.address, &app.token(user)), stream).await.unwrap();
    Client::on(socket).await
}

#[tokio::test]
async fn a_client_that_does_not_read_slows_nobody_and_misses_nothing() {
    const REQUESTS: usize = 4;
    let app = TestApp::start(|_| ()).await;
    app.providers.rule(json!({ "model": "gpt-6-astra", "output_tokens": 2_000 }));
    let mut slow = narrow(&app, "slow").await;
    let long =
        |nth: usize| with(chat(&nth.to_string(), "Go on"), &json!({ "model": "gpt-6-astra", "maxTokens": 2_000 }));
    for nth in 0..REQUESTS {
        slow.send(&long(nth)).await;
    }
    // Its answers come to their ends in the log, though it has read none of them, and another client is served.
    let mut other = app.connect("other").await;
    other.ask(&chat("a", "Why is the sky blue?")).await.done();
    let audit = until("the unread answers have ended", async || {
        let audit = app.audit().await;
        (audit.requests.len() == REQUESTS + 1 && audit.open().is_empty()).then_some(audit)
    })
    .await;
    assert!(audit.requests.values().all(|request| request.outcome().finish_reason.as_deref() == Some("stop")));
    let mut texts = Vec::new();
    for nth in 0..REQUESTS {
        let answer = slow.answer(&nth.to_string()).await;
        assert_eq!(answer.chunks.len(), 2_000);
        assert_eq!(answer.done()["usage"]["completionTokens"], 2_000);
        texts.push(answer.text());
    }
    assert!(texts.iter().all(|text| *text == texts[0]));
    app.stop().await;
}

#[tokio::test]
async fn a_client_that_stands_still_is_given_up_and_its_answer_comes_to_its_end() {
    let app = TestApp::start(|config| {
        config.server.ping_interval_ms = 200;
        config.gateway.drain_after_leaving_ms = 100;
    })
    .await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "hang_after_tokens": 2 }));
    let mut client = app.connect("ann").await;
    client.send(&chat("a", "Why is the sky blue?")).await;
    client.chunks("a", 2).await;
    // As a stopped process does, it keeps the connection and answers no ping.
    until("the server gives it up", async || app.hub.sessions.is_empty().then_some(())).await;
    let audit = Audit::at_rest(app.database.pool()).await;
    assert_eq!(audit.request().outcome().usage.output, 2);
    drop(client);
    app.stop().await;
}

#[tokio::test]
async fn a_client_that_only_answers_pings_is_not_given_up() {
    let app = TestApp::start(|config| config.server.ping_interval_ms = 150).await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "hang_after_tokens": 2 }));
    let mut client = app.connect("ann").await;
    client.send(&chat("a", "Why is the sky blue?")).await;
    client.chunks("a", 2).await;
    // Reading is what answers the pings; the server has nothing else to say for seven of its intervals.
    tokio::time::timeout(Duration::from_millis(1_100), client.receive()).await.unwrap_err();
    client.send(&json!({ "type": "cancel", "id": "a" })).await;
    client.answer_after("a", 2).await.done();
    app.stop().await;
}
