//! xAI's videos: deferred requests, which are in no list and cannot be ended. A finished one has a URL for a while.

use aihub_application::ports::{
    provider::ProviderError,
    video_provider::{Download, Found, JobState, JobStatus, Recovery, SubmitError, Variant, VideoCall, VideoProvider},
};
use chrono::{DateTime, Utc};
use futures::{
    FutureExt,
    future::{self, BoxFuture},
};
use serde::Serialize;

use super::{Answer, Lookup, Standing, files::Files, look, styled_prompt};
use crate::providers::{
    errors,
    http::{Http, InvalidProviderSettings, ProviderHttp},
    json::Fields,
};

#[derive(Debug)]
pub struct XaiVideoProvider {
    http: Http,
    files: Files,
}

#[derive(Debug, Serialize)]
struct Generation<'a> {
    model: &'a str,
    prompt: String,
    duration: u32,
    aspect_ratio: &'static str,
    resolution: String,
}

/// `status` is `pending`, `done`, `failed` or `expired`; some that are done say nothing.
struct Deferred<'a>(Fields<'a>);

impl XaiVideoProvider {
    /// `settings.base_url` ends in the version: `https://api.x.ai/v1`.
    pub fn new(settings: &ProviderHttp) -> Result<Self, InvalidProviderSettings> {
        let key = settings.api_key.as_ref();
        let headers: Vec<_> =
            key.map(|key| ("authorization", format!("Bearer {}", key.expose()))).into_iter().collect();
        Ok(Self { http: Http::new(settings, &headers)?, files: Files::new(settings)? })
    }

    async fn generate(&self, call: &VideoCall) -> Result<String, SubmitError> {
        let body = Generation {
            model: &call.model,
            prompt: styled_prompt(call),
            duration: call.seconds,
            aspect_ratio: call.aspect_ratio.as_str(),
            resolution: call.resolution.as_str().to_ascii_lowercase(),
        };
        let request = self.http.client().post(self.http.url(["videos", "generations"])).json(&body);
        super::submit(&self.http, request, "request_id", Lookup::Nothing).await
    }

    async fn deferred(&self, request_id: &str) -> Result<Option<Answer>, ProviderError> {
        look(&self.http, self.http.client().get(self.http.url(["videos", request_id]))).await
    }

    async fn look_at(&self, request_id: &str) -> Result<JobStatus, ProviderError> {
        let answer = self.deferred(request_id).await?;
        let state = answer.map_or(JobState::Gone, |answer| Deferred(answer.fields()).state());
        Ok(JobStatus { state, poll_after: None })
    }

    async fn fetch(&self, request_id: &str, variant: Variant) -> Result<Option<Download>, ProviderError> {
        if variant == Variant::Thumbnail {
            return Ok(None);
        }
        let deferred = self.deferred(request_id).await?;
        let url = deferred.as_ref().and_then(|answer| Deferred(answer.fields()).url());
        let url = url.ok_or_else(|| errors::malformed(&"the provider's video has no URL"))?;
        self.files.fetch(&self.http, &url).await.map(Some)
    }
}

impl Deferred<'_> {
    fn url(&self) -> Option<String> {
        Some(self.0.get("video")?.field("url")?.text()?.into_owned())
    }

    fn state(&self) -> JobState {
        let failed = |code: &str| JobState::Failed { code: code.to_owned() };
        let respects = self.0.get("video").and_then(|video| video.field("respect_moderation"));
        let is_blocked = respects.is_some_and(|respects| respects.raw() == "false");
        let word = self.0.text("status").unwrap_or_default();
        match (super::standing(&word), self.url()) {
            _ if word.eq_ignore_ascii_case("expired") => JobState::Gone,
            (Some(Standing::Completed), _) | (_, Some(_)) if is_blocked => failed("moderation_blocked"),
            (Some(Standing::Completed), Some(_)) => JobState::Completed,
            (_, Some(_)) if word.is_empty() => JobState::Completed,
            (Some(Standing::Completed), None) => failed("no_video"),
            _ if word.is_empty() => JobState::Running { progress: super::percent(&self.0) },
            _ => super::state(&word, &self.0),
        }
    }
}

impl VideoProvider for XaiVideoProvider {
    fn recovery(&self) -> Recovery {
        Recovery::None
    }

    fn submit<'a>(&'a self, call: &'a VideoCall) -> BoxFuture<'a, Result<String, SubmitError>> {
        self.generate(call).boxed()
    }

    fn find<'a>(&'a self, _: &'a VideoCall, _: DateTime<Utc>) -> BoxFuture<'a, Result<Vec<Found>, ProviderError>> {
        future::ready(Err(errors::invalid_request("the provider lists no requests"))).boxed()
    }

    fn status<'a>(&'a self, provider_job_id: &'a str) -> BoxFuture<'a, Result<JobStatus, ProviderError>> {
        self.look_at(provider_job_id).boxed()
    }

    fn download<'a>(
        &'a self,
        provider_job_id: &'a str,
        variant: Variant,
    ) -> BoxFuture<'a, Result<Option<Download>, ProviderError>> {
        self.fetch(provider_job_id, variant).boxed()
    }
}
