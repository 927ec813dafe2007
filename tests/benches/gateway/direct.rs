//! A caller of the simulated provider itself, as the service calls it.

use std::time::Instant;

use reqwest::Client;
use serde_json::json;

use crate::{load::Timing, processes::Bench};

pub struct Direct {
    http: Client,
    url: String,
    body: Vec<u8>,
}

impl Direct {
    pub fn new(bench: &Bench, upstream_name: &str) -> Self {
        let messages = json!([{ "role": "user", "content": "Say something about the sea and the wind." }]);
        let body = json!({
            "model": upstream_name, "messages": messages, "max_completion_tokens": 1000, "stream": true,
            "stream_options": { "include_usage": true },
        });
        Self {
            http: Client::builder().tcp_nodelay(true).tls_certs_only([]).build().unwrap(),
            url: format!("http://{}/v1/chat/completions", bench.providers.address),
            body: body.to_string().into(),
        }
    }

    /// Reads the answer to its end. The first event is not yet a chunk: it has the role and no text.
    pub async fn ask(&mut self) -> Timing {
        let started = Instant::now();
        let request = self.http.post(&self.url).header("authorization", "Bearer sk-simulated");
        let request = request.header("content-type", "application/json").body(self.body.clone());
        let mut response = request.send().await.unwrap().error_for_status().unwrap();
        let (mut events, mut first_chunk) = (0, None);
        while let Some(bytes) = response.chunk().await.unwrap() {
            events += bytes.windows(2).filter(|pair| pair == b"\n\n").count();
            if events > 1 {
                first_chunk.get_or_insert_with(|| started.elapsed());
            }
        }
        Timing { first_chunk: first_chunk.unwrap(), total: started.elapsed() }
    }
}
