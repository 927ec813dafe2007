//! How long a client waits for the first visible piece when the provider that is asked first dies, in each way that it may.
//!
//! `cargo bench -p aihub-tests --bench failover`. The first provider is a server that does one wrong thing; the second one is the
//! simulated Claude, which answers at once. Everything else is the service as it is configured by default, with its breaker off,
//! so that each request meets the failure; in the last row it is on, and open. A hung provider is waited for as long as the
//! defaults say, so that row is made once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measurement that cannot go on should say where"
)]

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use aihub_tests::{
    app::TestApp,
    client::{chat, with},
};
use serde_json::json;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::TaskTracker;

const TIMES: usize = 9;

/// What the first provider does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Nothing wrong: an answer at once.
    Answers,
    Refuses,
    Resets,
    Hangs,
    /// Says that it is still there, and nothing else.
    KeepsAlive,
    Says(&'static str),
}

const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
const GOOD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n\
    data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hello\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":1}}\n\n\
    data: [DONE]\n\n";
const ERROR_EVENT: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n\
    data: {\"error\":{\"message\":\"busy\",\"code\":503}}\n\ndata: [DONE]\n\n";
const EMPTY: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n\
    data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

const WAYS: [(&str, Way); 11] = [
    ("answers", Way::Answers),
    ("refuses the connection", Way::Refuses),
    ("resets it once it was asked", Way::Resets),
    ("503", Way::Says("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\n{}")),
    ("429", Way::Says("HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\n{}")),
    ("an error event in a 200", Way::Says(ERROR_EVENT)),
    ("is cut before any text", Way::Says(STREAM)),
    ("an answer without anything in it", Way::Says(EMPTY)),
    ("keeps alive, and says nothing", Way::KeepsAlive),
    ("hangs", Way::Hangs),
    ("resets it, with an open breaker", Way::Resets),
];

#[tokio::main]
async fn main() {
    println!("| the first provider | first piece, median of {TIMES} | attempts |");
    println!("|---|---|---|");
    for (nth, (name, way)) in WAYS.into_iter().enumerate() {
        let has_breaker = nth + 1 == WAYS.len();
        let (median, attempts) = measure(way, has_breaker).await;
        println!("| {name} | {:.1} ms | {attempts} |", median.as_secs_f64() * 1e3);
    }
}

async fn measure(way: Way, has_breaker: bool) -> (Duration, u64) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    if way == Way::Refuses {
        drop(listener);
    } else {
        TaskTracker::new().spawn(serve(listener, way));
    }
    let app = TestApp::start(|config| {
        let openai = config.providers.get_mut("openai").unwrap();
        openai.base_url = Some(base_url(address));
        if !has_breaker {
            (openai.breaker.min_calls, openai.breaker.consecutive_failures) = (u32::MAX, u32::MAX);
        }
    })
    .await;
    app.providers.rule(json!({ "model": "claude-haiku-5-5", "ttft_ms": 0, "tokens_per_second": 0 }));
    let mut client = app.connect("ann").await;
    let (times, warm_up) = match way {
        Way::Hangs | Way::KeepsAlive => (1, 0),
        _ if has_breaker => (TIMES, 6),
        _ => (TIMES, 1),
    };
    let (mut took, mut attempts) = (vec![], 0);
    for nth in 0..times + warm_up {
        let id = nth.to_string();
        let began = Instant::now();
        client.send(&with(chat(&id, "Why is the sky blue?"), &json!({ "maxTokens": 4 }))).await;
        client.chunks(&id, 1).await;
        if nth >= warm_up {
            took.push(began.elapsed());
        }
        attempts = client.answer_after(&id, 1).await.done()["metadata"]["attempts"].as_u64().unwrap();
        // What a 429 cools down is another row's.
        if way == Way::Says(WAYS[4].1.said()) {
            tokio::time::sleep(Duration::from_millis(5_100)).await;
        }
    }
    took.sort();
    app.stop().await;
    (took[took.len() / 2], attempts)
}

impl Way {
    fn said(self) -> &'static str {
        match self {
            Self::Says(said) => said,
            _ => "",
        }
    }
}

fn base_url(address: SocketAddr) -> String {
    format!("http://{address}/v1")
}

async fn serve(listener: TcpListener, way: Way) {
    let tasks = TaskTracker::new();
    loop {
        let (connection, _) = listener.accept().await.unwrap();
        tasks.spawn(misbehave(connection, way));
    }
}

async fn misbehave(mut connection: TcpStream, way: Way) {
    let mut request = vec![0; 64 << 10];
    let _ = connection.read(&mut request).await;
    match way {
        Way::Answers => drop(connection.write_all(GOOD.as_bytes()).await),
        Way::Says(said) => drop(connection.write_all(said.as_bytes()).await),
        Way::Resets => SockRef::from(&connection).set_linger(Some(Duration::ZERO)).unwrap(),
        Way::KeepsAlive => {
            let mut said = connection.write_all(STREAM.as_bytes()).await;
            while said.is_ok() {
                tokio::time::sleep(Duration::from_millis(500)).await;
                said = connection.write_all(b": still here\n\n").await;
            }
        }
        Way::Hangs => drop(connection.read(&mut request).await),
        Way::Refuses => {}
    }
}
