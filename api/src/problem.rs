//! The one place where errors become what a client sees: an `error` frame on a socket, or
//! `application/problem+json` (RFC 9457) over HTTP. Both have the same code, message and details.

use std::time::Duration;

use aihub_application::{
    answer::Failed,
    error::{GatewayError, cut},
    request::AUTO,
    shares::Scope,
};
use aihub_domain::money::Microcredits;
use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::{Value, json};

use crate::auth::error::AuthError;

/// Ten faults with their fields and reasons are shorter.
const MAX_MESSAGE_BYTES: usize = 8 << 10;

/// All codes, with their status over HTTP. What each of them asks of a client stands in the README.
pub const CODES: [(&str, StatusCode); 28] = [
    ("VALIDATION_ERROR", StatusCode::BAD_REQUEST),
    ("VIDEO_NOT_OFFERED", StatusCode::BAD_REQUEST),
    ("UNAUTHORIZED", StatusCode::UNAUTHORIZED),
    ("INSUFFICIENT_CREDITS", StatusCode::PAYMENT_REQUIRED),
    ("FORBIDDEN", StatusCode::FORBIDDEN),
    ("MODEL_NOT_FOUND", StatusCode::NOT_FOUND),
    ("NOT_FOUND", StatusCode::NOT_FOUND),
    ("METHOD_NOT_ALLOWED", StatusCode::METHOD_NOT_ALLOWED),
    ("REQUEST_TIMEOUT", StatusCode::REQUEST_TIMEOUT),
    ("AMBIGUOUS_ID", StatusCode::CONFLICT),
    ("DUPLICATE_REQUEST", StatusCode::CONFLICT),
    ("CONFLICT", StatusCode::CONFLICT),
    ("ANSWER_GONE", StatusCode::GONE),
    ("PAYLOAD_TOO_LARGE", StatusCode::PAYLOAD_TOO_LARGE),
    ("URI_TOO_LONG", StatusCode::URI_TOO_LONG),
    ("HEAD_TOO_LARGE", StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
    ("UPGRADE_REQUIRED", StatusCode::UPGRADE_REQUIRED),
    ("USAGE_LIMIT_EXCEEDED", StatusCode::TOO_MANY_REQUESTS),
    ("RATE_LIMIT_EXCEEDED", StatusCode::TOO_MANY_REQUESTS),
    ("INTERNAL", StatusCode::INTERNAL_SERVER_ERROR),
    ("LOG_TAMPERED", StatusCode::INTERNAL_SERVER_ERROR),
    ("ALL_PROVIDERS_FAILED", StatusCode::BAD_GATEWAY),
    ("STREAM_INTERRUPTED", StatusCode::BAD_GATEWAY),
    ("QUEUE_FULL", StatusCode::SERVICE_UNAVAILABLE),
    ("SHUTTING_DOWN", StatusCode::SERVICE_UNAVAILABLE),
    ("ANSWER_ELSEWHERE", StatusCode::SERVICE_UNAVAILABLE),
    ("UNAVAILABLE", StatusCode::SERVICE_UNAVAILABLE),
    ("TIMEOUT", StatusCode::GATEWAY_TIMEOUT),
];

/// An error in the protocol's form.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    pub code: &'static str,
    pub message: String,
    #[serde(skip_serializing_if = "Value::is_null")]
    pub details: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    #[serde(skip)]
    pub www_authenticate: Option<String>,
}

impl Problem {
    /// A message that quotes much of what a client sent is cut.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        debug_assert!(CODES.iter().any(|(known, _)| *known == code), "{code} is in no table");
        let message = cut(message.into(), MAX_MESSAGE_BYTES);
        Self { code, message, details: Value::Null, retry_after_ms: None, www_authenticate: None }
    }

    #[must_use]
    pub fn with_details(self, details: Value) -> Self {
        Self { details, ..self }
    }

    /// Something is wrong with one part of a request.
    pub fn faulty(field: &str, reason: impl Into<String>) -> Self {
        GatewayError::faulty(field, reason).into()
    }

    pub fn not_found(what: impl Into<String>) -> Self {
        Self::new("NOT_FOUND", what)
    }

    /// Of a node that has `limit` of them, which all ask for something.
    pub fn too_many_connections(limit: usize) -> Self {
        let (limit, retry_after) = (limit as u64, Duration::from_secs(1));
        GatewayError::RateLimitExceeded { what: "connections", scope: Scope::Node, limit, retry_after }.into()
    }

    /// Logs `error` and shows the client a reference to it.
    pub fn internal(error: &(impl std::fmt::Display + ?Sized)) -> Self {
        GatewayError::internal(error).into()
    }

    pub fn status(&self) -> StatusCode {
        let known = CODES.iter().find(|(code, _)| *code == self.code);
        known.map_or(StatusCode::INTERNAL_SERVER_ERROR, |(_, status)| *status)
    }
}

impl From<&GatewayError> for Problem {
    fn from(error: &GatewayError) -> Self {
        let details = match error {
            GatewayError::Forbidden(_)
            | GatewayError::OthersToken { .. }
            | GatewayError::ShuttingDown
            | GatewayError::Unavailable { .. }
            | GatewayError::OthersAnswer
            | GatewayError::NothingToResume => Value::Null,
            GatewayError::EndedAlready { request_id } => json!({ "requestId": request_id }),
            GatewayError::AmbiguousName { request_ids } => json!({ "requestIds": request_ids }),
            GatewayError::Validation(faults) => match faults.more() {
                0 => json!({ "fields": faults.told() }),
                more => json!({ "fields": faults.told(), "more": more }),
            },
            GatewayError::ModelNotFound { model, provider, known, .. } => {
                let provider = (provider != AUTO).then_some(provider);
                json!({ "model": model, "provider": provider, "known": known })
            }
            GatewayError::VideoNotOffered { available, .. } => json!({ "available": available }),
            GatewayError::InsufficientCredits { available, required, top_up } => {
                let mut details = json!({ "available": available.as_credits(), "required": required.as_credits() });
                if let Some(top_up) = top_up {
                    details["topUp"] = json!(**top_up);
                }
                details
            }
            GatewayError::AccountNotOpen { account } | GatewayError::Erased { account } => {
                json!({ "account": account })
            }
            GatewayError::UsageLimitExceeded { period, limit, used, required, resets_at, .. } => json!({
                "period": period,
                "limit": limit.as_credits(),
                "used": used.as_credits(),
                "required": required.as_credits(),
                "resetsAt": resets_at,
            }),
            GatewayError::RateLimitExceeded { what, scope, limit, .. } => {
                json!({ "what": what, "scope": scope.as_str(), "limit": limit })
            }
            GatewayError::DuplicateRequest { request_id, .. } => json!({ "requestId": request_id }),
            GatewayError::QueueFull { running, waiting, .. } => json!({ "running": running, "waiting": waiting }),
            GatewayError::AllProvidersFailed { attempts, .. } => json!({ "attempts": attempts_json(attempts) }),
            GatewayError::StreamInterrupted { provider, kind } => json!({ "provider": provider, "kind": kind }),
            GatewayError::AnswerLost { request_id, ended, charged } => {
                json!({ "requestId": request_id, "ended": ended, "credits": charged.as_credits() })
            }
            GatewayError::AnswerElsewhere { request_id, node, .. } => json!({ "requestId": request_id, "node": node }),
            GatewayError::Timeout { limit_ms, attempts } => {
                json!({ "limitMs": limit_ms, "attempts": attempts_json(attempts) })
            }
            GatewayError::Internal { reference } => json!({ "reference": reference }),
        };
        let message = match error {
            GatewayError::Validation(faults) => {
                let told = faults.told().iter().map(|fault| format!("{}: {}", fault.field, fault.reason));
                let more = (faults.more() > 0).then(|| format!("and {} more", faults.more()));
                told.chain(more).collect::<Vec<_>>().join("; ")
            }
            _ => error.to_string(),
        };
        Self { retry_after_ms: error.retry_after().map(millis), details, ..Self::new(error.code(), message) }
    }
}

impl From<GatewayError> for Problem {
    fn from(error: GatewayError) -> Self {
        Self::from(&error)
    }
}

impl From<&Failed> for Problem {
    /// `details.credits` says what was charged for the part that was produced, where that is anything.
    fn from(failed: &Failed) -> Self {
        let mut problem = Self::from(&failed.error);
        if failed.charged > Microcredits::ZERO {
            let charged = json!(failed.charged.as_credits());
            match &mut problem.details {
                Value::Object(details) => _ = details.insert("credits".to_owned(), charged),
                details => *details = json!({ "credits": charged }),
            }
        }
        problem
    }
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        let code = match error {
            AuthError::KeysUnavailable => "UNAVAILABLE",
            AuthError::NoRole => "FORBIDDEN",
            _ => "UNAUTHORIZED",
        };
        Self { www_authenticate: error.www_authenticate(), ..Self::new(code, error.to_string()) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut body = json!({
            "type": "about:blank",
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "detail": self.message,
        });
        if let (Value::Object(body), Ok(Value::Object(own))) = (&mut body, serde_json::to_value(&self)) {
            body.extend(own);
        }
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(retry_after_ms) = self.retry_after_ms {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after_ms.div_ceil(1000)));
        }
        if status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        if let Some(challenge) = self.www_authenticate.and_then(|challenge| HeaderValue::try_from(challenge).ok()) {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

fn attempts_json(attempts: &[aihub_domain::request::event::Attempt]) -> Vec<Value> {
    attempts
        .iter()
        .map(|attempt| {
            let mut told = json!({
                "provider": attempt.provider,
                "model": attempt.model,
                "kind": attempt.failure,
                "skipped": attempt.skipped,
                "status": attempt.status,
                "ms": attempt.duration_ms,
            });
            if !attempt.flaws.is_empty() {
                told["flaws"] = json!(attempt.flaws);
            }
            told
        })
        .collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_manual_and_the_description_have_every_code() {
        let all: BTreeMap<&str, u16> = CODES.iter().map(|(code, status)| (*code, status.as_u16())).collect();
        assert_eq!(all.len(), CODES.len());
        let readme = include_str!("../../README.md");
        let table = readme.split("| code | HTTP |").nth(1).unwrap().split("\n\n").next().unwrap();
        let rows = table.lines().filter_map(|line| {
            let (codes, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
            Some((codes, rest.split(' ').next()?.parse().ok()?))
        });
        let told: BTreeMap<&str, u16> =
            rows.flat_map(|(codes, status)| codes.split("`, `").map(move |code| (code, status))).collect();
        assert_eq!(told, all);
        let document: Value = serde_json::from_str(include_str!("../asyncapi.json")).unwrap();
        let described = &document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"];
        let described: Vec<&str> = described.as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert_eq!(described, CODES.map(|(code, _)| code));
    }
}
