//! Why a request got no answer, in the words of the protocol. One place in `api` turns these into frames and
//! `application/problem+json`.

use std::{fmt, time::Duration};

use aihub_domain::{
    account::{AccountError, Period},
    money::Microcredits,
    request::event::Attempt,
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use thiserror::Error;

use crate::{ports::provider::FailureKind, principal::MissingCapability, videos::catalog::Offering};

#[derive(Debug, Clone, Error)]
pub enum GatewayError {
    #[error("{0}")]
    Forbidden(#[from] MissingCapability),
    /// Whose it is.
    #[error("the fresh token is someone else's: `sub` and `account` must stay")]
    OthersToken { account: String, user: String },
    #[error("the request has {} faulty field{}", .0.len(), if .0.len() == 1 { "" } else { "s" })]
    Validation(Vec<FaultyField>),
    #[error("no provider that may be asked has the model {model}, or none has a price for it that is valid today")]
    ModelNotFound { model: String, provider: String, known: Vec<String> },
    #[error(
        "no video provider that may be asked makes {asked}; see `details.available` for what could be asked instead"
    )]
    VideoNotOffered { asked: Box<AskedVideo>, available: Vec<Offering> },
    #[error("{available} credits are available and {required} are required")]
    InsufficientCredits { available: Microcredits, required: Microcredits },
    #[error("account {account} is not open: ask for a grant of credits, which opens it")]
    AccountNotOpen { account: String },
    #[error("the content of account {account} was erased, and nothing more is kept for it")]
    Erased { account: String },
    #[error("the account's limit for this {period:?} is used up: {used} of {limit} credits, {required} more required")]
    UsageLimitExceeded {
        period: Period,
        limit: Microcredits,
        used: Microcredits,
        required: Microcredits,
        resets_at: DateTime<Utc>,
        retry_after: Duration,
    },
    #[error("too many {what} for this {scope}")]
    RateLimitExceeded { what: &'static str, scope: &'static str, limit: u32, retry_after: Duration },
    #[error("{reason}")]
    DuplicateRequest { request_id: Option<String>, reason: &'static str },
    #[error("the service is at its limit of requests, running and waiting")]
    QueueFull { running: usize, waiting: usize, retry_after: Duration },
    #[error("the service is shutting down")]
    ShuttingDown,
    #[error("no provider answered")]
    AllProvidersFailed { attempts: Vec<Attempt>, retry_after: Option<Duration> },
    #[error("{provider} broke off in the middle of its answer: {kind:?}")]
    StreamInterrupted { provider: String, kind: FailureKind },
    #[error("the request was not done in {limit_ms} ms")]
    Timeout { limit_ms: u64, attempts: Vec<Attempt> },
    #[error(
        "there is no answer here to continue: it ended over a minute ago, was never made, or belongs to someone else"
    )]
    NothingToResume,
    /// The reason is in the log under `reference`, and nowhere else.
    #[error("an internal error; the operator finds it under {reference}")]
    Internal { reference: String },
}

/// A video that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedVideo {
    /// `8 s of 720p in 16:9`.
    pub format: String,
    pub provider: String,
    pub model: Option<String>,
}

impl fmt::Display for AskedVideo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from provider {}", self.format, self.provider)?;
        self.model.as_deref().map_or(Ok(()), |model| write!(f, " with model {model}"))
    }
}

/// A field that is at fault, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FaultyField {
    pub field: String,
    pub reason: String,
}

impl FaultyField {
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

impl GatewayError {
    /// The stable code of the protocol.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Forbidden(_) | Self::OthersToken { .. } | Self::AccountNotOpen { .. } | Self::Erased { .. } => {
                "FORBIDDEN"
            }
            Self::Validation(_) | Self::NothingToResume => "VALIDATION_ERROR",
            Self::ModelNotFound { .. } => "MODEL_NOT_FOUND",
            Self::VideoNotOffered { .. } => "VIDEO_NOT_OFFERED",
            Self::InsufficientCredits { .. } => "INSUFFICIENT_CREDITS",
            Self::UsageLimitExceeded { .. } => "USAGE_LIMIT_EXCEEDED",
            Self::RateLimitExceeded { .. } => "RATE_LIMIT_EXCEEDED",
            Self::DuplicateRequest { .. } => "DUPLICATE_REQUEST",
            Self::QueueFull { .. } => "QUEUE_FULL",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::AllProvidersFailed { .. } => "ALL_PROVIDERS_FAILED",
            Self::StreamInterrupted { .. } => "STREAM_INTERRUPTED",
            Self::Timeout { .. } => "TIMEOUT",
            Self::Internal { .. } => "INTERNAL",
        }
    }

    /// When asking again can help, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::UsageLimitExceeded { retry_after, .. }
            | Self::RateLimitExceeded { retry_after, .. }
            | Self::QueueFull { retry_after, .. } => Some(*retry_after),
            Self::AllProvidersFailed { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// What an account's refusal means to the client.
    pub fn from_account(error: AccountError, account: &str, now: DateTime<Utc>) -> Self {
        match error {
            AccountError::NotOpen => Self::AccountNotOpen { account: account.to_owned() },
            AccountError::InsufficientCredits { available, required } => {
                Self::InsufficientCredits { available, required }
            }
            AccountError::UsageLimitExceeded { period, limit, used, required, resets_at } => {
                let retry_after = (resets_at - now).to_std().unwrap_or_default();
                Self::UsageLimitExceeded { period, limit, used, required, resets_at, retry_after }
            }
            other => Self::internal(&other),
        }
    }

    /// Logs `error` and gives the client nothing but a reference to that line.
    pub fn internal(error: &(impl std::fmt::Display + ?Sized)) -> Self {
        let reference = uuid::Uuid::now_v7().simple().to_string();
        tracing::error!(error.reference = %reference, error.message = %error, "internal error");
        Self::Internal { reference }
    }
}
