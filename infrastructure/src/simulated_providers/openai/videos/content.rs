//! `GET /v1/videos/{id}/content`: the MP4, or a thumbnail.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use futures::{StreamExt as _, stream};
use serde::Deserialize;
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep_until},
};

use super::{
    super::{
        super::{
            Simulator,
            films::picture,
            knobs::{Failure, FailureKind, video::Content},
            stream::Torn,
            videos::{Video, VideoStatus},
        },
        authenticate,
        error::OpenAiError,
        headers,
    },
    find, query,
};

/// Of a slow content, what is sent at a time.
const SLICES_PER_SECOND: usize = 10;
const GARBAGE: &[u8] = b"Simulated garbage, and no MP4 at all. ";

#[derive(Deserialize)]
pub(in super::super::super) struct ContentQuery {
    variant: Option<String>,
}

pub(in super::super::super) async fn content(
    State(simulator): State<Simulator>,
    headers: HeaderMap,
    Path(id): Path<String>,
    asked: Result<Query<ContentQuery>, QueryRejection>,
) -> Response {
    match serve(&simulator, &headers, &id, asked).await {
        Ok(response) => response,
        Err(error) => error.into_response_of(0),
    }
}

async fn serve(
    simulator: &Simulator,
    headers: &HeaderMap,
    id: &str,
    asked: Result<Query<ContentQuery>, QueryRejection>,
) -> Result<Response, OpenAiError> {
    authenticate(headers)?;
    let ContentQuery { variant } = query(asked)?;
    let video = find(simulator, id)?;
    if let Some(case) = video.order.knobs.case.filter(|case| case.is_of_video("content")) {
        return Ok(case.response().0);
    }
    let (status, _) = video.standing();
    if status != VideoStatus::Completed {
        let is_failed = status == VideoStatus::Failed;
        let why = if is_failed { "has failed and has no content" } else { "is still being made" };
        let error = OpenAiError::invalid_request(format!("Video '{id}' {why}."));
        return Err(error.with_code(if is_failed { "video_failed" } else { "video_not_ready" }));
    }
    if video.has_expired() {
        let error = OpenAiError::invalid_request(format!("The content of video '{id}' has expired."));
        return Err(error.with_status(StatusCode::NOT_FOUND).with_code("video_expired"));
    }
    match variant.as_deref().unwrap_or("video") {
        "video" => {
            let mp4 = mp4(simulator, &video).await?;
            video.count_download();
            let content = video.knobs.content.unwrap_or_default();
            Ok(response("video/mp4", mp4.len(), body(mp4, content, video.knobs.content_bytes_per_second)))
        }
        "thumbnail" => {
            let size = video.order.size;
            let jpeg = spawn_blocking(move || picture::thumbnail(size)).await;
            let jpeg = jpeg.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
            Ok(response("image/jpeg", jpeg.len(), jpeg.into()))
        }
        other => {
            let message = format!("Invalid value: '{other}'. Supported values are 'video' and 'thumbnail'.");
            Err(OpenAiError::invalid_request(message).with_param("variant").with_code("invalid_value"))
        }
    }
}

/// The file that is sent, if it is sent to its end.
async fn mp4(simulator: &Simulator, video: &Video) -> Result<Bytes, OpenAiError> {
    let film = simulator.films.mp4(video.film()).await.map_err(|error| failed(&error))?;
    Ok(match video.knobs.content {
        Some(Content::Garbage) => GARBAGE.repeat(film.len().div_ceil(GARBAGE.len())).into(),
        Some(Content::Truncated) => film.slice(..film.len() / 2),
        _ => film,
    })
}

fn body(file: Bytes, content: Content, bytes_per_second: Option<u32>) -> Body {
    let is_torn = content == Content::Torn;
    if bytes_per_second.is_none() && !is_torn {
        return file.into();
    }
    let half = file.len() / 2;
    let sent = if is_torn { file.slice(..half) } else { file };
    let slice = bytes_per_second.map_or(sent.len(), |rate| rate as usize / SLICES_PER_SECOND).max(1);
    let begin = Instant::now();
    let slices = stream::iter((0..sent.len()).step_by(slice)).then(move |at| {
        let end = (at + slice).min(sent.len());
        let slice = sent.slice(at..end);
        async move {
            if let Some(rate) = bytes_per_second {
                let due_ms = end as u64 * 1_000 / u64::from(rate.max(1));
                sleep_until(begin + Duration::from_millis(due_ms)).await;
            }
            Ok::<_, Torn>(slice)
        }
    });
    if !is_torn {
        return Body::from_stream(slices);
    }
    // hyper throws away what it has not yet written when the body fails, so the half gets its turn first.
    Body::from_stream(slices.chain(stream::once(async {
        tokio::task::yield_now().await;
        Err(Torn)
    })))
}

fn response(content_type: &'static str, length: usize, body: Body) -> Response {
    let mut headers = headers(0, Duration::ZERO);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CONTENT_LENGTH, length.into());
    (headers, body).into_response()
}

fn failed(error: &dyn std::fmt::Display) -> OpenAiError {
    tracing::error!(%error, "a simulated video could not be made");
    OpenAiError::ordered(&Failure::of(FailureKind::ServerError))
}
