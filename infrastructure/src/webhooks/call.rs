//! One attempt: a POST, and what its answer means.

use std::{error::Error, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use http::{HeaderMap, StatusCode, header};
use reqwest::{Client, Response, Url, dns::Resolve, redirect::Policy};

use super::address::{NoPublicAddress, PublicResolver};
use crate::standard_webhooks::{WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From looking the name up to the last byte of the answer that is read.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What the receiver says is of no interest, but some are troubled when they are cut short.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Between an attempt and the next one, by how many there were; from then on the last.
const WAITS: [Duration; 6] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_mins(2),
    Duration::from_mins(10),
    Duration::from_hours(1),
    Duration::from_hours(3),
];
/// The longest that a receiver can ask to be left alone.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);

pub(super) struct Call {
    pub(super) url: Url,
    pub(super) id: String,
    pub(super) timestamp: i64,
    pub(super) signature: String,
    pub(super) body: Vec<u8>,
    /// With this one.
    pub(super) attempts: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) status: Option<u16>,
    pub(super) error: Option<&'static str>,
    pub(super) then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Delivered,
    GiveUp,
    Again(Duration),
}

impl Outcome {
    pub(super) fn given_up(error: &'static str) -> Self {
        Self { status: None, error: Some(error), then: Then::GiveUp }
    }

    /// There was nothing to send yet.
    pub(super) fn unavailable(attempts: i32) -> Self {
        Self { status: None, error: Some("unavailable"), then: Then::Again(wait(attempts)) }
    }
}

/// A client that goes where it is told and no further, past every proxy. It keeps no connection: each call looks again
/// where its name leads.
pub(super) fn client(resolver: Arc<dyn Resolve>, allow_private: bool) -> Result<Client, reqwest::Error> {
    // reqwest takes the process's TLS provider, see `providers::http`.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let resolver: Arc<dyn Resolve> = if allow_private { resolver } else { Arc::new(PublicResolver(resolver)) };
    let builder = || {
        Client::builder()
            .user_agent(concat!("aihub/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .pool_max_idle_per_host(0)
            .redirect(Policy::none())
            .no_proxy()
            .https_only(!allow_private)
            .dns_resolver(resolver.clone())
    };
    // A machine without CA certificates can have receivers over plain HTTP.
    builder().build().or_else(|_| builder().tls_certs_only([]).build())
}

pub(super) async fn post(client: &Client, call: Call, now: DateTime<Utc>) -> Outcome {
    let request = client
        .post(call.url)
        .header(header::CONTENT_TYPE, "application/json")
        .header(WEBHOOK_ID, call.id)
        .header(WEBHOOK_TIMESTAMP, call.timestamp)
        .header(WEBHOOK_SIGNATURE, call.signature)
        .body(call.body);
    match request.send().await {
        Ok(response) => {
            let outcome = judge(response.status(), response.headers(), call.attempts, now);
            drain(response).await;
            outcome
        }
        Err(error) => Outcome { status: None, error: Some(name(&error)), then: Then::Again(wait(call.attempts)) },
    }
}

fn judge(status: StatusCode, headers: &HeaderMap, attempts: i32, now: DateTime<Utc>) -> Outcome {
    let (error, then) = if status.is_success() {
        (None, Then::Delivered)
    } else if status == StatusCode::GONE {
        (Some("status"), Then::GiveUp)
    } else {
        let asked = retry_after(headers, now).unwrap_or_default().min(MAX_RETRY_AFTER);
        (Some("status"), Then::Again(wait(attempts).max(asked)))
    };
    Outcome { status: Some(status.as_u16()), error, then }
}

/// In seconds, or a date.
fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => (DateTime::parse_from_rfc2822(text).ok()?.to_utc() - now).to_std().ok(),
    }
}

/// Up to a quarter longer than the plan has it, so that what failed together does not come back together.
fn wait(attempts: i32) -> Duration {
    let nth = usize::try_from(attempts.saturating_sub(1)).unwrap_or_default();
    let planned = WAITS[nth.min(WAITS.len() - 1)];
    planned.mul_f64(1.0 + rand::random::<f64>() / 4.0)
}

async fn drain(mut response: Response) {
    let mut bytes = 0;
    while bytes < MAX_ANSWER_BYTES
        && let Ok(Some(chunk)) = response.chunk().await
    {
        bytes += chunk.len();
    }
}

/// The error's own words have the URL in them.
fn name(error: &reqwest::Error) -> &'static str {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if inner.is::<NoPublicAddress>() {
            return "private_address";
        }
        cause = inner.source();
    }
    if error.is_timeout() { "timeout" } else { "connection" }
}

#[cfg(test)]
mod tests;
