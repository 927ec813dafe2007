//! The models that exist, and what is said about them and about paths that do not.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{
    SimulatedProvider,
    anthropic::{self, error::AnthropicError},
    openai::{self, error::OpenAiError},
};

#[derive(PartialEq, Eq)]
pub(super) struct Model {
    pub name: &'static str,
    pub display_name: &'static str,
    pub provider: SimulatedProvider,
    pub max_input_tokens: u32,
    pub use_: Use,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Chat { max_output_tokens: u32 },
    Embedding { dimensions: u32 },
    Video,
}

/// Limits as in the price list of 2026-11.
pub(super) static MODELS: [Model; 18] = [
    openai_chat("gpt-6-astra"),
    openai_chat("gpt-6.1-sol"),
    openai_chat("gpt-6.1-terra"),
    openai_chat("gpt-6-luna"),
    openai_embedding("text-embedding-3-small", 1536),
    openai_embedding("text-embedding-3-large", 3072),
    video(SimulatedProvider::OpenAi, "sora-2"),
    video(SimulatedProvider::OpenAi, "sora-2-pro"),
    claude("claude-opus-5-5", "Claude Opus 5.5 (simulated)"),
    claude("claude-sonnet-5-5", "Claude Sonnet 5.5 (simulated)"),
    claude("claude-haiku-5-5", "Claude Haiku 5.5 (simulated)"),
    openai_chat("gpt-5.6-sol"),
    Model { max_input_tokens: 128_000, use_: Use::Chat { max_output_tokens: 16_384 }, ..openai_chat("gpt-4o-mini") },
    claude("claude-fable-5-1", "Claude Fable 5.1 (simulated)"),
    claude("claude-sonnet-4-6", "Claude Sonnet 4.6 (simulated)"),
    Model {
        max_input_tokens: 200_000,
        use_: Use::Chat { max_output_tokens: 64_000 },
        ..claude("claude-haiku-4-5", "Claude Haiku 4.5 (simulated)")
    },
    video(SimulatedProvider::Gemini, "veo-3.1-fast-generate-001"),
    video(SimulatedProvider::Gemini, "veo-3.1-generate-001"),
];

const fn openai_chat(name: &'static str) -> Model {
    let use_ = Use::Chat { max_output_tokens: 128_000 };
    Model { name, display_name: name, provider: SimulatedProvider::OpenAi, max_input_tokens: 922_000, use_ }
}

const fn openai_embedding(name: &'static str, dimensions: u32) -> Model {
    let use_ = Use::Embedding { dimensions };
    Model { name, display_name: name, provider: SimulatedProvider::OpenAi, max_input_tokens: 8_191, use_ }
}

/// What a video is asked for with is limited in characters and not in tokens.
const fn video(provider: SimulatedProvider, name: &'static str) -> Model {
    Model { name, display_name: name, provider, max_input_tokens: 0, use_: Use::Video }
}

const fn claude(name: &'static str, display_name: &'static str) -> Model {
    let use_ = Use::Chat { max_output_tokens: 128_000 };
    Model { name, display_name, provider: SimulatedProvider::Claude, max_input_tokens: 1_000_000, use_ }
}

/// A name that `provider` has, without knobs.
pub(super) fn find(provider: SimulatedProvider, name: &str) -> Option<&'static Model> {
    MODELS.iter().find(|model| model.provider == provider && model.name == name)
}

pub(super) fn default_embedding() -> &'static Model {
    &MODELS[4]
}

pub(super) fn default_video() -> &'static Model {
    &MODELS[6]
}

/// The model that answers where none is named.
pub(super) fn default(provider: SimulatedProvider) -> &'static Model {
    match provider {
        SimulatedProvider::OpenAi => &MODELS[3],
        SimulatedProvider::Claude => &MODELS[10],
        SimulatedProvider::Gemini => &MODELS[16],
    }
}

fn of(provider: SimulatedProvider) -> impl DoubleEndedIterator<Item = &'static Model> {
    MODELS.iter().filter(move |model| model.provider == provider)
}

/// Both providers list their models here; the version header tells whose client asks.
pub(super) async fn list(headers: HeaderMap) -> Response {
    if headers.contains_key(anthropic::VERSION) {
        return match anthropic::authenticate(&headers) {
            Ok(()) => (anthropic::headers(0), Json(anthropic_list())).into_response(),
            Err(error) => error.into_response_of(0),
        };
    }
    match openai::authenticate(&headers) {
        Ok(()) => (openai::headers(0, Duration::ZERO), Json(openai_list())).into_response(),
        Err(error) => error.into_response_of(0),
    }
}

fn openai_list() -> Value {
    let data: Vec<Value> = of(SimulatedProvider::OpenAi)
        .map(|model| {
            json!({"id": model.name, "object": "model", "created": 1_790_000_000, "owned_by": "simulated",
                   "shutdown_date": null})
        })
        .collect();
    json!({"object": "list", "data": data})
}

fn anthropic_list() -> Value {
    let data: Vec<Value> = of(SimulatedProvider::Claude)
        .map(|model| {
            let Use::Chat { max_output_tokens } = model.use_ else { return Value::Null };
            json!({"type": "model", "id": model.name, "display_name": model.display_name,
                   "created_at": "2026-09-21T00:00:00Z", "lifecycle": "active",
                   "max_input_tokens": model.max_input_tokens, "max_tokens": max_output_tokens})
        })
        .collect();
    let first = of(SimulatedProvider::Claude).next().map(|model| model.name);
    let last = of(SimulatedProvider::Claude).next_back().map(|model| model.name);
    json!({"data": data, "has_more": false, "first_id": first, "last_id": last})
}

/// A path or a method that neither provider has.
pub(super) async fn unknown_route(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    if headers.contains_key(anthropic::VERSION) {
        return AnthropicError::not_found("Not Found".to_owned()).into_response_of(0);
    }
    let message = format!("Invalid URL ({method} {})", uri.path());
    OpenAiError::invalid_request(message).with_status(StatusCode::NOT_FOUND).into_response_of(0)
}
