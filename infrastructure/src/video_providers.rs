//! The adapters behind [`application::ports::video_provider::VideoProvider`]: what goes over the wire to those who make
//! videos.
//!
//! They share [`ProviderHttp`](crate::providers::http::ProviderHttp) with the other adapters. Of its time-outs, the one for
//! the first byte is that of a whole call, from sending it to the last byte of its JSON; a file may take as long as it
//! likes, if its status comes in that time and no read takes longer than `idle_timeout`.
//!
//! | module | what it speaks |
//! |---|---|
//! | [`openai`] | `/v1/videos`, as OpenAI had it: vLLM-Omni, `LiteLLM`, resellers |
//! | [`veo`] | Google's long-running operations |
//! | [`xai`] | `/v1/videos/generations` |
//!
//! [`application::ports::video_provider::VideoProvider`]: aihub_application::ports::video_provider::VideoProvider

pub mod openai;
pub mod veo;
pub mod xai;

mod files;

use aihub_application::ports::{
    provider::ProviderError,
    video_provider::{SubmitError, VideoCall},
};
use http::HeaderMap;
use reqwest::{RequestBuilder, Response};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use crate::providers::{
    errors,
    http::{self as provider_http, Http, Unanswered},
};

/// The most bytes of an answer that is not a file: a hundred jobs with their prompts.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;
const MAX_JOB_ID_BYTES: usize = 256;
const MAX_CODE_BYTES: usize = 64;

/// Sends a submission. `job_id` is what its answer calls the job.
async fn submit<T: DeserializeOwned>(
    http: &Http,
    request: RequestBuilder,
    job_id: impl FnOnce(T) -> String,
) -> Result<String, SubmitError> {
    let deadline = Instant::now() + http.first_byte_timeout;
    let response = http.send(request, deadline).await.map_err(|Unanswered { error, is_unsent }| {
        let in_doubt = !is_unsent && may_be_taken(error.status);
        SubmitError { error, in_doubt }
    })?;
    // From here on the provider has it, whatever its answer looks like.
    let taken = |error| SubmitError { error, in_doubt: true };
    let job_id = job_id(json(response, deadline).await.map_err(taken)?);
    let is_name =
        !job_id.is_empty() && job_id.len() <= MAX_JOB_ID_BYTES && job_id.bytes().all(|c| c.is_ascii_graphic());
    if is_name { Ok(job_id) } else { Err(taken(errors::malformed(&"the provider gave the job no usable name"))) }
}

/// Whether a call that was answered with this status, or with none, may have made a job. A server that is overloaded
/// says so instead of working.
fn may_be_taken(status: Option<u16>) -> bool {
    status.is_none_or(|status| status >= 500 && !matches!(status, 503 | 529))
}

/// A call whose answer is JSON, with its headers; `None` where there is no such thing, or no more.
async fn look<T: DeserializeOwned>(
    http: &Http,
    request: RequestBuilder,
) -> Result<Option<(HeaderMap, T)>, ProviderError> {
    let deadline = Instant::now() + http.first_byte_timeout;
    match http.send(request, deadline).await {
        Ok(response) => {
            let headers = response.headers().clone();
            Ok(Some((headers, json(response, deadline).await?)))
        }
        Err(Unanswered { error, .. }) if is_gone(&error) => Ok(None),
        Err(Unanswered { error, .. }) => Err(error),
    }
}

async fn json<T: DeserializeOwned>(response: Response, deadline: Instant) -> Result<T, ProviderError> {
    let body = provider_http::body(response, MAX_ANSWER_BYTES, deadline).await?;
    // What does not parse is not quoted: it may hold the prompt.
    serde_json::from_slice(&body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        errors::malformed(&format_args!("the provider's answer is unreadable at line {line}, column {column}"))
    })
}

fn is_gone(error: &ProviderError) -> bool {
    matches!(error.status, Some(404 | 410))
}

/// A provider's name for a failure, in the letters of [`JobState::Failed`]; `unknown` where it is no name but a
/// sentence.
///
/// [`JobState::Failed`]: aihub_application::ports::video_provider::JobState::Failed
fn failure_code(code: &Value) -> String {
    let code = match code {
        Value::String(code) => code.to_ascii_lowercase().replace(['-', '.'], "_"),
        Value::Number(code) => code.to_string(),
        _ => String::new(),
    };
    let is_name = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
    let usable = (1..=MAX_CODE_BYTES).contains(&code.len()) && code.bytes().all(is_name);
    if usable { code } else { "unknown".to_owned() }
}

/// Percent, however the provider writes its number.
fn percent(progress: Option<f64>) -> Option<u8> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 0 and 100")]
    progress.map(|progress| progress.clamp(0.0, 100.0) as u8)
}

/// The prompt for a provider that knows of no style.
fn styled_prompt(call: &VideoCall) -> String {
    match &call.style {
        Some(style) => format!("{}\n\nStyle: {style}", call.prompt),
        None => call.prompt.to_string(),
    }
}

#[cfg(test)]
mod tests;
