//! Video jobs and the providers of video.

use std::{collections::BTreeMap, num::NonZeroU32};

use aihub_application::{
    ports::seats::Depth,
    upstream::{BreakerPolicy, guard::UpstreamLimits},
    videos::{VideoSettings, catalog::VideoModel},
};
use aihub_domain::video::{
    format::{AspectRatio, Resolution},
    price::VideoPrice,
};
use chrono::{DateTime, NaiveDate};
use serde::{Deserialize, Serialize};

use super::{
    Config,
    amount::Usd,
    duration_ms,
    prices::{midnight, overlap},
    providers::{BreakerSettings, ProviderTimeouts},
};
use crate::auth::secret::Secret;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VideoKeys {
    /// Jobs that wait; over it: `QUEUE_FULL`, as for the next.
    pub max_queued: u64,
    pub max_queued_per_account: u64,
    /// A job that no provider had room for is ended after this long.
    pub max_wait_ms: u64,
    /// From a job's submission to its provider's being done.
    pub deadline_ms: u64,
    /// After the deadline, for a file that is there and cannot be fetched.
    pub storing_ms: u64,
    /// How long a file that is none, or is half of one, is fetched again before it is unusable.
    pub whole_within_ms: u64,
    /// How often a provider is asked how a job stands, where it does not say itself.
    pub poll_ms: u64,
    /// How long after a submission whose answer was lost the provider is asked about it. Longer than any of the video
    /// providers' `first_byte_ms`: whoever submitted must have given up.
    pub recover_after_ms: u64,
    /// Media of jobs that ended before is deleted. Left out, it is kept.
    pub keep_media_days: Option<u32>,
    /// The longest that a status is waited for with `?wait=`.
    pub max_long_poll_ms: u64,
}

/// One provider of video, as in `[video_providers.veo]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VideoProviderSettings {
    pub kind: VideoProviderKind,
    #[serde(default = "yes")]
    pub enabled: bool,
    /// `https://generativelanguage.googleapis.com/v1beta`, `https://api.x.ai/v1`, `http://localhost:8000/v1`. Left out, it
    /// is the vendor's. The one of `openai` videos was switched off: without a `base_url` development simulates it.
    pub base_url: Option<String>,
    pub api_key: Option<Secret>,
    /// Its videos are made up. Without a `base_url` the simulator inside this process makes them.
    #[serde(default)]
    pub simulated: bool,
    /// Lower is asked first.
    #[serde(default = "last")]
    pub priority: u32,
    /// `openai` only: the server knows a submission again by its `Idempotency-Key`, as the simulator does. Without it lost
    /// ones are looked for.
    #[serde(default)]
    pub idempotent: bool,
    /// What its webhooks are signed with (`whsec_…`); without one they are refused.
    pub webhook_secret: Option<Secret>,
    #[serde(default)]
    pub limits: VideoProviderLimits,
    #[serde(default)]
    pub timeouts: ProviderTimeouts,
    #[serde(default)]
    pub breaker: BreakerSettings,
    /// By the names that clients use.
    #[serde(default)]
    pub models: BTreeMap<String, VideoModelSettings>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VideoProviderKind {
    /// Every server that speaks `/v1/videos`.
    OpenAi,
    Veo,
    Xai,
}

/// What we allow ourselves with one provider. Over it, jobs wait.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VideoProviderLimits {
    /// Jobs that it has at once.
    pub max_concurrency: usize,
    /// Submissions.
    pub requests_per_minute: Option<NonZeroU32>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VideoModelSettings {
    /// The provider's own name for it. Left out, it is the one that clients use.
    pub upstream_name: Option<String>,
    /// The lengths that it makes, in seconds, of each resolution that it makes: none of one that it is not to make.
    pub durations: BTreeMap<Resolution, Vec<u32>>,
    pub aspect_ratios: Vec<AspectRatio>,
    /// Preferred where the client names no model.
    #[serde(default)]
    pub default: bool,
    /// At most one is valid at a time. Without one that is valid the model is not offered.
    pub prices: Vec<VideoPriceSettings>,
}

/// One entry of a model's `prices`. A day is the UTC day.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VideoPriceSettings {
    /// What charges name.
    pub id: String,
    /// US dollars per second; a resolution without a price is not offered.
    pub usd_per_second: BTreeMap<Resolution, Usd>,
    pub valid_from: Option<NaiveDate>,
    /// The first day on which it is no longer valid.
    pub valid_until: Option<NaiveDate>,
    #[serde(default = "configuration")]
    pub source: String,
}

impl Default for VideoProviderLimits {
    fn default() -> Self {
        Self { max_concurrency: 5, requests_per_minute: None }
    }
}

fn yes() -> bool {
    true
}

fn last() -> u32 {
    100
}

fn configuration() -> String {
    "configuration".to_owned()
}

/// Where a provider's videos come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VideoReach<'a> {
    /// The simulator inside this process.
    Simulator,
    At(&'a str),
}

impl VideoProviderKind {
    pub fn default_base_url(self) -> Option<&'static str> {
        match self {
            Self::OpenAi => None,
            Self::Veo => Some("https://generativelanguage.googleapis.com/v1beta"),
            Self::Xai => Some("https://api.x.ai/v1"),
        }
    }
}

impl VideoProviderSettings {
    pub fn key(&self) -> Option<&Secret> {
        self.api_key.as_ref().filter(|key| !key.expose().is_empty())
    }

    /// Whether its videos are made up, wherever they come from.
    pub fn is_simulated(&self, reach: VideoReach<'_>) -> bool {
        self.simulated || reach == VideoReach::Simulator
    }

    /// `None` where it cannot be reached: it has no key, or no address, and is not simulated in its place.
    fn reach(&self, production: bool) -> Option<VideoReach<'_>> {
        match (&self.base_url, self.kind.default_base_url()) {
            (Some(base_url), _) => Some(VideoReach::At(base_url)),
            (None, Some(base_url)) if self.key().is_some() => Some(VideoReach::At(base_url)),
            _ if production || self.kind == VideoProviderKind::Xai => None,
            _ => Some(VideoReach::Simulator),
        }
    }

    /// The models, the preferred ones first.
    pub fn models(&self) -> Vec<(String, VideoModel)> {
        let mut models: Vec<_> = self.models.iter().collect();
        models.sort_by_key(|(name, model)| (!model.default, (*name).clone()));
        models.into_iter().map(|(name, model)| (name.clone(), model.model(name))).collect()
    }

    pub fn upstream_limits(&self) -> UpstreamLimits {
        let VideoProviderLimits { max_concurrency, requests_per_minute } = self.limits;
        UpstreamLimits { max_concurrency, requests_per_minute, tokens_per_minute: None }
    }

    pub fn breaker_policy(&self) -> BreakerPolicy {
        self.breaker.policy()
    }
}

impl VideoModelSettings {
    fn model(&self, name: &str) -> VideoModel {
        VideoModel {
            upstream_name: self.upstream_name.clone().unwrap_or_else(|| name.to_owned()),
            seconds: self.durations.clone().into_iter().filter(|(_, seconds)| !seconds.is_empty()).collect(),
            aspect_ratios: self.aspect_ratios.clone(),
            prices: self.prices.iter().map(VideoPriceSettings::price).collect(),
        }
    }
}

impl VideoPriceSettings {
    pub fn overlaps(&self, other: &Self) -> bool {
        overlap((self.valid_from, self.valid_until), (other.valid_from, other.valid_until))
    }

    pub fn price(&self) -> VideoPrice {
        VideoPrice {
            id: self.id.clone(),
            per_second: self.usd_per_second.iter().map(|(resolution, usd)| (*resolution, usd.0)).collect(),
            valid_from: self.valid_from.map_or(DateTime::UNIX_EPOCH, midnight),
            valid_until: self.valid_until.map(midnight),
            source: self.source.clone(),
        }
    }
}

impl Config {
    /// The video providers that are enabled and can be reached, by name. In production none of them is simulated.
    pub fn video_providers_to_start(&self) -> impl Iterator<Item = (&str, &VideoProviderSettings, VideoReach<'_>)> {
        let production = self.is_production();
        self.video_providers
            .iter()
            .filter(|(_, settings)| settings.enabled)
            .filter_map(move |(name, settings)| Some((name.as_str(), settings, settings.reach(production)?)))
    }

    pub fn video_settings(&self) -> VideoSettings {
        let keys = &self.videos;
        VideoSettings {
            max_queued: Depth { all: keys.max_queued, of_account: keys.max_queued_per_account },
            max_wait: duration_ms(keys.max_wait_ms),
            deadline: duration_ms(keys.deadline_ms),
            storing: duration_ms(keys.storing_ms),
            whole_within: duration_ms(keys.whole_within_ms),
            poll_every: duration_ms(keys.poll_ms),
            recover_after: duration_ms(keys.recover_after_ms),
        }
    }
}
