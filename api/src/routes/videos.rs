//! `/api/mcp/sora2`: video jobs over HTTP. One's own, or any for those who read all reports.

use std::{sync::Arc, time::Duration};

use aihub_application::{
    principal::{MissingCapability, Principal, Reports},
    videos::{
        housekeeping::EraseError,
        jobs::{ChangeError, Known},
        new_video::NewVideo,
        queue::News,
    },
};
use aihub_domain::video::{VideoError, VideoStatus, event::ErasureReason};
use aihub_infrastructure::webhooks::address::check_url;
use aihub_projections::video_status::list::{self as video_list, Filter, InvalidCursor};
use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::{Instant, timeout_at},
};

use super::Caller;
use crate::{
    hub::Hub,
    problem::Problem,
    videos::{Surroundings, answer},
};

const DEFAULT_PAGE: u32 = 20;
const MAX_PAGE: u32 = 100;
const MAX_KEY_BYTES: usize = 256;
/// A waiting status is looked at again without news after this long.
const LOOK_EVERY: Duration = Duration::from_secs(2);

pub async fn generate(
    State(hub): State<Arc<Hub>>,
    Caller(caller): Caller,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let key = idempotency_key(&headers)?;
    let video = NewVideo::from_fields(object(&body)?, &caller.user)
        .map_err(aihub_application::error::GatewayError::Validation)?;
    check_webhook(&hub, &video)?;
    let known = hub.videos.request(&caller, video, key.as_deref(), None).await?;
    let location = format!("/api/mcp/sora2/status/{}", known.video_id);
    let mut response = (StatusCode::ACCEPTED, Json(tell(&hub, &known).await?)).into_response();
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

#[derive(Debug, Deserialize)]
pub struct StatusQuery {
    /// Seconds to wait for a change.
    #[serde(default)]
    wait: u64,
}

/// With `If-None-Match`, 304 while nothing has changed since. With `?wait=30` that, or the next change, is waited for.
pub async fn status(
    State(hub): State<Arc<Hub>>,
    Caller(caller): Caller,
    Path(video_id): Path<String>,
    query: Result<Query<StatusQuery>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Query(StatusQuery { wait }) = query.map_err(|_| Problem::faulty("wait", "must be a number of seconds"))?;
    let wait = Duration::from_secs(wait).min(hub.settings.max_long_poll);
    // Heard from before the first look, so that no change falls between the two.
    let mut news = hub.videos.queue.news();
    let mut known = find(&hub, &caller, &video_id).await?;
    let mut tag = etag(&hub, &known).await?;
    let seen = headers.get(header::IF_NONE_MATCH).map_or_else(|| tag.clone(), HeaderValue::clone);
    let give_up_at = Instant::now() + wait;
    while !wait.is_zero() && tag == seen && !known.status().is_end() && !hub.gateway.draining.is_cancelled() {
        let look_at = give_up_at.min(Instant::now() + LOOK_EVERY);
        let changed = timeout_at(look_at, change_of(&mut news, &video_id));
        tokio::select! {
            _ = changed => {}
            () = hub.gateway.draining.cancelled() => {}
        }
        known = find(&hub, &caller, &video_id).await?;
        tag = etag(&hub, &known).await?;
        if Instant::now() >= give_up_at {
            break;
        }
    }
    let mut response = if headers.contains_key(header::IF_NONE_MATCH) && tag == seen {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut told = tell(&hub, &known).await?;
        if let (Err(_), Some(fields)) = (owns(&caller, &known), told.as_object_mut()) {
            // Who reads all reports is told of the job, and not given its content.
            fields.retain(|name, _| name != "url" && name != "thumbnailUrl");
        }
        Json(told).into_response()
    };
    response.headers_mut().insert(header::ETAG, tag);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    Ok(response)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ListQuery {
    /// `completed`, `queued`, `rendering`, …
    status: Option<VideoStatus>,
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
    query: Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(query) = query.map_err(|error| Problem::faulty("(query)", error.body_text()))?;
    let limit = query.limit.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Problem::faulty("limit", format!("must be 1 to {MAX_PAGE}")));
    }
    let before = query.cursor.as_deref().map(str::parse).transpose();
    let filter = Filter {
        account: Some(caller.account.clone()),
        user: Some(caller.user.clone()),
        status: query.status,
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
            videos.push(tell(&hub, &known).await?);
        }
    }
    let is_full = page.value.len() == limit as usize;
    let next = page.value.last().filter(|_| is_full).map(|last| last.cursor().to_string());
    Ok(Json(json!({ "videos": videos, "nextCursor": next, "position": page.position })))
}

async fn change_of(news: &mut Receiver<News>, video_id: &str) {
    loop {
        match news.recv().await {
            Ok(News::Changed { video_id: changed, .. }) if changed == video_id => return,
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}

pub async fn cancel(
    State(hub): State<Arc<Hub>>,
    Caller(caller): Caller,
    Path(video_id): Path<String>,
) -> Result<Json<Value>, Problem> {
    owns(&caller, &find(&hub, &caller, &video_id).await?).map_err(|missing| hub.forbidden(&caller, missing))?;
    let known = hub.videos.cancel(&video_id, &caller.user).await.map_err(|error| refused(&error))?;
    if known.status() != VideoStatus::Cancelled {
        let state = known.status().as_str();
        let reason = format!("the video is {state}, and cannot be cancelled any more");
        return Err(Problem::new("CONFLICT", reason).with_details(json!({ "state": state })));
    }
    Ok(Json(tell(&hub, &known).await?))
}

/// Deletes the files. What is known of the job stays.
pub async fn delete(
    State(hub): State<Arc<Hub>>,
    Caller(caller): Caller,
    Path(video_id): Path<String>,
) -> Result<Json<Value>, Problem> {
    owns(&caller, &find(&hub, &caller, &video_id).await?).map_err(|missing| hub.forbidden(&caller, missing))?;
    let known = match hub.videos.erase_media(&video_id, ErasureReason::Deleted, &caller.user).await {
        Ok(known) => known,
        Err(EraseError::Job(error)) => return Err(refused(&error)),
        Err(error) => return Err(Problem::internal(&error)),
    };
    Ok(Json(tell(&hub, &known).await?))
}

/// The video response.
pub async fn tell(hub: &Hub, known: &Known) -> Result<Value, Problem> {
    Ok(answer(&known.video_id, &known.job, &Surroundings::of(&hub.videos, &known.video_id, &known.job).await?))
}

/// A job that the caller may see. Whether somebody else's exists is nobody's business.
pub async fn find(hub: &Hub, caller: &Principal, video_id: &str) -> Result<Known, Problem> {
    let known = hub.videos.jobs.load(video_id).await.map_err(|error| Problem::internal(&error))?;
    let reads_all = caller.capabilities.require_reports(Reports::All).is_ok();
    let may_see = |known: &Known| {
        known.job.request().is_some_and(|job| reads_all || (job.account == caller.account && job.user == caller.user))
    };
    known.filter(may_see).ok_or_else(|| Problem::not_found(format!("there is no video {video_id} of yours")))
}

/// Reading all reports is not owning all videos.
fn owns(caller: &Principal, known: &Known) -> Result<(), MissingCapability> {
    match known.job.request() {
        Some(job) if job.account == caller.account && job.user == caller.user => Ok(()),
        _ => caller.capabilities.require_administration(),
    }
}

/// Weak: the URLs in the answer are new every time.
async fn etag(hub: &Hub, known: &Known) -> Result<HeaderValue, Problem> {
    let place = Surroundings::of(&hub.videos, &known.video_id, &known.job).await?.place.unwrap_or(0);
    let tag = format!("W/\"{}-{place}\"", known.version());
    HeaderValue::try_from(tag).map_err(|error| Problem::internal(&error))
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

pub fn object(body: &[u8]) -> Result<Map<String, Value>, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::faulty("(body)", format!("must be a JSON object: {error}")))
}
