//! Anthropic's side: messages and their token count, their headers and errors.

use aihub_application::ports::clock::{Clock as _, SystemClock};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use chrono::SecondsFormat;

use self::error::AnthropicError;
use super::{
    SimulatedProvider, cases,
    knobs::{Knobs, suffix},
    models::{self, Model},
};

pub(super) mod error;
pub(super) mod messages;
mod reply;
mod request;
mod wire;

pub(super) const VERSION: &str = "anthropic-version";
/// The key that is refused. Any other is taken.
const INVALID_KEY: &str = "sk-invalid";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V2023_06_01,
    /// Without sampling parameters.
    V2026_10_21,
}

impl Version {
    fn of(headers: &HeaderMap) -> Result<Self, AnthropicError> {
        match headers.get(VERSION).map(HeaderValue::as_bytes) {
            Some(b"2023-06-01") => Ok(Self::V2023_06_01),
            Some(b"2026-10-21") => Ok(Self::V2026_10_21),
            Some(other) => {
                let other = String::from_utf8_lossy(other);
                Err(AnthropicError::invalid_request(format!("{VERSION}: \"{other}\" is not a valid version")))
            }
            None => Err(AnthropicError::invalid_request(format!("{VERSION}: header is required"))),
        }
    }
}

/// The headers of an answer, as recorded; the limits are never near.
pub(super) fn headers(call: u64) -> HeaderMap {
    const LIMITS: [[(&str, &str); 2]; 4] = [
        [("anthropic-ratelimit-requests-limit", "10000"), ("anthropic-ratelimit-requests-remaining", "9999")],
        [("anthropic-ratelimit-tokens-limit", "12000000"), ("anthropic-ratelimit-tokens-remaining", "12000000")],
        [
            ("anthropic-ratelimit-input-tokens-limit", "10000000"),
            ("anthropic-ratelimit-input-tokens-remaining", "10000000"),
        ],
        [
            ("anthropic-ratelimit-output-tokens-limit", "2000000"),
            ("anthropic-ratelimit-output-tokens-remaining", "2000000"),
        ],
    ];
    const RESETS: [&str; 4] = [
        "anthropic-ratelimit-requests-reset",
        "anthropic-ratelimit-tokens-reset",
        "anthropic-ratelimit-input-tokens-reset",
        "anthropic-ratelimit-output-tokens-reset",
    ];
    let mut headers = short_headers(call);
    for (name, value) in LIMITS.as_flattened() {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    if let Ok(now) = HeaderValue::try_from(SystemClock.now().to_rfc3339_opts(SecondsFormat::Secs, true)) {
        for name in RESETS {
            headers.insert(HeaderName::from_static(name), now.clone());
        }
    }
    headers
}

/// The headers of an error.
fn short_headers(call: u64) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(24);
    let organization = HeaderValue::from_static("org-simulated");
    headers.insert(HeaderName::from_static("anthropic-organization-id"), organization);
    if let Ok(id) = HeaderValue::try_from(request_id(call)) {
        headers.insert(HeaderName::from_static("request-id"), id);
    }
    headers
}

fn request_id(call: u64) -> String {
    format!("req_sim{call:021x}")
}

/// Both forms of the key are taken; `x-api-key` goes first, as with Anthropic.
pub(super) fn authenticate(headers: &HeaderMap) -> Result<(), AnthropicError> {
    let header = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let bearer = || header(header::AUTHORIZATION.as_str())?.strip_prefix("Bearer ");
    match header("x-api-key").or_else(bearer).map(str::trim) {
        None | Some("") => Err(AnthropicError::authentication("x-api-key header is required")),
        Some(INVALID_KEY) => Err(AnthropicError::authentication("invalid x-api-key")),
        Some(_) => Ok(()),
    }
}

/// The model that a name with knobs means.
fn find_model(name: Option<&str>) -> Result<(&'static Model, Knobs), AnthropicError> {
    let name = name.ok_or_else(|| AnthropicError::invalid_request("model: Field required".to_owned()))?;
    if let Some(case) = cases::named(cases::of(SimulatedProvider::Claude), name) {
        return Ok((models::default(SimulatedProvider::Claude), Knobs { case: Some(case), ..Knobs::default() }));
    }
    let (name, knobs) = suffix::parse(name).map_err(AnthropicError::invalid_request)?;
    let model = models::find(SimulatedProvider::Claude, name)
        .ok_or_else(|| AnthropicError::not_found(format!("model: {name}")))?;
    Ok((model, knobs))
}
