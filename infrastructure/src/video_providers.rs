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
    provider::{Flaw, ProviderError, providers_word},
    video_provider::{JobState, SubmitError, VideoCall, is_job_id},
};
use http::HeaderMap;
use reqwest::{RequestBuilder, Response};
use tokio::time::Instant;

use crate::providers::{
    errors,
    http::{self as provider_http, Http, Unanswered},
    json::{self, Fields, Json, NoJson},
};

/// The most bytes of an answer that is not a file: a hundred jobs with their prompts.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;
const MAX_CODE_BYTES: usize = 64;

/// What may be looked at of an answer that was a success.
struct Answer {
    headers: HeaderMap,
    text: String,
}

impl Answer {
    async fn of(response: Response, deadline: Instant) -> Result<Self, ProviderError> {
        let headers = response.headers().clone();
        let body = provider_http::body(response, MAX_ANSWER_BYTES, Some(deadline)).await?;
        let text = String::from_utf8_lossy(&body.bytes).trim().to_owned();
        let text = match Json::parse(&text) {
            Ok(_) => text,
            Err(NoJson(at)) => {
                let put_right = json::repaired(&text);
                if Json::parse(&put_right).is_err() {
                    // What does not parse is not quoted: it may hold the prompt.
                    let flaw = Flaw { class: "no_json".into(), field: None, offset: Some(at as u64) };
                    return Err(errors::malformed_at(flaw));
                }
                put_right
            }
        };
        Ok(Self { headers, text })
    }

    /// Nothing is looked for in what is none.
    fn fields(&self) -> Fields<'_> {
        Json::parse(&self.text).map_or_else(|_| Fields::default(), Json::fields)
    }
}

/// How a provider without a token's memory is asked what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lookup {
    /// It has a list.
    List,
    Nothing,
}

/// Sends a submission. `job_id` is the field of the answer that names the job.
async fn submit(http: &Http, request: RequestBuilder, job_id: &str, lookup: Lookup) -> Result<String, SubmitError> {
    let deadline = Instant::now() + http.first_byte_timeout;
    let response = http.send(request, deadline).await.map_err(|Unanswered { error, is_unsent }| {
        let in_doubt = !is_unsent && may_be_taken(error.status, lookup);
        SubmitError { error, in_doubt, said_yes: false }
    })?;
    let answer = Answer::of(response, deadline).await;
    // It said yes, whatever became of the rest.
    let answer = answer.map_err(|error| SubmitError { error, in_doubt: true, said_yes: true })?;
    let fields = answer.fields();
    let id = fields.get(job_id).and_then(|id| id.text().or_else(|| id.count().map(|id| id.to_string().into())));
    if let Some(id) = id.filter(|id| is_job_id(id)) {
        return Ok(id.into_owned());
    }
    if errors::is_error(&fields) {
        let error = errors::in_answer(answer.text.as_bytes());
        return Err(SubmitError { error, in_doubt: false, said_yes: false });
    }
    let error = errors::malformed_at(Flaw { class: "no_usable_name".into(), field: Some(job_id.into()), offset: None });
    Err(SubmitError { error, in_doubt: true, said_yes: true })
}

/// Whether a call that was answered with this status, or with none, may have made a job. Something between us and the provider
/// says 408 and 503 of calls that it has passed on; where nobody can look, a server that says that it is overloaded is believed.
fn may_be_taken(status: Option<u16>, lookup: Lookup) -> bool {
    match status {
        None => true,
        Some(408 | 503) => lookup == Lookup::List,
        Some(status) => status >= 500 && status != 529,
    }
}

/// A call whose answer is JSON; `None` where there is no such thing, or no more.
async fn look(http: &Http, request: RequestBuilder) -> Result<Option<Answer>, ProviderError> {
    let deadline = Instant::now() + http.first_byte_timeout;
    match http.send(request, deadline).await {
        Ok(response) => Answer::of(response, deadline).await.map(Some),
        Err(Unanswered { error, .. }) if is_gone(&error) => Ok(None),
        Err(Unanswered { error, .. }) => Err(error),
    }
}

fn is_gone(error: &ProviderError) -> bool {
    matches!(error.status, Some(404 | 410))
}

/// What a provider's word for a job's standing says, in any case; the words of all providers, as none of them means two things.
fn standing(word: &str) -> Option<Standing> {
    const WORDS: [(&[&str], Standing); 4] = [
        (
            &[
                "queued",
                "pending",
                "in_progress",
                "processing",
                "running",
                "started",
                "rendering",
                "generating",
                "submitted",
                "created",
                "preparing",
                "scheduled",
                "waiting",
                "accepted",
                "in_queue",
                "starting",
            ],
            Standing::Running,
        ),
        (
            &["completed", "complete", "succeeded", "success", "successful", "done", "finished", "ready", "ok"],
            Standing::Completed,
        ),
        (&["failed", "failure", "error", "errored", "rejected", "blocked", "moderated"], Standing::Failed),
        (&["cancelled", "canceled", "expired", "timeout", "timed_out", "aborted", "deleted"], Standing::Ended),
    ];
    let word = word.trim().to_ascii_lowercase().replace(['-', ' '], "_");
    WORDS.into_iter().find(|(words, _)| words.contains(&word.as_str())).map(|(_, standing)| standing)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Running,
    Completed,
    Failed,
    /// It came to nothing, and the word is the reason.
    Ended,
}

/// What is known of a job whose provider has this word for it.
fn state(word: &str, fields: &Fields<'_>) -> JobState {
    match standing(word) {
        Some(Standing::Running) => JobState::Running { progress: percent(fields) },
        Some(Standing::Completed) => JobState::Completed,
        Some(Standing::Failed) => JobState::Failed { code: code_of(fields.get("error")) },
        Some(Standing::Ended) => JobState::Failed { code: failure_code(word) },
        None => JobState::Unclear { word: providers_word(word.to_owned()) },
    }
}

/// The code of an error that may be an object, or a text that is its own.
fn code_of(error: Option<Json<'_>>) -> String {
    let code = error.map(|error| if error.is_object() { error.field("code") } else { Some(error) });
    let code = code.flatten().map(|code| code.text().unwrap_or_else(|| code.raw().into()));
    failure_code(code.as_deref().unwrap_or_default())
}

/// A provider's name for a failure, in the letters of [`JobState::Failed`]; `unknown` where it is no name but a
/// sentence.
///
/// [`JobState::Failed`]: aihub_application::ports::video_provider::JobState::Failed
fn failure_code(code: &str) -> String {
    let code = code.trim().to_ascii_lowercase().replace(['-', '.'], "_");
    let is_name = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
    let usable = (1..=MAX_CODE_BYTES).contains(&code.len()) && code.bytes().all(is_name) && code != "null";
    if usable { code } else { "unknown".to_owned() }
}

/// Percent, however the provider writes its number.
fn percent(fields: &Fields<'_>) -> Option<u8> {
    let progress = fields.get("progress")?;
    let text = progress.text();
    let number =
        text.as_deref().map_or_else(|| progress.number(), |text| text.trim().trim_end_matches('%').parse().ok());
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 0 and 100")]
    number.filter(|progress| progress.is_finite()).map(|progress| progress.clamp(0.0, 100.0) as u8)
}

/// The prompt for a provider that knows of no style.
fn styled_prompt(call: &VideoCall) -> String {
    match &call.style {
        Some(style) => format!("{}\n\nStyle: {style}", call.prompt),
        None => call.prompt.to_string(),
    }
}

#[cfg(test)]
pub(crate) mod contract;
#[cfg(test)]
mod tests;
