//! What happened to a request. Content is sealed; everything else is in clear.

use chrono::{DateTime, Utc};
use cqrs_es::DomainEvent;
use serde::{Deserialize, Serialize};

use crate::{
    content::SealedContent,
    money::Microcredits,
    price::{Charge, TokenUsage},
};

/// Each end says again whose the request was and what it asked for, so that no reader has to keep that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum RequestEvent {
    RequestAccepted(Box<Accepted>),
    RequestCompleted {
        asked: Asked,
        /// Nobody read the answer's end: the client had left, and the provider was done before that ended the request.
        client_left: bool,
        outcome: Box<Outcome>,
    },
    /// `code` is the error code that the client was told. What was produced before the failure is in the outcome
    /// and was charged.
    RequestFailed {
        asked: Asked,
        code: String,
        outcome: Box<Outcome>,
    },
    /// Ended on purpose before the provider was done. What was produced is in the outcome and was charged.
    RequestCancelled {
        asked: Asked,
        reason: CancelReason,
        outcome: Box<Outcome>,
    },
    /// The process that drove it died. What the provider produced by then is not known, and nothing was charged.
    RequestAbandoned {
        asked: Asked,
        reason: String,
        abandoned_at: DateTime<Utc>,
    },
}

/// Whose a request is, and what it asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    pub account: String,
    pub user: String,
    pub kind: RequestKind,
    /// As the client asked: `auto` or a provider's name.
    pub provider: String,
    pub model: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestKind {
    Chat,
    Completion,
    Embedding,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelReason {
    /// The client said `cancel`.
    ClientCancelled,
    /// The client's connection ended and did not come back in time.
    ClientLeft,
    /// The account could not pay for more.
    CreditsExhausted,
    /// The request's time was up.
    DeadlineExceeded,
    /// The service was shut down.
    Shutdown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    pub account: String,
    pub user: String,
    pub kind: RequestKind,
    /// As the client asked: `auto` or a provider's name.
    pub provider: String,
    pub model: String,
    pub stream: bool,
    pub input_tokens_estimate: u64,
    pub max_output_tokens: u64,
    pub reserved_microcredits: Microcredits,
    /// The price that the hold was calculated from.
    pub price_id: String,
    /// The node that drives it.
    pub node: String,
    /// By when it will have ended, if its node lives.
    pub deadline_at: DateTime<Utc>,
    /// When it came in, before it waited for its turn. Whatever it costs has the prices of this instant.
    pub accepted_at: DateTime<Utc>,
    pub prompt: SealedContent,
}

impl Accepted {
    pub fn asked(&self) -> Asked {
        Asked {
            account: self.account.clone(),
            user: self.user.clone(),
            kind: self.kind,
            provider: self.provider.clone(),
            model: self.model.clone(),
        }
    }
}

/// How a request ended, what it used and what that cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Who answered; `None` where nobody did.
    pub provider: Option<String>,
    /// The model that answered, as the provider names it.
    pub model: Option<String>,
    pub usage: TokenUsage,
    /// The provider did not say what was used: `usage` is our own count.
    pub estimated: bool,
    pub charge: Charge,
    pub finish_reason: Option<String>,
    pub attempts: Vec<Attempt>,
    pub first_chunk_ms: Option<u64>,
    pub duration_ms: u64,
    pub answer: Option<SealedContent>,
    pub ended_at: DateTime<Utc>,
}

/// One call to one provider, or the reason why it was not made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub provider: String,
    pub model: String,
    /// The provider was not called, for the reason that `failure` names.
    #[serde(default)]
    pub skipped: bool,
    /// Why it failed; `None` for the one that answered.
    pub failure: Option<String>,
    pub status: Option<u16>,
    pub duration_ms: u64,
}

impl RequestEvent {
    /// How the request ended and what it used; `None` on events that carry neither.
    pub fn outcome(&self) -> Option<&Outcome> {
        match self {
            Self::RequestCompleted { outcome, .. }
            | Self::RequestFailed { outcome, .. }
            | Self::RequestCancelled { outcome, .. } => Some(outcome),
            Self::RequestAccepted(_) | Self::RequestAbandoned { .. } => None,
        }
    }

    pub fn outcome_mut(&mut self) -> Option<&mut Outcome> {
        match self {
            Self::RequestCompleted { outcome, .. }
            | Self::RequestFailed { outcome, .. }
            | Self::RequestCancelled { outcome, .. } => Some(outcome),
            Self::RequestAccepted(_) | Self::RequestAbandoned { .. } => None,
        }
    }

    /// Whose the request was that this ends, and when; `None` on an acceptance.
    pub fn ended(&self) -> Option<(&Asked, DateTime<Utc>)> {
        match self {
            Self::RequestAccepted(_) => None,
            Self::RequestCompleted { asked, outcome, .. }
            | Self::RequestFailed { asked, outcome, .. }
            | Self::RequestCancelled { asked, outcome, .. } => Some((asked, outcome.ended_at)),
            Self::RequestAbandoned { asked, abandoned_at, .. } => Some((asked, *abandoned_at)),
        }
    }
}

impl DomainEvent for RequestEvent {
    fn event_type(&self) -> String {
        match self {
            Self::RequestAccepted(_) => "RequestAccepted",
            Self::RequestCompleted { .. } => "RequestCompleted",
            Self::RequestFailed { .. } => "RequestFailed",
            Self::RequestCancelled { .. } => "RequestCancelled",
            Self::RequestAbandoned { .. } => "RequestAbandoned",
        }
        .to_owned()
    }

    fn event_version(&self) -> String {
        "1.0".to_owned()
    }
}
