//! A server of a JWK set on 127.0.0.1 that can be rotated, broken and counted.

use std::{
    future,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use http::{StatusCode, header::CACHE_CONTROL};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore},
};
use tokio_util::task::TaskTracker;

use super::signer::Signer;

#[derive(Clone)]
pub enum Answer {
    Keys {
        set: Value,
        cache_control: &'static str,
    },
    Status(StatusCode),
    Body(Vec<u8>),
    Redirect(String),
    /// The connection is accepted and nothing is ever answered.
    Nothing,
}

pub struct IdentityProvider {
    pub address: SocketAddr,
    answer: Mutex<Answer>,
    fetches: AtomicUsize,
    /// A fetch has come in.
    pub arrived: Notify,
    /// Each answer takes a permit. There are enough of them, unless a test takes them away.
    pub permits: Semaphore,
}

impl IdentityProvider {
    pub async fn start(signers: &[&Signer]) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let provider = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            answer: Mutex::new(keys(signers)),
            fetches: AtomicUsize::new(0),
            arrived: Notify::new(),
            permits: Semaphore::new(1_000),
        });
        let router = Router::new().route("/jwks", get(answer)).with_state(provider.clone());
        TaskTracker::new().spawn(async move { axum::serve(listener, router).await.unwrap() });
        provider
    }

    pub fn url(&self) -> String {
        format!("http://{}/jwks", self.address)
    }

    pub fn rotate_to(&self, signers: &[&Signer]) {
        self.answer_with(keys(signers));
    }

    pub fn answer_with(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    pub fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }
}

fn keys(signers: &[&Signer]) -> Answer {
    let keys: Vec<&Value> = signers.iter().map(|signer| &signer.jwk).collect();
    Answer::Keys { set: json!({ "keys": keys }), cache_control: "public" }
}

async fn answer(State(provider): State<Arc<IdentityProvider>>) -> Response {
    provider.fetches.fetch_add(1, Ordering::SeqCst);
    provider.arrived.notify_one();
    provider.permits.acquire().await.unwrap().forget();
    let answer = provider.answer.lock().unwrap().clone();
    match answer {
        Answer::Keys { set, cache_control } => ([(CACHE_CONTROL, cache_control)], set.to_string()).into_response(),
        Answer::Status(status) => status.into_response(),
        Answer::Body(body) => body.into_response(),
        Answer::Redirect(to) => Redirect::temporary(&to).into_response(),
        Answer::Nothing => future::pending().await,
    }
}
