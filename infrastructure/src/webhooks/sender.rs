//! Telling: every node takes what is due, makes the message out of the log, signs it and sends it.

use std::{sync::Arc, time::Duration};

use aihub_application::ports::{
    clock::Clock,
    jobs::JobKind,
    vault::{ContentVault, VaultError},
};
use aihub_domain::content::ContentRef;
use chrono::SecondsFormat;
use futures::future::BoxFuture;
use metrics::counter;
use reqwest::Client;
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::{
    address::{SystemResolver, check_url},
    call::{self, Call, Outcome},
    leases::{self, Leased},
};
use crate::standard_webhooks::{WebhookMasters, sign};

/// How often is looked for what is due.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const FORGET_INTERVAL: Duration = Duration::from_hours(1);
/// The most attempts of one node at a time.
const MAX_IN_FLIGHT: usize = 32;

/// What there is to tell of a job; `None` where there is no such job.
pub type Describe = Arc<dyn Fn(JobKind, String) -> BoxFuture<'static, anyhow::Result<Option<Described>>> + Send + Sync>;

pub struct Described {
    /// What the client wrote; in it, as `webhookUrl`, where it wants to be told.
    pub content: ContentRef,
    /// The answer that the client would get if it asked.
    pub data: Value,
}

/// What is configured.
#[derive(Debug, Clone)]
pub struct WebhookOptions {
    /// Receivers may have addresses that are not public, and plain HTTP.
    pub allow_private: bool,
    /// All of them sign.
    pub masters: WebhookMasters,
}

pub struct WebhookSender {
    pool: PgPool,
    vault: Arc<dyn ContentVault>,
    clock: Arc<dyn Clock>,
    describe: Describe,
    options: WebhookOptions,
    client: Client,
}

/// Of a job's content.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Content {
    webhook_url: Option<String>,
}

/// Why there is nothing to send.
enum Unmade {
    /// Something is away.
    Yet(anyhow::Error),
    Never(&'static str),
}

impl WebhookSender {
    pub fn new(
        pool: PgPool,
        vault: Arc<dyn ContentVault>,
        clock: Arc<dyn Clock>,
        describe: Describe,
        options: WebhookOptions,
    ) -> Result<Self, reqwest::Error> {
        let client = call::client(Arc::new(SystemResolver), options.allow_private)?;
        Ok(Self { pool, vault, clock, describe, options, client })
    }

    /// Until `stop`, and then until what is under way has its answer: some ten seconds at most.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut poll = interval(POLL_INTERVAL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut forget = interval(FORGET_INTERVAL);
        // Tasks, because one that waits for its turn with a connection must not be kept from using it by this loop.
        let mut in_flight = JoinSet::new();
        let mut is_backlog = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = in_flight.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(error.message = %error, "an attempt at a webhook broke down; it is made again");
                    }
                    if is_backlog {
                        poll.reset_immediately();
                    }
                }
                _ = poll.tick(), if in_flight.len() < MAX_IN_FLIGHT => {
                    let free = MAX_IN_FLIGHT - in_flight.len();
                    let leased = leases::lease(&self.pool, free).await.unwrap_or_else(|error| {
                        tracing::warn!(error.message = %error, "webhooks cannot be looked up");
                        Vec::new()
                    });
                    is_backlog = leased.len() == free;
                    for leased in leased {
                        in_flight.spawn(self.clone().attempt(leased));
                    }
                }
                _ = forget.tick() => {
                    if let Err(error) = leases::forget(&self.pool).await {
                        tracing::warn!(error.message = %error, "old webhooks cannot be forgotten");
                    }
                }
            }
        }
        while in_flight.join_next().await.is_some() {}
    }

    async fn attempt(self: Arc<Self>, leased: Leased) {
        let outcome = match self.call(&leased).await {
            Ok(call) => call::post(&self.client, call, self.clock.now()).await,
            Err(Unmade::Never(reason)) => Outcome::given_up(reason),
            Err(Unmade::Yet(error)) => {
                tracing::warn!(job.id = %leased.job_id, error.message = %error, "a webhook cannot be made yet");
                Outcome::unavailable(leased.attempts)
            }
        };
        match leases::finish(&self.pool, &leased, &outcome).await {
            Ok(Some(state)) => {
                counter!("aihub_webhook_attempts_total", "outcome" => state.clone()).increment(1);
                if state == "given_up" {
                    tracing::warn!(
                        job.id = %leased.job_id, webhook.attempts = leased.attempts, http.status = ?outcome.status,
                        reason = ?outcome.error, "a webhook was given up",
                    );
                }
            }
            // Another node has it, or it is to be told anew.
            Ok(None) => {}
            // It is told again, under the same id.
            Err(error) => {
                tracing::warn!(job.id = %leased.job_id, error.message = %error, "a webhook's outcome was not kept");
            }
        }
    }

    async fn call(&self, leased: &Leased) -> Result<Call, Unmade> {
        let unreadable = Unmade::Never("unreadable");
        let Some(kind) = JobKind::parse(&leased.job_kind) else { return Err(unreadable) };
        let described = (self.describe)(kind, leased.job_id.clone()).await.map_err(Unmade::Yet)?;
        let Described { content, data } = described.ok_or(unreadable)?;
        let url = self.url(&content).await?;
        let url = check_url(&url, self.options.allow_private).map_err(|_| Unmade::Never("refused_url"))?;
        let occurred_at = leased.occurred_at.to_rfc3339_opts(SecondsFormat::Millis, true);
        let body =
            json!({ "type": leased.event_type, "timestamp": occurred_at, "data": data }).to_string().into_bytes();
        let secrets = self.options.masters.secrets(&leased.account);
        let timestamp = self.clock.now().timestamp();
        let signature = sign(&secrets, &leased.delivery_id, timestamp, &body);
        Ok(Call { url, id: leased.delivery_id.clone(), timestamp, signature, body, attempts: leased.attempts })
    }

    async fn url(&self, content: &ContentRef) -> Result<Zeroizing<String>, Unmade> {
        let unreadable = Unmade::Never("unreadable");
        let content = match self.vault.open(content).await {
            Ok(content) => Zeroizing::new(content),
            Err(VaultError::Erased) => return Err(Unmade::Never("erased")),
            Err(VaultError::Unreadable | VaultError::Missing | VaultError::NotKept) => return Err(unreadable),
            Err(VaultError::Unavailable(error)) => return Err(Unmade::Yet(error)),
        };
        let content: Option<Content> = serde_json::from_slice(&content).ok();
        content.and_then(|content| content.webhook_url).map(Zeroizing::new).ok_or(unreadable)
    }
}
