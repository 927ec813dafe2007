//! Readers that are slow, or stand still.

use std::{process::Stdio, time::Duration};

use aihub::config::sections::Disconnect;
use aihub_infrastructure::simulated_providers::served::Outcome;
use aihub_tests::{
    PATIENCE,
    app::TestApp,
    audit::Audit,
    client::{Client, chat, with},
    until,
};
use serde_json::json;
use tokio::{io::AsyncReadExt, process::Command, time::timeout};

#[tokio::test]
async fn a_client_that_does_not_read_slows_nobody_and_misses_nothing() {
    const STREAMS: usize = 8;
    const TOKENS: usize = 100;
    let app = TestApp::start(|_| ()).await;
    app.providers.rule(json!({ "model": "gpt-6-astra", "output_tokens": TOKENS, "tokens_per_second": 50 }));
    let mut slow = Client::narrow(app.address, &app.token("slow"), 4_096).await;
    for nth in 0..STREAMS {
        slow.send(&with(chat(&nth.to_string(), "Go on"), &json!({ "model": "gpt-6-astra" }))).await;
    }
    // Eight megabytes, which no kernel takes in advance: from here on its socket is stuck.
    let inputs: Vec<_> = (0..200).map(|nth| format!("text {nth}")).collect();
    let large = json!({ "id": "large", "type": "embedding", "model": "text-embedding-3-large", "input": inputs });
    slow.send(&with(large, &json!({ "stream": false }))).await;
    // Its answers come to their ends in the log, though it has read none of them, and another client is served.
    let mut other = app.connect("other").await;
    other.ask(&chat("a", "Why is the sky blue?")).await.done();
    let audit = until("the unread answers have ended", async || {
        let audit = app.audit().await;
        (audit.requests.len() == STREAMS + 2 && audit.open().is_empty()).then_some(audit)
    })
    .await;
    assert!(audit.requests.values().all(|request| request.outcome().finish_reason.as_deref() == Some("stop")));
    other.ask(&chat("b", "Why is the sky blue?")).await.done();
    let mut texts = Vec::new();
    for nth in 0..STREAMS {
        let answer = slow.answer(&nth.to_string()).await;
        assert_eq!((answer.chunks.len(), &answer.done()["usage"]["completionTokens"]), (TOKENS, &json!(TOKENS)));
        texts.push(answer.text());
    }
    assert!(texts.iter().all(|text| *text == texts[0]));
    assert_eq!(slow.answer("large").await.end["data"].as_array().unwrap().len(), 200);
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
async fn a_client_process_that_is_stopped_is_given_up_and_nobody_else_notices() {
    let app = TestApp::start(|config| {
        config.server.ping_interval_ms = 200;
        config.gateway.on_disconnect = Disconnect::Abort;
    })
    .await;
    app.providers.rule(json!({ "model": "gpt-6-astra", "tokens_per_second": 50, "output_tokens": 2_000 }));
    let mut stopped = Command::new(env!("CARGO_BIN_EXE_aihub-under-test"))
        .args(["chat", "--url", &format!("ws://{}/mcp", app.address), "--provider", "openai", "--model", "gpt-6-astra"])
        .arg("Go on")
        .env_clear()
        .env("AIHUB_TOKEN", app.token("ann"))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let first = timeout(PATIENCE, stopped.stdout.as_mut().unwrap().read_u8()).await;
    first.expect("the answer begins").unwrap();
    let id = stopped.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-STOP", &id]).status().await.unwrap().success());

    let mut other = app.connect("bob").await;
    other.ask(&chat("a", "Why is the sky blue?")).await.done();
    let ended = async |account: &str| {
        let audit = app.audit().await;
        let (_, request) = audit.requests.into_iter().find(|(_, request)| request.accepted.account == account)?;
        request.end.is_some().then_some(request)
    };
    // The other one goes on reading, which answers the pings.
    let given_up = tokio::select! {
        given_up = until("the stopped client is given up", || ended("ann")) => given_up,
        heard = other.receive() => panic!("{heard:?}"),
    };
    // The provider notices when its connection ends, which is a moment after our own end.
    let call = until("the provider notices", async || {
        let calls = app.providers.calls().into_iter();
        calls
            .filter(|call| call.outcome == Outcome::ClientLeft)
            .find(|call| call.model.as_deref() == Some("gpt-6-astra"))
    })
    .await;
    assert!((1..=u64::from(call.output_tokens)).contains(&given_up.outcome().usage.output), "{given_up:?} {call:?}");
    other.ask(&chat("b", "Why is the sky blue?")).await.done();
    stopped.kill().await.unwrap();
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
    timeout(Duration::from_millis(1_100), client.receive()).await.unwrap_err();
    client.send(&json!({ "type": "cancel", "id": "a" })).await;
    client.answer_after("a", 2).await.done();
    app.stop().await;
}
