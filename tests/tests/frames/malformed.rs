//! A frame that is wrong gets an error, and the socket lives; too much of it ends the socket with the right code.

use aihub_tests::{
    app::TestApp,
    client::{Client, chat, with},
};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{
    Bytes, Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

async fn refused(client: &mut Client, message: Message) -> Value {
    client.send_message(message).await;
    let frame = client.next().await;
    assert_eq!((&frame["type"], &frame["error"]["code"]), (&json!("error"), &json!("VALIDATION_ERROR")), "{frame}");
    frame
}

fn text_frame(payload: impl Into<Bytes>, is_final: bool) -> Message {
    Message::Frame(Frame::message(payload, OpCode::Data(Data::Text), is_final))
}

#[tokio::test]
async fn a_malformed_frame_gets_an_error_and_one_too_many_closes_the_socket_with_1008() {
    let app = TestApp::start(|config| config.server.malformed_frames_allowed = 6).await;
    let mut client = app.connect("ann").await;
    assert_eq!(client.ready["limits"]["malformedFramesAllowed"], 6);
    let nested = format!(r#"{{"id":"a","type":"chat","messages":{}{}}}"#, "[".repeat(5_000), "]".repeat(5_000));
    for (text, id) in
        [("", None), ("{", None), ("[]", None), ("null", None), (&nested, Some("a")), (r#"{"id":"b","#, Some("b"))]
    {
        let told = refused(&mut client, Message::text(text)).await;
        assert_eq!(told.get("id").and_then(Value::as_str), id, "{text:.20}");
    }
    client.ask(&chat("a", "Why is the sky blue?")).await.done();
    refused(&mut client, Message::text("{")).await;
    assert_eq!(client.closed().await.0, 1008);
    app.stop().await;
}

#[tokio::test]
async fn a_frame_that_is_only_wrong_names_its_faults_and_never_closes_the_socket() {
    let app = TestApp::start(|config| config.server.malformed_frames_allowed = 0).await;
    let mut client = app.connect("ann").await;
    for (frame, named) in [
        (json!({ "id": "a", "type": "dance" }), "type"),
        (json!({ "type": "chat", "prompt": "x" }), "id"),
        (json!({ "id": 7, "type": "chat", "prompt": "x" }), "id"),
        (json!({ "id": "i".repeat(129), "type": "chat", "prompt": "x" }), "id"),
        (json!({ "id": "a", "type": "resume", "after": -1 }), "after"),
        (json!({ "type": "auth" }), "token"),
        (with(chat("a", "x"), &json!({ "prompt": null })), "messages"),
        (json!({ "id": "a", "type": "embedding", "input": [] }), "input"),
    ] {
        let error = refused(&mut client, Message::text(frame.to_string())).await;
        assert_eq!(error["error"]["details"]["fields"][0]["field"], named, "{frame}: {error}");
    }
    let faults = json!({
        "maxTokens": 0, "temperature": 3, "topP": "high", "stop": 1, "tools": {}, "stream": 1, "model": "", "max_tokens": 5,
    });
    let error = refused(&mut client, Message::text(with(chat("a", "x"), &faults).to_string())).await;
    assert_eq!(error["id"], "a");
    let mut fields: Vec<_> =
        error["error"]["details"]["fields"].as_array().unwrap().iter().map(|at| &at["field"]).collect();
    fields.sort_by_key(|field| field.as_str());
    assert_eq!(
        json!(fields),
        json!(["maxTokens", "max_tokens", "model", "stop", "stream", "temperature", "tools", "topP"])
    );
    client.ask(&chat("a", "Why is the sky blue?")).await.done();
    assert_eq!(app.audit().await.requests.len(), 1);
    app.stop().await;
}

#[tokio::test]
async fn json_in_a_binary_frame_is_taken_and_a_character_that_was_cut_in_two_too() {
    let app = TestApp::start(|config| config.server.malformed_frames_allowed = 0).await;
    let mut client = app.connect("ann").await;
    client.send_message(Message::binary(chat("bytes", "Why is the sky blue?").to_string().into_bytes())).await;
    client.answer("bytes").await.done();
    let cut = chat("cut", "smile HALF").to_string().replace("HALF", r"\ud83d");
    client.send_message(Message::text(cut)).await;
    client.answer("cut").await.done();
    app.stop().await;
}

#[tokio::test]
async fn an_oversized_frame_closes_the_socket_with_1009() {
    let app = TestApp::start(|config| config.server.max_frame_bytes = 10_000).await;
    let with_prompt = |bytes: usize| chat("a", &"x".repeat(bytes)).to_string();
    let overhead = with_prompt(0).len();
    let mut client = app.connect("ann").await;
    assert_eq!(client.ready["limits"]["maxFrameBytes"], 10_000);
    client.send_message(Message::text(with_prompt(10_000 - overhead))).await;
    client.answer("a").await.done();
    client.send_message(Message::text(with_prompt(10_001 - overhead))).await;
    assert_eq!(client.closed().await.0, 1009);
    // In pieces, each of which is small enough.
    let mut client = app.connect("ann").await;
    client.send_message(text_frame(vec![b' '; 6_000], false)).await;
    client.send_message(Message::Frame(Frame::message(vec![b' '; 6_000], OpCode::Data(Data::Continue), true))).await;
    assert_eq!(client.closed().await.0, 1009);
    app.stop().await;
}

#[tokio::test]
async fn a_text_frame_that_is_not_utf_8_closes_the_socket_with_1007() {
    let app = TestApp::start(|_| ()).await;
    let mut client = app.connect("ann").await;
    client.send_message(text_frame(vec![b'{', 0xff, 0xfe, b'}'], true)).await;
    assert_eq!(client.closed().await.0, 1007);
    app.stop().await;
}

#[tokio::test]
async fn a_frame_may_come_in_fragments_that_cut_a_code_point() {
    let app = TestApp::start(|_| ()).await;
    let mut client = app.connect("ann").await;
    let bytes = chat("a", "Warum ist der Himmel über München blau? 🌌").to_string().into_bytes();
    let cut = bytes.iter().position(|byte| *byte == 0xf0).unwrap() + 2;
    client.send_message(text_frame(bytes[..cut].to_vec(), false)).await;
    let rest = bytes[cut..].to_vec();
    client.send_message(Message::Frame(Frame::message(rest, OpCode::Data(Data::Continue), true))).await;
    client.answer("a").await.done();
    client.ping().await;
    app.stop().await;
}
