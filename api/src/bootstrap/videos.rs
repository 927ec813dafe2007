//! The configured providers of video, each with its adapter.

use std::{net::SocketAddr, sync::Arc};

use aihub_application::{
    ports::video_provider::VideoProvider,
    upstream::guard::Guard,
    videos::catalog::{VideoBackend, VideoCatalog},
};
use aihub_infrastructure::{
    providers::http::{ApiKey, ExtraHeaders, ProviderHttp},
    video_providers::{
        openai::{OpenAiVideoOptions, OpenAiVideoProvider},
        veo::VeoProvider,
        xai::XaiVideoProvider,
    },
};
use anyhow::Context;

use super::upstreams::SIMULATED_KEY;
use crate::config::{
    Config, duration_ms,
    videos::{VideoProviderKind, VideoProviderSettings, VideoReach},
};

/// `simulator` is where the simulated providers of this process listen.
pub fn catalog(config: &Config, simulator: Option<SocketAddr>) -> anyhow::Result<VideoCatalog> {
    let mut catalog = VideoCatalog::default();
    for (name, settings, reach) in config.video_providers_to_start() {
        let backend = backend(name, settings, reach, simulator).with_context(|| format!("video_providers.{name}"))?;
        catalog.backends.insert(name.to_owned(), Arc::new(backend));
    }
    Ok(catalog)
}

fn backend(
    name: &str,
    settings: &VideoProviderSettings,
    reach: VideoReach<'_>,
    simulator: Option<SocketAddr>,
) -> anyhow::Result<VideoBackend> {
    let simulated = reach == VideoReach::Simulator;
    let (base_url, api_key) = match reach {
        VideoReach::Simulator => {
            let simulator = simulator.context("the simulated providers do not run")?;
            (format!("http://{simulator}/v1"), Some(ApiKey::new(SIMULATED_KEY)))
        }
        VideoReach::At(base_url) => (base_url.to_owned(), settings.key().map(|key| ApiKey::new(key.expose()))),
    };
    let http = ProviderHttp {
        base_url,
        api_key,
        connect_timeout: duration_ms(settings.timeouts.connect_ms),
        first_byte_timeout: duration_ms(settings.timeouts.first_byte_ms),
        idle_timeout: duration_ms(settings.timeouts.idle_ms),
        answer_timeout: duration_ms(settings.timeouts.answer_ms),
        extra_headers: ExtraHeaders::default(),
    };
    let provider: Arc<dyn VideoProvider> = match settings.kind {
        VideoProviderKind::OpenAi => {
            let options = OpenAiVideoOptions { idempotent: settings.idempotent || simulated };
            Arc::new(OpenAiVideoProvider::new(&http, options)?)
        }
        VideoProviderKind::Veo => Arc::new(VeoProvider::new(&http)?),
        VideoProviderKind::Xai => Arc::new(XaiVideoProvider::new(&http)?),
    };
    Ok(VideoBackend {
        name: name.to_owned(),
        simulated: settings.simulated || simulated,
        priority: settings.priority,
        max_concurrency: settings.limits.max_concurrency,
        models: settings.models(),
        provider,
        guard: Guard::new(name, settings.upstream_limits(), settings.breaker_policy()),
        webhook_secrets: settings.webhook_secret.iter().map(|secret| secret.expose().to_owned()).collect(),
    })
}
