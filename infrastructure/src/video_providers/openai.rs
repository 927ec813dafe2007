//! `/v1/videos`, the interface that OpenAI's own service left behind: vLLM-Omni, `LiteLLM`, resellers.

use std::{borrow::Cow, time::Duration};

use aihub_application::ports::{
    provider::ProviderError,
    video_provider::{Download, Found, JobState, JobStatus, Recovery, SubmitError, Variant, VideoCall, VideoProvider},
};
use chrono::{DateTime, Utc};
use futures::{FutureExt, future::BoxFuture};
use http::HeaderMap;
use reqwest::{Url, multipart::Form};
use serde::Deserialize;

use super::{Answer, Lookup, files::Files, is_gone, look, styled_prompt};
use crate::providers::{
    errors,
    http::{Http, InvalidProviderSettings, ProviderHttp},
    json::{Fields, Json},
};

/// How far the provider's clock may be behind ours.
const CLOCK_SKEW_SECONDS: i64 = 300;
/// A shorter beginning of a prompt, in bytes, is no sign.
const LEAST_BEGINNING: usize = 12;
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

/// A job, as far as it is of interest. Other servers leave out more than OpenAI did, and write what there is as they like.
struct Video<'a>(Fields<'a>);

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
        super::submit(&self.http, request, "id", Lookup::List).await.map_err(|failed| {
            // The first try of this very call is still at work there.
            let is_at_work = self.options.idempotent && failed.error.status == Some(409);
            SubmitError { in_doubt: failed.in_doubt || is_at_work, ..failed }
        })
    }

    async fn search(&self, call: &VideoCall, since: DateTime<Utc>) -> Result<Vec<Found>, ProviderError> {
        let since = since.timestamp() - CLOCK_SKEW_SECONDS;
        let prompt = styled_prompt(call);
        let mut found: Vec<Found> = Vec::new();
        let mut after: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let page = self.page(after.as_deref()).await?;
            let fields = page.fields();
            let data = fields.get("data").map(Json::items).unwrap_or_default();
            // What has no name is no job; an odd entry of somebody else's is nobody's loss.
            let videos: Vec<_> =
                data.into_iter().map(|video| Video(video.fields())).filter(|video| video.id().is_some()).collect();
            let is_newest_first = videos.is_sorted_by(|one, next| one.created_at() >= next.created_at());
            let is_past = |video: &Video<'_>| video.is_older_than(since);
            for video in videos.iter().filter(|video| !is_past(video)).filter_map(|video| video.found(call, &prompt)) {
                // Pages shift while they are read.
                if !found.iter().any(|known| known.provider_job_id == video.provider_job_id) {
                    found.push(video);
                }
            }
            let Some(last) = videos.last() else { return Ok(found) };
            let has_more = fields.get("has_more").is_some_and(Json::is_true);
            if !has_more || (is_newest_first && is_past(last)) {
                return Ok(found);
            }
            after = last.id();
        }
        let seen = MAX_PAGES * PAGE_SIZE;
        Err(errors::malformed(&format_args!(
            "the job is not among the provider's last {seen}, or its list does not end"
        )))
    }

    async fn page(&self, after: Option<&str>) -> Result<Answer, ProviderError> {
        let mut url = self.http.url(["videos"]);
        url.query_pairs_mut().append_pair("limit", &PAGE_SIZE.to_string()).append_pair("order", "desc");
        if let Some(after) = after {
            url.query_pairs_mut().append_pair("after", after);
        }
        let page = look(&self.http, self.http.client().get(url)).await?;
        // Without a list nobody can say that the job is not there.
        page.filter(|page| page.fields().get("data").is_some_and(Json::is_list))
            .ok_or_else(|| errors::malformed(&"the provider does not list its videos"))
    }

    async fn look_at(&self, id: &str) -> Result<JobStatus, ProviderError> {
        let request = self.http.client().get(self.video(id));
        let Some(answer) = look(&self.http, request).await? else {
            return Ok(JobStatus { state: JobState::Gone, poll_after: None });
        };
        let fields = answer.fields();
        let word = fields.get("status").map(|status| status.text().unwrap_or_else(|| status.raw().into()));
        let word = word.unwrap_or_default();
        let state = match (word.is_empty(), errors::is_error(&fields)) {
            // An error where a job should be: nothing is known of it.
            (true, true) if fields.get("id").is_none() => return Err(errors::in_answer(answer.text.as_bytes())),
            (true, true) => JobState::Failed { code: super::code_of(fields.get("error")) },
            _ => super::state(&word, &fields),
        };
        Ok(JobStatus { state, poll_after: poll_after(&answer.headers) })
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

impl Video<'_> {
    fn id(&self) -> Option<String> {
        self.0.text("id").filter(|id| !id.is_empty()).map(Cow::into_owned)
    }

    /// Seconds since 1970, or a time in words.
    fn created_at(&self) -> Option<f64> {
        let created_at = self.0.get("created_at")?;
        let in_words = || Some(DateTime::parse_from_rfc3339(&created_at.text()?).ok()?.timestamp());
        #[expect(clippy::cast_precision_loss, reason = "seconds of our time are exact")]
        created_at.number().or_else(|| in_words().map(|seconds| seconds as f64))
    }

    fn is_older_than(&self, since: i64) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "seconds of our time are exact")]
        self.created_at().is_some_and(|created_at| created_at < since as f64)
    }

    /// `None` where something that is shown of it speaks against the call.
    fn found(&self, call: &VideoCall, prompt: &str) -> Option<Found> {
        let video = &self.0;
        let seconds = video.get("seconds").and_then(Json::number);
        let (shown, asked) = (video.text("prompt").map(|shown| spaced(&shown)), spaced(prompt));
        let beginning = shown.as_deref().filter(|shown| *shown != asked).and_then(|shown| beginning(shown, &asked));
        let is_same = [
            shown.as_deref().map(|shown| shown == asked || beginning.is_some()),
            video.text("model").map(|shown| is_model(&shown, &call.model)),
            seconds.map(|shown| (shown - f64::from(call.seconds)).abs() < 0.5),
            video.text("size").map(|shown| is_size(&shown, call)),
        ];
        let is_certain = is_same.iter().all(Option::is_some);
        let provider_job_id = self.id()?;
        (!is_same.contains(&Some(false))).then_some(Found { provider_job_id, is_certain, beginning })
    }
}

fn spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The beginning of ours that is shown, as servers cut what they show.
fn beginning(shown: &str, asked: &str) -> Option<String> {
    let beginning = shown.trim_end_matches(['.', '…']).trim_end();
    (beginning.len() >= LEAST_BEGINNING && asked.starts_with(beginning)).then(|| beginning.to_owned())
}

/// A model may answer under its full name: `sora-2-2025-10-06` for `sora-2`, which `sora-2-pro` is not; and with its maker's
/// before it: `openai/sora-2`.
fn is_model(shown: &str, asked: &str) -> bool {
    let own = |name: &str| name.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    let (shown, asked) = (own(shown), own(asked));
    let rest = shown.strip_prefix(&asked);
    rest.is_some_and(|rest| {
        rest.is_empty() || rest.starts_with('-') && rest.bytes().all(|c| c.is_ascii_digit() || c == b'-')
    })
}

/// `1280x720`, with any sign between, or `720p`. What is neither says nothing against it.
fn is_size(shown: &str, call: &VideoCall) -> bool {
    let shown = shown.trim().to_ascii_lowercase();
    let sides: Vec<u32> = shown.split(['x', '*', '×', ':']).filter_map(|side| side.trim().parse().ok()).collect();
    let size = call.resolution.size(call.aspect_ratio).to_string();
    match sides[..] {
        [width, height] => size == format!("{width}x{height}"),
        _ if shown.ends_with(['p', 'k']) => shown == call.resolution.as_str().to_ascii_lowercase(),
        _ => true,
    }
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
