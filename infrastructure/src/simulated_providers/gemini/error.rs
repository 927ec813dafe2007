//! Google's error envelope (`google.rpc.Status`), and which error it sends for what.

use axum::{
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::super::knobs::{Failure, FailureKind};

pub(super) struct GeminiError {
    code: StatusCode,
    status: &'static str,
    message: String,
    retry_after_s: Option<u64>,
}

impl GeminiError {
    fn new(code: StatusCode, status: &'static str, message: String) -> Self {
        Self { code, status, message, retry_after_s: None }
    }

    pub fn invalid(message: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", message)
    }

    pub fn not_found(message: String) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", message)
    }

    pub fn unknown_model(model: &str) -> Self {
        let rest = "is not found for API version v1beta, or is not supported for predictLongRunning.";
        Self::not_found(format!("models/{model} {rest}"))
    }

    pub fn missing_key() -> Self {
        let message = "Method doesn't allow unregistered callers (callers without established identity). Please use API \
                       Key or other form of API consumer identity to call this API.";
        Self::new(StatusCode::FORBIDDEN, "PERMISSION_DENIED", message.to_owned())
    }

    pub fn invalid_key() -> Self {
        Self::invalid("API key not valid. Please pass a valid API key.".to_owned())
    }

    /// What comes with a redirect.
    pub fn moved() -> Self {
        Self::new(StatusCode::FOUND, "UNKNOWN", "Unknown Error.".to_owned())
    }

    /// What a knob orders.
    pub fn ordered(failure: &Failure) -> Self {
        let mut error = match failure.kind {
            FailureKind::BadRequest | FailureKind::ContextLength => {
                Self::invalid("Request contains an invalid argument. (simulated)".to_owned())
            }
            FailureKind::Unauthorized => Self::invalid_key(),
            FailureKind::NotFound => Self::unknown_model("this-one"),
            FailureKind::RateLimit => {
                let message = "Resource has been exhausted (e.g. check quota). (simulated)";
                Self::new(StatusCode::TOO_MANY_REQUESTS, "RESOURCE_EXHAUSTED", message.to_owned())
            }
            FailureKind::InsufficientQuota => {
                let message =
                    "You exceeded your current quota, please check your plan and billing details. (simulated)";
                Self::new(StatusCode::TOO_MANY_REQUESTS, "RESOURCE_EXHAUSTED", message.to_owned())
            }
            FailureKind::ServerError => {
                let message = "An internal error has occurred. (simulated)";
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", message.to_owned())
            }
            FailureKind::Overloaded => {
                let message = "The model is overloaded. Please try again later. (simulated)";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", message.to_owned())
            }
        };
        error.retry_after_s = failure.retry_after().map(|wait| wait.as_secs().max(1));
        if let Some(code) = failure.status.and_then(|status| StatusCode::from_u16(status).ok()) {
            error.code = code;
        }
        error
    }

    pub fn status(&self) -> StatusCode {
        self.code
    }
}

impl IntoResponse for GeminiError {
    fn into_response(self) -> Response {
        let Self { code, status, message, retry_after_s } = self;
        let error = json!({ "code": code.as_u16(), "message": message, "status": status });
        let mut response = super::ok(&json!({ "error": error }));
        *response.status_mut() = code;
        if let Some(seconds) = retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
