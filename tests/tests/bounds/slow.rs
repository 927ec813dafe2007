//! Deadlines are for progress: whoever takes something may be slow, and whoever takes nothing is given up.

use std::time::Duration;

use aihub::config::amount::Credits;
use aihub_domain::money::Microcredits;
use aihub_tests::{
    app::TestApp,
    client::{Client, chat, with},
    proxy::Proxy,
    until,
};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::{
    io::AsyncReadExt,
    time::{Instant, sleep},
};
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn a_large_answer_that_is_read_slowly_comes_whole_while_a_cancel_and_pings_are_heard() {
    let app = TestApp::start(|config| config.server.ping_interval_ms = 1_500).await;
    app.providers.rule(json!({ "model": "gpt-6-astra", "hang_after_tokens": 1 }));
    let mut client = Client::narrow(app.address, &app.token("ann"), 64 << 10).await;
    client.send(&with(chat("hangs", "Go on"), &json!({ "model": "gpt-6-astra" }))).await;
    client.chunks("hangs", 1).await;
    let inputs: Vec<String> = (0..400).map(|nth| format!("text {nth}")).collect();
    let large = json!({ "id": "large", "type": "embedding", "model": "text-embedding-3-small", "input": inputs });
    client.send(&with(large, &json!({ "stream": false }))).await;
    until("it waits to be read", async || (app.audit().await.open().len() == 1).then_some(())).await;
    client.send(&json!({ "type": "cancel", "id": "hangs" })).await;
    until("the cancel is heard", async || app.audit().await.open().is_empty().then_some(())).await;
    // Some eight megabytes, at one a second: more than twice as long as a ping is waited for.
    let mut raw = client.socket.into_inner();
    let (mut read, started) = (0_u32, Instant::now());
    let mut buffer = vec![0; 64 << 10];
    while read < 7_000_000 {
        let more = u32::try_from(raw.read(&mut buffer).await.unwrap()).unwrap();
        assert!(more > 0, "the socket was closed after {read} bytes");
        read += more;
        let due = Duration::from_micros(read.into());
        sleep(due.saturating_sub(started.elapsed())).await;
    }
    assert!(started.elapsed() > Duration::from_secs(6));
    drop(raw);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_long_streams_and_a_large_embedding_come_whole_to_who_reads_slowly_and_small_answers_pass_them() {
    let app = TestApp::start(|config| {
        config.server.ping_interval_ms = 2_000;
        config.credits.welcome = Some(Credits(Microcredits::from_credits(1_000_000)));
    })
    .await;
    let long = json!({ "model": "gpt-6-astra", "tokens_per_second": 1_000_000, "output_tokens": 5_000 });
    app.providers.rule(long);
    // Through all of it, for longer than a pong is waited for.
    let way = Proxy::slow(app.address, 200_000).await;
    let mut client = Client::connect(way.address, &app.token("ann")).await;
    let started = Instant::now();
    let ids = ["1", "2", "3", "4"];
    for id in ids {
        let more = json!({ "model": "gpt-6-astra", "maxTokens": 5_000 });
        client.send(&with(chat(id, "Tell me all of it"), &more)).await;
    }
    for id in ids {
        client.chunks(id, 1).await;
    }
    // A ping is answered between what waits.
    client.ping().await;
    client.send(&chat("small", "Why is the sky blue?")).await;
    let (mut is_told, mut ended) = (false, 0);
    while ended < ids.len() {
        let frame = client.next().await;
        is_told |= frame["id"] == "small" && ended == 0;
        ended += usize::from(frame["type"] == "done" && frame["id"] != "small");
        assert_ne!(frame["type"], "error", "{frame}");
    }
    assert!(is_told, "a small answer waited for the long ones");
    assert!(started.elapsed() > Duration::from_secs(5), "{:?}", started.elapsed());

    let way = Proxy::slow(app.address, 6_000_000).await;
    let mut client = Client::connect(way.address, &app.token("ann")).await;
    let inputs: Vec<String> = (0..2_048).map(|nth| format!("text {nth}")).collect();
    let started = Instant::now();
    client.send(&json!({ "id": "all", "type": "embedding", "model": "text-embedding-3-small", "input": inputs })).await;
    let mut vectors = 0;
    let done = loop {
        let frame = client.next().await;
        match frame["type"].as_str().unwrap() {
            "chunk" => vectors += frame["data"].as_array().unwrap().len(),
            _ => break frame,
        }
    };
    assert_eq!((&done["type"], vectors), (&json!("done"), 2_048), "{done}");
    assert!(started.elapsed() > Duration::from_secs(5), "{:?}", started.elapsed());
    app.stop().await;
}

#[tokio::test]
async fn a_large_answer_that_is_asked_for_in_one_message_is_that_and_what_is_said_meanwhile_comes_after_it() {
    let app = TestApp::start(|_| ()).await;
    let mut client = Client::narrow(app.address, &app.token("ann"), 64 << 10).await;
    let inputs: Vec<String> = (0..200).map(|nth| format!("text {nth}")).collect();
    let large = json!({ "id": "large", "type": "embedding", "model": "text-embedding-3-small", "input": inputs });
    client.send(&with(large, &json!({ "stream": false }))).await;
    until("it has ended", async || {
        let audit = app.audit().await;
        (audit.requests.len() == 1 && audit.open().is_empty()).then_some(())
    })
    .await;
    client.send(&json!({ "type": "ping" })).await;
    client.send(&json!({ "type": "dance", "id": "wrong" })).await;
    let mut told: Vec<Value> = Vec::new();
    while told.len() < 3 {
        match client.socket.next().await.unwrap().unwrap() {
            Message::Text(text) => told.push(serde_json::from_str(&text).unwrap()),
            other => assert!(matches!(other, Message::Ping(_)), "{other:?}"),
        }
    }
    assert_eq!(told[0]["data"].as_array().unwrap().len(), 200);
    assert_eq!((&told[1]["type"], &told[2]["type"]), (&json!("pong"), &json!("error")));
    app.stop().await;
}

#[tokio::test]
async fn a_large_embedding_comes_in_numbered_parts_between_which_others_are_told_and_can_be_gone_on_with() {
    let app = TestApp::start(|_| ()).await;
    let mut client = Client::narrow(app.address, &app.token("ann"), 64 << 10).await;
    let inputs: Vec<String> = (0..400).map(|nth| format!("text {nth}")).collect();
    let asked = json!({ "id": "large", "type": "embedding", "model": "text-embedding-3-small", "input": inputs });
    let whole =
        app.connect("ann").await.ask(&with(asked.clone(), &json!({ "stream": false }))).await.end["data"].clone();
    client.send(&asked).await;
    until("both have ended", async || {
        let audit = app.audit().await;
        (audit.requests.len() == 2 && audit.open().is_empty()).then_some(())
    })
    .await;
    // The parts wait to be read; what is asked now is told between them.
    client.send(&chat("small", "Why is the sky blue?")).await;
    let (mut parts, mut before_small) = (Vec::new(), None);
    while parts.len() < 200 {
        let frame = client.next().await;
        match frame["id"].as_str().unwrap() {
            "large" => parts.push(frame),
            _ => before_small = before_small.or(Some(parts.len())),
        }
    }
    assert!(before_small.is_some(), "nothing is told before the large one is over");
    let request_id = parts[0]["requestId"].as_str().unwrap().to_owned();
    let connection_id = client.ready["connectionId"].clone();
    drop(client);

    // By the id, on another connection, from where it was cut.
    let mut client = app.connect("ann").await;
    let resume = json!({ "type": "resume", "id": "large", "connectionId": connection_id, "after": parts.len() });
    client.send(&resume).await;
    let done = loop {
        let frame = client.next().await;
        if frame["type"] == "done" {
            break frame;
        }
        parts.push(frame);
    };
    assert_eq!((&done["metadata"]["requestId"], &done["metadata"]["kind"]), (&json!(request_id), &json!("embedding")));
    let mut vectors = Vec::new();
    for (nth, part) in parts.iter().enumerate() {
        assert_eq!(
            (&part["type"], &part["seq"], &part["first"]),
            (&json!("chunk"), &json!(nth + 1), &json!(vectors.len()))
        );
        assert!(part.to_string().len() < 32 << 10);
        vectors.extend(part["data"].as_array().unwrap().clone());
    }
    assert!(Value::Array(vectors) == whole, "the parts are the whole");
    let beyond = with(resume, &json!({ "after": parts.len() + 1 }));
    client.ask(&beyond).await.error("VALIDATION_ERROR");

    // What comes whole has no parts, and a key's request has one form.
    let keyed = with(asked.clone(), &json!({ "id": "keyed", "idempotencyKey": "k", "input": ["one", "two"] }));
    assert_eq!(client.ask(&keyed).await.end["type"], "completion");
    let after = json!({ "type": "resume", "id": "keyed", "after": 1 });
    client.ask(&after).await.error("VALIDATION_ERROR");
    client.ask(&with(keyed, &json!({ "id": "again", "stream": false }))).await.error("DUPLICATE_REQUEST");

    // One that is cancelled while it is told ends there.
    let mut client = Client::narrow(app.address, &app.token("ann"), 64 << 10).await;
    client.send(&with(asked.clone(), &json!({ "id": "enough", "stream": true }))).await;
    client.next_of("enough").await;
    client.send(&json!({ "type": "cancel", "id": "enough" })).await;
    let mut told = 1;
    while client.next_of("enough").await["type"] == "chunk" {
        told += 1;
    }
    assert!(told < parts.len(), "all {told} parts were told");

    let short = with(asked, &json!({ "id": "short", "stream": true, "encoding": "base64", "input": ["one", "two"] }));
    client.send(&short).await;
    let part = client.next().await;
    assert_eq!((&part["first"], part["data"].as_array().unwrap().len()), (&json!(0), 2));
    assert!(part["data"][1].is_string());
    assert_eq!(client.next().await["type"], "done");
    app.stop().await;
}
