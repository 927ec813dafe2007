//! What happened to a request. Content is only named, see [`crate::content`]; everything else is in clear.

use std::fmt;

use chrono::{DateTime, Utc};
use cqrs_es::DomainEvent;
use serde::{Deserialize, Serialize};

use crate::{
    content::ContentRef,
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
    /// It became longer than an answer may be here.
    AnswerTooLong,
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
    /// `None` where the account's prompts are not kept, not even as a hash.
    pub prompt: Option<ContentRef>,
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

/// How a request ended, what it used and what that cost, all attempts together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Who answered; `None` where nobody did.
    pub provider: Option<String>,
    /// The model that was asked there, by the name that its price and its limits go by.
    pub model: Option<String>,
    /// What the provider called the model that answered, where it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_model: Option<String>,
    pub usage: TokenUsage,
    /// The last attempt's part of `usage` is our own count: its provider did not say. See [`Self::is_estimated`].
    pub estimated: bool,
    /// Its price is that of the last attempt that cost something.
    pub charge: Charge,
    pub finish_reason: Option<String>,
    pub attempts: Vec<Attempt>,
    pub first_chunk_ms: Option<u64>,
    pub duration_ms: u64,
    pub answer: Option<ContentRef>,
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
    /// What of its answer was not as it should be; the first [`Self::MAX_FLAWS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flaws: Vec<Flaw>,
    /// What it cost, where another one was made after it, or none any more. What the last one cost is the rest of the
    /// outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub billed: Option<Billed>,
}

/// Something of an answer's form that is not as it should be. Never content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flaw {
    /// What is wrong: `no_json`, ….
    pub class: String,
    /// Where it stands, by the names that lead to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Where it stands in the answer's body, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

impl Attempt {
    /// The most flaws of one attempt that are kept: the event of a request's end has all of them, and has to fit into the log.
    pub const MAX_FLAWS: usize = 4;

    /// Keeps a flaw, while there is room for it.
    pub fn note(&mut self, flaw: Flaw) {
        if self.flaws.len() < Self::MAX_FLAWS && !self.flaws.contains(&flaw) {
            self.flaws.push(flaw);
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.class)?;
        if let Some(field) = &self.field {
            write!(f, " at {field}")?;
        }
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        Ok(())
    }
}

/// What was paid for at one provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Billed {
    pub usage: TokenUsage,
    pub estimated: bool,
    pub charge: Charge,
}

/// A part of an outcome: what one provider is to be paid for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part<'a> {
    /// `None` where nobody answered.
    pub provider: Option<&'a str>,
    pub model: Option<&'a str>,
    pub billed: Billed,
}

impl Outcome {
    /// What each provider is to be paid for, in the order of the attempts; the last part is that of whoever answered, also
    /// where it is nothing. Together they are the outcome.
    pub fn parts(&self) -> Vec<Part<'_>> {
        let mut rest = Billed { usage: self.usage, estimated: self.estimated, charge: self.charge.clone() };
        let mut parts = Vec::with_capacity(1);
        for attempt in &self.attempts {
            let Some(billed) = &attempt.billed else { continue };
            rest.usage = rest.usage.minus(&billed.usage);
            rest.charge = rest.charge.minus(&billed.charge);
            parts.push(Part { provider: Some(&attempt.provider), model: Some(&attempt.model), billed: billed.clone() });
        }
        parts.push(Part { provider: self.provider.as_deref(), model: self.model.as_deref(), billed: rest });
        parts
    }

    /// Whether some of the usage is our own count.
    pub fn is_estimated(&self) -> bool {
        self.estimated
            || self.attempts.iter().filter_map(|attempt| attempt.billed.as_ref()).any(|billed| billed.estimated)
    }

    /// Sets what the account paid, which may be less than what was used came to: the first attempts are paid first.
    pub fn pay(&mut self, amount: Microcredits) {
        let mut left = amount;
        for billed in self.attempts.iter_mut().filter_map(|attempt| attempt.billed.as_mut()) {
            billed.charge.amount = billed.charge.list.min(left);
            left = left.minus(billed.charge.amount);
        }
        self.charge.amount = amount;
    }
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
