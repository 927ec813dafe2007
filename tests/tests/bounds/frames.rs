//! What a frame takes in memory is bounded for its user from its first byte to the end of its request, and nobody else notices.

use std::time::Duration;

use aihub::config::sections::Disconnect;
use aihub_application::shares::Share;
use aihub_tests::{
    app::TestApp,
    client::{Client, chat, with},
    crowd::many_parts,
    until,
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, time::sleep};
use tokio_tungstenite::{
    MaybeTlsStream,
    tungstenite::{
        Message,
        protocol::frame::{
            Frame, FrameHeader,
            coding::{Data, OpCode},
        },
    },
};

const MB: usize = 1_000_000;

fn asked(app: &TestApp) -> &Share {
    &app.hub.gateway.asked
}

/// The beginning of a frame of `announced` bytes.
fn half(announced: usize, sent: usize) -> Vec<u8> {
    let (opcode, mask) = (OpCode::Data(Data::Text), Some([0; 4]));
    let header = FrameHeader { is_final: true, opcode, mask, ..FrameHeader::default() };
    let mut frame = Vec::new();
    header.format(announced as u64, &mut frame).unwrap();
    frame.extend(vec![b' '; sent]);
    frame
}

async fn write(client: &mut Client, bytes: &[u8]) {
    let MaybeTlsStream::Plain(stream) = client.socket.get_mut() else { panic!("no TLS here") };
    stream.write_all(bytes).await.unwrap();
}

#[tokio::test]
async fn frames_of_many_small_parts_are_refused_before_they_are_read_and_take_no_memory() {
    let app = TestApp::start(|config| config.gateway.on_disconnect = Disconnect::Abort).await;
    app.providers.rule(json!({ "model": "gpt-6-astra", "hang": true }));
    let mut client = app.connect("ann").await;
    for _ in 0..10 {
        client.send_message(Message::text(many_parts(300_000))).await;
        let refused = client.next_of("a").await;
        assert_eq!(refused["error"]["code"], "VALIDATION_ERROR", "{refused}");
        let fault = &refused["error"]["details"]["fields"][0];
        assert_eq!(fault["field"], "(frame)");
        assert!(fault["reason"].as_str().unwrap().contains("bytes of memory"), "{fault}");
    }
    assert_eq!(asked(&app).taken(), 0);
    // One that takes less than a user may have is read, and counts for as long as its request runs.
    let parts = with(
        serde_json::from_str::<Value>(&many_parts(5_000)).unwrap(),
        &json!({
            "provider": "openai", "model": "gpt-6-astra", "fallback": false, "maxTokens": 10,
        }),
    );
    let mut running = 0;
    let refused = loop {
        let id = running.to_string();
        client.send(&with(parts.clone(), &json!({ "id": id }))).await;
        let before = app.providers.calls().len();
        tokio::select! {
            refused = client.next_of(&id) => break refused,
            () = until("it is asked", async || (app.providers.calls().len() > before).then_some(())) => running += 1,
        }
    };
    assert!((2..10).contains(&running), "{running}");
    let details = &refused["error"]["details"];
    assert_eq!(
        (&details["what"], &details["scope"]),
        (&json!("bytes of requests at work"), &json!("user")),
        "{refused}"
    );
    let mut other = app.connect("bob").await;
    other.ask(&chat("b", "Why is the sky blue?")).await.done();
    drop(client);
    until("all is given back", async || (asked(&app).taken() == 0).then_some(())).await;
    app.stop().await;
}

#[tokio::test]
async fn messages_sent_by_half_count_for_their_user_who_is_refused_more_and_the_socket_lives() {
    let app = TestApp::start(|_| ()).await;
    let most = asked(&app).portions().of_user;
    let mut sockets = Vec::new();
    while asked(&app).taken() + 4 * MB < most {
        let mut socket = app.connect("ann").await;
        write(&mut socket, &half(4 * MB, 3 * MB)).await;
        sockets.push(socket);
        // Its memory is taken in steps that double, so with three of four it has all.
        let all = sockets.len() * 4 * MB;
        until("it is counted", async || (asked(&app).taken() >= all).then_some(())).await;
        assert!(sockets.len() < 20, "they do not count");
    }
    let mut socket = app.connect("ann").await;
    write(&mut socket, &half(4 * MB, 4 * MB - 1)).await;
    let refused = socket.next().await;
    let error = &refused["error"];
    assert_eq!(error["code"], "RATE_LIMIT_EXCEEDED", "{refused}");
    assert_eq!(error["details"], json!({ "what": "bytes of requests at work", "scope": "user", "limit": most }));
    // What is left of the message is read over, and what comes after it is answered.
    write(&mut socket, b" ").await;
    socket.ask(&chat("a", "Why is the sky blue?")).await.done();
    let mut other = app.connect("bob").await;
    let long = with(chat("b", &"x".repeat(MB)), &json!({ "maxTokens": 1 }));
    other.ask(&long).await.done();
    drop(sockets);
    until("all is given back", async || (asked(&app).taken() == 0).then_some(())).await;
    app.stop().await;
}

#[tokio::test]
async fn a_frame_may_come_slowly_and_one_that_does_not_go_on_closes_its_socket_with_a_reason() {
    let app = TestApp::start(|config| config.server.ping_interval_ms = 1_000).await;
    let (mut slow, mut still) = (app.connect("ann").await, app.connect("bob").await);
    // A ping within a message does not prolong it, and bytes that come are life.
    still.send_message(Message::Frame(Frame::message("{", OpCode::Data(Data::Text), false))).await;
    let frame = chat("a", &"x".repeat(MB)).to_string();
    let mut bytes = half(frame.len(), 0);
    bytes.extend(frame.as_bytes());
    let send = async {
        for piece in bytes.chunks(bytes.len() / 30 + 1) {
            write(&mut slow, piece).await;
            sleep(Duration::from_millis(200)).await;
        }
        slow.answer("a").await.done();
    };
    let wait = async {
        loop {
            still.send_message(Message::Ping(vec![].into())).await;
            tokio::select! {
                closed = still.closed() => return closed,
                () = sleep(Duration::from_secs(1)) => {}
            }
        }
    };
    let ((), closed) = tokio::join!(send, wait);
    assert_eq!(closed, (1008, "a frame came too slowly".to_owned()));
    app.stop().await;
}

#[tokio::test]
async fn so_many_bytes_a_minute_come_in_of_one_user_and_those_of_answers_count_too() {
    let app = TestApp::start(|config| {
        config.limits.per_user.bytes_per_minute = std::num::NonZeroU32::new(100_000).unwrap();
    })
    .await;
    let mut client = app.connect("ann").await;
    client.ask(&with(chat("a", &"x".repeat(60_000)), &json!({ "maxTokens": 1 }))).await.done();
    let refused = client.ask(&with(chat("b", &"x".repeat(60_000)), &json!({ "maxTokens": 1 }))).await;
    let error = refused.error("RATE_LIMIT_EXCEEDED");
    assert_eq!(error["details"], json!({ "what": "bytes a minute", "scope": "user", "limit": 100_000 }));
    assert!((1..60_000).contains(&error["retryAfterMs"].as_u64().unwrap()), "{error}");
    client.ask(&chat("c", "Why is the sky blue?")).await.done();
    app.connect("bob").await.ask(&with(chat("a", &"x".repeat(60_000)), &json!({ "maxTokens": 1 }))).await.done();
    app.stop().await;
}

#[tokio::test]
async fn whoever_has_a_frame_too_long_or_wrong_hears_why_although_it_is_still_sending() {
    let app = TestApp::start(|config| config.server.max_frame_bytes = 10_000).await;
    for (bytes, code) in
        [(half(2 * MB, 2 * MB), 1009), ([&[0x81, 0x02][..], b"hi", &vec![b' '; 100_000]].concat(), 1002)]
    {
        let mut client = app.connect("ann").await;
        write(&mut client, &bytes).await;
        assert_eq!(client.closed().await.0, code);
    }
    app.stop().await;
}
