//! AI providers, in the vocabulary that all of them share.

use std::{sync::Arc, time::Duration};

use aihub_domain::price::TokenUsage;
use futures::{future::BoxFuture, stream::BoxStream};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

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
    /// Ask the provider for a stream. The adapter answers with [`Delta`]s either way.
    pub stream: bool,
}

/// What the client asked, as far as providers are concerned.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Prompt {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    pub messages: Vec<Message>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// Tools in OpenAI's form: `{"type":"function","function":{"name","description","parameters"}}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Value>,
    /// `"auto" | "none" | "required"` or `{"type":"function","function":{"name"}}`, OpenAI's form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<Value>,
    /// The end user, opaque, for the provider's abuse tracking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    pub role: Role,
    /// A string, or OpenAI's list of parts (`{"type":"text","text"}`, `{"type":"image_url",…}`). Absent on an
    /// assistant's message that only calls tools.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub content: Value,
    /// An assistant's calls, OpenAI's form: `{"id","type":"function","function":{"name","arguments"}}`.
    #[serde(default, alias = "tool_calls", skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<Value>,
    /// On a `tool` message: which call this answers.
    #[serde(default, alias = "tool_call_id", skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    User,
    Assistant,
    Tool,
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
    /// as reported, and the output has to be estimated from what was seen. `OpenAI` counts last, behind
    /// [`Delta::Finish`]: read a stream to its end.
    Usage(TokenUsage),
    /// The model that answers, as the provider names it. At most once, before any other delta.
    Model(String),
    /// Why it ended. A stream that closes without this was cut off.
    Finish(FinishReason),
}

/// A fragment of a tool call. `id` and `name` come with the first fragment of an `index`, `arguments` (JSON text)
/// in pieces to be joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCallDelta {
    pub index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub arguments: String,
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

#[derive(Debug, Clone)]
pub struct EmbedCall {
    pub request_id: String,
    pub model: String,
    pub inputs: Arc<Vec<String>>,
    pub user: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// One vector for each input, in the inputs' order.
    pub vectors: Vec<Vec<f32>>,
    pub model: Option<String>,
    /// `None` where the provider does not say.
    pub usage: Option<TokenUsage>,
}

/// A stream of deltas. Dropping it aborts the call upstream.
pub type DeltaStream = BoxStream<'static, Result<Delta, ProviderError>>;

pub trait Provider: Send + Sync {
    /// Resolves when the provider has answered with a status: an error before the stream is this future's error,
    /// one inside it (an error event in an HTTP 200, a torn connection) is an item of the stream.
    fn generate(&self, call: GenerateCall) -> BoxFuture<'_, Result<DeltaStream, ProviderError>>;

    fn embed(&self, call: EmbedCall) -> BoxFuture<'_, Result<Embeddings, ProviderError>>;
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
}

impl FailureKind {
    /// Whether this speaks against the provider's health. What the client, our key or our bill is to blame for
    /// does not open the breaker.
    pub fn counts_against_provider(self) -> bool {
        matches!(self, Self::Overloaded | Self::Timeout | Self::Connection | Self::ServerError | Self::Malformed)
    }

    /// Whether another provider may do better.
    pub fn allows_fallback(self) -> bool {
        self != Self::InvalidRequest
    }
}
