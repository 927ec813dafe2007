//! Recorded traffic, and a real server on 127.0.0.1 that answers with it.

use std::{collections::VecDeque, fmt::Write as _, sync::Arc};

use aihub_application::{
    ports::provider::{Delta, GenerateCall, ProviderError, Reached, prompt::Prompt},
    request::AnswerRequest,
};
use aihub_domain::request::event::RequestKind;
use axum::{Router, body::Body, extract::Request, http::HeaderMap, response::Response};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::{Mutex, mpsc},
    task::JoinSet,
};

use crate::providers::{
    answer::{Decode, stream_deltas},
    http::{ApiKey, ProviderHttp},
};

/// One answer as it was recorded.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Recorded {
    pub(crate) fn stream(body: impl Into<String>) -> Self {
        Self { status: 200, headers: vec![("content-type".into(), "text/event-stream".into())], body: body.into() }
    }

    pub(crate) fn json(status: u16, body: impl Into<String>) -> Self {
        Self { status, headers: vec![("content-type".into(), "application/json".into())], body: body.into() }
    }
}

pub(crate) fn file(path: &str) -> String {
    let path = format!("{}/fixtures/{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub(crate) fn json_file(path: &str) -> Value {
    serde_json::from_str(&file(path)).unwrap()
}

/// The requests and answers of a recording.
pub(crate) fn recorded(path: &str) -> Vec<(Value, Recorded)> {
    let interactions = json_file(path)["interactions"].as_array().unwrap().clone();
    let read = |interaction: Value| {
        let response = &interaction["response"];
        let headers = response["headers"].as_object().unwrap().iter();
        let answer = Recorded {
            status: response["status"].as_u64().unwrap().try_into().unwrap(),
            headers: headers.map(|(name, value)| (name.clone(), value.as_str().unwrap().into())).collect(),
            body: response["body"].as_str().unwrap().into(),
        };
        (interaction["request"]["body"].clone(), answer)
    };
    interactions.into_iter().map(read).collect()
}

/// A stream that was recorded as one event's JSON a line, put back into the form that `path`'s provider sends.
pub(crate) fn recorded_lines(path: &str) -> String {
    let mut body = String::new();
    for line in file(path).lines() {
        if path.starts_with("anthropic") {
            let event: Value = serde_json::from_str(line).unwrap();
            let _ = write!(body, "event: {}\ndata: {line}\n\n", event["type"].as_str().unwrap());
        } else {
            let _ = write!(body, "data: {line}\n\n");
        }
    }
    if path.starts_with("openai") {
        body.push_str("data: [DONE]\n\n");
    }
    body
}

/// What happens to the connection behind the last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Close,
    Tear,
    Hang,
}

/// A request as the server saw it.
#[derive(Debug)]
pub(crate) struct Seen {
    pub method: String,
    pub path: String,
    pub query: Option<String>,
    pub headers: HeaderMap,
    /// What is not JSON is a text.
    pub body: Value,
}

pub(crate) struct Server {
    pub base_url: String,
    seen: mpsc::UnboundedReceiver<Seen>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Answers one request after another with `answers`.
    pub(crate) async fn start(answers: Vec<(Recorded, End)>) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), answers)
    }

    /// For answers that say where they are.
    pub(crate) fn start_on(listener: TcpListener, answers: Vec<(Recorded, End)>) -> Self {
        let base_url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, seen) = mpsc::unbounded_channel();
        let answers = Arc::new(Mutex::new(VecDeque::from(answers)));
        let handler = move |request: Request| async move {
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
            let text = || Value::String(String::from_utf8_lossy(&body).into_owned());
            let seen = Seen {
                method: parts.method.to_string(),
                path: parts.uri.path().into(),
                query: parts.uri.query().map(Into::into),
                headers: parts.headers,
                body: serde_json::from_slice(&body).unwrap_or_else(|_| text()),
            };
            sender.send(seen).unwrap();
            let (answer, end) = answers.lock().await.pop_front().unwrap();
            response(&answer, end)
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await.unwrap() });
        Self { base_url, seen, _tasks: tasks }
    }

    pub(crate) async fn one(answer: Recorded) -> Self {
        Self::start(vec![(answer, End::Close)]).await
    }

    pub(crate) async fn seen(&mut self) -> Seen {
        self.seen.recv().await.unwrap()
    }

    pub(crate) fn saw_nothing(&mut self) -> bool {
        self.seen.try_recv().is_err()
    }

    pub(crate) fn settings(&self) -> ProviderHttp {
        ProviderHttp::new(&self.base_url, Some(ApiKey::new("sk-test")))
    }
}

fn response(answer: &Recorded, end: End) -> Response {
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(name, value);
    }
    // In pieces that know nothing of events.
    let pieces: Vec<_> = answer.body.as_bytes().chunks(97).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let pieces = stream::iter(pieces);
    let body = match end {
        End::Close => Body::from_stream(pieces),
        // The server sends what it has before it looks for the error only if it has to wait for that.
        End::Tear => Body::from_stream(pieces.chain(stream::once(async {
            tokio::task::yield_now().await;
            Err(std::io::Error::other("torn"))
        }))),
        End::Hang => Body::from_stream(pieces.chain(stream::pending())),
    };
    response.body(body).unwrap()
}

pub(crate) fn call(stream: bool) -> GenerateCall {
    generate(prompt(serde_json::json!({ "messages": [{ "role": "user", "content": "Hello" }] })), stream)
}

/// What a client says, as the product takes it.
pub(crate) fn prompt(said: serde_json::Value) -> Prompt {
    let serde_json::Value::Object(fields) = said else { panic!("{said}") };
    let request = AnswerRequest::from_fields(RequestKind::Chat, fields).unwrap_or_else(|faults| panic!("{faults:?}"));
    (*request.prompt).clone()
}

pub(crate) fn generate(prompt: Prompt, stream: bool) -> GenerateCall {
    GenerateCall {
        request_id: "0190-request".into(),
        model: "some-model".into(),
        prompt: Arc::new(prompt),
        max_output_tokens: 100,
        is_capped_by_context: false,
        stream,
        reached: Reached::default(),
    }
}

/// A decoder's deltas for a stream that arrives in `pieces`.
pub(in crate::providers) async fn decode(
    decoder: impl Decode,
    pieces: Vec<Bytes>,
) -> Vec<Result<Delta, ProviderError>> {
    stream_deltas(stream::iter(pieces.into_iter().map(Ok)), decoder).collect().await
}

/// One line a delta.
pub(crate) fn script<'a>(deltas: impl IntoIterator<Item = &'a Result<Delta, ProviderError>>) -> String {
    let mut script = String::new();
    for delta in deltas {
        let _ = match delta {
            Ok(Delta::Text(text)) => writeln!(script, "text {text:?}"),
            Ok(Delta::Thinking { bytes }) => writeln!(script, "thinking {bytes} bytes"),
            Ok(Delta::ToolCall(call)) => {
                let (id, name) = (call.id.as_deref().unwrap_or("-"), call.name.as_deref().unwrap_or("-"));
                let broken = call.broken.as_deref().map(|broken| format!(" ({broken})")).unwrap_or_default();
                writeln!(script, "tool {} {id} {name} {}{broken}", call.index, call.arguments)
            }
            Ok(Delta::Usage(usage)) => writeln!(
                script,
                "usage input {} cached {} written {} output {} reasoning {}",
                usage.input, usage.cached_input, usage.cache_write, usage.output, usage.reasoning
            ),
            Ok(Delta::Model(model)) => writeln!(script, "model {model}"),
            Ok(Delta::Flaw(flaw)) => writeln!(script, "flaw {flaw}"),
            Ok(Delta::Finish { reason, said: None }) => writeln!(script, "finish {reason:?}"),
            Ok(Delta::Finish { reason, said: Some(said) }) => writeln!(script, "finish {reason:?} ({said})"),
            Err(error) => {
                writeln!(script, "error {:?} {:?} {} {:?}", error.kind, error.status, error.message, error.retry_after)
            }
        };
    }
    script
}

/// The script of a stream in one piece.
pub(in crate::providers) async fn script_of(decoder: impl Decode, body: &str) -> String {
    script(&decode(decoder, vec![Bytes::copy_from_slice(body.as_bytes())]).await)
}

/// The deltas of an answer in one piece.
pub(in crate::providers) async fn read_body(decoder: impl Decode, body: &str) -> Result<Vec<Delta>, ProviderError> {
    decode(decoder, vec![Bytes::copy_from_slice(body.as_bytes())]).await.into_iter().collect()
}

/// That a stream means the same however its bytes are cut: in two at every position, and byte by byte.
pub(in crate::providers) async fn assert_cuts_do_not_matter<D: Decode + Default>(body: &str) {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let whole = decode(D::default(), vec![body.clone()]).await;
    assert!(whole.len() > 1 && whole.iter().all(Result::is_ok), "{whole:?}");
    for at in 1..body.len() {
        let pieces = vec![body.slice(..at), body.slice(at..)];
        assert_eq!(decode(D::default(), pieces).await, whole, "cut at {at}");
    }
    let bytes = (0..body.len()).map(|at| body.slice(at..=at)).collect();
    assert_eq!(decode(D::default(), bytes).await, whole, "byte by byte");
}

pub(crate) async fn collect(
    answer: Result<aihub_application::ports::provider::DeltaStream, ProviderError>,
) -> Result<Vec<Delta>, ProviderError> {
    answer?.try_collect().await
}
