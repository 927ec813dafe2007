//! Which provider can make which video, at which price.

use std::{collections::BTreeMap, sync::Arc};

use aihub_domain::video::{
    event::Offer,
    format::{AspectRatio, Resolution},
    price::VideoPrice,
};
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::new_video::NewVideo;
use crate::{
    catalog::SIMULATED_CASE,
    error::{AskedVideo, GatewayError},
    ports::video_provider::VideoProvider,
    principal::{Operation, Principal},
    request::AUTO,
    upstream::guard::Guard,
};

/// One configured provider of video with what guards it.
pub struct VideoBackend {
    pub name: String,
    /// Its videos are made up.
    pub simulated: bool,
    /// Lower is asked first.
    pub priority: u32,
    /// Videos that it may have at once.
    pub max_concurrency: usize,
    /// By the names that clients use, the default one first.
    pub models: Vec<(String, VideoModel)>,
    pub provider: Arc<dyn VideoProvider>,
    pub guard: Arc<Guard>,
    /// What its webhooks are signed with, where it sends any.
    pub webhook_secrets: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VideoModel {
    /// The provider's own name for it.
    pub upstream_name: String,
    /// The lengths that it makes, in seconds, of each resolution that it makes.
    pub seconds: BTreeMap<Resolution, Vec<u32>>,
    pub aspect_ratios: Vec<AspectRatio>,
    /// Dated; at most one is valid at a time.
    pub prices: Vec<VideoPrice>,
}

/// What can be asked for, as it is told to whoever asked for something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Offering {
    pub provider: String,
    pub model: String,
    /// In seconds, by resolution. What is asked for between two of them is made as the longer one.
    pub durations: BTreeMap<Resolution, Vec<u32>>,
    pub aspect_ratios: Vec<AspectRatio>,
}

#[derive(Default)]
pub struct VideoCatalog {
    pub backends: BTreeMap<String, Arc<VideoBackend>>,
}

/// A bad day of a simulated provider's, which it has for the first of its models that can what is asked.
fn bad_day<'a>(backend: &VideoBackend, video: &'a NewVideo) -> Option<&'a str> {
    video.model.as_deref().filter(|model| backend.simulated && model.starts_with(SIMULATED_CASE))
}

impl VideoModel {
    /// The length that it makes for it, which is the next that it can, and at which price.
    fn makes(&self, video: &NewVideo, now: DateTime<Utc>) -> Option<(u32, &VideoPrice)> {
        let seconds = self.seconds.get(&video.resolution)?;
        let seconds = seconds.iter().copied().filter(|seconds| *seconds >= video.seconds).min()?;
        let price =
            self.prices.iter().find(|price| price.is_valid_at(now) && price.per_second.contains_key(&video.resolution));
        price.filter(|_| self.aspect_ratios.contains(&video.aspect_ratio)).map(|price| (seconds, price))
    }
}

impl VideoCatalog {
    /// Who can make `video` for `principal`, best first: those with what was named, by priority; then, with `fallback`, the
    /// others. A length that a model does not make is made as its next longer one: those that make it are first, and each provider has the
    /// model that makes the least more. Without `fallback` the first is the only one.
    pub fn offers(
        &self,
        video: &NewVideo,
        principal: &Principal,
        now: DateTime<Utc>,
    ) -> Result<Vec<Offer>, GatewayError> {
        let mut order: Vec<_> = self.backends.values().collect();
        order.sort_by_key(|backend| (backend.priority, &backend.name));
        let may = |backend: &VideoBackend, model: &str| {
            principal.capabilities.require(Operation::Video, &backend.name, model)
        };
        let offer = |backend: &VideoBackend, is_meant: &dyn Fn(&str) -> bool, bad_day: Option<&str>| {
            let able = backend.models.iter().filter(|(name, _)| is_meant(name));
            let offers = able.filter_map(|(name, model)| {
                let (seconds, price) = model.makes(video, now).filter(|_| may(backend, name).is_ok())?;
                let seconds = Some(seconds).filter(|seconds| *seconds != video.seconds);
                let upstream_model = bad_day.unwrap_or(&model.upstream_name).to_owned();
                let provider = backend.name.clone();
                Some(Offer { provider, model: name.clone(), upstream_model, seconds, price: price.clone() })
            });
            // The first of those that make the least more.
            offers.min_by_key(|offer| offer.seconds(video.seconds))
        };
        let is_named = |backend: &&&Arc<VideoBackend>| video.provider == AUTO || backend.name == video.provider;
        let is_meant = |name: &str| video.model.as_deref().is_none_or(|model| model == name);
        let named = order.iter().filter(is_named);
        let mut offers: Vec<Offer> = named
            .filter_map(|backend| {
                let bad_day = bad_day(backend, video);
                offer(backend, &|name| is_meant(name) || bad_day.is_some(), bad_day)
            })
            .collect();
        if offers.is_empty() {
            return Err(self.refusal(video, principal));
        }
        // Whoever makes what was asked for is before those who make more.
        offers.sort_by_key(|offer| offer.seconds.is_some());
        if video.fallback {
            for backend in order {
                if offers.iter().all(|offer| offer.provider != backend.name) {
                    offers.extend(offer(backend, &|_| true, None));
                }
            }
        } else {
            offers.truncate(1);
        }
        Ok(offers)
    }

    /// What `principal` could ask for.
    pub fn offerings(&self, principal: &Principal) -> Vec<Offering> {
        let all = self.backends.values().flat_map(|backend| backend.models.iter().map(move |model| (backend, model)));
        all.filter(|(backend, (name, _))| principal.capabilities.require(Operation::Video, &backend.name, name).is_ok())
            .map(|(backend, (name, model))| Offering {
                provider: backend.name.clone(),
                model: name.clone(),
                durations: model.seconds.clone(),
                aspect_ratios: model.aspect_ratios.clone(),
            })
            .collect()
    }

    /// Whoever may not have what was named is told what is missing, and everybody else what could be asked instead.
    fn refusal(&self, video: &NewVideo, principal: &Principal) -> GatewayError {
        let NewVideo { seconds, resolution, aspect_ratio, provider, model, .. } = video;
        if *provider != AUTO && self.backends.values().all(|backend| backend.name != *provider) {
            let names: Vec<&str> = self.backends.values().map(|backend| backend.name.as_str()).collect();
            return GatewayError::faulty("provider", format!("is none of {AUTO}, {}", names.join(", ")));
        }
        let available = self.offerings(principal);
        let named = self.backends.values().filter(|backend| *provider == AUTO || backend.name == *provider);
        let models = named.flat_map(|backend| backend.models.iter().map(move |(name, _)| (&backend.name, name)));
        let missing = models
            .filter(|(_, name)| model.as_ref().is_none_or(|model| model == *name))
            .map(|(provider, model)| principal.capabilities.require(Operation::Video, provider, model));
        match missing.collect::<Result<Vec<()>, _>>() {
            Err(missing) if available.is_empty() || model.is_some() => missing.into(),
            _ => {
                let format = format!("{seconds} s of {resolution} in {aspect_ratio}");
                let asked = AskedVideo { format, provider: provider.clone(), model: model.clone() };
                GatewayError::VideoNotOffered { asked: Box::new(asked), available }
            }
        }
    }
}
