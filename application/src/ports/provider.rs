//! AI providers, in the vocabulary that all of them share.

pub mod prompt;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aihub_domain::price::TokenUsage;
pub use aihub_domain::request::event::Flaw;
use futures::{future::BoxFuture, stream::BoxStream};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::principal::MAX_IDENTIFIER_BYTES;
use prompt::Prompt;

/// One call to one provider. Cheap to clone for the next attempt.
#[derive(Debug, Clone)]
pub struct GenerateCall {
    /// Our request id, sent along (`x-client-request-id`), so that both sides can be reconciled.
    pub request_id: String,
    /// The model under the name that this provider gives it.
    pub model: String,
    pub prompt: Arc<Prompt>,
    /// The most tokens that the answer may have. Already clamped to the model's limit.
    pub max_output_tokens: u32,
    /// That is what is left of the model's context by our count: a provider that counts itself does so better.
    pub is_capped_by_context: bool,
    /// Ask the provider for a stream. The adapter answers with [`Delta`]s either way.
    pub stream: bool,
    pub reached: Reached,
}

/// Whether a call is on its way to the provider, which may be working on it from then on. The adapter notes that when the
/// request leaves; a connection that was never made reaches nobody.
#[derive(Debug, Clone, Default)]
pub struct Reached(Arc<AtomicBool>);

impl Reached {
    pub fn note(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// It was on its way to nobody.
    pub fn forget(&self) {
        self.0.store(false, Ordering::Release);
    }

    pub fn is_noted(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// One piece of an answer, in the order of its arrival.
#[derive(Debug, Clone, PartialEq)]
pub enum Delta {
    /// Visible text, never empty.
    Text(String),
    /// Thinking that the client does not see but that is paid for. Only its length matters: it is counted when the
    /// provider's own usage never comes.
    Thinking {
        bytes: usize,
    },
    ToolCall(ToolCallDelta),
    /// The provider's count so far, in its own figures, a nought included. Cumulative: a later report replaces the
    /// earlier one, field by field where it has one (the adapter has already merged them). It is given only once both
    /// sides were counted; a provider that does not count gives none.
    ///
    /// A report covers what came before it. Anthropic opens a stream with the true input and a placeholder of 0 to 8
    /// tokens for the output; where output follows and no further report does (a stream that was cut), the input is
    /// as reported, and the output has to be estimated from what was seen.
    Usage(TokenUsage),
    /// The model that answers, as the provider names it. At most once, before any other delta.
    Model(String),
    /// Something of the answer's form that is not as it should be, and cost nothing.
    Flaw(Flaw),
    /// Why it ended, the last delta of all. `said` is the provider's own word, where that is another one than ours. A stream
    /// that closes without this was cut off.
    Finish {
        reason: FinishReason,
        said: Option<String>,
    },
}

/// A fragment of a tool call. `id` and `name` come with the first fragment of an `index`, `arguments` (JSON text)
/// in pieces to be joined. A finished call has all of them, or its last fragment says what is `broken`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCallDelta {
    pub index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub arguments: String,
    /// Why the call cannot be made: it has no name, or arguments that are no JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    Stop,
    Length,
    ToolCalls,
    ContentFilter,
    /// Any reason that we have no name for, passed through as the provider said it.
    #[serde(untagged)]
    Other(String),
}

/// A word of a provider's that goes into an event: a model's name, a reason to end. What is longer than any of those is cut.
pub fn providers_word(mut word: String) -> String {
    word.truncate(word.floor_char_boundary(MAX_IDENTIFIER_BYTES));
    word
}

#[derive(Debug, Clone)]
pub struct EmbedCall {
    pub request_id: String,
    pub model: String,
    pub inputs: Arc<Vec<String>>,
    pub user: Option<String>,
    pub reached: Reached,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// One vector for each input, in the inputs' order.
    pub vectors: Vec<Vec<f32>>,
    pub model: Option<String>,
    /// `None` where the provider does not say.
    pub usage: Option<TokenUsage>,
}

impl Embeddings {
    /// Those of the inputs that follow.
    pub fn append(&mut self, more: Self) {
        self.vectors.extend(more.vectors);
        self.model = self.model.take().or(more.model);
        // Counted all, or not counted.
        self.usage = self.usage.zip(more.usage).map(|(usage, more)| usage.plus(&more));
    }
}

/// A stream of deltas. Dropping it aborts the call upstream.
pub type DeltaStream = BoxStream<'static, Result<Delta, ProviderError>>;

pub trait Provider: Send + Sync {
    /// Resolves when the provider has answered with a status: an error before the stream is this future's error,
    /// one inside it (an error event in an HTTP 200, a torn connection) is an item of the stream.
    fn generate(&self, call: GenerateCall) -> BoxFuture<'_, Result<DeltaStream, ProviderError>>;

    fn embed(&self, call: EmbedCall) -> BoxFuture<'_, Result<Embeddings, ProviderError>>;

    /// What of a prompt it would refuse and has no other form for: it is not asked then.
    fn cannot_take(&self, _prompt: &Prompt) -> Option<Untaken> {
        None
    }
}

/// A part of a prompt that a provider would refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Untaken {
    /// As in the client's request.
    pub field: String,
    /// For the client, behind the field's name.
    pub reason: &'static str,
}

/// Why a call failed, recognised as what it is.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{kind:?}: {message}")]
pub struct ProviderError {
    pub kind: FailureKind,
    /// The HTTP status, where there was one (200 for an error inside a stream).
    pub status: Option<u16>,
    /// The provider's own message, cut to 500 characters. May quote the client's input: for the client, never
    /// for a log or an event.
    pub message: String,
    pub retry_after: Option<Duration>,
    /// What of the answer was malformed, and where.
    pub flaw: Option<Flaw>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Too many requests or tokens a minute: cools down for `retry_after`.
    RateLimited,
    /// Our money with the provider is gone; a retry never helps.
    QuotaExceeded,
    /// 503 / 529 / `overloaded_error`.
    Overloaded,
    /// The provider does not have this model (404, `model_not_found`).
    ModelUnavailable,
    /// Our key is wrong or not allowed (401, 403).
    Unauthorized,
    /// The request itself is at fault (400, 413, 422): no other provider is asked, and the breaker does not count it.
    InvalidRequest,
    /// The prompt does not fit into the model. Another model may take it.
    ContextTooLong,
    /// No status, no first byte or no next byte in the time allowed.
    Timeout,
    /// Could not connect, or the connection broke.
    Connection,
    /// 5xx, `api_error`, `server_error`.
    ServerError,
    /// An answer that breaks the provider's own format.
    Malformed,
    /// An answer without a text, a call, a refusal or a thought.
    Empty,
}

impl ProviderError {
    /// An answer that stopped before its end.
    pub fn cut(message: &str) -> Self {
        Self {
            kind: FailureKind::Connection,
            status: Some(200),
            message: message.to_owned(),
            retry_after: None,
            flaw: None,
        }
    }

    /// We waited for as long as we do.
    pub fn timed_out(status: Option<u16>) -> Self {
        let message = "the provider took longer than is waited for it".to_owned();
        Self { kind: FailureKind::Timeout, status, message, retry_after: None, flaw: None }
    }
}

impl FailureKind {
    /// Whether this speaks against the provider's health. What the client, our key or our bill is to blame for
    /// does not open the breaker.
    pub fn counts_against_provider(self) -> bool {
        matches!(
            self,
            Self::Overloaded | Self::Timeout | Self::Connection | Self::ServerError | Self::Malformed | Self::Empty
        )
    }

    /// Whether another provider may do better.
    pub fn allows_fallback(self) -> bool {
        self != Self::InvalidRequest
    }
}
