//! Webhooks as OpenAI sends them, which is as [Standard Webhooks](https://www.standardwebhooks.com) has it: the event
//! `video.completed` or `video.failed` once a video ends, signed, and sent again while it is not taken.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use aihub_application::ports::clock::{Clock as _, SystemClock};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::{Client, Url, header::CONTENT_TYPE};
use serde::Deserialize;
use serde_json::json;
use sha2::Sha256;
use thiserror::Error;
use tokio::time::sleep_until;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    knobs::video::WebhookSending,
    videos::{Video, VideoStatus},
};

/// An event that is not taken is sent so many times in all.
pub const MAX_ATTEMPTS: u32 = 5;
/// The wait after the first attempt that failed; it doubles with each.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// For one attempt, from connecting to the status.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where events go. The JSON of `PUT /admin/webhook`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// http or https.
    pub url: String,
    /// `whsec_` and the base64 of the key.
    pub secret: String,
}

#[derive(Debug, Error)]
pub enum WebhookError {
    #[error("a webhook's url is an http(s) URL")]
    Url,
    #[error("a webhook's secret is 'whsec_' and the base64 of its key")]
    Secret,
    #[error("the HTTP client could not be set up: {0}")]
    Client(#[from] reqwest::Error),
}

/// The endpoint and the tasks that send to it.
#[derive(Default)]
pub(super) struct Webhooks {
    endpoint: RwLock<Option<Arc<Endpoint>>>,
    sending: TaskTracker,
    stop: CancellationToken,
}

struct Endpoint {
    client: Client,
    url: Url,
    key: Vec<u8>,
}

impl Webhooks {
    /// Replaces the endpoint. Videos that were created before keep theirs.
    pub fn put(&self, webhook: &Webhook) -> Result<(), WebhookError> {
        let endpoint = Endpoint::new(webhook)?;
        *self.endpoint.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(endpoint));
        Ok(())
    }

    pub fn remove(&self) {
        *self.endpoint.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Sends the event of a video that was just created, when it ends and if it was not deleted by then.
    pub fn announce(&self, video: Arc<Video>) {
        let endpoint = self.endpoint.read().unwrap_or_else(PoisonError::into_inner).clone();
        let (Some(endpoint), Some(ends)) = (endpoint, video.ends()) else { return };
        let stop = self.stop.clone();
        self.sending.spawn(async move {
            let send = async {
                sleep_until(ends).await;
                if !video.is_deleted() {
                    endpoint.deliver(&video).await;
                }
            };
            stop.run_until_cancelled(send).await
        });
    }

    /// Ends the sending when it is dropped.
    pub fn stop_on_drop(&self) -> DropGuard {
        self.stop.clone().drop_guard()
    }

    /// Ends the sending, and waits until it has.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.sending.close();
        self.sending.wait().await;
    }
}

impl Endpoint {
    fn new(Webhook { url, secret }: &Webhook) -> Result<Self, WebhookError> {
        let url = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let url = url.ok_or(WebhookError::Url)?;
        let key = secret.strip_prefix("whsec_").and_then(|key| BASE64_STANDARD.decode(key).ok());
        let key = key.filter(|key| !key.is_empty()).ok_or(WebhookError::Secret)?;
        // As for providers: losing a race to install it means that it is installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = Client::builder()
            .user_agent("aihub-simulated-providers")
            .timeout(ATTEMPT_TIMEOUT)
            .tcp_nodelay(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none());
        // A receiver over plain HTTP works on a machine without CA certificates.
        let client = if url.scheme() == "https" { builder } else { builder.tls_certs_only([]) }.build()?;
        Ok(Self { client, url, key })
    }

    async fn deliver(&self, video: &Video) {
        let kind = if video.end() == VideoStatus::Failed { "video.failed" } else { "video.completed" };
        let body = json!({"id": format!("evt_sim{:029x}", video.call), "object": "event", "type": kind,
                          "created_at": video.ended_at().timestamp(), "data": {"id": video.id()}});
        let (id, body) = (format!("wh_sim{:029x}", video.call), body.to_string());
        self.send(&id, &body).await;
        if video.knobs.webhook == Some(WebhookSending::Twice) {
            self.send(&id, &body).await;
        }
    }

    /// Until it is taken, or [`MAX_ATTEMPTS`] times.
    async fn send(&self, id: &str, body: &str) {
        for attempt in 1..=MAX_ATTEMPTS {
            let timestamp = SystemClock.now().timestamp();
            let request = self
                .client
                .post(self.url.clone())
                .header(CONTENT_TYPE, "application/json")
                .header("webhook-id", id)
                .header("webhook-timestamp", timestamp)
                .header("webhook-signature", signature(&self.key, id, timestamp, body));
            let why = match request.body(body.to_owned()).send().await {
                Ok(response) if response.status().is_success() => return,
                Ok(response) => format!("status {}", response.status()),
                Err(error) => error.without_url().to_string(),
            };
            tracing::debug!(id, attempt, why, "a simulated webhook was not taken");
            if attempt < MAX_ATTEMPTS {
                tokio::time::sleep(RETRY_AFTER * (1 << (attempt - 1))).await;
            }
        }
    }
}

/// The header `webhook-signature`, of one signature.
fn signature(key: &[u8], id: &str, timestamp: i64, body: &str) -> String {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return String::new() };
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
}
