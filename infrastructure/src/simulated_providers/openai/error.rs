//! OpenAI's error envelope, and which error it sends for what.

use std::time::Duration;

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{
    super::{
        knobs::{Failure, FailureKind},
        respond::to_json,
    },
    headers,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct OpenAiError {
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    param: Option<&'static str>,
    message: String,
    retry_after: Option<Duration>,
}

impl OpenAiError {
    fn new(status: StatusCode, kind: &'static str, code: Option<&'static str>, message: String) -> Self {
        Self { status, kind, code, param: None, message, retry_after: None }
    }

    pub fn invalid_request(message: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", None, message)
    }

    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    pub fn with_param(mut self, param: &'static str) -> Self {
        self.param = Some(param);
        self
    }

    pub fn with_code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    pub fn missing_key() -> Self {
        let message = "You didn't provide an API key. You need to provide your API key in an Authorization header using \
                       Bearer auth (i.e. Authorization: Bearer YOUR_KEY).";
        Self::invalid_request(message.to_owned()).with_status(StatusCode::UNAUTHORIZED)
    }

    pub fn invalid_key(key: &str) -> Self {
        let message = format!(
            "Incorrect API key provided: {key}. You can find your API key at https://platform.openai.com/account/api-keys."
        );
        Self::invalid_request(message).with_status(StatusCode::UNAUTHORIZED).with_code("invalid_api_key")
    }

    pub fn model_not_found(model: &str) -> Self {
        let message = format!("The model `{model}` does not exist or you do not have access to it.");
        Self::invalid_request(message).with_status(StatusCode::NOT_FOUND).with_code("model_not_found")
    }

    pub fn missing_parameter(name: &'static str) -> Self {
        let message = format!("Missing required parameter: '{name}'.");
        Self::invalid_request(message).with_param(name).with_code("missing_required_parameter")
    }

    pub fn context_length(limit: u32, tokens: u32) -> Self {
        let message = format!(
            "This model's maximum context length is {limit} tokens. However, your messages resulted in {tokens} tokens. \
             Please reduce the length of the messages."
        );
        Self::invalid_request(message).with_param("messages").with_code("context_length_exceeded")
    }

    /// What a knob orders.
    pub fn ordered(failure: &Failure) -> Self {
        let mut error = match failure.kind {
            FailureKind::BadRequest => Self::invalid_request("This request is refused".to_owned()),
            FailureKind::ContextLength => Self::context_length(1, 2),
            FailureKind::Unauthorized => Self::invalid_key("sk-*****"),
            FailureKind::NotFound => Self::model_not_found("this-one"),
            FailureKind::RateLimit => {
                let wait_ms = failure.retry_after().unwrap_or_default().as_millis();
                let message = format!(
                    "Rate limit reached in organization org-simulated on tokens per min (TPM): Limit 200000, Used 200000, \
                     Requested 1. Please try again in {wait_ms}ms. Visit \
                     https://platform.openai.com/account/rate-limits to learn more."
                );
                Self::new(StatusCode::TOO_MANY_REQUESTS, "tokens", Some("rate_limit_exceeded"), message)
            }
            FailureKind::InsufficientQuota => {
                let message = "You exceeded your current quota, please check your plan and billing details.".to_owned();
                Self::new(StatusCode::TOO_MANY_REQUESTS, "insufficient_quota", Some("insufficient_quota"), message)
            }
            FailureKind::ServerError => {
                let message = "The server experienced an error while processing your request.".to_owned();
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", None, message)
            }
            FailureKind::Overloaded => {
                let message = "The server is currently overloaded. Please try again later.".to_owned();
                let code = Some("server_is_overloaded");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable_error", code, message)
            }
        };
        error.message.push_str(" (simulated)");
        error.retry_after = failure.retry_after();
        if let Some(status) = failure.status.and_then(|status| StatusCode::from_u16(status).ok()) {
            error.status = status;
        }
        error
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The envelope, with all four keys.
    pub fn envelope(&self) -> String {
        #[derive(Serialize)]
        struct Envelope<'a> {
            error: Body<'a>,
        }
        #[derive(Serialize)]
        struct Body<'a> {
            message: &'a str,
            r#type: &'a str,
            param: Option<&'a str>,
            code: Option<&'a str>,
        }
        let Self { message, kind, param, code, .. } = self;
        to_json(&Envelope { error: Body { message, r#type: kind, param: *param, code: *code } })
    }

    pub fn into_response_of(self, call: u64) -> Response {
        let mut headers = headers(call, Duration::ZERO);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"OpenAI API\""));
        }
        if let Some(retry_after) = self.retry_after {
            let ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
            headers.insert(header::RETRY_AFTER, ms.div_ceil(1_000).into());
            headers.insert(HeaderName::from_static("retry-after-ms"), ms.into());
        }
        (self.status, headers, self.envelope()).into_response()
    }
}
