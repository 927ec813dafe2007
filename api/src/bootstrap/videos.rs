//! Video jobs: the configured providers, each with its adapter, and the workers.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use aihub_application::{
    gateway::Gateway,
    ports::{media_store::MediaStore, video_provider::VideoProvider},
    shares::Portions,
    upstream::guard::Guard,
    videos::{
        Videos,
        catalog::{VideoBackend, VideoCatalog},
        jobs::Jobs,
        places::QueuePlaces,
    },
};
use aihub_infrastructure::{
    database::Database,
    event_store::subscription::Subscriptions,
    job_news::{self, JobNews},
    leadership::lead,
    providers::http::{ApiKey, ExtraHeaders, ProviderHttp},
    seats::PostgresSeats,
    video_providers::{
        openai::{OpenAiVideoOptions, OpenAiVideoProvider},
        veo::VeoProvider,
        xai::XaiVideoProvider,
    },
    video_queue::PostgresVideoQueue,
};
use anyhow::Context;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::upstreams::SIMULATED_KEY;
use crate::config::{
    Config, duration_ms,
    videos::{VideoProviderKind, VideoProviderSettings, VideoReach},
};

/// How often media is looked for that is due to be deleted.
const MEDIA_EVERY: Duration = Duration::from_secs(5);

/// What video jobs are made of.
pub struct Works {
    pub database: Database,
    pub gateway: Arc<Gateway>,
    pub catalog: VideoCatalog,
    pub media: Arc<dyn MediaStore>,
}

impl Works {
    /// Starts what looks after jobs and their media: what one node at a time does until `hand_over`, the rest until `stop`.
    pub fn start(
        self,
        config: &Config,
        subscriptions: &Subscriptions,
        workers: &TaskTracker,
        (stop, hand_over): (&CancellationToken, &CancellationToken),
    ) -> Arc<Videos> {
        let Self { database, gateway, catalog, media } = self;
        let queue = Arc::new(PostgresVideoQueue::new(database.clone()));
        let news = job_news::channel();
        let (live, handlers) = (subscriptions.live(), subscriptions.waiter());
        let telling = JobNews { database: database.clone(), live, handlers, news: news.clone() };
        workers.spawn(telling.follow(stop.clone()));
        let jobs = Jobs {
            log: gateway.log.clone(),
            accounts: gateway.accounts.clone(),
            clock: gateway.clock.clone(),
            rate: gateway.settings.rate,
            node: gateway.settings.node.clone(),
        };
        let videos = Arc::new(Videos {
            settings: config.video_settings(),
            jobs,
            gateway,
            catalog,
            media,
            queue: queue.clone(),
            places: QueuePlaces::new(queue.clone()),
            seats: Arc::new(PostgresSeats::new(database.clone())),
            news,
        });
        workers.spawn(keep_media(videos.clone(), queue, config.videos.keep_media_days, stop.clone()));
        let driven = videos.clone();
        let drive = move |stop| driven.clone().drive(stop);
        workers.spawn(lead(database, "videos", hand_over.clone(), drive));
        videos
    }
}

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
            let version = if settings.kind == VideoProviderKind::Veo { "v1beta" } else { "v1" };
            (format!("http://{simulator}/{version}"), Some(ApiKey::new(SIMULATED_KEY)))
        }
        VideoReach::At(base_url) => (base_url.to_owned(), settings.key().map(|key| ApiKey::new(key.expose()))),
    };
    let http = ProviderHttp {
        base_url,
        api_key,
        connect_timeout: duration_ms(settings.timeouts.connect_ms),
        first_byte_timeout: duration_ms(settings.timeouts.first_byte_ms),
        idle_timeout: duration_ms(settings.timeouts.idle_ms),
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
        simulated: settings.is_simulated(reach),
        priority: settings.priority,
        max_concurrency: settings.limits.max_concurrency,
        models: settings.models(),
        provider,
        // The queue shares them out, account by account.
        guard: Guard::new(
            name,
            settings.upstream_limits(),
            settings.breaker_policy(),
            Portions::undivided(settings.limits.max_concurrency),
        ),
        webhook_secrets: settings.webhook_secret.iter().map(|secret| secret.expose().to_owned()).collect(),
    })
}

/// Has media deleted that is too old, whose content was erased, or that nobody knows of.
async fn keep_media(
    videos: Arc<Videos>,
    queue: Arc<PostgresVideoQueue>,
    keep_days: Option<u32>,
    stop: CancellationToken,
) {
    let mut tick = interval(MEDIA_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let kept_from = keep_days.map(|days| videos.jobs.clock.now() - chrono::TimeDelta::days(days.into()));
        match videos.erase_due_media(&*queue, kept_from).await {
            Ok(0) => {}
            Ok(erased) => tracing::info!(videos.erased = erased, "media was deleted"),
            Err(error) => {
                tracing::warn!(error.message = format!("{error:#}"), "media that is due could not be looked for");
            }
        }
        if let Err(error) = videos.delete_leftovers(&*queue, videos.nothing_comes_before()).await {
            tracing::warn!(error.message = format!("{error:#}"), "files that are left could not be looked for");
        }
    }
}
