//! A caller on a WebSocket of its own.

use std::time::Instant;

use futures::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Message, Utf8Bytes,
        client::IntoClientRequest,
        http::{HeaderValue, header::AUTHORIZATION},
    },
};

use crate::{load::Timing, processes::Bench};

/// What every stream has, by order of the knobs.
pub const CHUNKS: usize = 50;

pub struct Client {
    socket: WebSocketStream<TcpStream>,
    model: &'static str,
    stream: bool,
    asked: usize,
    /// The messages in front of each question, as JSON with a comma behind each.
    history: String,
}

impl Client {
    /// Connects and waits for `ready`.
    pub async fn connect(bench: &Bench, caller: usize, model: &'static str, stream: bool) -> Self {
        let mut client = Self::upgrade(bench, caller, model, stream).await;
        client.ready().await;
        client
    }

    /// Returns when the connection is a WebSocket.
    pub async fn upgrade(bench: &Bench, caller: usize, model: &'static str, stream: bool) -> Self {
        let mut request = format!("ws://{}/mcp", bench.service.address).into_client_request().unwrap();
        let token = HeaderValue::try_from(format!("Bearer {}", bench.token(caller))).unwrap();
        request.headers_mut().insert(AUTHORIZATION, token);
        let socket = TcpStream::connect(bench.service.address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let (socket, _) = client_async(request, socket).await.unwrap();
        Self { socket, model, stream, asked: 0, history: String::new() }
    }

    /// From now on each question has a conversation of so many bytes in front, which is the same every time, as an agent's
    /// is nearly.
    pub fn after(mut self, caller: usize, history_bytes: usize) -> Self {
        while self.history.len() < history_bytes {
            let nth = self.history.len();
            let words: Vec<String> = (0..300).map(|word| ((caller + nth + word * word) % 977).to_string()).collect();
            self.history.extend([r#"{"role":"user","content":""#, &words.join(" w"), r#""},"#]);
        }
        self
    }

    pub async fn ready(&mut self) {
        let ready = self.frame().await;
        assert!(ready.starts_with(r#"{"type":"ready""#), "{ready}");
    }

    /// Asks, and reads the answer to its end.
    pub async fn ask(&mut self) -> Timing {
        self.asked += 1;
        let (id, model, stream, history) = (self.asked, self.model, self.stream, &self.history);
        let request = format!(
            r#"{{"type":"chat","id":"r{id}","provider":"openai","model":"{model}","stream":{stream},"messages":[{history}{{"role":"user","content":"Say something about the sea and the wind."}}]}}"#
        );
        let started = Instant::now();
        self.socket.send(Message::text(request)).await.unwrap();
        let (mut chunks, mut first_chunk) = (0, None);
        loop {
            let frame = self.frame().await;
            if frame.starts_with(r#"{"type":"chunk""#) {
                chunks += 1;
                first_chunk.get_or_insert_with(|| started.elapsed());
            } else if frame.starts_with(r#"{"type":"done""#) {
                assert_eq!(chunks, CHUNKS);
                break;
            } else if frame.starts_with(r#"{"id""#) {
                break;
            } else {
                assert!(frame.starts_with(r#"{"type":"queued""#), "{frame}");
            }
        }
        let total = started.elapsed();
        Timing { first_chunk: first_chunk.unwrap_or(total), total }
    }

    async fn frame(&mut self) -> Utf8Bytes {
        loop {
            match self.socket.next().await.expect("the service goes on").unwrap() {
                Message::Text(text) => return text,
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}
