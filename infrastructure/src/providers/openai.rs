//! OpenAI's chat completions and embeddings, and every server that speaks them: Ollama, vLLM, llama.cpp, ….
//!
//! The deltas of a chat end in `Finish` and then, where the server reports it, `Usage`: OpenAI sends the count in a
//! chunk of its own behind the last choice.

use aihub_application::ports::provider::{DeltaStream, EmbedCall, Embeddings, GenerateCall, Provider, ProviderError};
use futures::future::BoxFuture;
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    answer,
    http::{self, ApiKey, Http, InvalidProviderSettings, ProviderHttp},
};
use chunk::ChatDecoder;
use embeddings::EmbeddingsRequest;
use request::ChatRequest;

pub(super) mod chunk;
mod embeddings;
mod request;
mod usage;

/// The most bytes of an answer to an embedding call: 2,048 vectors of 3,072 numbers, in base64.
const MAX_EMBEDDINGS_BYTES: usize = 64 * 1024 * 1024;

/// Where servers of this API differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OpenAiOptions {
    pub max_tokens_field: MaxTokensField,
    /// Ask for the token count of a stream (`stream_options.include_usage`). OpenAI, Ollama, vLLM and llama.cpp know it;
    /// without it a stream's usage is estimated.
    pub include_usage: bool,
}

impl Default for OpenAiOptions {
    fn default() -> Self {
        Self { max_tokens_field: MaxTokensField::MaxCompletionTokens, include_usage: true }
    }
}

/// What the limit on the answer's tokens is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaxTokensField {
    /// OpenAI, whose reasoning models refuse the other.
    MaxCompletionTokens,
    /// Local servers, most of which ignore the other.
    MaxTokens,
}

#[derive(Debug)]
pub struct OpenAiProvider {
    http: Http,
    options: OpenAiOptions,
}

impl OpenAiProvider {
    /// `settings.base_url` ends in the version: `https://api.openai.com/v1`, `http://localhost:11434/v1`.
    pub fn new(settings: &ProviderHttp, options: OpenAiOptions) -> Result<Self, InvalidProviderSettings> {
        let authorization = |key: &ApiKey| vec![("authorization", format!("Bearer {}", key.expose()))];
        let headers = settings.api_key.as_ref().map(authorization).unwrap_or_default();
        Ok(Self { http: Http::new(settings, &headers)?, options })
    }

    async fn open(&self, call: GenerateCall) -> Result<DeltaStream, ProviderError> {
        let body = ChatRequest::new(&call, self.options);
        let (status_deadline, body_deadline) = self.http.deadlines(call.stream);
        let response = self.http.post("/chat/completions", &call.request_id, &body, status_deadline).await?;
        Ok(answer::deltas(response, ChatDecoder::default(), self.http.idle_timeout, body_deadline))
    }

    async fn vectors(&self, call: EmbedCall) -> Result<Embeddings, ProviderError> {
        let body = EmbeddingsRequest::new(&call);
        let deadline = Instant::now() + self.http.answer_timeout;
        let response = self.http.post("/embeddings", &call.request_id, &body, deadline).await?;
        let body = http::body(response, MAX_EMBEDDINGS_BYTES, deadline).await?;
        embeddings::read(&body, call.inputs.len())
    }
}

impl Provider for OpenAiProvider {
    fn generate(&self, call: GenerateCall) -> BoxFuture<'_, Result<DeltaStream, ProviderError>> {
        Box::pin(self.open(call))
    }

    fn embed(&self, call: EmbedCall) -> BoxFuture<'_, Result<Embeddings, ProviderError>> {
        Box::pin(self.vectors(call))
    }
}
