//! The last thing that happens to a request: its answer's end.

use std::{sync::Arc, time::Duration};

use super::{Gateway, Job, closing::CLIENT_LEFT};
use crate::{answer::AnswerEnd, error::GatewayError};

/// Ends the answer when the request's task ends, also where a panic ends it: nobody is to wait for ever.
pub struct Finish {
    pub gateway: Arc<Gateway>,
    pub job: Arc<Job>,
    /// What was accepted cannot be asked again under its idempotency key; anything else can.
    pub accepted: bool,
    pub end: Option<AnswerEnd>,
}

impl Drop for Finish {
    fn drop(&mut self) {
        let Self { gateway, job, accepted, end } = self;
        let end = end.take().unwrap_or_else(|| {
            AnswerEnd::Failed(GatewayError::internal(&format!("the task of request {} broke off", job.id)).into())
        });
        record(job, &end);
        gateway.limits.debit_bytes(&job.principal, job.answer.text_bytes());
        // Forgotten first: who hears the refusal may ask again at once.
        if !*accepted && job.request.idempotency_key.is_some() {
            gateway.answers.forget(&job.id, &job.answer);
            job.answer.end(end);
        } else {
            // Where nobody came back while it was made, nobody is waited for afterwards.
            let was_left = matches!(&end, AnswerEnd::Done(done) if done.finish_reason == CLIENT_LEFT);
            let resumable_for = if was_left { Duration::ZERO } else { gateway.settings.resumable_for };
            job.answer.end(end);
            gateway.answers.ended(&job.id, &job.answer, resumable_for);
        }
    }
}

fn record(job: &Job, end: &AnswerEnd) {
    let outcome = match end {
        AnswerEnd::Done(_) => "DONE",
        AnswerEnd::Failed(failed) => failed.error.code(),
    };
    metrics::counter!("aihub_requests_total", "outcome" => outcome).increment(1);
    metrics::histogram!("aihub_request_duration_seconds").record(job.started.elapsed().as_secs_f64());
    if let AnswerEnd::Done(done) = end {
        // Not the provider's own name for the model, which may be any text.
        let answered = job.candidates.iter().find(|candidate| Some(&candidate.upstream.name) == done.provider.as_ref());
        let [provider, model] =
            answered.map_or(["", ""], |candidate| [candidate.upstream.name.as_str(), candidate.model_label()]);
        let labels = [("provider", provider.to_owned()), ("model", model.to_owned())];
        metrics::counter!("aihub_prompt_tokens_total", &labels).increment(done.usage.prompt_tokens());
        metrics::counter!("aihub_completion_tokens_total", &labels).increment(done.usage.output);
        if let Some(first_chunk_ms) = done.first_chunk_ms {
            metrics::histogram!("aihub_first_chunk_seconds", &labels)
                .record(Duration::from_millis(first_chunk_ms).as_secs_f64());
        }
    }
}
