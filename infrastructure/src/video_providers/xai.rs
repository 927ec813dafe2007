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
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{failure_code, files::Files, look, percent, styled_prompt};
use crate::providers::{
    errors,
    http::{Http, InvalidProviderSettings, ProviderHttp},
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

#[derive(Debug, Deserialize)]
struct Accepted {
    request_id: String,
}

#[derive(Debug, Deserialize)]
struct Deferred {
    /// `pending`, `done`, `failed` or `expired`; some that are done say nothing.
    #[serde(default)]
    status: String,
    progress: Option<f64>,
    video: Option<Video>,
    error: Option<DeferredError>,
}

#[derive(Debug, Deserialize)]
struct Video {
    url: Option<String>,
    respect_moderation: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct DeferredError {
    #[serde(default)]
    code: Value,
}

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
        super::submit(&self.http, request, |accepted: Accepted| accepted.request_id).await
    }

    async fn deferred(&self, request_id: &str) -> Result<Option<Deferred>, ProviderError> {
        let request = self.http.client().get(self.http.url(["videos", request_id]));
        Ok(look(&self.http, request).await?.map(|(_, deferred)| deferred))
    }

    async fn look_at(&self, request_id: &str) -> Result<JobStatus, ProviderError> {
        let state = self.deferred(request_id).await?.map_or(JobState::Gone, |deferred| deferred.state());
        Ok(JobStatus { state, poll_after: None })
    }

    async fn fetch(&self, request_id: &str, variant: Variant) -> Result<Option<Download>, ProviderError> {
        if variant == Variant::Thumbnail {
            return Ok(None);
        }
        let deferred = self.deferred(request_id).await?;
        let url = deferred.as_ref().and_then(Deferred::url);
        let url = url.ok_or_else(|| errors::malformed(&"the provider's video has no URL"))?;
        self.files.fetch(&self.http, url).await.map(Some)
    }
}

impl Deferred {
    fn url(&self) -> Option<&str> {
        self.video.as_ref()?.url.as_deref()
    }

    fn state(&self) -> JobState {
        let failed = |code: &str| JobState::Failed { code: code.to_owned() };
        let is_blocked = self.video.as_ref().is_some_and(|video| video.respect_moderation == Some(false));
        match self.status.as_str() {
            "failed" => {
                let code = self.error.as_ref().map_or(&Value::Null, |error| &error.code);
                JobState::Failed { code: failure_code(code) }
            }
            "expired" => JobState::Gone,
            "done" | "" if is_blocked => failed("moderation_blocked"),
            "done" | "" if self.url().is_some() => JobState::Completed,
            "done" => failed("no_video"),
            _ => JobState::Running { progress: percent(self.progress) },
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
