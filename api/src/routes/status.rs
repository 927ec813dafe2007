//! How a job stands, told at once or when that has changed.

use std::{sync::Arc, time::Duration};

use aihub_application::{
    ports::jobs::{News, news_about},
    principal::Principal,
};
use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::parameters::Query;
use crate::{doors, hub::Hub, problem::Problem};

/// What is waited for is looked at again without news after this long.
const LOOK_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug, Deserialize)]
pub struct StatusQuery {
    /// Seconds to wait for a change.
    #[serde(default)]
    wait: u64,
}

/// A job that somebody asks for who may see it.
pub trait Watched: Sync {
    type Job: Send + Sync;

    fn look(&self) -> impl Future<Output = Result<Look<Self::Job>, Problem>> + Send;

    /// Whether the news may have changed what is told of the job.
    fn is_about(&self, job: &Self::Job, news: &News) -> bool;

    fn tell(&self, job: &Self::Job) -> impl Future<Output = Result<Value, Problem>> + Send;
}

/// A job as it is now.
pub struct Look<J> {
    pub job: J,
    /// Another one whenever something else is told.
    pub version: String,
    pub has_ended: bool,
}

/// With `If-None-Match`, 304 while nothing has changed since. With `?wait=30` that, or the next change, is waited for.
pub async fn status<W: Watched>(
    hub: &Arc<Hub>,
    caller: &Principal,
    watched: &W,
    Query(StatusQuery { wait }): Query<StatusQuery>,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let wait = Duration::from_secs(wait).min(hub.settings.max_long_poll);
    let draining = &hub.gateway.draining;
    // Heard from before the first look, so that no change falls between the two.
    let mut news = hub.videos.news.subscribe();
    let mut look = watched.look().await?;
    let mut tag = etag(&look)?;
    let seen = headers.get(header::IF_NONE_MATCH).map_or_else(|| tag.clone(), HeaderValue::clone);
    let waits = tag == seen && !look.has_ended && !wait.is_zero();
    let _waiting = if waits { Some(doors::take(hub, &hub.doors.long_polls, caller, 1)?) } else { None };
    let give_up_at = Instant::now() + wait;
    while tag == seen && !look.has_ended && Instant::now() < give_up_at && !draining.is_cancelled() {
        let look_at = give_up_at.min(Instant::now() + LOOK_EVERY);
        let changed = timeout_at(look_at, news_about(&mut news, |news| watched.is_about(&look.job, news)));
        tokio::select! {
            _ = changed => {}
            () = draining.cancelled() => {}
        }
        look = watched.look().await?;
        tag = etag(&look)?;
    }
    let mut response = if headers.contains_key(header::IF_NONE_MATCH) && tag == seen {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Json(watched.tell(&look.job).await?).into_response()
    };
    response.headers_mut().insert(header::ETAG, tag);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    Ok(response)
}

/// Weak: the URLs in the answer are new every time.
fn etag<J>(look: &Look<J>) -> Result<HeaderValue, Problem> {
    HeaderValue::try_from(format!("W/\"{}\"", look.version)).map_err(|error| Problem::internal(&error))
}
