use std::{net::SocketAddr, time::Duration};

use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    SimulatedProviders, Simulator,
    served::{Outcome, ServedCall},
};

mod anthropic;
mod gemini;
mod knobs;
mod openai;
mod served;
mod server;
mod videos;

/// No wait of these tests is meant to take so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running simulator, stopped when it is dropped, and a client for it.
struct Harness {
    addr: SocketAddr,
    simulator: Simulator,
    client: Client,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    _stop: DropGuard,
}

impl Harness {
    async fn start() -> Self {
        let providers = SimulatedProviders::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let addr = providers.local_addr().unwrap();
        let simulator = providers.simulator();
        let shutdown = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(providers.run(shutdown.clone()));
        // Any of the tests may be the first, and the others find it done.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().no_proxy().build().unwrap();
        Self { addr, simulator, client, tasks, _stop: shutdown.clone().drop_guard(), shutdown }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.addr))
    }

    async fn openai(&self, path: &str, body: &Value) -> Response {
        self.request(Method::POST, path).bearer_auth("sk-any").json(body).send().await.unwrap()
    }

    /// A chat about the sky, as fast as it goes; `more` is merged into the request.
    async fn chat(&self, knobs: &str, more: Value) -> Response {
        let model = format!("gpt-6-luna+ttft=0s+rate=0{knobs}");
        let body =
            merged(json!({"model": model, "messages": [{"role": "user", "content": "Why is the sky blue?"}]}), more);
        self.openai("/v1/chat/completions", &body).await
    }

    async fn anthropic(&self, path: &str, version: &str, body: &Value) -> Response {
        let request =
            self.request(Method::POST, path).header("x-api-key", "sk-any").header("anthropic-version", version);
        request.json(body).send().await.unwrap()
    }

    /// A message about the sky, as fast as it goes; `more` is merged into the request.
    async fn message(&self, knobs: &str, more: Value) -> Response {
        let body = json!({
            "model": format!("claude-haiku-5-5+ttft=0s+rate=0{knobs}"), "max_tokens": 1000,
            "messages": [{"role": "user", "content": "Why is the sky blue?"}],
        });
        self.anthropic("/v1/messages", "2023-06-01", &merged(body, more)).await
    }

    async fn put_knobs(&self, rule: &Value) -> Response {
        self.request(Method::PUT, "/admin/knobs").json(rule).send().await.unwrap()
    }

    /// The latest call, once it has ended as `outcome`.
    async fn served(&self, outcome: Outcome) -> ServedCall {
        let ended = async {
            loop {
                let last = self.simulator.ledger().calls_since(0).pop();
                if let Some(last) = last.filter(|last| last.outcome == outcome) {
                    return last;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let ended = timeout(PATIENCE, ended).await;
        ended.unwrap_or_else(|_| panic!("no {outcome:?} in {:?}", self.simulator.ledger().calls_since(0)))
    }
}

fn merged(mut body: Value, more: Value) -> Value {
    if let Value::Object(more) = more {
        body.as_object_mut().unwrap().extend(more);
    }
    body
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

/// The events of a whole stream: the name (empty where there is no `event:` line) and the data.
async fn events(response: Response) -> Vec<(String, String)> {
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "content-type"), Some("text/event-stream; charset=utf-8"));
    parse_events(&response.text().await.unwrap())
}

fn parse_events(text: &str) -> Vec<(String, String)> {
    assert!(text.ends_with("\n\n"), "the last event is not complete: {text:?}");
    let mut events = Vec::new();
    for event in text.split_terminator("\n\n") {
        let (mut name, mut data) = ("", "");
        for line in event.lines() {
            match line.split_once(": ").unwrap() {
                ("event", value) => name = value,
                ("data", value) => data = value,
                other => panic!("{other:?}"),
            }
        }
        events.push((name.to_owned(), data.to_owned()));
    }
    events
}

/// What arrives before the connection breaks or falls silent.
async fn read_until_cut(mut response: Response) -> (String, Result<(), reqwest::Error>) {
    let mut text = String::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => text.push_str(std::str::from_utf8(&chunk).unwrap()),
            Ok(None) => return (text, Ok(())),
            Err(error) => return (text, Err(error)),
        }
    }
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn sorted<const N: usize>(mut names: [&str; N]) -> Vec<&str> {
    names.sort_unstable();
    names.to_vec()
}
