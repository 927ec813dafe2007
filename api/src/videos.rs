//! A video job as its owner sees it.

use std::collections::BTreeMap;

use aihub_application::{
    ports::media_store::MediaError,
    videos::{Placed, Videos, jobs::Known},
};
use aihub_domain::video::{Refusal, VideoJob, VideoStatus, event::ErasureReason};
use serde_json::{Value, json};

use crate::problem::Problem;

/// What a job is told with beside itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Surroundings {
    /// In the queue, from 1; where it waits.
    place: Option<u64>,
    url: Option<String>,
    thumbnail_url: Option<String>,
}

impl Surroundings {
    /// URLs are made anew every time: those in an older answer may have expired.
    async fn of(videos: &Videos, Placed { known: Known { job, .. }, place }: &Placed) -> Result<Self, MediaError> {
        let media = job.media().filter(|_| job.status() == VideoStatus::Completed && job.media_erased().is_none());
        let Some(media) = media else { return Ok(Self { place: *place, ..Self::default() }) };
        let thumbnail_url = match &media.thumbnail {
            Some(thumbnail) => Some(videos.media.url(&thumbnail.key).await?),
            None => None,
        };
        Ok(Self { place: *place, url: Some(videos.media.url(&media.video.key).await?), thumbnail_url })
    }
}

/// The job with its place in the queue, where it waits.
pub async fn placed(videos: &Videos, known: Known) -> Result<Placed, Problem> {
    videos.placed(known).await.map_err(|error| Problem::internal(&error))
}

/// The video response.
pub async fn tell(videos: &Videos, known: Known) -> Result<Value, Problem> {
    tell_placed(videos, &placed(videos, known).await?).await
}

pub async fn tell_placed(videos: &Videos, placed: &Placed) -> Result<Value, Problem> {
    let around = Surroundings::of(videos, placed).await.map_err(|error| Problem::internal(&error))?;
    Ok(answer(&placed.known.video_id, &placed.known.job, &around))
}

/// Another one whenever something else is told of the job, its URLs apart.
pub fn version(placed: &Placed) -> String {
    format!("{}-{}", placed.known.version(), placed.place.unwrap_or(0))
}

/// Fields that do not apply are left out.
fn answer(video_id: &str, job: &VideoJob, around: &Surroundings) -> Value {
    let Some(request) = job.request() else { return Value::Null };
    let outcome = job.outcome();
    let asked = request.asked(job.tried());
    let media = job.media().filter(|_| around.url.is_some());
    let fields = [
        ("videoId", json!(video_id)),
        ("status", json!(status(job.status()))),
        ("state", json!(job.status().as_str())),
        ("url", json!(around.url)),
        ("thumbnailUrl", json!(around.thumbnail_url)),
        ("duration", json!(outcome.map_or(asked.seconds, |outcome| outcome.seconds))),
        ("requestedDuration", json!((asked.seconds != request.seconds).then_some(request.seconds))),
        ("resolution", json!(request.resolution)),
        ("aspectRatio", json!(request.aspect_ratio)),
        ("creditsReserved", json!((!job.status().is_end()).then(|| request.reserved_microcredits.as_credits()))),
        ("creditsUsed", json!(outcome.map_or(0.0, |outcome| outcome.charge.amount.as_credits()))),
        ("createdAt", json!(request.requested_at)),
        ("completedAt", json!(job.ended_at())),
        ("progress", json!(job.percent())),
        ("queuePosition", json!(around.place)),
        ("priority", json!(request.priority)),
        ("provider", json!(outcome.map_or(asked.provider, |outcome| outcome.provider.clone()))),
        ("model", json!(outcome.map_or(asked.model, |outcome| outcome.model.clone()))),
        ("sessionId", json!(request.session_id)),
        ("workflowId", json!(request.workflow_id)),
        (
            "media",
            media.map_or(Value::Null, |media| {
                let video = &media.video;
                json!({
                    "bytes": video.bytes, "sha256": video.sha256, "width": video.width, "height": video.height,
                    "durationMs": video.duration_ms, "codec": video.codec, "contentType": video.content_type,
                })
            }),
        ),
        ("mediaErased", json!(job.media_erased())),
        ("refusals", refusals(job)),
        ("error", error(job)),
    ];
    let fields: BTreeMap<&str, Value> = fields.into_iter().filter(|(_, value)| !value.is_null()).collect();
    json!(fields)
}

/// The providers that did not take it, and why.
fn refusals(job: &VideoJob) -> Value {
    if job.refusals().is_empty() {
        return Value::Null;
    }
    let refusal =
        |refusal: &Refusal| json!({ "provider": refusal.provider, "kind": refusal.failure, "status": refusal.status });
    job.refusals().iter().map(refusal).collect()
}

/// One of the three that clients branch on.
pub fn status(status: VideoStatus) -> &'static str {
    match status {
        VideoStatus::Completed => "completed",
        VideoStatus::Failed | VideoStatus::Cancelled | VideoStatus::Expired => "failed",
        _ => "processing",
    }
}

fn error(job: &VideoJob) -> Value {
    let reason = job.end_reason().unwrap_or_default();
    let (code, message) = match job.status() {
        VideoStatus::Failed => (reason, failure(reason)),
        VideoStatus::Cancelled => ("cancelled", "it was cancelled; nothing was charged".to_owned()),
        VideoStatus::Expired => ("expired", format!("{reason}; nothing was charged")),
        VideoStatus::Completed if job.media_erased() == Some(ErasureReason::Deleted) => {
            ("media_deleted", "its files were deleted, as was asked for".to_owned())
        }
        VideoStatus::Completed if job.media_erased().is_some() => (
            "media_deleted",
            "its files were deleted: their time was over, or the account's content was erased".to_owned(),
        ),
        VideoStatus::InDoubt => {
            ("in_doubt", "whether a provider has it cannot be known; an operator decides".to_owned())
        }
        _ => return Value::Null,
    };
    json!({ "code": code, "message": message })
}

/// Our own words for our own codes; a provider's are told as they are.
fn failure(code: &str) -> String {
    let ours = match code {
        "rejected_by_provider" => "the provider refused the request: try another prompt, style or format",
        "all_providers_failed" => "no provider took it, however often it was asked",
        "content_erased" => "the account's content was erased",
        "lost_by_provider" => "the provider does not know it any more",
        "no_video" => "the provider says that it is done and has no file",
        "unusable_video" => "the provider's file is no video that can be played",
        "video_too_large" => "the provider's file is larger than is kept here",
        "given_up" => "an operator gave it up",
        code => return format!("the provider failed: {code}; nothing was charged"),
    };
    format!("{ours}; nothing was charged")
}
