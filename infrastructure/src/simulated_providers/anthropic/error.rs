//! Anthropic's error envelope, and which error it sends for what.

use std::time::Duration;

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    super::{
        knobs::{Failure, FailureKind},
        respond::to_json,
    },
    request_id, short_headers,
};

/// 529 has no name in the HTTP registry.
const OVERLOADED: u16 = 529;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct AnthropicError {
    status: u16,
    kind: &'static str,
    message: String,
    /// The key `details` is there where this is `Some`, and may be null.
    details: Option<Value>,
    retry_after: Option<Duration>,
}

impl AnthropicError {
    fn new(status: u16, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into(), details: None, retry_after: None }
    }

    pub fn invalid_request(message: String) -> Self {
        Self::new(400, "invalid_request_error", message)
    }

    pub fn authentication(message: &str) -> Self {
        Self::new(401, "authentication_error", message)
    }

    pub fn not_found(message: String) -> Self {
        Self::new(404, "not_found_error", message)
    }

    pub fn too_large() -> Self {
        Self::new(413, "request_too_large", "Request exceeds the maximum size")
    }

    pub fn context_length(limit: u32, tokens: u32) -> Self {
        Self::invalid_request(format!("prompt is too long: {tokens} tokens > {limit} maximum"))
    }

    /// What a knob orders.
    pub fn ordered(failure: &Failure) -> Self {
        let mut error = match failure.kind {
            FailureKind::BadRequest => Self::invalid_request("messages: This request is refused".to_owned()),
            FailureKind::ContextLength => Self::context_length(1, 2),
            FailureKind::Unauthorized => Self::authentication("invalid x-api-key"),
            FailureKind::NotFound => Self::not_found("model: this-one".to_owned()),
            FailureKind::RateLimit => {
                Self::new(429, "rate_limit_error", "This request would exceed your organization's rate limit")
            }
            FailureKind::InsufficientQuota => Self {
                details: Some(json!({"error_code": "enforced_spend_limit_reached"})),
                ..Self::new(429, "rate_limit_error", "Your organization has reached its spend limit")
            },
            FailureKind::ServerError => Self::new(500, "api_error", "Internal server error"),
            FailureKind::Overloaded => {
                Self { details: Some(Value::Null), ..Self::new(OVERLOADED, "overloaded_error", "Overloaded") }
            }
        };
        error.message.push_str(" (simulated)");
        error.retry_after = failure.retry_after();
        error.status = failure.status.unwrap_or(error.status);
        error
    }

    pub fn status(&self) -> u16 {
        self.status
    }

    pub fn envelope(&self, call: u64) -> String {
        #[derive(Serialize)]
        struct Envelope<'a> {
            r#type: &'a str,
            error: Body<'a>,
            request_id: String,
        }
        #[derive(Serialize)]
        struct Body<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            details: Option<&'a Value>,
            r#type: &'a str,
            message: &'a str,
        }
        let error = Body { details: self.details.as_ref(), r#type: self.kind, message: &self.message };
        to_json(&Envelope { r#type: "error", error, request_id: request_id(call) })
    }

    pub fn into_response_of(self, call: u64) -> Response {
        let mut headers = short_headers(call);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if matches!(self.status, 400 | 401 | 404) {
            headers.insert(HeaderName::from_static("x-should-retry"), HeaderValue::from_static("false"));
        }
        if let Some(retry_after) = self.retry_after {
            let ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
            headers.insert(header::RETRY_AFTER, ms.div_ceil(1_000).into());
        }
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, headers, self.envelope(call)).into_response()
    }
}
