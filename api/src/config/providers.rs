//! The providers: how each is reached, what it may be asked, and which of them are simulated.

use std::{
    collections::BTreeMap,
    num::{NonZeroU32, NonZeroUsize},
};

use aihub_application::upstream::{BreakerPolicy, Streaming, Timing, UpstreamSettings, guard::UpstreamLimits};
use serde::{Deserialize, Serialize};

use super::{
    Config, duration_ms,
    models::{ModelSettings, UnlistedSettings, models},
};
use crate::auth::secret::Secret;

/// What Gemini takes, <https://ai.google.dev/gemini-api/docs/embeddings>: "at most 100 requests can be in one batch".
const GEMINI_INPUTS: usize = 100;

/// One provider, as in `[providers.openai]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderSettings {
    /// The API that it speaks.
    pub kind: ProviderKind,
    #[serde(default = "yes")]
    pub enabled: bool,
    /// As the official SDKs take it: `http://localhost:11434/v1`, but `https://api.anthropic.com`. Left out, it is the
    /// vendor's.
    pub base_url: Option<String>,
    /// An empty one says that none is needed.
    pub api_key: Option<Secret>,
    /// Its answers are made up. Without a `base_url` the simulator inside this process makes them.
    #[serde(default)]
    pub simulated: bool,
    /// Lower is tried first.
    #[serde(default = "last")]
    pub priority: u32,
    /// Its share among those of the same priority.
    #[serde(default = "one")]
    pub weight: u32,
    /// `openai` only: what the limit on the answer's tokens is called.
    #[serde(default)]
    pub max_tokens_field: MaxTokensField,
    /// How it streams.
    #[serde(default)]
    pub streams: StreamsSetting,
    /// `openai` only: the most inputs of one embedding call; more are asked for in several. Left out, it is 100 at Gemini and
    /// 2,048 elsewhere.
    pub max_embedding_inputs: Option<NonZeroUsize>,
    /// `anthropic` only: what is sent as `anthropic-version`.
    #[serde(default)]
    pub anthropic_version: AnthropicVersion,
    /// Sent with every call.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    #[serde(default)]
    pub limits: ProviderLimits,
    #[serde(default)]
    pub timeouts: ProviderTimeouts,
    #[serde(default)]
    pub breaker: BreakerSettings,
    /// By the names that clients use.
    #[serde(default)]
    pub models: BTreeMap<String, ModelSettings>,
    /// Terms for every other model; left out, those are refused.
    pub unlisted: Option<UnlistedSettings>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderKind {
    /// OpenAI, and every server that speaks its API: Ollama, vLLM, llama.cpp.
    OpenAi,
    Anthropic,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamsSetting {
    /// With the number of tokens at the end.
    #[default]
    Counted,
    /// `openai` only: the number of tokens is not asked for, which some local servers refuse to be, and is estimated.
    Uncounted,
    /// Every answer is asked for in one piece, and all that it may have is held from the beginning.
    Never,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaxTokensField {
    /// OpenAI, whose reasoning models refuse the other.
    #[default]
    MaxCompletionTokens,
    /// Most local servers, which ignore the other.
    MaxTokens,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AnthropicVersion {
    #[default]
    #[serde(rename = "2023-06-01")]
    V2023_06_01,
    #[serde(rename = "2026-10-21")]
    V2026_10_21,
}

/// What we allow ourselves with one provider. Over it, another one is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProviderLimits {
    pub max_concurrency: usize,
    pub requests_per_minute: Option<NonZeroU32>,
    pub tokens_per_minute: Option<NonZeroU32>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProviderTimeouts {
    /// DNS, TCP and TLS together.
    pub connect_ms: u64,
    /// From sending the request to its status line. Where nobody else can be asked, an answer may take as long as the request.
    pub first_byte_ms: u64,
    /// From sending the request, or the last that was thought, to the first visible piece, likewise. Embeddings are one piece.
    pub first_piece_ms: u64,
    /// From one piece to the next; of a video's file, from one read to the next.
    pub idle_ms: u64,
    /// From sending the request to its answer's end.
    pub answer_ms: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerSettings {
    pub window_ms: u64,
    /// Below this many calls in the window it does not open.
    pub min_calls: u32,
    /// Opens at this share of failures.
    pub failure_percent: u32,
    /// Opens at so many failures one after another, however few calls there are.
    pub consecutive_failures: u32,
    /// A probe is let through after this long.
    pub open_for_ms: u64,
}

impl Default for ProviderLimits {
    fn default() -> Self {
        Self { max_concurrency: 1_000, requests_per_minute: None, tokens_per_minute: None }
    }
}

impl Default for ProviderTimeouts {
    fn default() -> Self {
        Self { connect_ms: 5_000, first_byte_ms: 30_000, first_piece_ms: 30_000, idle_ms: 60_000, answer_ms: 300_000 }
    }
}

impl BreakerSettings {
    pub fn policy(&self) -> BreakerPolicy {
        BreakerPolicy {
            window: duration_ms(self.window_ms),
            min_calls: self.min_calls,
            failure_percent: self.failure_percent,
            consecutive_failures: self.consecutive_failures,
            open_for: duration_ms(self.open_for_ms),
        }
    }
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self { window_ms: 60_000, min_calls: 10, failure_percent: 50, consecutive_failures: 5, open_for_ms: 30_000 }
    }
}

fn yes() -> bool {
    true
}

fn last() -> u32 {
    100
}

fn one() -> u32 {
    1
}

/// Where a provider's answers come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach<'a> {
    /// The simulator inside this process. Its address is known once it runs, see [`ProviderKind::base_url_of`].
    Simulator,
    At {
        base_url: &'a str,
        api_key: Option<&'a Secret>,
    },
}

/// A provider that is to be started.
#[derive(Debug, Clone, Copy)]
pub struct ProviderToStart<'a> {
    pub name: &'a str,
    pub settings: &'a ProviderSettings,
    pub reach: Reach<'a>,
    /// Its answers are made up, wherever they come from.
    pub simulated: bool,
}

impl ProviderKind {
    /// The vendor's own.
    pub fn default_base_url(self) -> &'static str {
        match self {
            Self::OpenAi => "https://api.openai.com/v1",
            Self::Anthropic => "https://api.anthropic.com",
        }
    }

    /// The base URL of a server at `origin` (`http://127.0.0.1:4100`) that speaks both APIs, as the simulator does.
    pub fn base_url_of(self, origin: &str) -> String {
        match self {
            Self::OpenAi => format!("{origin}/v1"),
            Self::Anthropic => origin.to_owned(),
        }
    }

    /// Whether a model that does not say may produce what is not shown: reasoning does not stand in `OpenAI`'s streams, and
    /// Anthropic's models show theirs where they are not known to do otherwise.
    fn may_work_hidden(self) -> bool {
        self == Self::OpenAi
    }

    /// Where its vendor's key comes from, for messages.
    pub fn key_variable(self) -> &'static str {
        match self {
            Self::OpenAi => "OPENAI_API_KEY",
            Self::Anthropic => "ANTHROPIC_API_KEY",
        }
    }
}

impl ProviderSettings {
    /// The key, unless it is empty.
    pub fn key(&self) -> Option<&Secret> {
        self.api_key.as_ref().filter(|key| !key.expose().is_empty())
    }

    /// A vendor's own service wants a key; a server of one's own is asked as it was configured.
    pub fn reach(&self) -> Reach<'_> {
        match (&self.base_url, self.key()) {
            (None, _) if self.simulated => Reach::Simulator,
            (None, None) => Reach::Simulator,
            (base_url, api_key) => {
                let base_url = base_url.as_deref().unwrap_or(self.kind.default_base_url());
                Reach::At { base_url, api_key }
            }
        }
    }

    /// The most inputs of one embedding call; `None` where it is OpenAI's own limit.
    pub fn max_embedding_inputs(&self) -> Option<NonZeroUsize> {
        let is_gemini = self.base_url.as_ref().is_some_and(|url| url.contains("generativelanguage.googleapis.com"));
        self.max_embedding_inputs.or(NonZeroUsize::new(GEMINI_INPUTS).filter(|_| is_gemini))
    }

    pub fn upstream_settings(&self, name: &str) -> UpstreamSettings {
        UpstreamSettings {
            name: name.to_owned(),
            simulated: self.simulated || self.reach() == Reach::Simulator,
            priority: self.priority,
            weight: self.weight,
            streaming: match self.streams {
                StreamsSetting::Counted => Streaming::Counted,
                StreamsSetting::Uncounted => Streaming::Uncounted,
                StreamsSetting::Never => Streaming::Never,
            },
            timing: Timing {
                first_byte: duration_ms(self.timeouts.first_byte_ms),
                first_piece: duration_ms(self.timeouts.first_piece_ms),
                silence: duration_ms(self.timeouts.idle_ms),
                whole: duration_ms(self.timeouts.answer_ms),
            },
            models: models(name, &self.models, self.unlisted.as_ref(), self.kind.may_work_hidden()),
            limits: UpstreamLimits {
                max_concurrency: self.limits.max_concurrency,
                requests_per_minute: self.limits.requests_per_minute,
                tokens_per_minute: self.limits.tokens_per_minute,
            },
            breaker: self.breaker.policy(),
        }
    }
}

impl Config {
    /// The providers that are enabled, by name. In production none of them is simulated, see
    /// [`missing`](super::production::missing).
    pub fn providers_to_start(&self) -> impl Iterator<Item = ProviderToStart<'_>> {
        self.providers.iter().filter(|(_, settings)| settings.enabled).map(|(name, settings)| {
            let reach = settings.reach();
            let simulated = settings.simulated || reach == Reach::Simulator;
            ProviderToStart { name, settings, reach, simulated }
        })
    }
}
