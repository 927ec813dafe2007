//! OpenAI's side: chat completions, embeddings and videos, their headers and errors.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};

use self::error::OpenAiError;
use super::{
    SimulatedProvider, cases,
    knobs::{Knobs, suffix},
    models::{self, Model},
};

pub(super) mod chat;
pub(super) mod embeddings;
pub(super) mod error;
mod request;
pub(super) mod videos;
mod wire;

/// The key that is refused. Any other is taken.
pub(super) const INVALID_KEY: &str = "sk-invalid";

/// The headers of an answer, as recorded; the limits are never near.
pub(super) fn headers(call: u64, processing: Duration) -> HeaderMap {
    const FIXED: [(&str, &str); 9] = [
        ("access-control-expose-headers", "X-Request-ID"),
        ("openai-version", "2020-10-01"),
        ("openai-organization", "org-simulated"),
        ("x-ratelimit-limit-requests", "10000"),
        ("x-ratelimit-limit-tokens", "200000"),
        ("x-ratelimit-remaining-requests", "9999"),
        ("x-ratelimit-remaining-tokens", "199977"),
        ("x-ratelimit-reset-requests", "8.64s"),
        ("x-ratelimit-reset-tokens", "6ms"),
    ];
    let mut headers = HeaderMap::with_capacity(16);
    for (name, value) in FIXED {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let processing_ms = u64::try_from(processing.as_millis()).unwrap_or(u64::MAX);
    headers.insert(HeaderName::from_static("openai-processing-ms"), processing_ms.into());
    if let Ok(id) = HeaderValue::try_from(request_id(call)) {
        headers.insert(HeaderName::from_static("x-request-id"), id);
    }
    headers
}

fn request_id(call: u64) -> String {
    format!("req_sim{call:029x}")
}

pub(super) fn authenticate(headers: &HeaderMap) -> Result<(), OpenAiError> {
    let key = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    match key.map(str::trim) {
        None | Some("") => Err(OpenAiError::missing_key()),
        Some(INVALID_KEY) => Err(OpenAiError::invalid_key(INVALID_KEY)),
        Some(_) => Ok(()),
    }
}

/// The model that a name with knobs means.
fn find_model(name: Option<&str>) -> Result<(&'static Model, Knobs), OpenAiError> {
    let Some(name) = name else {
        return Err(OpenAiError::invalid_request("you must provide a model parameter".to_owned()));
    };
    let chats = cases::of(SimulatedProvider::OpenAi);
    for (cases, model) in [
        (chats, models::default(SimulatedProvider::OpenAi)),
        (cases::of_embeddings(), models::default_embedding()),
        (cases::of_videos(), models::default_video()),
    ] {
        if let Some(case) = cases::named(cases, name) {
            return Ok((model, Knobs { case: Some(case), ..Knobs::default() }));
        }
    }
    let (name, knobs) = suffix::parse(name).map_err(|why| OpenAiError::invalid_request(why).with_param("model"))?;
    let model = models::find(SimulatedProvider::OpenAi, name).ok_or_else(|| OpenAiError::model_not_found(name))?;
    Ok((model, knobs))
}
