//! Google's Veo, over the Gemini API: long-running operations, which tell no progress, are in no list and cannot be
//! ended.

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

use super::{Answer, Lookup, files::Files, look, styled_prompt};
use crate::providers::{
    errors,
    http::{Http, InvalidProviderSettings, ProviderHttp},
    json::{Fields, Json},
};

/// `google.rpc.Code`, by its numbers.
const RPC_CODES: [&str; 17] = [
    "unknown",
    "cancelled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
];

#[derive(Debug)]
pub struct VeoProvider {
    http: Http,
    files: Files,
}

#[derive(Debug, Serialize)]
struct Request {
    instances: [Instance; 1],
    parameters: Parameters,
}

#[derive(Debug, Serialize)]
struct Instance {
    prompt: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Parameters {
    aspect_ratio: &'static str,
    resolution: String,
    duration_seconds: u32,
}

struct Operation<'a>(Fields<'a>);

impl VeoProvider {
    /// `settings.base_url` ends in the version: `https://generativelanguage.googleapis.com/v1beta`.
    pub fn new(settings: &ProviderHttp) -> Result<Self, InvalidProviderSettings> {
        let key = settings.api_key.as_ref();
        let headers: Vec<_> = key.map(|key| ("x-goog-api-key", key.expose().to_owned())).into_iter().collect();
        Ok(Self { http: Http::new(settings, &headers)?, files: Files::new(settings)? })
    }

    async fn predict(&self, call: &VideoCall) -> Result<String, SubmitError> {
        let parameters = Parameters {
            aspect_ratio: call.aspect_ratio.as_str(),
            resolution: call.resolution.as_str().to_ascii_lowercase(),
            duration_seconds: call.seconds,
        };
        let body = Request { instances: [Instance { prompt: styled_prompt(call) }], parameters };
        let url = self.http.url(["models", &format!("{}:predictLongRunning", call.model)]);
        let request = self.http.client().post(url).json(&body);
        super::submit(&self.http, request, "name", Lookup::Nothing).await
    }

    /// `name` is `models/MODEL/operations/ID`.
    async fn operation(&self, name: &str) -> Result<Option<Answer>, ProviderError> {
        look(&self.http, self.http.client().get(self.http.url(name.split('/')))).await
    }

    async fn look_at(&self, name: &str) -> Result<JobStatus, ProviderError> {
        let answer = self.operation(name).await?;
        let state = answer.map_or(JobState::Gone, |answer| Operation(answer.fields()).state());
        Ok(JobStatus { state, poll_after: None })
    }

    async fn fetch(&self, name: &str, variant: Variant) -> Result<Option<Download>, ProviderError> {
        if variant == Variant::Thumbnail {
            return Ok(None);
        }
        let operation = self.operation(name).await?;
        let uri = operation.as_ref().and_then(|answer| Operation(answer.fields()).uri());
        let uri = uri.ok_or_else(|| errors::malformed(&"the provider's operation names no file"))?;
        self.files.fetch(&self.http, &uri).await.map(Some)
    }
}

impl Operation<'_> {
    fn generated(&self) -> Option<Json<'_>> {
        self.0.get("response")?.field("generateVideoResponse")
    }

    fn uri(&self) -> Option<String> {
        let samples = self.generated()?.field("generatedSamples")?.items();
        let uri = |sample: Json<'_>| Some(sample.field("video")?.field("uri")?.text()?.into_owned());
        samples.into_iter().find_map(uri)
    }

    fn state(&self) -> JobState {
        let failed = |code: &str| JobState::Failed { code: code.to_owned() };
        if let Some(error) = self.0.get("error").filter(|error| errors::says_something(*error)) {
            let number = error.field("code").and_then(Json::count).and_then(|code| usize::try_from(code).ok());
            let name = number.and_then(|code| RPC_CODES.get(code));
            return JobState::Failed { code: name.map_or_else(|| super::code_of(Some(error)), ToString::to_string) };
        }
        if self.uri().is_some() {
            return JobState::Completed;
        }
        if !self.0.get("done").is_some_and(Json::is_true) {
            return JobState::Running { progress: None };
        }
        let is_filtered = self.generated().is_some_and(|generated| {
            generated.field("raiMediaFilteredCount").and_then(Json::count).is_some_and(|count| count > 0)
                || generated.field("raiMediaFilteredReasons").is_some_and(|reasons| !reasons.items().is_empty())
        });
        failed(if is_filtered { "rai_media_filtered" } else { "no_video" })
    }
}

impl VideoProvider for VeoProvider {
    fn recovery(&self) -> Recovery {
        Recovery::None
    }

    fn submit<'a>(&'a self, call: &'a VideoCall) -> BoxFuture<'a, Result<String, SubmitError>> {
        self.predict(call).boxed()
    }

    fn find<'a>(&'a self, _: &'a VideoCall, _: DateTime<Utc>) -> BoxFuture<'a, Result<Vec<Found>, ProviderError>> {
        future::ready(Err(errors::invalid_request("the provider lists no operations"))).boxed()
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
