//! `GET /v1/videos/{id}/content`: the MP4, or a thumbnail.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use tokio::task::spawn_blocking;

use super::{
    super::{
        super::{
            Simulator,
            films::picture,
            knobs::{Failure, FailureKind},
            videos::{VideoStatus, content::file},
        },
        authenticate,
        error::OpenAiError,
        headers,
    },
    find, query,
};

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
    if let Some(case) = video.order.knobs.case.filter(|case| case.is_of_video("openai", "content")) {
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
            let (length, body) = file(simulator, &video).await.map_err(|error| failed(&error))?;
            Ok(response("video/mp4", length, body))
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
