//! `/api/mcp/sora2`: video jobs over HTTP. One's own, or any for those who read all reports.

use std::sync::Arc;

use aihub_application::{
    error::GatewayError,
    ports::jobs::News,
    principal::{MissingCapability, Principal, Reports},
    videos::{
        Placed,
        housekeeping::EraseError,
        jobs::{ChangeError, Known},
        new_video::NewVideo,
    },
};
use aihub_domain::video::{VideoError, VideoStatus, event::ErasureReason};
use aihub_infrastructure::webhooks::address::check_url;
use aihub_projections::video_status::list::{self as video_list, Filter, InvalidCursor};
use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Caller, access,
    body::object,
    parameters::{Path, Query},
    status::{Look, StatusQuery, Watched},
};
use crate::{
    hub::Hub,
    problem::Problem,
    videos::{self, placed, tell, tell_placed, version},
};

/// All that a job can be.
const STATUSES: [VideoStatus; 9] = [
    VideoStatus::Queued,
    VideoStatus::Submitting,
    VideoStatus::InDoubt,
    VideoStatus::Rendering,
    VideoStatus::Stored,
    VideoStatus::Completed,
    VideoStatus::Failed,
    VideoStatus::Cancelled,
    VideoStatus::Expired,
];
const DEFAULT_PAGE: u32 = 20;
const MAX_PAGE: u32 = 100;
const MAX_KEY_BYTES: usize = 256;

pub async fn generate(
    State(hub): State<Arc<Hub>>,
    Caller(caller): Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let key = idempotency_key(&headers)?;
    let (fields, _memory) = object(&hub, &caller, body).await?;
    let video = NewVideo::from_fields(fields, &caller.user).map_err(GatewayError::Validation)?;
    check_webhook(&hub, &video)?;
    let known = hub.videos.request(&caller, video, key.as_deref(), None).await?;
    let location = format!("/api/mcp/sora2/status/{}", known.video_id);
    let mut response = (StatusCode::ACCEPTED, Json(tell(&hub.videos, known).await?)).into_response();
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Whether the client's server may be told.
pub fn check_webhook(hub: &Hub, video: &NewVideo) -> Result<(), Problem> {
    let Some(url) = &video.content.webhook_url else { return Ok(()) };
    check_url(url, hub.settings.webhooks.allow_private)
        .map(drop)
        .map_err(|refused| Problem::faulty("webhookUrl", refused.to_string()))
}

/// See [`status`](super::status::status).
pub async fn status(
    State(hub): State<Arc<Hub>>,
    Caller(caller): Caller,
    Path(video_id): Path<String>,
    query: Query<StatusQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if !is_own(&caller, &find(&hub, &caller, &video_id).await?) {
        // Once, however long a change is waited for.
        access::record(&hub, &caller, "video.show", [("video", Some(video_id.clone()))]).await?;
    }
    let video = WatchedVideo { hub: &hub, caller: &caller, video_id: &video_id };
    super::status::status(&hub, &caller, &video, query, &headers).await
}

struct WatchedVideo<'a> {
    hub: &'a Hub,
    caller: &'a Principal,
    video_id: &'a str,
}

impl Watched for WatchedVideo<'_> {
    type Job = Placed;

    async fn look(&self) -> Result<Look<Placed>, Problem> {
        let placed = placed(&self.hub.videos, find(self.hub, self.caller, self.video_id).await?).await?;
        let (version, has_ended) = (version(&placed), placed.known.status().is_end());
        Ok(Look { job: placed, version, has_ended })
    }

    fn is_about(&self, placed: &Placed, news: &News) -> bool {
        matches!(news, News::Changed { id, .. } if *id == placed.known.video_id)
    }

    async fn tell(&self, placed: &Placed) -> Result<Value, Problem> {
        let mut told = tell_placed(&self.hub.videos, placed).await?;
        if let (Err(_), Some(fields)) = (owns(self.caller, &placed.known), told.as_object_mut()) {
            // Who reads all reports is told of the job, and not given its content.
            fields.retain(|name, _| name != "url" && name != "thumbnailUrl");
        }
        Ok(told)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ListQuery {
    /// As answers say it: `processing`, `completed` or `failed`.
    status: Option<String>,
    /// More exactly: `queued`, `rendering`, `expired`, …
    state: Option<VideoStatus>,
    session_id: Option<String>,
    workflow_id: Option<String>,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
    /// The `nextCursor` of the page before.
    cursor: Option<String>,
    limit: Option<u32>,
}

/// The caller's own jobs, newest first.
pub async fn list(
    State(hub): State<Arc<Hub>>,
    Caller(caller): Caller,
    Query(query): Query<ListQuery>,
) -> Result<Json<Value>, Problem> {
    let limit = query.limit.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Problem::faulty("limit", format!("must be 1 to {MAX_PAGE}")));
    }
    let told = query.status.as_deref().map(|word| {
        let known = STATUSES.into_iter().filter(|known| videos::status(*known) == word).collect::<Vec<_>>();
        let words = || {
            Problem::faulty(
                "status",
                "must be processing, completed or failed; `state` says it more exactly".to_owned(),
            )
        };
        if known.is_empty() { Err(words()) } else { Ok(known) }
    });
    let statuses = match (told.transpose()?, query.state) {
        (Some(told), Some(state)) => Some(told.into_iter().filter(|known| *known == state).collect()),
        (told, state) => told.or(state.map(|state| vec![state])),
    };
    let before = query.cursor.as_deref().map(str::parse).transpose();
    let filter = Filter {
        account: Some(caller.account.clone()),
        user: Some(caller.user.clone()),
        statuses,
        session_id: query.session_id,
        workflow_id: query.workflow_id,
        from: query.from,
        to: query.to,
        before: before.map_err(|error: InvalidCursor| Problem::faulty("cursor", error.to_string()))?,
        limit,
    };
    let page = video_list::list(hub.reads.pool(), &filter).await.map_err(|error| Problem::internal(&error))?;
    let mut videos = Vec::with_capacity(page.value.len());
    for row in &page.value {
        // The view says which; how each stands is told from the log.
        let known = hub.videos.jobs.load(&row.video_id).await.map_err(|error| Problem::internal(&error))?;
        if let Some(known) = known {
            videos.push(tell(&hub.videos, known).await?);
        }
    }
    let is_full = page.value.len() == limit as usize;
    let next = page.value.last().filter(|_| is_full).map(|last| last.cursor().to_string());
    Ok(Json(json!({ "videos": videos, "nextCursor": next, "position": page.position })))
}

pub async fn cancel(
    State(hub): State<Arc<Hub>>,
    Caller(caller): Caller,
    Path(video_id): Path<String>,
) -> Result<Json<Value>, Problem> {
    may_change(&hub, &caller, &video_id, "video.cancel").await?;
    let known = hub.videos.cancel(&video_id, &caller.user).await.map_err(|error| refused(&error))?;
    if known.status() != VideoStatus::Cancelled {
        let state = known.status().as_str();
        let reason = format!("the video is {state}, and cannot be cancelled any more");
        return Err(Problem::new("CONFLICT", reason).with_details(json!({ "state": state })));
    }
    Ok(Json(tell(&hub.videos, known).await?))
}

/// Deletes the files. What is known of the job stays.
pub async fn delete(
    State(hub): State<Arc<Hub>>,
    Caller(caller): Caller,
    Path(video_id): Path<String>,
) -> Result<Json<Value>, Problem> {
    may_change(&hub, &caller, &video_id, "video.delete").await?;
    let known = match hub.videos.erase_media(&video_id, ErasureReason::Deleted, &caller.user).await {
        Ok(known) => known,
        Err(EraseError::Job(error)) => return Err(refused(&error)),
        Err(error) => return Err(Problem::internal(&error)),
    };
    Ok(Json(tell(&hub.videos, known).await?))
}

/// A job that the caller may see. Whether somebody else's exists is nobody's business.
pub async fn find(hub: &Hub, caller: &Principal, video_id: &str) -> Result<Known, Problem> {
    let known = hub.videos.jobs.load(video_id).await.map_err(|error| Problem::internal(&error))?;
    let reads_all = caller.capabilities.require_reports(Reports::All).is_ok();
    let may_see = |known: &Known| known.job.request().is_some() && (reads_all || is_own(caller, known));
    known.filter(may_see).ok_or_else(|| Problem::not_found(format!("there is no video {video_id} of yours")))
}

fn is_own(caller: &Principal, known: &Known) -> bool {
    known.job.request().is_some_and(|job| job.account == caller.account && job.user == caller.user)
}

/// Reading all reports is not owning all videos.
fn owns(caller: &Principal, known: &Known) -> Result<(), MissingCapability> {
    if is_own(caller, known) { Ok(()) } else { caller.capabilities.require_administration() }
}

/// Whoever may. The answer shows the job: so that somebody else's was asked for is on record, whatever becomes of it.
async fn may_change(hub: &Hub, caller: &Principal, video_id: &str, action: &str) -> Result<(), Problem> {
    let known = find(hub, caller, video_id).await?;
    owns(caller, &known).map_err(|missing| hub.forbidden(caller, missing))?;
    if !is_own(caller, &known) {
        access::record(hub, caller, action, [("video", Some(video_id.to_owned()))]).await?;
    }
    Ok(())
}

fn refused(error: &ChangeError) -> Problem {
    match error {
        ChangeError::Unknown => Problem::not_found("there is no such video"),
        ChangeError::Refused(VideoError::NotEnded) => {
            Problem::new("CONFLICT", "the video has not ended: cancel it first, or wait")
        }
        ChangeError::Refused(refused) => Problem::new("CONFLICT", refused.to_string()),
        error => Problem::internal(error),
    }
}

pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let key = key.to_str().ok().filter(|key| (1..=MAX_KEY_BYTES).contains(&key.len()));
    let faulty =
        || Problem::faulty("Idempotency-Key", format!("must be 1 to {MAX_KEY_BYTES} printable ASCII characters"));
    key.map(|key| Some(key.to_owned())).ok_or_else(faulty)
}
