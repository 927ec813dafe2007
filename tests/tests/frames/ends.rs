//! Whatever ends a socket says why, with a code that the manual has.

use std::{collections::BTreeMap, time::Duration};

use aihub::{routes::asyncapi::DOCUMENT, ws::close::Code};
use aihub_tests::{
    app::TestApp,
    client::{Client, chat, open, upgrade},
    until,
};
use chrono::TimeDelta;
use serde_json::Value;
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::{
    MaybeTlsStream,
    tungstenite::{Message, protocol::frame::CloseFrame},
};

/// The first byte of a close frame (RFC 6455, section 5.2).
const CLOSE: u8 = 0x88;

/// How a client ends that sent these bytes in place of frames.
async fn after(app: &TestApp, bytes: &[u8]) -> u16 {
    let mut client = app.connect("ann").await;
    client.socket.get_mut().write_all(bytes).await.unwrap();
    client.closed().await.0
}

#[tokio::test]
async fn whoever_breaks_the_protocol_is_told_so_and_whoever_closes_hears_their_own_code() {
    let app = TestApp::start(|_| ()).await;
    for (broken, code) in [
        (&[0x81, 0x02, b'h', b'i'][..], 1002),
        (&[0xc1, 0x80, 0, 0, 0, 0], 1002),
        (&[0x83, 0x80, 0, 0, 0, 0], 1002),
        (&[0x80, 0x80, 0, 0, 0, 0], 1002),
        // A close frame of one byte, and one with a code that nobody may send.
        (&[0x88, 0x81, 0, 0, 0, 0, 3], 1002),
        (&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xee], 1002),
        (&[0x82, 0x82, 0, 0, 0, 0, 0xff, 0xfe], 1003),
        (&[0x81, 0x82, 0, 0, 0, 0, 0xff, 0xfe], 1007),
    ] {
        assert_eq!(after(&app, broken).await, code, "{broken:x?}");
    }
    let mut client = app.connect("ann").await;
    let close = CloseFrame { code: 4001.into(), reason: "enough".into() };
    client.send_message(Message::Close(Some(close))).await;
    assert_eq!(client.closed().await.0, 4001);
    app.stop().await;
}

#[tokio::test]
async fn whoever_is_still_sending_a_large_message_hears_that_it_is_too_large() {
    let app = TestApp::start(|config| config.server.max_frame_bytes = 10_000).await;
    let mut client = app.connect("ann").await;
    let message = 8_000_000_u64;
    let header = [&[0x81, 0xff][..], &message.to_be_bytes(), &[0; 4]].concat();
    let slow = async |client: &mut Client| {
        client.socket.get_mut().write_all(&header).await.unwrap();
        // For longer than two seconds, and past what the kernels take.
        for _ in 0..80 {
            client.socket.get_mut().write_all(&vec![b' '; 100_000]).await.unwrap();
            sleep(Duration::from_millis(30)).await;
        }
    };
    slow(&mut client).await;
    assert_eq!(client.closed().await.0, 1009);
    app.stop().await;
}

/// Says so again and again and reads nothing meanwhile, for so long or until the service takes no more.
async fn sends_on(client: &mut Client, text: &str, enough: Duration) {
    let MaybeTlsStream::Plain(stream) = client.socket.get_mut() else { panic!("it is plain") };
    let until = Instant::now() + enough;
    while Instant::now() < until && stream.write_all(&frame_of(text)).await.is_ok() {
        sleep(Duration::from_millis(1)).await;
    }
}

/// With a mask of nothing.
fn frame_of(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap();
    [&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat()
}

#[tokio::test]
async fn whoever_sends_without_a_pause_hears_that_it_was_too_much_and_that_the_token_has_expired() {
    let app = TestApp::start(|_| ()).await;
    let mut client = app.connect("ann").await;
    sends_on(&mut client, "{", Duration::from_secs(1)).await;
    assert_eq!(client.closed().await.0, 1008);
    let brief = app.token_for("ann", "ann", TimeDelta::seconds(2));
    let mut client = Client::connect(app.address, &brief).await;
    sends_on(&mut client, r#"{"type":"ping"}"#, Duration::from_secs(3)).await;
    assert_eq!(client.closed().await.0, 4401);
    app.stop().await;
}

#[tokio::test]
async fn an_error_of_the_service_closes_with_1011_and_a_reference_for_the_operator() {
    let app = TestApp::start(|_| ()).await;
    // An account whose events say what no version of the service does.
    let insert =
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
                  VALUES ('account', 'ann', 1, 'CreditsDreamt', '1.0', '{}', '{}')";
    sqlx::query(insert).execute(app.database.pool()).await.unwrap();
    let (mut client, _) = open(upgrade(app.address, &app.token("ann"))).await.unwrap();
    let error = &client.ready["error"];
    assert_eq!(error["code"], "INTERNAL", "{error}");
    assert_eq!(client.closed().await.0, 1011);
    app.connect("bob").await.ask(&chat("a", "Why is the sky blue?")).await.done();
    // The views of accounts stand at it.
    app.stop_though_views_stand().await;
}

#[tokio::test]
async fn a_client_of_whom_nothing_is_heard_is_told_so_where_it_still_listens() {
    let app = TestApp::start(|config| config.server.ping_interval_ms = 200).await;
    let mut silent = app.connect("ann").await;
    let mut lively = app.connect("ann").await;
    // It would answer pings if it read them.
    until("it was sent a close frame", async || {
        lively.ping().await;
        let MaybeTlsStream::Plain(stream) = silent.socket.get_ref() else { panic!("it is plain") };
        let mut unread = [0; 256];
        let bytes = timeout(Duration::from_millis(10), stream.peek(&mut unread)).await.map_or(0, Result::unwrap);
        unread[..bytes].contains(&CLOSE).then_some(())
    })
    .await;
    assert_eq!(silent.closed().await.0, 4408);
    lively.ask(&chat("a", "Why is the sky blue?")).await.done();
    app.stop().await;
}

#[tokio::test]
async fn a_node_that_shuts_down_says_so_to_whoever_waits_for_nothing() {
    let app = TestApp::start(|_| ()).await;
    let mut client = app.connect("ann").await;
    let (ended, ()) = tokio::join!(client.closed(), app.stop());
    assert_eq!(ended.0, 1001);
}

#[test]
fn the_manual_and_the_description_have_every_code() {
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    let described = document["channels"]["mcp"]["x-close-codes"].as_object().unwrap();
    let readme = include_str!("../../../README.md");
    let table = readme.split("| closed with |").nth(1).unwrap().split("\n\n").next().unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    let told: BTreeMap<u16, &str> = rows.filter_map(|(code, rest)| Some((code.parse().ok()?, rest))).collect();
    let codes: Vec<u16> = Code::ALL.iter().map(|code| *code as u16).collect();
    assert_eq!(told.keys().copied().collect::<Vec<_>>(), codes);
    for (code, rest) in told {
        let (why, then) = rest.trim_end_matches([' ', '|']).split_once(" | ").unwrap();
        assert_eq!(described[&code.to_string()], format!("{why}: {then}").replace('`', ""), "{code}");
    }
    assert_eq!(described.len(), codes.len());
}
