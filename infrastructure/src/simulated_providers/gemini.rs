//! Google's side: Veo's long-running operations over the Gemini API, as recorded (`fixtures/gemini`). An operation is started,
//! asked for until it is done, and names a file, which is one redirect away.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest as _, Path, Request, State},
    http::{
        HeaderMap, HeaderValue,
        header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION},
    },
    response::{IntoResponse, Response},
};
use futures::stream;
use serde_json::{Value, json};

use self::request::into_order;
use super::{
    SimulatedProvider, Simulator,
    knobs::{Failure, FailureKind, Knobs, Trouble},
    respond::{Failing, trouble_before, wait},
    served::{
        Operation, Outcome,
        ledger::{Arrival, Serving},
    },
    stream::Torn,
    videos::{
        Order, Video, VideoStatus, content,
        store::{Submission, Submitted},
    },
};

mod error;
mod request;

use error::GeminiError;

/// How Google says that a call failed.
struct Veo;

impl Failing for Veo {
    fn failure(failure: &Failure, _: u64) -> Response {
        GeminiError::ordered(failure).into_response()
    }
}

/// `POST /v1beta/models/{model}:predictLongRunning`.
pub(super) async fn predict(
    State(simulator): State<Simulator>,
    Path(action): Path<String>,
    request: Request,
) -> Response {
    let mut arrival = Arrival::new(SimulatedProvider::Gemini, Operation::Videos, request.headers());
    let client_request_id = arrival.client_request_id.clone();
    let accepted = accept(&action, request, &mut arrival).await;
    let serving = simulator.ledger.open(arrival);
    match accepted {
        Ok(order) => submit(&simulator, order, client_request_id, &serving).await,
        Err(error) => {
            serving.fail_with_status(error.status().as_u16());
            error.into_response()
        }
    }
}

async fn accept(action: &str, request: Request, arrival: &mut Arrival) -> Result<Order, GeminiError> {
    authenticate(request.headers())?;
    let unknown = || GeminiError::not_found(format!("There is no method '{action}'."));
    let model = action.strip_suffix(":predictLongRunning").ok_or_else(unknown)?.to_owned();
    let body = Bytes::from_request(request, &()).await;
    let body = body.map_err(|rejection| GeminiError::invalid(rejection.body_text()))?;
    let order = into_order(&model, &body)?;
    arrival.model = Some(order.model);
    Ok(order)
}

/// The operation exists before the answer is waited for: a client that leaves meanwhile leaves it behind.
async fn submit(
    simulator: &Simulator,
    order: Order,
    client_request_id: Option<Box<str>>,
    serving: &Serving,
) -> Response {
    if let Some(case) = order.knobs.case.filter(|case| case.is_of_video("veo", "create")) {
        return case.respond(serving);
    }
    let settings = simulator.settings(order.model, Knobs { case: None, ..order.knobs.clone() });
    if let Some(failed) = trouble_before::<Veo>(&settings, serving).await {
        return failed;
    }
    let submission =
        Submission { call: serving.call(), order, idempotency_key: None, client_request_id, settings: &settings };
    let (Submitted::Created(video) | Submitted::Repeated(video)) = simulator.videos.submit(submission) else {
        return GeminiError::ordered(&Failure::of(FailureKind::ServerError)).into_response();
    };
    wait(settings.ttft).await;
    serving.begin(0);
    if settings.trouble == Some(Trouble::TearCreated) {
        serving.end(Outcome::Torn);
        // The body fails before anything is written, so that not even the status is.
        return Body::from_stream(stream::once(async { Err::<String, _>(Torn) })).into_response();
    }
    serving.end(Outcome::Completed);
    ok(&json!({ "name": video.id() }))
}

/// `GET /v1beta/models/{model}/operations/{id}`.
pub(super) async fn operation(
    State(simulator): State<Simulator>,
    headers: HeaderMap,
    Path((model, id)): Path<(String, String)>,
) -> Response {
    answer(|| {
        authenticate(&headers)?;
        let name = format!("models/{model}/operations/{id}");
        let video = simulator.videos.find(&name).ok_or_else(|| no_entity(&name))?;
        if let Some(case) = video.order.knobs.case.filter(|case| case.is_of_video("veo", "status")) {
            return Ok(case.response().0);
        }
        let generated = match video.standing().0 {
            VideoStatus::Queued | VideoStatus::InProgress => return Ok(ok(&json!({ "name": name }))),
            VideoStatus::Failed => json!({
                "raiMediaFilteredCount": 1,
                "raiMediaFilteredReasons": ["Simulated: the prompt could not be made into a film. Support codes: 1."],
            }),
            VideoStatus::Completed => {
                let uri = format!("{}/v1beta/files/{}", origin(&headers), file_name(&video));
                json!({ "generatedSamples": [{ "video": { "uri": uri } }] })
            }
        };
        let kind = "type.googleapis.com/google.ai.generativelanguage.v1beta.PredictLongRunningResponse";
        let response = json!({ "@type": kind, "generateVideoResponse": generated });
        Ok(ok(&json!({ "name": name, "done": true, "response": response })))
    })
}

/// `GET /v1beta/files/{id}:download`: elsewhere.
pub(super) async fn file(State(simulator): State<Simulator>, headers: HeaderMap, Path(file): Path<String>) -> Response {
    answer(|| {
        authenticate(&headers)?;
        let video = find_file(&simulator, &file)?;
        let location = format!("{}/download/v1beta/files/{}", origin(&headers), file_name(&video));
        let location = HeaderValue::try_from(location).map_err(|_| GeminiError::invalid("Invalid host.".to_owned()))?;
        let mut response = GeminiError::moved().into_response();
        response.headers_mut().insert(LOCATION, location);
        Ok(response)
    })
}

/// `GET /download/v1beta/files/{id}:download`: the MP4.
pub(super) async fn download(
    State(simulator): State<Simulator>,
    headers: HeaderMap,
    Path(file): Path<String>,
) -> Response {
    let found = authenticate(&headers).and_then(|()| find_file(&simulator, &file));
    let video = match found {
        Ok(video) => video,
        Err(error) => return error.into_response(),
    };
    match content::file(&simulator, &video).await {
        Ok((length, body)) => {
            let mut response = body.into_response();
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("video/mp4"));
            response.headers_mut().insert(CONTENT_LENGTH, length.into());
            response
        }
        Err(error) => {
            tracing::error!(%error, "a simulated video could not be made");
            GeminiError::ordered(&Failure::of(FailureKind::ServerError)).into_response()
        }
    }
}

fn answer(serve: impl FnOnce() -> Result<Response, GeminiError>) -> Response {
    serve().unwrap_or_else(IntoResponse::into_response)
}

fn ok(body: &Value) -> Response {
    ([(CONTENT_TYPE, "application/json; charset=UTF-8")], body.to_string()).into_response()
}

fn authenticate(headers: &HeaderMap) -> Result<(), GeminiError> {
    match headers.get("x-goog-api-key").and_then(|key| key.to_str().ok()).map(str::trim) {
        None | Some("") => Err(GeminiError::missing_key()),
        Some(super::openai::INVALID_KEY) => Err(GeminiError::invalid_key()),
        Some(_) => Ok(()),
    }
}

/// Where whoever asks found us.
fn origin(headers: &HeaderMap) -> String {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    format!("http://{host}")
}

fn file_name(video: &Video) -> String {
    format!("sim{:012x}:download?alt=media", video.call)
}

fn find_file(simulator: &Simulator, file: &str) -> Result<Arc<Video>, GeminiError> {
    let call = file.strip_prefix("sim").and_then(|rest| rest.strip_suffix(":download"));
    let call = call.and_then(|call| u64::from_str_radix(call, 16).ok());
    let video = call.and_then(|call| simulator.videos.find_call(call));
    let is_there = |video: &Arc<Video>| {
        let is_ours = video.order.model.provider == SimulatedProvider::Gemini;
        is_ours && video.standing().0 == VideoStatus::Completed && !video.has_expired()
    };
    video.filter(is_there).ok_or_else(|| no_entity(file))
}

fn no_entity(name: &str) -> GeminiError {
    GeminiError::not_found(format!("Requested entity was not found: {name}."))
}
