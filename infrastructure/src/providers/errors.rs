//! A provider's refusals, recognised as what they are.
//!
//! Status and words contradict each other at times: a spent budget comes as 429, 400 or 402, an unknown model as 404
//! or 400, and inside a stream the status is always 200. So the provider's own names for the error come first, then
//! the status. Sources: the SDKs' and the providers' error tables, and recorded answers (`fixtures/`).

use std::{error::Error, fmt::Write as _};

use aihub_application::ports::provider::{FailureKind, ProviderError};
use http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::retry_after::retry_after;

const MAX_MESSAGE_CHARS: usize = 500;

const QUOTA_NAMES: &[&str] = &[
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "billing_hard_limit_reached",
    "billing_not_active",
    "billing_error",
    "enforced_spend_limit_reached",
    "contract_spend_limit_reached",
];
/// Anthropic says both with a plain 400 `invalid_request_error`.
const QUOTA_PHRASES: &[&str] = &["credit balance is too low", "reached your specified api usage limits"];
const CONTEXT_NAMES: &[&str] = &["context_length_exceeded", "exceed_context_size_error"];
/// Anthropic (two), vLLM, Ollama, and llama.cpp for embeddings, which it refuses with a 500.
const CONTEXT_PHRASES: &[&str] = &[
    "prompt is too long",
    "exceed context limit",
    "maximum context length",
    "exceeds the context length",
    "is too large to process",
];
const MODEL_NAMES: &[&str] = &["model_not_found", "not_found_error", "NotFoundError"];
const OVERLOAD_NAMES: &[&str] =
    &["overloaded_error", "server_is_overloaded", "service_unavailable_error", "unavailable_error"];
/// Google, with a 400.
const KEY_NAMES: &[&str] = &["API_KEY_INVALID"];

/// An answer with another status than a success.
pub(super) fn refused(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> ProviderError {
    let said = Said::from_body(body);
    let kind = said.named_kind().unwrap_or_else(|| kind_of_status(status.as_u16()));
    let mut error = said.into_error(kind, status.as_u16());
    if kind != FailureKind::QuotaExceeded {
        error.retry_after = retry_after(headers, &error.message);
    }
    error
}

/// An error inside an HTTP 200, in any of its forms: `{"error":{…}}`, `{"type":"error","code","message"}`,
/// `{"object":"error",…}`, `{"error":"…"}`.
pub(super) fn in_answer(data: &[u8]) -> ProviderError {
    let said = Said::from_body(data);
    let kind = said.named_kind().unwrap_or_else(|| match said.number {
        Some(status @ 400..=599) => kind_of_status(status),
        _ => said.kind_of_type(),
    });
    let mut error = said.into_error(kind, 200);
    if kind != FailureKind::QuotaExceeded {
        error.retry_after = retry_after(&HeaderMap::new(), &error.message);
    }
    error
}

/// A request that cannot be said in the provider's language.
pub(crate) fn invalid_request(message: &str) -> ProviderError {
    failure(FailureKind::InvalidRequest, None, message)
}

pub(crate) fn malformed(what: &impl ToString) -> ProviderError {
    failure(FailureKind::Malformed, Some(200), &what.to_string())
}

pub(super) fn timed_out(status: Option<u16>, message: &str) -> ProviderError {
    failure(FailureKind::Timeout, status, message)
}

/// A call that never got a status, or an answer (`status`) whose connection broke. With the chain of causes, of which
/// only the last says what happened ("connection refused").
pub(super) fn transport(error: reqwest::Error, status: Option<u16>) -> ProviderError {
    let kind = if error.is_timeout() && !error.is_connect() { FailureKind::Timeout } else { FailureKind::Connection };
    let error = error.without_url();
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(message, ": {error}");
        cause = error.source();
    }
    failure(kind, status, &message)
}

fn failure(kind: FailureKind, status: Option<u16>, message: &str) -> ProviderError {
    let message = message.chars().take(MAX_MESSAGE_CHARS).collect();
    ProviderError { kind, status, message, retry_after: None }
}

/// What an error's body says about it.
struct Said {
    /// `code`, `type`, Anthropic's `details.error_code` and Google's `details[].reason`, the ones that are there.
    names: Vec<String>,
    /// A `code` that is an HTTP status (llama.cpp, vLLM).
    number: Option<u16>,
    message: String,
}

impl Said {
    fn from_body(body: &[u8]) -> Self {
        let Ok(json) = serde_json::from_slice::<Value>(body) else {
            let message = String::from_utf8_lossy(body).trim().to_owned();
            return Self { names: Vec::new(), number: None, message };
        };
        let error = json.get("error").filter(|error| !error.is_null()).unwrap_or(&json);
        let names = [&error["code"], &error["type"], &error["details"]["error_code"]];
        let reasons = error["details"].as_array().into_iter().flatten().map(|detail| &detail["reason"]);
        let message = [&error["message"], error, &json["detail"], &error["details"]];
        Self {
            names: names.into_iter().chain(reasons).filter_map(Value::as_str).map(Into::into).collect(),
            number: error["code"].as_u64().and_then(|code| u16::try_from(code).ok()),
            message: message.into_iter().find_map(Value::as_str).unwrap_or_default().to_owned(),
        }
    }

    fn is_named(&self, names: &[&str]) -> bool {
        self.names.iter().any(|name| names.contains(&name.as_str()))
    }

    /// The kinds that a name or a phrase gives away whatever the status.
    fn named_kind(&self) -> Option<FailureKind> {
        let message = self.message.to_lowercase();
        let says = |phrases: &[&str]| phrases.iter().any(|phrase| message.contains(phrase));
        if self.is_named(QUOTA_NAMES) || says(QUOTA_PHRASES) {
            Some(FailureKind::QuotaExceeded)
        } else if self.is_named(CONTEXT_NAMES) || says(CONTEXT_PHRASES) {
            Some(FailureKind::ContextTooLong)
        } else if self.is_named(MODEL_NAMES) {
            Some(FailureKind::ModelUnavailable)
        } else if self.is_named(OVERLOAD_NAMES) {
            Some(FailureKind::Overloaded)
        } else if self.is_named(KEY_NAMES) {
            Some(FailureKind::Unauthorized)
        } else {
            None
        }
    }

    /// What is left to go by where the status is 200.
    fn kind_of_type(&self) -> FailureKind {
        let kinds: [(&[&str], _); 4] = [
            (&["rate_limit_error", "rate_limit_exceeded", "slow_down"], FailureKind::RateLimited),
            (&["authentication_error", "permission_error", "invalid_api_key"], FailureKind::Unauthorized),
            (&["timeout_error"], FailureKind::Timeout),
            (&["invalid_request_error", "request_too_large", "BadRequestError"], FailureKind::InvalidRequest),
        ];
        kinds.into_iter().find(|(names, _)| self.is_named(names)).map_or(FailureKind::ServerError, |(_, kind)| kind)
    }

    fn into_error(self, kind: FailureKind, status: u16) -> ProviderError {
        if kind == FailureKind::Unauthorized {
            // The provider's words quote our key, and are no business of the client's.
            return failure(kind, Some(status), "the provider refused our credentials");
        }
        if self.message.is_empty() {
            return failure(
                kind,
                Some(status),
                &format!("the provider answered HTTP {status} with an error and no message"),
            );
        }
        failure(kind, Some(status), &self.message)
    }
}

fn kind_of_status(status: u16) -> FailureKind {
    match status {
        401 | 403 => FailureKind::Unauthorized,
        402 => FailureKind::QuotaExceeded,
        404 | 410 => FailureKind::ModelUnavailable,
        408 | 504 => FailureKind::Timeout,
        // A conflict is the provider's own, and every official SDK retries it.
        409 => FailureKind::ServerError,
        429 => FailureKind::RateLimited,
        503 | 529 => FailureKind::Overloaded,
        400..=499 => FailureKind::InvalidRequest,
        _ => FailureKind::ServerError,
    }
}

#[cfg(test)]
mod tests;
