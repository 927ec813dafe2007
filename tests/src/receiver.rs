//! A client's server, which is told of things.

use axum::{Router, body::Bytes, http::HeaderMap};
use serde_json::Value;
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tokio_util::task::TaskTracker;

use crate::PATIENCE;

pub struct Receiver {
    pub url: String,
    messages: mpsc::Receiver<(HeaderMap, Bytes)>,
}

impl Receiver {
    pub async fn start() -> Self {
        let (told, messages) = mpsc::channel(64);
        let receive = move |headers: HeaderMap, body: Bytes| {
            let told = told.clone();
            async move { told.send((headers, body)).await.unwrap() }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        TaskTracker::new().spawn(axum::serve(listener, Router::new().fallback(receive)).into_future());
        Self { url, messages }
    }

    /// The next message, which whoever knows `secret` believes.
    pub async fn next(&mut self, secret: &str) -> Value {
        let (headers, message) = timeout(PATIENCE, self.messages.recv()).await.expect("a message comes").unwrap();
        standardwebhooks::Webhook::new(secret).unwrap().verify(&message, &headers).unwrap();
        serde_json::from_slice(&message).unwrap()
    }
}
