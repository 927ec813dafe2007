//! The way from an accepted call to its response, the same for both providers: trouble before the answer, the wait for
//! the first token, then a stream, or the wait for the rest and the whole.

use std::{future::pending, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures::{StreamExt as _, stream};
use serde::Serialize;

use super::{
    SimulatedProvider, Simulator,
    answer::{Answer, CacheLifetime, Question},
    knobs::{Failure, FailureKind, Knobs, Settings, Trouble, UsageReport},
    models::Model,
    served::{
        MAX_REQUEST_ID_BYTES, Operation, Outcome,
        ledger::{Arrival, Serving},
    },
    stream::{AnswerStream, Script, Torn},
};

/// How a provider says that a call failed.
pub(super) trait Failing {
    fn failure(failure: &Failure, call: u64) -> Response;
}

/// A provider's own forms of answers.
pub(super) trait Dialect: Failing {
    /// The headers that every answer has.
    fn headers(call: u64, processing: Duration) -> HeaderMap;
    fn body(&self, reply: &Reply) -> String;
    fn script(&self, reply: Reply) -> Script;
}

/// An answer on its way out.
pub(super) struct Reply {
    pub call: u64,
    pub model: &'static str,
    pub input_tokens: u32,
    pub cache: Option<CacheLifetime>,
    pub answer: Answer,
    pub usage: UsageReport,
}

/// A call that was read and found to be in order.
pub(super) struct Accepted<D> {
    pub model: &'static Model,
    /// Those in the model's name.
    pub knobs: Knobs,
    pub question: Question,
    pub dialect: D,
}

impl Arrival {
    pub fn new(provider: SimulatedProvider, operation: Operation, headers: &HeaderMap) -> Self {
        let id = headers.get("x-client-request-id").and_then(|id| id.to_str().ok());
        // A header value that is a `str` is ASCII, so that it can be cut anywhere.
        let client_request_id = id.map(|id| id[..id.len().min(MAX_REQUEST_ID_BYTES)].into());
        Self { client_request_id, provider, operation, model: None, stream: false }
    }
}

impl Simulator {
    /// All knobs of one call.
    pub(super) fn settings(&self, model: &Model, knobs: Knobs) -> Settings {
        knobs.over(self.rules.for_call(model.provider, model.name)).settle()
    }
}

/// Answers a question, as a stream or whole.
pub(super) async fn respond<D: Dialect>(
    simulator: &Simulator,
    Accepted { model, knobs, question, dialect }: Accepted<D>,
    serving: Serving,
    is_stream: bool,
) -> Response {
    let settings = simulator.settings(model, knobs);
    if let Some(failed) = before::<D>(&settings, &serving).await {
        return failed;
    }
    if let Some(case) = settings.case {
        return case.respond(&serving);
    }
    let call = serving.call();
    let answer = question.answer(settings.output_tokens, settings.work);
    let hidden_tokens = answer.hidden_tokens;
    let reply = Reply {
        call,
        model: model.name,
        input_tokens: question.input_tokens,
        cache: question.cache,
        answer,
        usage: settings.usage,
    };
    if !is_stream {
        let counts = (reply.input_tokens, reply.answer.output_tokens);
        return whole::<D>(&settings, serving, counts, dialect.body(&reply)).await;
    }
    serving.begin(reply.input_tokens);
    serving.add_output(hidden_tokens);
    let mut headers = D::headers(call, settings.ttft);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    let stream = AnswerStream::new(dialect.script(reply), settings.token_interval, settings.trouble, serving);
    (headers, Body::from_stream(stream)).into_response()
}

/// What happens before the first token: a failure, silence, or a wait.
pub(super) async fn before<D: Dialect>(settings: &Settings, serving: &Serving) -> Option<Response> {
    let failed = trouble_before::<D>(settings, serving).await;
    if failed.is_none() {
        wait(settings.ttft).await;
    }
    failed
}

/// What keeps a call from being served at all: a failure, or silence.
pub(super) async fn trouble_before<D: Failing>(settings: &Settings, serving: &Serving) -> Option<Response> {
    match &settings.trouble {
        Some(Trouble::FailBefore(failure)) => Some(fail::<D>(failure, serving)),
        Some(Trouble::HangBefore) => hang(serving).await,
        _ => None,
    }
}

/// An answer in one piece, once its tokens would have been streamed.
pub(super) async fn whole<D: Dialect>(
    settings: &Settings,
    serving: Serving,
    (input_tokens, output_tokens): (u32, u32),
    body: String,
) -> Response {
    let until = |tokens: u32| settings.token_interval.unwrap_or_default() * tokens.saturating_sub(1);
    match settings.trouble {
        Some(Trouble::FailAfter(tokens)) if tokens <= output_tokens => {
            wait(until(tokens)).await;
            return fail::<D>(&Failure::of(FailureKind::ServerError), &serving);
        }
        Some(Trouble::HangAfter(tokens)) if tokens <= output_tokens => {
            return hang(&serving).await;
        }
        Some(Trouble::TearAfter(tokens)) if tokens <= output_tokens => {
            wait(until(tokens)).await;
            serving.begin(input_tokens);
            serving.add_output(tokens);
            serving.end(Outcome::Torn);
            let half = Bytes::copy_from_slice(&body.as_bytes()[..body.len() / 2]);
            // hyper throws away what it has not yet written when the body fails, so the half gets its turn first.
            let torn = stream::once(async { Ok(half) }).chain(stream::once(async {
                tokio::task::yield_now().await;
                Err(Torn)
            }));
            return json::<D>(serving.call(), settings.ttft, Body::from_stream(torn));
        }
        _ => wait(until(output_tokens)).await,
    }
    serving.begin(input_tokens);
    serving.add_output(output_tokens);
    serving.end(Outcome::Completed);
    json::<D>(serving.call(), settings.ttft, Body::from(body))
}

/// Of plain structs: there is nothing in them that JSON cannot say.
pub(super) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

pub(super) fn json<D: Dialect>(call: u64, processing: Duration, body: Body) -> Response {
    let mut headers = D::headers(call, processing);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    (StatusCode::OK, headers, body).into_response()
}

fn fail<D: Failing>(failure: &Failure, serving: &Serving) -> Response {
    let response = D::failure(failure, serving.call());
    serving.fail_with_status(response.status().as_u16());
    response
}

/// Never returns. The server drops the call when its client leaves.
async fn hang<T>(serving: &Serving) -> T {
    serving.end(Outcome::Hung);
    pending().await
}

pub(super) async fn wait(duration: Duration) {
    if !duration.is_zero() {
        tokio::time::sleep(duration).await;
    }
}
