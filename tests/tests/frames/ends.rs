//! Whatever ends a socket says why, with a code that the manual has.

use std::{collections::BTreeMap, time::Duration};

use aihub::{routes::asyncapi::DOCUMENT, ws::close::Code};
use aihub_tests::{
    app::TestApp,
    client::{Client, chat},
    until,
};
use serde_json::Value;
use tokio::{
    io::AsyncWriteExt,
    time::{sleep, timeout},
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
