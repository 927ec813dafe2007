//! OpenAI's chat completions and embeddings, and every server that speaks them: Ollama, vLLM, llama.cpp, ….
//!
//! OpenAI sends the token count in a chunk of its own behind the last choice.

use std::{
    num::NonZeroUsize,
    sync::atomic::{AtomicBool, Ordering},
};

use aihub_application::ports::provider::{
    DeltaStream, EmbedCall, Embeddings, FailureKind, GenerateCall, Provider, ProviderError,
};
use futures::future::BoxFuture;
use serde::Deserialize;
use tokio::task::spawn_blocking;

use super::{
    answer, errors,
    http::{self, ApiKey, Http, InvalidProviderSettings, ProviderHttp},
};
use chunk::ChatDecoder;
use embeddings::EmbeddingsRequest;
use request::ChatRequest;

pub(super) mod chunk;
mod embeddings;
mod request;

/// The most bytes of an answer to an embedding call: 2,048 vectors of 3,072 numbers, in base64.
const MAX_EMBEDDINGS_BYTES: usize = 64 * 1024 * 1024;

/// OpenAI's own limit.
pub const MAX_INPUTS: NonZeroUsize = NonZeroUsize::new(2_048).unwrap();

/// Where servers of this API differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OpenAiOptions {
    pub max_tokens_field: MaxTokensField,
    /// Ask for the token count of a stream (`stream_options.include_usage`). OpenAI, Ollama, vLLM and llama.cpp know it;
    /// without it a stream's usage is estimated.
    pub include_usage: bool,
    /// The most inputs of one embedding call: 2,048 at OpenAI, 100 at Gemini.
    pub max_inputs: NonZeroUsize,
}

impl Default for OpenAiOptions {
    fn default() -> Self {
        Self { max_tokens_field: MaxTokensField::MaxCompletionTokens, include_usage: true, max_inputs: MAX_INPUTS }
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
    /// It wants embeddings to be asked for as numbers.
    refuses_base64: AtomicBool,
}

impl OpenAiProvider {
    /// `settings.base_url` ends in the version: `https://api.openai.com/v1`, `http://localhost:11434/v1`.
    pub fn new(settings: &ProviderHttp, options: OpenAiOptions) -> Result<Self, InvalidProviderSettings> {
        let authorization = |key: &ApiKey| vec![("authorization", format!("Bearer {}", key.expose()))];
        let headers = settings.api_key.as_ref().map(authorization).unwrap_or_default();
        Ok(Self { http: Http::new(settings, &headers)?, options, refuses_base64: AtomicBool::new(false) })
    }

    async fn open(&self, call: GenerateCall) -> Result<DeltaStream, ProviderError> {
        let body = ChatRequest::new(&call, self.options);
        let response = self.http.post("/chat/completions", &call.request_id, &body, &call.reached).await?;
        Ok(answer::deltas(response, ChatDecoder::default()))
    }

    /// In calls of as many inputs as the server takes at once.
    async fn vectors(&self, call: EmbedCall) -> Result<Embeddings, ProviderError> {
        let mut all: Option<Embeddings> = None;
        for inputs in call.inputs.chunks(self.options.max_inputs.get()) {
            let more = self.vectors_of(&call, inputs).await?;
            match &mut all {
                Some(all) => all.append(more),
                None => all = Some(more),
            }
        }
        all.ok_or_else(errors::empty)
    }

    async fn vectors_of(&self, call: &EmbedCall, inputs: &[String]) -> Result<Embeddings, ProviderError> {
        let refuses_base64 = self.refuses_base64.load(Ordering::Relaxed);
        let told = self.embed_once(call, inputs, !refuses_base64).await;
        match told {
            // It is we who chose that. A server that takes numbers then takes them from now on.
            Err(error)
                if !refuses_base64 && error.kind == FailureKind::InvalidRequest && speaks_of_encoding(&error) =>
            {
                let told = self.embed_once(call, inputs, false).await?;
                self.refuses_base64.store(true, Ordering::Relaxed);
                Ok(told)
            }
            told => told,
        }
    }

    async fn embed_once(&self, call: &EmbedCall, inputs: &[String], base64: bool) -> Result<Embeddings, ProviderError> {
        let body = EmbeddingsRequest::new(call, inputs, base64);
        let response = self.http.post("/embeddings", &call.request_id, &body, &call.reached).await?;
        let body = http::body(response, MAX_EMBEDDINGS_BYTES, None).await?;
        let inputs = inputs.len();
        if body.bytes.len() <= http::SMALL_BODY_BYTES {
            return embeddings::read(&body.bytes, inputs);
        }
        // It takes tens of milliseconds, which are those of everybody whose task is on this thread.
        let read = spawn_blocking(move || embeddings::read(&body.bytes, inputs)).await;
        read.unwrap_or_else(|error| Err(errors::malformed(&error)))
    }
}

/// Only then is it asked again: another fault would stay.
fn speaks_of_encoding(error: &ProviderError) -> bool {
    let message = error.message.to_lowercase();
    message.contains("encoding_format") || message.contains("base64")
}

impl Provider for OpenAiProvider {
    fn generate(&self, call: GenerateCall) -> BoxFuture<'_, Result<DeltaStream, ProviderError>> {
        Box::pin(self.open(call))
    }

    fn embed(&self, call: EmbedCall) -> BoxFuture<'_, Result<Embeddings, ProviderError>> {
        Box::pin(self.vectors(call))
    }
}
