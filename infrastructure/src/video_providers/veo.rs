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
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{failure_code, files::Files, look, styled_prompt};
use crate::providers::{
    errors,
    http::{Http, InvalidProviderSettings, ProviderHttp},
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

#[derive(Debug, Deserialize)]
struct Operation {
    name: String,
    #[serde(default)]
    done: bool,
    error: Option<OperationError>,
    response: Option<OperationResponse>,
}

#[derive(Debug, Deserialize)]
struct OperationError {
    #[serde(default)]
    code: Value,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OperationResponse {
    generate_video_response: Option<Generated>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Generated {
    #[serde(rename = "generatedSamples")]
    samples: Vec<Sample>,
    rai_media_filtered_count: u32,
    /// Sentences, which say what the prompt was about.
    rai_media_filtered_reasons: Vec<Value>,
}

#[derive(Debug, Deserialize)]
struct Sample {
    video: Option<File>,
}

#[derive(Debug, Deserialize)]
struct File {
    uri: Option<String>,
}

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
        super::submit(&self.http, request, |operation: Operation| operation.name).await
    }

    /// `name` is `models/MODEL/operations/ID`.
    async fn operation(&self, name: &str) -> Result<Option<Operation>, ProviderError> {
        let request = self.http.client().get(self.http.url(name.split('/')));
        Ok(look(&self.http, request).await?.map(|(_, operation)| operation))
    }

    async fn look_at(&self, name: &str) -> Result<JobStatus, ProviderError> {
        let state = self.operation(name).await?.map_or(JobState::Gone, |operation| operation.state());
        Ok(JobStatus { state, poll_after: None })
    }

    async fn fetch(&self, name: &str, variant: Variant) -> Result<Option<Download>, ProviderError> {
        if variant == Variant::Thumbnail {
            return Ok(None);
        }
        let operation = self.operation(name).await?;
        let uri = operation.as_ref().and_then(Operation::uri);
        let uri = uri.ok_or_else(|| errors::malformed(&"the provider's operation names no file"))?;
        self.files.fetch(&self.http, uri).await.map(Some)
    }
}

impl Operation {
    fn generated(&self) -> Option<&Generated> {
        self.response.as_ref()?.generate_video_response.as_ref()
    }

    fn uri(&self) -> Option<&str> {
        self.generated()?.samples.iter().find_map(|sample| sample.video.as_ref()?.uri.as_deref())
    }

    fn state(&self) -> JobState {
        let failed = |code: &str| JobState::Failed { code: code.to_owned() };
        if !self.done {
            return JobState::Running { progress: None };
        }
        if let Some(error) = &self.error {
            let name = error.code.as_u64().and_then(|code| RPC_CODES.get(usize::try_from(code).ok()?));
            return JobState::Failed { code: name.map_or_else(|| failure_code(&error.code), ToString::to_string) };
        }
        if self.uri().is_some() {
            return JobState::Completed;
        }
        let is_filtered = self.generated().is_some_and(|generated| {
            generated.rai_media_filtered_count > 0 || !generated.rai_media_filtered_reasons.is_empty()
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
