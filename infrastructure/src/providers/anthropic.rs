//! Anthropic's messages API, and the servers that speak it.
//!
//! A prompt comes in OpenAI's form and is translated (`request`). A stream's deltas report usage twice: the first report stands
//! at the very beginning and knows the input for good, but its output is a placeholder of 0 to 8 tokens; the last one comes
//! just before `Finish` and is what Anthropic bills.

use aihub_application::ports::provider::{
    DeltaStream, EmbedCall, Embeddings, FailureKind, GenerateCall, Provider, ProviderError, Untaken, prompt::Prompt,
};
use futures::future::BoxFuture;
use serde::Deserialize;

use super::{
    answer,
    http::{ApiKey, Http, InvalidProviderSettings, ProviderHttp},
};
use event::MessageDecoder;
use request::MessagesRequest;

pub(super) mod event;
mod request;

/// What is sent as `anthropic-version`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum AnthropicVersion {
    #[default]
    #[serde(rename = "2023-06-01")]
    V2023_06_01,
    /// Refuses `temperature` and `top_p`, so these are not sent.
    #[serde(rename = "2026-10-21")]
    V2026_10_21,
}

impl AnthropicVersion {
    fn as_str(self) -> &'static str {
        match self {
            Self::V2023_06_01 => "2023-06-01",
            Self::V2026_10_21 => "2026-10-21",
        }
    }
}

#[derive(Debug)]
pub struct AnthropicProvider {
    http: Http,
    version: AnthropicVersion,
}

impl AnthropicProvider {
    /// `settings.base_url` is the host alone, `https://api.anthropic.com`; a `/v1` at its end is taken for granted.
    pub fn new(settings: &ProviderHttp, version: AnthropicVersion) -> Result<Self, InvalidProviderSettings> {
        let mut headers = vec![("anthropic-version", version.as_str().to_owned())];
        headers.extend(settings.api_key.as_ref().map(|key: &ApiKey| ("x-api-key", key.expose().to_owned())));
        let mut settings = settings.clone();
        let base_url = settings.base_url.trim_end_matches('/');
        settings.base_url = base_url.strip_suffix("/v1").unwrap_or(base_url).to_owned();
        Ok(Self { http: Http::new(&settings, &headers)?, version })
    }

    async fn open(&self, call: GenerateCall) -> Result<DeltaStream, ProviderError> {
        let body = MessagesRequest::new(&call, self.version);
        let response = self.http.post("/v1/messages", &call.request_id, &body, &call.reached).await?;
        Ok(answer::deltas(response, MessageDecoder::default()))
    }
}

impl Provider for AnthropicProvider {
    fn generate(&self, call: GenerateCall) -> BoxFuture<'_, Result<DeltaStream, ProviderError>> {
        Box::pin(self.open(call))
    }

    fn embed(&self, _call: EmbedCall) -> BoxFuture<'_, Result<Embeddings, ProviderError>> {
        Box::pin(async {
            Err(ProviderError {
                kind: FailureKind::ModelUnavailable,
                status: None,
                message: "Anthropic has no embedding models".into(),
                retry_after: None,
                flaw: None,
            })
        })
    }

    fn cannot_take(&self, prompt: &Prompt) -> Option<Untaken> {
        let nth = prompt.stop.iter().position(|stop| stop.trim().is_empty())?;
        Some(Untaken {
            field: format!("stop[{nth}]"),
            reason: "is white space, at which Claude's models cannot be stopped",
        })
    }
}
