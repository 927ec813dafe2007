//! Why a request got no answer, in the words of the protocol. One place in `api` turns these into frames and
//! `application/problem+json`.

use std::{fmt, sync::Arc, time::Duration};

use aihub_domain::{
    account::{AccountError, Period},
    money::Microcredits,
    request::event::Attempt,
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use thiserror::Error;

use crate::{
    accounts::ExecuteError,
    ports::{
        event_log::{AppendError, LoadError},
        provider::FailureKind,
        vault::VaultError,
    },
    principal::MissingCapability,
    shares::Scope,
    videos::catalog::Offering,
};

/// When it is worth asking again whether what was away is back: readiness looks as often.
const COME_BACK_AFTER: Duration = Duration::from_secs(2);

/// How many faults are told one by one: enough to mend a request by, and few whatever was sent.
pub const MAX_TOLD_FAULTS: usize = 10;
/// The longest name of a field, and the longest reason, that are repeated to whoever sent them.
const MAX_FIELD_BYTES: usize = 64;
const MAX_REASON_BYTES: usize = 512;

/// A failure of what the application rests on.
pub trait Outside {
    /// Nothing is wrong with what was asked: the same may do in a while.
    fn is_outage(&self) -> bool;
}

impl Outside for AppendError {
    fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Overloaded)
    }
}

impl Outside for LoadError {
    fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

impl Outside for ExecuteError {
    fn is_outage(&self) -> bool {
        match self {
            Self::Append(error) => error.is_outage(),
            Self::Load(error) => error.is_outage(),
            Self::Refused(_) | Self::CompanionConflict | Self::Contended | Self::Serialise(_) => false,
        }
    }
}

impl Outside for VaultError {
    fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}
#[derive(Debug, Clone, Error)]
pub enum GatewayError {
    #[error("{0}")]
    Forbidden(#[from] MissingCapability),
    /// Whose it is.
    #[error("the fresh token is someone else's: `sub` and `account` must stay")]
    OthersToken { account: String, user: String },
    #[error("the request has {} faulty field{}", .0.count(), if .0.count() == 1 { "" } else { "s" })]
    Validation(Faults),
    /// `makes` is what the model is for, where that is something else than was asked for.
    #[error("{}", match makes {
        Some(makes) => format!("the model {model} makes {makes}, which is not what was asked for"),
        None => format!(
            "no provider that may be asked has the model {model}, or none has a price for it that is valid today"
        ),
    })]
    ModelNotFound { model: String, provider: String, makes: Option<&'static str>, known: Vec<String> },
    #[error(
        "no video provider that may be asked makes {asked}; see `details.available` for what could be asked instead"
    )]
    VideoNotOffered { asked: Box<AskedVideo>, available: Vec<Offering> },
    #[error("{available} credits are available and {required} are required")]
    /// `top_up` is where more are to be had, if the operator says so.
    InsufficientCredits { available: Microcredits, required: Microcredits, top_up: Option<Arc<str>> },
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
    #[error("too many {what} for this {scope}: at most {limit}")]
    RateLimitExceeded { what: &'static str, scope: Scope, limit: u64, retry_after: Duration },
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
    #[error("no answer is known under this id: this user of this account has not asked for one lately")]
    NothingToResume,
    #[error("the request {request_id} of this id has ended already")]
    EndedAlready { request_id: String },
    #[error("that request is another user's")]
    OthersAnswer,
    /// Several connections have a request of that name.
    #[error("several requests of yours have this id, on {} connections: say which with its requestId or connectionId", request_ids.len())]
    AmbiguousName { request_ids: Vec<String> },
    /// It was made, and cannot be continued here. What was charged is durable.
    #[error("this answer cannot be continued: its request {} and {charged} credits were charged", match *ended {
        "abandoned" => "was given up because its node died".to_owned(),
        "cancelled" => "was cancelled".to_owned(),
        ended => format!("has {ended}"),
    })]
    AnswerLost { request_id: String, ended: &'static str, charged: Microcredits },
    /// `node` is the one that makes it; `None` where that one is gone.
    #[error("{}", match node {
        Some(node) => format!("this answer is made by another node, {node}: resume it there, or ask here again once it has ended"),
        None => "the node that made this answer is gone; what it cost is about to be settled".to_owned(),
    })]
    AnswerElsewhere { request_id: String, node: Option<String>, retry_after: Duration },
    /// What it rests on is away, the log above all. Nothing was charged.
    #[error("the service cannot write down what it does at the moment, so it takes nothing new")]
    Unavailable { retry_after: Duration },
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
    /// Both may quote what a client sent, so they are cut where they are too long.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: cut(field.into(), MAX_FIELD_BYTES), reason: cut(reason.into(), MAX_REASON_BYTES) }
    }
}

/// Everything that is wrong with a request: the first faults, and how many there are besides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    told: Vec<FaultyField>,
    more: usize,
}

impl Faults {
    pub fn push(&mut self, fault: FaultyField) {
        if self.told.len() < MAX_TOLD_FAULTS {
            self.told.push(fault);
        } else {
            self.more += 1;
        }
    }

    /// Adds so many that nothing more is known of.
    pub fn add_untold(&mut self, count: usize) {
        self.more += count;
    }

    /// The first ones, at most [`MAX_TOLD_FAULTS`].
    pub fn told(&self) -> &[FaultyField] {
        &self.told
    }

    /// How many there are besides those.
    pub fn more(&self) -> usize {
        self.more
    }

    pub fn count(&self) -> usize {
        self.told.len() + self.more
    }

    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// Those of `other` after its own.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.more += other.more;
        other.told.into_iter().for_each(|fault| self.push(fault));
        self
    }
}

impl From<FaultyField> for Faults {
    fn from(fault: FaultyField) -> Self {
        Self { told: vec![fault], more: 0 }
    }
}

impl FromIterator<FaultyField> for Faults {
    fn from_iter<I: IntoIterator<Item = FaultyField>>(faults: I) -> Self {
        let mut all = Self::default();
        faults.into_iter().for_each(|fault| all.push(fault));
        all
    }
}

/// At most so many bytes of `text`, and a sign where it was longer.
pub fn cut(mut text: String, most_bytes: usize) -> String {
    if text.len() > most_bytes {
        text.truncate(text.floor_char_boundary(most_bytes));
        text.push('…');
        text.shrink_to_fit();
    }
    text
}

impl GatewayError {
    /// One field is at fault.
    pub fn faulty(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Validation(FaultyField::new(field, reason).into())
    }

    /// The stable code of the protocol.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Forbidden(_)
            | Self::OthersToken { .. }
            | Self::OthersAnswer
            | Self::AccountNotOpen { .. }
            | Self::Erased { .. } => "FORBIDDEN",
            Self::Validation(_) => "VALIDATION_ERROR",
            Self::NothingToResume => "NOT_FOUND",
            Self::AmbiguousName { .. } => "AMBIGUOUS_ID",
            Self::EndedAlready { .. } => "CONFLICT",
            Self::ModelNotFound { .. } => "MODEL_NOT_FOUND",
            Self::VideoNotOffered { .. } => "VIDEO_NOT_OFFERED",
            Self::InsufficientCredits { .. } => "INSUFFICIENT_CREDITS",
            Self::UsageLimitExceeded { .. } => "USAGE_LIMIT_EXCEEDED",
            // What is used up by all together is no fault of whoever asks.
            Self::RateLimitExceeded { scope: Scope::Node, .. } | Self::QueueFull { .. } => "QUEUE_FULL",
            Self::RateLimitExceeded { .. } => "RATE_LIMIT_EXCEEDED",
            Self::DuplicateRequest { .. } => "DUPLICATE_REQUEST",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::AllProvidersFailed { .. } => "ALL_PROVIDERS_FAILED",
            Self::AnswerLost { ended, .. } if *ended != "abandoned" => "ANSWER_GONE",
            Self::StreamInterrupted { .. } | Self::AnswerLost { .. } => "STREAM_INTERRUPTED",
            Self::Timeout { .. } => "TIMEOUT",
            // Where its node is gone, what it cost is still to be settled.
            Self::AnswerElsewhere { node: Some(_), .. } => "ANSWER_ELSEWHERE",
            Self::Unavailable { .. } | Self::AnswerElsewhere { .. } => "UNAVAILABLE",
            Self::Internal { .. } => "INTERNAL",
        }
    }

    /// When asking again can help, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::UsageLimitExceeded { retry_after, .. }
            | Self::RateLimitExceeded { retry_after, .. }
            | Self::QueueFull { retry_after, .. }
            | Self::Unavailable { retry_after }
            | Self::AnswerElsewhere { retry_after, .. } => Some(*retry_after),
            Self::AllProvidersFailed { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// What an account's refusal means to the client.
    pub fn from_account(error: AccountError, account: &str, top_up: Option<&Arc<str>>, now: DateTime<Utc>) -> Self {
        match error {
            AccountError::NotOpen => Self::AccountNotOpen { account: account.to_owned() },
            AccountError::InsufficientCredits { available, required } => {
                Self::InsufficientCredits { available, required, top_up: top_up.cloned() }
            }
            AccountError::UsageLimitExceeded { period, limit, used, required, resets_at } => {
                let retry_after = (resets_at - now).to_std().unwrap_or_default();
                Self::UsageLimitExceeded { period, limit, used, required, resets_at, retry_after }
            }
            other => Self::internal(&other),
        }
    }

    /// What a failure outside means to the client: where something is away, to come back; anything else is internal.
    pub fn outside(error: &(impl Outside + fmt::Display + ?Sized)) -> Self {
        if !error.is_outage() {
            return Self::internal(error);
        }
        tracing::warn!(error.message = %error, "what this service rests on is away");
        Self::unavailable()
    }

    pub fn unavailable() -> Self {
        Self::Unavailable { retry_after: COME_BACK_AFTER }
    }

    /// Logs `error` and gives the client nothing but a reference to that line.
    pub fn internal(error: &(impl std::fmt::Display + ?Sized)) -> Self {
        let reference = uuid::Uuid::now_v7().simple().to_string();
        tracing::error!(error.reference = %reference, error.message = %error, "internal error");
        Self::Internal { reference }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_ten_and_a_count_and_quote_no_more_than_a_little() {
        let long = "ü".repeat(100_000);
        let faults: Faults = (0..400_000).map(|_| FaultyField::new("f", "r")).collect();
        assert_eq!((faults.told().len(), faults.more(), faults.count()), (10, 399_990, 400_000));
        let both = Faults::from(FaultyField::new(long.clone(), long)).and(faults);
        assert_eq!((both.told().len(), both.more()), (10, 399_991));
        assert_eq!((both.told()[0].field.len(), both.told()[0].reason.len()), (64 + 3, 512 + 3));
        assert_eq!(GatewayError::Validation(both).to_string(), "the request has 400001 faulty fields");
    }
}
