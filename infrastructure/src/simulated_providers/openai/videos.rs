//! `/v1/videos`: created, asked for, listed, deleted. The interface outlived Sora, whose it was; others serve it.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Path, Query, Request, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures::stream;
use serde::{Deserialize, Serialize};

use self::{
    request::{Fields, idempotency_key},
    wire::{DeletedVideo, VideoBody, VideoList},
};
use super::{
    super::{
        SimulatedProvider, Simulator,
        knobs::{Knobs, Trouble},
        respond::{json, to_json, trouble_before, wait},
        served::{
            Operation, Outcome,
            ledger::{Arrival, Serving},
        },
        stream::Torn,
        videos::{
            Order, Video,
            store::{Page, Submission, Submitted, call_of},
        },
    },
    authenticate,
    chat::Chat,
    error::OpenAiError,
    headers,
};

pub(in super::super) mod content;
mod request;
mod wire;

const DEFAULT_LIMIT: usize = 20;
const MAX_LIMIT: usize = 100;
/// What a client is told to wait before it asks again: until the end, within these.
const MIN_POLL_MS: u64 = 100;
const MAX_POLL_MS: u64 = 1_000;

pub(in super::super) async fn create(State(simulator): State<Simulator>, request: Request) -> Response {
    let mut arrival = Arrival::new(SimulatedProvider::OpenAi, Operation::Videos, request.headers());
    let accepted = accept(request, &mut arrival).await;
    let client_request_id = arrival.client_request_id.clone();
    let serving = simulator.ledger.open(arrival);
    match accepted {
        Ok((order, key)) => submit(&simulator, order, key, client_request_id, serving).await,
        Err(error) => refuse(&serving, error),
    }
}

async fn accept(request: Request, arrival: &mut Arrival) -> Result<(Order, Option<Box<str>>), OpenAiError> {
    authenticate(request.headers())?;
    let key = idempotency_key(request.headers())?;
    let order = Fields::read(request).await?.into_order()?;
    arrival.model = Some(order.model);
    Ok((order, key))
}

/// The video exists before the answer is waited for: a client that leaves meanwhile leaves it behind.
async fn submit(
    simulator: &Simulator,
    order: Order,
    idempotency_key: Option<Box<str>>,
    client_request_id: Option<Box<str>>,
    serving: Serving,
) -> Response {
    if let Some(case) = order.knobs.case.filter(|case| case.is_of_video("openai", "create")) {
        return case.respond(&serving);
    }
    let settings = simulator.settings(order.model, Knobs { case: None, ..order.knobs.clone() });
    if let Some(failed) = trouble_before::<Chat>(&settings, &serving).await {
        return failed;
    }
    let call = serving.call();
    let submission = Submission { call, order, idempotency_key, client_request_id, settings: &settings };
    let (video, is_torn) = match simulator.videos.submit(submission) {
        Submitted::Created(video) => {
            simulator.webhooks.announce(Arc::clone(&video));
            (video, settings.trouble == Some(Trouble::TearCreated))
        }
        Submitted::Repeated(video) => (video, false),
        Submitted::KeyReused => {
            let message = "This Idempotency-Key was used with other parameters. Use another key for another request.";
            let error = OpenAiError::invalid_request(message.to_owned()).with_code("idempotency_key_reused");
            return refuse(&serving, error);
        }
    };
    wait(settings.ttft).await;
    serving.begin(0);
    if is_torn {
        serving.end(Outcome::Torn);
        // The body fails before anything is written, so that not even the status is.
        return Body::from_stream(stream::once(async { Err::<String, _>(Torn) })).into_response();
    }
    serving.end(Outcome::Completed);
    let mut response = json::<Chat>(call, settings.ttft, to_json(&VideoBody::of(&video)).into());
    response.headers_mut().extend(poll_after(&video));
    response
}

pub(in super::super) async fn retrieve(
    State(simulator): State<Simulator>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Response {
    answer(|| {
        authenticate(&headers)?;
        let video = find(&simulator, &id)?;
        if let Some(case) = video.order.knobs.case.filter(|case| case.is_of_video("openai", "status")) {
            return Ok(case.response().0);
        }
        let mut response = ok(&VideoBody::of(&video));
        response.headers_mut().extend(poll_after(&video));
        Ok(response)
    })
}

pub(in super::super) async fn delete(
    State(simulator): State<Simulator>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Response {
    answer(|| {
        authenticate(&headers)?;
        let video = simulator.videos.delete(&id).ok_or_else(|| not_found(&id))?;
        Ok(ok(&DeletedVideo { id: video.id(), object: "video.deleted", deleted: true }))
    })
}

#[derive(Deserialize)]
pub(in super::super) struct ListQuery {
    after: Option<String>,
    limit: Option<usize>,
    order: Option<ListOrder>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ListOrder {
    Asc,
    #[default]
    Desc,
}

pub(in super::super) async fn list(
    State(simulator): State<Simulator>,
    headers: HeaderMap,
    asked: Result<Query<ListQuery>, QueryRejection>,
) -> Response {
    answer(|| {
        authenticate(&headers)?;
        let ListQuery { after, limit, order } = query(asked)?;
        let limit = limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            let message = format!("Invalid 'limit': expected a value from 1 to {MAX_LIMIT}, but got {limit} instead.");
            return Err(OpenAiError::invalid_request(message).with_param("limit"));
        }
        // One that was deleted since still tells where the page begins.
        let after = after.map(|id| call_of(&id).ok_or_else(|| not_found(&id).with_param("after"))).transpose()?;
        let newest_first = order.unwrap_or_default() == ListOrder::Desc;
        let (videos, has_more) = simulator.videos.page(&Page { after, limit, newest_first });
        Ok(ok(&VideoList {
            object: "list",
            data: videos.iter().map(|video| VideoBody::of(video)).collect(),
            first_id: videos.first().map(|video| video.id()),
            last_id: videos.last().map(|video| video.id()),
            has_more,
        }))
    })
}

fn answer(serve: impl FnOnce() -> Result<Response, OpenAiError>) -> Response {
    serve().unwrap_or_else(|error| error.into_response_of(0))
}

fn refuse(serving: &Serving, error: OpenAiError) -> Response {
    serving.fail_with_status(error.status().as_u16());
    error.into_response_of(serving.call())
}

fn ok(body: &impl Serialize) -> Response {
    let mut headers = headers(0, Duration::ZERO);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    (headers, to_json(body)).into_response()
}

fn find(simulator: &Simulator, id: &str) -> Result<Arc<Video>, OpenAiError> {
    simulator.videos.find(id).ok_or_else(|| not_found(id))
}

fn not_found(id: &str) -> OpenAiError {
    let error = OpenAiError::invalid_request(format!("Video with id '{id}' not found."));
    error.with_status(StatusCode::NOT_FOUND).with_code("video_not_found")
}

fn query<T>(asked: Result<Query<T>, QueryRejection>) -> Result<T, OpenAiError> {
    let read = |rejection: QueryRejection| OpenAiError::invalid_request(rejection.body_text());
    asked.map(|Query(asked)| asked).map_err(read)
}

/// `openai-poll-after-ms`, of a video that has not ended.
fn poll_after(video: &Video) -> Option<(HeaderName, HeaderValue)> {
    let left = video.time_left()?;
    let ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).clamp(MIN_POLL_MS, MAX_POLL_MS);
    Some((HeaderName::from_static("openai-poll-after-ms"), ms.into()))
}
