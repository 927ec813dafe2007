//! A client of the WebSocket.

use std::{collections::VecDeque, net::SocketAddr};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, client_async, connect_async,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest,
        http::{HeaderValue, Request, Response, header::AUTHORIZATION},
    },
};

use crate::PATIENCE;

pub struct Client {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub ready: Value,
    /// Frames that were read while another was looked for.
    passed: VecDeque<Value>,
}

/// What the server said for one request.
#[derive(Debug, Default)]
pub struct Answer {
    pub chunks: Vec<String>,
    /// The fragments of tool calls, in their order.
    pub tool_calls: Vec<Value>,
    /// The positions that `queued` frames told.
    pub queued: Vec<u64>,
    /// `done`, `error`, or the whole response.
    pub end: Value,
}

/// A streamed chat of at most 100 tokens with the default model; with a picture in it where prompts are to be large.
pub fn chat(id: &str, prompt: &str) -> Value {
    let chat = json!({
        "id": id, "type": "chat", "provider": "openai", "model": "gpt-6-luna", "prompt": prompt, "stream": true,
        "maxTokens": 100,
    });
    let Some(bytes) = prompt_bytes() else { return chat };
    let parts =
        json!([{ "type": "text", "text": prompt }, { "type": "image_url", "image_url": { "url": picture(bytes) } }]);
    with(chat, &json!({ "prompt": null, "messages": [{ "role": "user", "content": parts }] }))
}

/// How large the frames of chats are to be: suites can be run again with prompts of megabytes.
pub fn prompt_bytes() -> Option<usize> {
    let megabytes = std::env::var("AIHUB_TEST_PROMPT_MB").ok()?;
    Some(megabytes.parse::<usize>().expect("AIHUB_TEST_PROMPT_MB is a number of megabytes") * 1_000_000)
}

/// A GIF of 160 x 160 pixels, as the data URI of so many bytes. There are no two alike, and nothing of it can be compressed.
fn picture(bytes: usize) -> String {
    let mut picture = b"GIF89a\xa0\x00\xa0\x00".to_vec();
    picture.resize(bytes / 4 * 3, 0);
    rand::fill(&mut picture[10..]);
    format!("data:image/gif;base64,{}", STANDARD.encode(picture))
}

/// `value` with the fields of `more` in it; a `null` takes a field away.
pub fn with(mut value: Value, more: &Value) -> Value {
    let fields = value.as_object_mut().unwrap();
    for (name, value) in more.as_object().unwrap() {
        if value.is_null() {
            fields.remove(name);
        } else {
            fields.insert(name.clone(), value.clone());
        }
    }
    value
}

/// The upgrade with its token where it belongs.
pub fn upgrade(address: SocketAddr, token: &str) -> Request<()> {
    let mut request = format!("ws://{address}/mcp").into_client_request().unwrap();
    request.headers_mut().insert(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}")).unwrap());
    request
}

/// Tries to upgrade. An answer that is no upgrade is the error.
pub async fn open(request: Request<()>) -> Result<(Client, Response<Option<Vec<u8>>>), Response<Option<Vec<u8>>>> {
    match timeout(PATIENCE, connect_async(request)).await.unwrap() {
        Ok((socket, response)) => Ok((Client::on(socket).await, response)),
        Err(Error::Http(response)) => Err(*response),
        Err(error) => panic!("{error}"),
    }
}

impl Client {
    /// On a socket that was upgraded just now; reads its first frame.
    /// On a socket whose kernel takes no more than so many bytes that are not read.
    pub async fn narrow(address: SocketAddr, token: &str, bytes: u32) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(bytes).unwrap();
        let stream = MaybeTlsStream::Plain(socket.connect(address).await.unwrap());
        Self::on(client_async(upgrade(address, token), stream).await.unwrap().0).await
    }

    pub async fn on(socket: WebSocketStream<MaybeTlsStream<TcpStream>>) -> Self {
        let mut client = Self { socket, ready: Value::Null, passed: VecDeque::new() };
        client.ready = client.next().await;
        client
    }

    /// After `ready`.
    pub async fn connect(address: SocketAddr, token: &str) -> Self {
        let (client, _) = open(upgrade(address, token)).await.unwrap();
        assert_eq!(client.ready["type"], "ready", "{}", client.ready);
        client
    }

    pub async fn send(&mut self, frame: &Value) {
        self.send_message(Message::text(frame.to_string())).await;
    }

    pub async fn send_message(&mut self, message: Message) {
        timeout(PATIENCE, self.socket.send(message)).await.unwrap().unwrap();
    }

    /// The next frame, or the server's close: its code and reason. A connection that just ends has code 1006.
    pub async fn receive(&mut self) -> Result<Value, (u16, String)> {
        let received = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                    Some(Ok(Message::Close(Some(close)))) => {
                        return Err((close.code.into(), close.reason.to_string()));
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(other)) => panic!("{other:?}"),
                    Some(Err(_)) | None => return Err((1006, String::new())),
                }
            }
        };
        timeout(PATIENCE, received).await.expect("the server says something")
    }

    /// The next frame that was not yet looked at.
    pub async fn next(&mut self) -> Value {
        match self.passed.pop_front() {
            Some(frame) => frame,
            None => self.receive().await.unwrap_or_else(|closed| panic!("closed: {closed:?}")),
        }
    }

    /// The next frame that names `id`; those for others are kept.
    pub async fn next_of(&mut self, id: &str) -> Value {
        if let Some(at) = self.passed.iter().position(|frame| frame["id"] == id) {
            return self.passed.remove(at).unwrap();
        }
        loop {
            let frame = self.receive().await.unwrap_or_else(|closed| panic!("closed before {id} ended: {closed:?}"));
            if frame["id"] == id {
                return frame;
            }
            self.passed.push_back(frame);
        }
    }

    /// Reads what is said for `id` until `count` chunks are there.
    pub async fn chunks(&mut self, id: &str, count: usize) -> Vec<String> {
        let mut chunks = Vec::new();
        while chunks.len() < count {
            let frame = self.next_of(id).await;
            if frame["type"] == "chunk" {
                chunks.push(frame["data"].as_str().unwrap().to_owned());
            } else {
                assert_eq!(frame["type"], "queued", "ended early: {frame}");
            }
        }
        chunks
    }

    /// Everything that is said for `id` from its chunk `after + 1` on.
    pub async fn answer_after(&mut self, id: &str, after: u64) -> Answer {
        let mut answer = Answer::default();
        loop {
            let frame = self.next_of(id).await;
            match frame["type"].as_str().unwrap() {
                "queued" => answer.queued.push(frame["position"].as_u64().unwrap()),
                "chunk" => {
                    assert_eq!(frame["seq"], after + answer.chunks.len() as u64 + 1, "{frame}");
                    answer.chunks.push(frame["data"].as_str().unwrap().to_owned());
                    answer.tool_calls.extend(frame["toolCalls"].as_array().into_iter().flatten().cloned());
                }
                _ => {
                    answer.end = frame;
                    return answer;
                }
            }
        }
    }

    pub async fn answer(&mut self, id: &str) -> Answer {
        self.answer_after(id, 0).await
    }

    /// Sends a request and waits for its end.
    pub async fn ask(&mut self, request: &Value) -> Answer {
        self.send(request).await;
        self.answer(request["id"].as_str().unwrap()).await
    }

    /// A sign of life: everything that was sent before has been read by the server.
    pub async fn ping(&mut self) {
        self.send(&json!({ "type": "ping" })).await;
        loop {
            let frame = self.receive().await.unwrap();
            if frame["type"] == "pong" {
                return;
            }
            self.passed.push_back(frame);
        }
    }

    /// Reads on until the server closes; frames are passed over.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            if let Err(closed) = self.receive().await {
                return closed;
            }
        }
    }
}

impl Answer {
    pub fn text(&self) -> String {
        self.chunks.concat()
    }

    /// The `done` frame.
    pub fn done(&self) -> &Value {
        assert_eq!(self.end["type"], "done", "{}", self.end);
        &self.end
    }

    /// The error, which has this code.
    pub fn error(&self, code: &str) -> &Value {
        let error = &self.end["error"];
        assert_eq!(error["code"], code, "{}", self.end);
        error
    }

    pub fn request_id(&self) -> &str {
        self.end["metadata"]["requestId"].as_str().unwrap()
    }

    /// The credits that were charged, in microcredits.
    pub fn charged(&self) -> i64 {
        microcredits(&self.end["usage"]["credits"])
    }
}

/// Credits on the wire, as microcredits.
#[expect(clippy::cast_possible_truncation, reason = "rounded, and far below the limit")]
pub fn microcredits(credits: &Value) -> i64 {
    (credits.as_f64().unwrap_or_else(|| panic!("{credits}")) * 1e6).round() as i64
}
