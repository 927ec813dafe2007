//! `/v1/videos`, the interface that OpenAI's own service left behind: vLLM-Omni, `LiteLLM`, resellers.

use std::time::Duration;

use aihub_application::ports::{
    provider::ProviderError,
    video_provider::{Download, Found, JobState, JobStatus, Recovery, SubmitError, Variant, VideoCall, VideoProvider},
};
use chrono::{DateTime, Utc};
use futures::{FutureExt, future::BoxFuture};
use http::HeaderMap;
use reqwest::{Url, multipart::Form};
use serde::Deserialize;
use serde_json::Value;

use super::{failure_code, files::Files, is_gone, look, percent, styled_prompt};
use crate::providers::{
    errors,
    http::{Http, InvalidProviderSettings, ProviderHttp},
};

/// How far the provider's clock may be behind ours: it tells whole seconds.
const CLOCK_SKEW_SECONDS: i64 = 2;
const PAGE_SIZE: usize = 100;
/// The most pages that a lookup reads. Whoever makes more jobs than that in minutes has to be told the job by hand.
const MAX_PAGES: usize = 20;
/// The longest that the provider can ask to be left alone.
const MAX_POLL_AFTER: Duration = Duration::from_mins(1);

/// Where servers of this API differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OpenAiVideoOptions {
    /// The server answers a repeated `Idempotency-Key` with the job that it made the first time. OpenAI's never did so.
    pub idempotent: bool,
}

#[derive(Debug)]
pub struct OpenAiVideoProvider {
    http: Http,
    files: Files,
    options: OpenAiVideoOptions,
}

/// A job, as far as it is of interest. Other servers leave out more than OpenAI did.
#[derive(Debug, Deserialize)]
struct Video {
    id: String,
    #[serde(default)]
    status: String,
    progress: Option<f64>,
    created_at: Option<f64>,
    model: Option<String>,
    prompt: Option<String>,
    /// A text; servers that write a number are understood.
    #[serde(default)]
    seconds: Value,
    size: Option<String>,
    error: Option<VideoFailure>,
}

#[derive(Debug, Deserialize)]
struct VideoFailure {
    #[serde(default)]
    code: Value,
}

#[derive(Debug, Deserialize)]
struct Page {
    data: Vec<Video>,
    #[serde(default)]
    has_more: bool,
}

impl OpenAiVideoProvider {
    /// `settings.base_url` ends in the version: `http://localhost:8091/v1`.
    pub fn new(settings: &ProviderHttp, options: OpenAiVideoOptions) -> Result<Self, InvalidProviderSettings> {
        let key = settings.api_key.as_ref();
        let headers: Vec<_> =
            key.map(|key| ("authorization", format!("Bearer {}", key.expose()))).into_iter().collect();
        Ok(Self { http: Http::new(settings, &headers)?, files: Files::new(settings)?, options })
    }

    fn video(&self, id: &str) -> Url {
        self.http.url(["videos", id])
    }

    async fn create(&self, call: &VideoCall) -> Result<String, SubmitError> {
        let form = Form::new()
            .text("prompt", styled_prompt(call))
            .text("model", call.model.clone())
            .text("seconds", call.seconds.to_string())
            .text("size", call.resolution.size(call.aspect_ratio).to_string());
        let request = self
            .http
            .client()
            .post(self.http.url(["videos"]))
            .header("idempotency-key", &call.token)
            .header("x-client-request-id", &call.token)
            .multipart(form);
        super::submit(&self.http, request, |video: Video| video.id).await.map_err(|failed| {
            // The first try of this very call is still at work there.
            let is_at_work = self.options.idempotent && failed.error.status == Some(409);
            SubmitError { in_doubt: failed.in_doubt || is_at_work, ..failed }
        })
    }

    async fn search(&self, call: &VideoCall, since: DateTime<Utc>) -> Result<Vec<Found>, ProviderError> {
        let since = since.timestamp() - CLOCK_SKEW_SECONDS;
        let prompt = styled_prompt(call);
        let mut found = Vec::new();
        let mut after = None;
        for _ in 0..MAX_PAGES {
            let page = self.page(after.as_deref()).await?;
            let is_newest_first = page.data.is_sorted_by(|one, next| one.created_at >= next.created_at);
            let is_past = |video: &Video| video.is_older_than(since);
            let recent = page.data.iter().filter(|video| !is_past(video));
            found.extend(recent.filter_map(|video| video.found(call, &prompt)));
            let Some(last) = page.data.last() else { return Ok(found) };
            if !page.has_more || (is_newest_first && is_past(last)) {
                return Ok(found);
            }
            after = Some(last.id.clone());
        }
        let seen = MAX_PAGES * PAGE_SIZE;
        Err(errors::malformed(&format_args!(
            "the job is not among the provider's last {seen}, or its list does not end"
        )))
    }

    async fn page(&self, after: Option<&str>) -> Result<Page, ProviderError> {
        let mut url = self.http.url(["videos"]);
        url.query_pairs_mut().append_pair("limit", &PAGE_SIZE.to_string()).append_pair("order", "desc");
        if let Some(after) = after {
            url.query_pairs_mut().append_pair("after", after);
        }
        let page = look(&self.http, self.http.client().get(url)).await?;
        // Without a list nobody can say that the job is not there.
        page.map(|(_, page)| page).ok_or_else(|| errors::malformed(&"the provider does not list its videos"))
    }

    async fn look_at(&self, id: &str) -> Result<JobStatus, ProviderError> {
        let request = self.http.client().get(self.video(id));
        let Some((headers, video)) = look::<Video>(&self.http, request).await? else {
            return Ok(JobStatus { state: JobState::Gone, poll_after: None });
        };
        Ok(JobStatus { state: video.state(), poll_after: poll_after(&headers) })
    }

    async fn fetch(&self, id: &str, variant: Variant) -> Result<Option<Download>, ProviderError> {
        let mut url = self.http.url(["videos", id, "content"]);
        if variant == Variant::Video {
            return self.files.fetch(&self.http, url.as_str()).await.map(Some);
        }
        url.query_pairs_mut().append_pair("variant", "thumbnail");
        match self.files.fetch(&self.http, url.as_str()).await {
            // A server that knows of no variants sends the video whatever it is asked for.
            Ok(file) => Ok(Some(file).filter(|file| !is_video(file))),
            Err(error) if matches!(error.status, Some(400 | 404 | 422)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn delete(&self, id: &str) -> Result<(), ProviderError> {
        let deadline = tokio::time::Instant::now() + self.http.first_byte_timeout;
        match self.http.send(self.http.client().delete(self.video(id)), deadline).await {
            Err(unanswered) if !is_gone(&unanswered.error) => Err(unanswered.error),
            _ => Ok(()),
        }
    }
}

impl Video {
    fn state(&self) -> JobState {
        match self.status.as_str() {
            "completed" => JobState::Completed,
            "failed" => {
                let code = self.error.as_ref().map_or(&Value::Null, |error| &error.code);
                JobState::Failed { code: failure_code(code) }
            }
            // Not OpenAI's words, but nothing comes after them.
            status @ ("cancelled" | "canceled" | "expired") => JobState::Failed { code: status.to_owned() },
            _ => JobState::Running { progress: percent(self.progress) },
        }
    }

    fn is_older_than(&self, since: i64) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "seconds of our time are exact")]
        self.created_at.is_some_and(|created_at| created_at < since as f64)
    }

    /// `None` where something that is shown of it speaks against the call.
    fn found(&self, call: &VideoCall, prompt: &str) -> Option<Found> {
        let size = call.resolution.size(call.aspect_ratio).to_string();
        let seconds = match &self.seconds {
            Value::String(seconds) => seconds.parse::<f64>().ok(),
            other => other.as_f64(),
        };
        let is_same = [
            self.prompt.as_ref().map(|shown| shown.trim() == prompt.trim()),
            self.model.as_ref().map(|shown| is_model(shown, &call.model)),
            seconds.map(|shown| (shown - f64::from(call.seconds)).abs() < 0.5),
            self.size.as_ref().map(|shown| *shown == size),
        ];
        let is_certain = is_same.iter().all(Option::is_some);
        (!is_same.contains(&Some(false))).then(|| Found { provider_job_id: self.id.clone(), is_certain })
    }
}

/// A model may answer under its full name: `sora-2-2025-10-06` for `sora-2`, which `sora-2-pro` is not.
fn is_model(shown: &str, asked: &str) -> bool {
    let rest = shown.strip_prefix(asked);
    rest.is_some_and(|rest| {
        rest.is_empty() || rest.starts_with('-') && rest.bytes().all(|c| c.is_ascii_digit() || c == b'-')
    })
}

fn is_video(file: &Download) -> bool {
    file.content_type.as_ref().is_some_and(|content_type| content_type.to_ascii_lowercase().starts_with("video/"))
}

fn poll_after(headers: &HeaderMap) -> Option<Duration> {
    let wait_ms = headers.get("openai-poll-after-ms")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_millis(wait_ms).min(MAX_POLL_AFTER))
}

impl VideoProvider for OpenAiVideoProvider {
    fn recovery(&self) -> Recovery {
        if self.options.idempotent { Recovery::Idempotent } else { Recovery::Lookup }
    }

    fn submit<'a>(&'a self, call: &'a VideoCall) -> BoxFuture<'a, Result<String, SubmitError>> {
        self.create(call).boxed()
    }

    fn find<'a>(
        &'a self,
        call: &'a VideoCall,
        since: DateTime<Utc>,
    ) -> BoxFuture<'a, Result<Vec<Found>, ProviderError>> {
        self.search(call, since).boxed()
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

    fn cancel<'a>(&'a self, provider_job_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        self.delete(provider_job_id).boxed()
    }
}
