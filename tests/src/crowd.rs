//! Callers who mean harm: each from an address and under a name of their own, each doing everything at once that might take from
//! others what there is, over and over.

use std::{
    future::pending,
    io,
    net::{IpAddr, SocketAddr},
    sync::LazyLock,
    thread::{self, JoinHandle},
    time::Duration,
};

use aihub::auth::AuthSettings;
use chrono::TimeDelta;
use futures::{SinkExt, StreamExt, future::join_all};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    runtime,
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, client_async,
    tungstenite::{
        Message,
        protocol::frame::{
            FrameHeader,
            coding::{Data, OpCode},
        },
    },
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    app::token,
    client::{chat, upgrade, with},
};

/// A part of a message: short, and of which a frame has room for 300,000.
const PART: &str = r#"{"text":""},"#;
/// How long one waits before one tries again what was refused or closed.
const PAUSE: Duration = Duration::from_millis(100);

/// The large frames, made once: those who mean harm do not spend their own time on it.
static MANY_PARTS: LazyLock<Vec<u8>> = LazyLock::new(|| frame(many_parts(300_000).as_bytes(), 0));
static MANY_UNKNOWN_FIELDS: LazyLock<Vec<u8>> = LazyLock::new(|| frame(many_unknown_fields(400_000).as_bytes(), 0));
/// Announces four megabytes, and has one.
static HALF_FRAME: LazyLock<Vec<u8>> = LazyLock::new(|| frame(" ".repeat(1_000_000).as_bytes(), 3_000_000));
static EMBEDDINGS: LazyLock<String> = LazyLock::new(|| {
    let inputs: Vec<String> = (0..2_048).map(|nth| format!("text {nth}")).collect();
    json!({ "type": "embedding", "model": "text-embedding-3-small", "input": inputs }).to_string()
});

/// What one of them does at the same time, in numbers.
#[derive(Debug, Clone, Copy)]
pub struct Harm {
    /// Connections that say nothing, half a head, and a head without a body.
    pub silent: usize,
    pub half_heads: usize,
    pub half_bodies: usize,
    /// Sockets with a message that does not go on.
    pub half_frames: usize,
    /// Sockets on which frames of many small values, and of many unknown fields, come one after another.
    pub bombs: usize,
    /// Sockets on which embeddings of 2,048 texts are asked for, and nothing is read.
    pub embeddings: usize,
    /// Sockets on which long answers are asked for, and nothing is read.
    pub unread: usize,
    /// Requests that stay at the provider.
    pub hanging: usize,
    /// Sockets on which short answers are asked for and read, as fast as they come, to be kept.
    pub kept: usize,
    pub long_polls: usize,
    pub reports: usize,
}

impl Harm {
    /// Of fifty: a thousand connections that say nothing or not enough, three hundred half frames, and so on.
    pub const OF_FIFTY: Self = Self {
        silent: 12,
        half_heads: 2,
        half_bodies: 6,
        half_frames: 6,
        bombs: 2,
        embeddings: 2,
        unread: 2,
        hanging: 20,
        kept: 1,
        long_polls: 20,
        reports: 2,
    };
}

/// Who does it, from where, to whom.
#[derive(Debug, Clone)]
pub struct Hostile {
    pub from: IpAddr,
    pub service: SocketAddr,
    pub name: String,
    pub token: String,
}

/// The whole crowd, until it is told to stop.
pub struct Crowd {
    stop: CancellationToken,
    thread: JoinHandle<()>,
}

impl Crowd {
    /// `count` of them, at 127.0.0.2 and following. Models: `gpt-6-astra` is to hang, `gpt-6-luna` to answer.
    pub fn start(service: SocketAddr, auth: &AuthSettings, count: u8, harm: Harm) -> Self {
        let stop = CancellationToken::new();
        let hostile: Vec<Hostile> = (0..count)
            .map(|nth| {
                let name = format!("hostile-{nth}");
                let token = token(auth, &name, &name, TimeDelta::hours(1));
                Hostile { from: [127, 0, 0, 2 + nth].into(), service, name, token }
            })
            .collect();
        let stopped = stop.clone();
        // A thread of its own: who is honest waits for the service, and not for those who share a thread with them.
        let rage = move || {
            // They come from elsewhere: here they are not to have the processors that the service would have then.
            #[cfg(target_os = "linux")]
            rustix::process::nice(19).unwrap();
            let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let tasks = TaskTracker::new();
            let _within = runtime.enter();
            for one in hostile {
                let stop = stopped.clone();
                tasks.spawn(async move { stop.run_until_cancelled(one.rage(harm)).await });
            }
            tasks.close();
            runtime.block_on(tasks.wait());
        };
        Self { stop, thread: thread::spawn(rage) }
    }

    /// Everything is let go of.
    pub async fn stop(self) {
        self.stop.cancel();
        tokio::task::spawn_blocking(|| self.thread.join().unwrap()).await.unwrap();
    }
}

impl Hostile {
    async fn rage(&self, harm: Harm) {
        let post = self.head("POST", "/api/mcp/sora2/generate", "content-length: 100000\r\n");
        let unsigned = "POST /api/webhooks/providers/x HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n".to_owned();
        let half_head = "GET /api/credits HTTP/1.1\r\nhost: x\r\nx-long: ".to_owned();
        let mut doing = vec![];
        doing.extend((0..harm.silent).map(|_| self.hold(String::new())));
        doing.extend((0..harm.half_heads).map(|_| self.hold(half_head.clone())));
        doing.extend((0..harm.half_bodies).map(|nth| {
            let head = if nth % 2 == 0 { &unsigned } else { &post };
            self.hold(format!("{head}{{\"prompt\":\""))
        }));
        let mut on_sockets = vec![];
        on_sockets.extend((0..harm.half_frames).map(|_| Kind::HalfFrame));
        on_sockets.extend((0..harm.bombs).map(Kind::Bombs));
        on_sockets.extend((0..harm.embeddings).map(|_| Kind::Embeddings));
        on_sockets.extend((0..harm.unread).map(|_| Kind::Unread));
        on_sockets.extend((harm.hanging > 0).then_some(Kind::Hanging(harm.hanging)));
        on_sockets.extend((0..harm.kept).map(|_| Kind::Kept));
        let on_sockets = on_sockets.into_iter().map(|kind| self.on_socket(kind));
        let gets = (0..harm.reports).map(|_| self.hold(self.head("GET", "/api/usage?groupBy=day", "")));
        let polls = self.poll(harm.long_polls);
        tokio::join!(join_all(doing), join_all(on_sockets), join_all(gets), polls);
    }

    fn head(&self, method: &str, path: &str, more: &str) -> String {
        let token = &self.token;
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n{more}\r\n")
    }

    async fn connect(&self) -> Option<TcpStream> {
        let socket = TcpSocket::new_v4().ok()?;
        socket.set_reuseaddr(true).ok()?;
        socket.bind((self.from, 0).into()).ok()?;
        timeout(Duration::from_secs(5), socket.connect(self.service)).await.ok()?.ok()
    }

    /// Says `beginning` and nothing more, again whenever the connection has ended; what is answered is not read before.
    async fn hold(&self, beginning: String) {
        loop {
            if let Some(mut connection) = self.connect().await
                && connection.write_all(beginning.as_bytes()).await.is_ok()
            {
                let mut one = [0];
                // Whether it was closed; of what is sent, next to nothing is taken.
                while matches!(connection.read(&mut one).await, Ok(1)) {
                    sleep(PAUSE).await;
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Waits for a change of a video that there will be none of, many times at once.
    async fn poll(&self, count: usize) {
        let body = json!({ "prompt": "a calm sea", "duration": 8 }).to_string();
        let head = format!("content-length: {}\r\nconnection: close\r\n", body.len());
        let request = format!("{}{body}", self.head("POST", "/api/mcp/sora2/generate", &head));
        let video = loop {
            let mut answer = Vec::new();
            if let Some(mut connection) = self.connect().await
                && connection.write_all(request.as_bytes()).await.is_ok()
                && connection.read_to_end(&mut answer).await.is_ok()
                && let Some((_, rest)) = String::from_utf8_lossy(&answer).split_once("\"videoId\":\"")
                && let Some((id, _)) = rest.split_once('"')
            {
                break id.to_owned();
            }
            sleep(PAUSE).await;
        };
        let request = self.head("GET", &format!("/api/mcp/sora2/status/{video}?wait=60"), "");
        join_all((0..count).map(|_| self.hold(request.clone()))).await;
    }

    async fn on_socket(&self, kind: Kind) {
        loop {
            if let Some(connection) = self.connect().await {
                let request = upgrade(self.service, &self.token);
                let upgraded =
                    timeout(Duration::from_secs(5), client_async(request, MaybeTlsStream::Plain(connection)));
                if let Ok(Ok((socket, _))) = upgraded.await {
                    kind.harm(socket).await;
                }
            }
            sleep(PAUSE).await;
        }
    }
}

/// What is done on a socket.
#[derive(Debug, Clone, Copy)]
enum Kind {
    HalfFrame,
    Bombs(usize),
    Embeddings,
    Unread,
    Hanging(usize),
    Kept,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

impl Kind {
    /// Until the socket ends, or for ever.
    async fn harm(self, mut socket: Socket) {
        match self {
            Self::HalfFrame => half_frame(socket).await,
            Self::Bombs(nth) => {
                let bomb = if nth % 2 == 0 { &MANY_PARTS } else { &MANY_UNKNOWN_FIELDS };
                while write(&mut socket, bomb).await.is_ok() {
                    if !matches!(timeout(Duration::from_secs(10), socket.next()).await, Ok(Some(Ok(_)))) {
                        return;
                    }
                    sleep(PAUSE).await;
                }
            }
            Self::Embeddings => {
                // The id in front of what is the same each time.
                ask_and_read_nothing(&mut socket, |id| format!(r#"{{"id":"{id}",{}"#, &EMBEDDINGS[1..])).await;
            }
            Self::Unread => {
                let ask = |id: &str| with(chat(id, "Go on"), &json!({ "maxTokens": 2_000 })).to_string();
                ask_and_read_nothing(&mut socket, ask).await;
            }
            Self::Hanging(count) => {
                for nth in 0..count {
                    let prompt = "x".repeat(100_000);
                    let request = with(chat(&nth.to_string(), &prompt), &json!({ "model": "gpt-6-astra" }));
                    if socket.send(Message::text(request.to_string())).await.is_err() {
                        return;
                    }
                }
                while let Some(Ok(_)) = socket.next().await {}
            }
            Self::Kept => {
                for nth in 0.. {
                    let request = chat(&nth.to_string(), "Why is the sky blue?").to_string();
                    if socket.send(Message::text(request)).await.is_err() {
                        return;
                    }
                    while let Some(Ok(frame)) = socket.next().await {
                        if !frame.to_text().is_ok_and(|text| text.contains("\"chunk\"")) {
                            break;
                        }
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

/// A frame with `payload`, of which `more` bytes are still to come.
fn frame(payload: &[u8], more: usize) -> Vec<u8> {
    let (opcode, mask) = (OpCode::Data(Data::Text), Some([0; 4]));
    let header = FrameHeader { is_final: true, opcode, mask, ..FrameHeader::default() };
    let mut frame = Vec::new();
    header.format((payload.len() + more) as u64, &mut frame).unwrap();
    frame.extend_from_slice(payload);
    frame
}

/// Past the library, which would copy and mask it.
async fn write(socket: &mut Socket, frame: &[u8]) -> io::Result<()> {
    match socket.get_mut() {
        MaybeTlsStream::Plain(connection) => connection.write_all(frame).await,
        _ => unreachable!("there is no TLS"),
    }
}

/// Sends a quarter of what it announces.
async fn half_frame(mut socket: Socket) {
    let is_sent = write(&mut socket, &HALF_FRAME).await.is_ok();
    let MaybeTlsStream::Plain(mut connection) = socket.into_inner() else { return };
    if is_sent {
        let mut rest = [0; 1_000];
        while matches!(connection.read(&mut rest).await, Ok(1..)) {}
    }
}

/// Asks for as much as is let in, reads nothing, and leaves after a while.
async fn ask_and_read_nothing(socket: &mut Socket, request: impl Fn(&str) -> String) {
    let asked = async {
        for nth in 0..50 {
            if socket.send(Message::text(request(&nth.to_string()))).await.is_err() {
                return;
            }
            sleep(PAUSE).await;
        }
        pending::<()>().await;
    };
    let _ = timeout(Duration::from_secs(40), asked).await;
}

/// A message of so many parts.
pub fn many_parts(count: usize) -> String {
    let parts = PART.repeat(count);
    format!(r#"{{"id":"a","type":"chat","messages":[{{"role":"user","content":[{}]}}]}}"#, &parts[..parts.len() - 1])
}

/// A request with so many fields that there are not.
pub fn many_unknown_fields(count: usize) -> String {
    let fields: Vec<String> = (0..count).map(|nth| format!("\"u{nth}\":0")).collect();
    format!(r#"{{"id":"a","type":"chat","prompt":"x",{}}}"#, fields.join(","))
}
