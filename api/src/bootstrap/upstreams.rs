//! The configured providers, each with its adapter.

use std::{net::SocketAddr, sync::Arc};

use aihub_application::{ports::provider::Provider, upstream::Upstream};
use aihub_infrastructure::providers::{
    anthropic::{self, AnthropicProvider},
    http::{ApiKey, ExtraHeaders, ProviderHttp},
    openai::{self, OpenAiOptions, OpenAiProvider},
};
use anyhow::Context;

use crate::config::{
    Config, duration_ms,
    providers::{
        AnthropicVersion, MaxTokensField, ProviderKind, ProviderSettings, ProviderToStart, Reach, StreamsSetting,
    },
};

/// What the simulator takes for a key.
pub(super) const SIMULATED_KEY: &str = "sk-simulated";

/// `simulator` is where the simulated providers of this process listen.
pub fn upstreams(config: &Config, simulator: Option<SocketAddr>) -> anyhow::Result<Vec<Arc<Upstream>>> {
    config
        .providers_to_start()
        .map(|ProviderToStart { name, settings, reach, simulated }| {
            let http = http(settings, reach, simulator).with_context(|| format!("providers.{name}"))?;
            let provider = adapter(settings, &http).with_context(|| format!("providers.{name}"))?;
            let mut upstream = settings.upstream_settings(name);
            upstream.simulated = simulated;
            Ok(Upstream::new(upstream, provider))
        })
        .collect()
}

fn http(settings: &ProviderSettings, reach: Reach<'_>, simulator: Option<SocketAddr>) -> anyhow::Result<ProviderHttp> {
    let (base_url, api_key) = match reach {
        Reach::Simulator => {
            let simulator = simulator.context("the simulated providers do not run")?;
            (settings.kind.base_url_of(&format!("http://{simulator}")), Some(ApiKey::new(SIMULATED_KEY)))
        }
        Reach::At { base_url, api_key } => (base_url.to_owned(), api_key.map(|key| ApiKey::new(key.expose()))),
    };
    let headers = settings.headers.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect();
    Ok(ProviderHttp {
        base_url,
        api_key,
        connect_timeout: duration_ms(settings.timeouts.connect_ms),
        first_byte_timeout: duration_ms(settings.timeouts.first_byte_ms),
        idle_timeout: duration_ms(settings.timeouts.idle_ms),
        extra_headers: ExtraHeaders(headers),
    })
}

fn adapter(settings: &ProviderSettings, http: &ProviderHttp) -> anyhow::Result<Arc<dyn Provider>> {
    Ok(match settings.kind {
        ProviderKind::OpenAi => {
            let max_tokens_field = match settings.max_tokens_field {
                MaxTokensField::MaxCompletionTokens => openai::MaxTokensField::MaxCompletionTokens,
                MaxTokensField::MaxTokens => openai::MaxTokensField::MaxTokens,
            };
            let include_usage = settings.streams == StreamsSetting::Counted;
            let max_inputs = settings.max_embedding_inputs().unwrap_or(openai::MAX_INPUTS);
            let options = OpenAiOptions { max_tokens_field, include_usage, max_inputs };
            Arc::new(OpenAiProvider::new(http, options)?)
        }
        ProviderKind::Anthropic => {
            let version = match settings.anthropic_version {
                AnthropicVersion::V2023_06_01 => anthropic::AnthropicVersion::V2023_06_01,
                AnthropicVersion::V2026_10_21 => anthropic::AnthropicVersion::V2026_10_21,
            };
            Arc::new(AnthropicProvider::new(http, version)?)
        }
    })
}
