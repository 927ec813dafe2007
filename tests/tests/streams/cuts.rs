//! A way to the service that cuts, delays, halves and slows: whoever comes back has everything, and once.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use aihub_tests::{
    PATIENCE,
    app::TestApp,
    client::{chat, upgrade, with},
};
use futures::{SinkExt, StreamExt, future::join_all};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{sleep, timeout},
};
use tokio_tungstenite::{connect_async, tungstenite::Message};
use tokio_util::task::TaskTracker;

const CUTS: usize = 1_000;
const CLIENTS: usize = 16;

/// Passes bytes on in pieces of any size, each after a moment, until it has had enough of the connection.
async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut rng: StdRng, most: usize) {
    let mut buffer = vec![0; 1_024];
    let mut passed = 0;
    while passed < most {
        let room = rng.random_range(1..=buffer.len());
        let Ok(read @ 1..) = from.read(&mut buffer[..room]).await else { return };
        let (first, rest) = buffer[..read.min(most - passed)].split_at(rng.random_range(0..=read.min(most - passed)));
        for piece in [first, rest] {
            if rng.random_ratio(1, 8) {
                sleep(Duration::from_millis(rng.random_range(1..5))).await;
            }
            if to.write_all(piece).await.is_err() {
                return;
            }
        }
        passed += read;
    }
}

/// Where the cutting is done, for `service`.
async fn cutting(service: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = TaskTracker::new();
    let seed = AtomicU64::new(7);
    tasks.clone().spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let mut rng = StdRng::seed_from_u64(seed.fetch_add(1, Relaxed));
            let Ok(server) = TcpStream::connect(service).await else { continue };
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let most = rng.random_range(100..4_000);
            let down = pass_on(from_server, to_client, StdRng::seed_from_u64(rng.random()), most);
            let up = pass_on(from_client, to_server, StdRng::seed_from_u64(rng.random()), most);
            // Both ways end as soon as one of them does.
            tasks.spawn(async {
                tokio::select! { () = down => {}, () = up => {} }
            });
        }
    });
    address
}

/// Asks, and comes back after every cut, until the answer has its end. Its request and its text.
async fn follow(way: SocketAddr, token: &str, key: &str, cuts: &AtomicUsize) -> (String, String) {
    let request = with(chat("a", "Why is the sky blue?"), &json!({ "idempotencyKey": key }));
    let (mut request_id, mut text, mut seen) = (None::<String>, String::new(), 0);
    loop {
        if let Ok((mut socket, _)) = connect_async(upgrade(way, token)).await {
            let asked = request_id.as_ref().map_or_else(
                || request.clone(),
                |id| json!({ "type": "resume", "id": "a", "requestId": id, "after": seen }),
            );
            // Cut already, perhaps: then nothing comes.
            let _ = socket.send(Message::text(asked.to_string())).await;
            while let Some(Ok(message)) = timeout(PATIENCE, socket.next()).await.expect("it goes on or is cut") {
                let Message::Text(frame) = message else { continue };
                let frame: Value = serde_json::from_str(&frame).unwrap();
                if let Some(id) = frame["requestId"].as_str() {
                    assert!(request_id.as_deref().is_none_or(|known| known == id), "one request has two names");
                    request_id = Some(id.to_owned());
                }
                match frame["type"].as_str().unwrap() {
                    "ready" | "queued" => {}
                    "chunk" => {
                        assert_eq!(frame["seq"], seen + 1, "a chunk is lost or came twice: {frame}");
                        seen += 1;
                        text.push_str(frame["data"].as_str().unwrap());
                    }
                    "done" => return (request_id.unwrap(), text),
                    _ => panic!("{frame}"),
                }
            }
        }
        cuts.fetch_add(1, Relaxed);
    }
}

#[tokio::test]
async fn through_a_thousand_cuts_no_chunk_is_lost_or_comes_twice_and_each_answer_is_charged_once() {
    let app = TestApp::start(|_| ()).await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "tokens_per_second": 300, "output_tokens": 100 }));
    let way = cutting(app.address).await;
    let cuts = Arc::new(AtomicUsize::new(0));
    let answered = join_all((0..CLIENTS).map(async |client| {
        let (user, mut answered) = (format!("user-{client}"), vec![]);
        let token = app.token(&user);
        while cuts.load(Relaxed) < CUTS {
            let key = format!("key-{}", answered.len());
            answered.push(follow(way, &token, &key, &cuts).await);
        }
        (user, answered)
    }))
    .await;
    let audit = app.audit().await;
    for (user, answers) in &answered {
        let token = app.token(user);
        for (request_id, text) in answers.iter().rev().take(1) {
            let (_, _, whole) = app.get(&format!("/api/requests/{request_id}/answer"), Some(&token)).await;
            assert_eq!(whole["data"], json!(text));
        }
        let texts: Vec<&String> = answers.iter().map(|(_, text)| text).collect();
        assert!(texts.iter().all(|text| *text == texts[0]), "they are all the same answer");
        let account = &audit.accounts[user];
        assert_eq!((account.held(), account.spent % i64::try_from(answers.len()).unwrap()), (0, 0));
    }
    let requests: usize = answered.iter().map(|(_, answers)| answers.len()).sum();
    assert_eq!((audit.requests.len(), app.providers.calls().len()), (requests, requests), "each was asked once");
    assert!(cuts.load(Relaxed) >= CUTS);
    app.stop().await;
}
