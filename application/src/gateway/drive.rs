//! A provider's stream is passed on piece by piece, and metered.

use aihub_domain::request::event::CancelReason;
use futures::StreamExt;

use super::{
    Ending, Gateway, Job,
    dispatch::{Live, Progress, millis},
};
use crate::{
    error::GatewayError,
    ports::provider::{Delta, FailureKind, ProviderError},
};

/// By how much our own count may exceed a small `maxTokens` before that is taken to be ignored.
const COUNTING_ERROR_TOKENS: u64 = 32;

impl Gateway {
    pub(super) async fn drive(&self, job: &Job, live: Live, progress: &mut Progress) -> Ending {
        let Live { candidate, mut turn, mut stream, first } = live;
        let mut next = Some(Ok(first));
        let step = u64::from(self.held_output_tokens(&job.request, &candidate)).max(1);
        let mut held_tokens = step;
        // From how much output on that may not suffice. Where the client set a limit it does, unless the provider
        // ignores the limit; our own count is only so good.
        let mut extend_at = match job.request.max_tokens {
            None => step - step / 8,
            Some(_) => step + (step / 2).max(COUNTING_ERROR_TOKENS),
        };

        while let Some(delta) = next {
            match delta {
                Ok(delta) => {
                    progress.meter.observe(&delta);
                    if let Err(ending) = pass_on(job, delta, progress) {
                        return ending;
                    }
                }
                Err(error) => return interrupted(job, &mut turn, &error, progress),
            }
            let output = progress.meter.output_estimate();
            if output >= extend_at {
                let more = step + output.saturating_sub(held_tokens);
                match self.hold_for(job, &candidate, held_tokens + more, progress).await {
                    Ok(true) => {
                        self.limits.debit(&job.principal, more);
                        held_tokens += more;
                        extend_at = held_tokens - step / 8;
                    }
                    Ok(false) => return Ending::Cancelled(CancelReason::CreditsExhausted),
                    Err(ending) => return ending,
                }
            }
            next = stream.next().await;
        }
        if progress.finish_reason.is_none() {
            let error = ProviderError {
                kind: FailureKind::Connection,
                status: Some(200),
                message: "the stream was cut off".to_owned(),
                retry_after: None,
            };
            return interrupted(job, &mut turn, &error, progress);
        }
        turn.succeeded();
        progress.end_attempt(None);
        Ending::Completed
    }
}

fn pass_on(job: &Job, delta: Delta, progress: &mut Progress) -> Result<(), Ending> {
    let fits = match delta {
        Delta::Text(text) => {
            first_chunk(job, progress);
            job.answer.push(text, vec![])
        }
        Delta::ToolCall(call) => {
            first_chunk(job, progress);
            job.answer.push(String::new(), vec![call])
        }
        Delta::Finish(reason) => {
            progress.finish_reason = Some(reason);
            true
        }
        Delta::Usage(_) | Delta::Thinking { .. } | Delta::Model(_) => true,
    };
    if fits {
        return Ok(());
    }
    let provider = progress.answering.as_ref().map(|answering| answering.provider.clone()).unwrap_or_default();
    Err(Ending::Failed(GatewayError::StreamInterrupted { provider, kind: FailureKind::Malformed }))
}

fn first_chunk(job: &Job, progress: &mut Progress) {
    progress.first_chunk_ms.get_or_insert_with(|| millis(job.started.elapsed()));
}

fn interrupted(
    job: &Job,
    turn: &mut crate::upstream::guard::Turn,
    error: &ProviderError,
    progress: &mut Progress,
) -> Ending {
    turn.failed(error);
    progress.end_attempt(Some(error));
    let provider = progress.answering.as_ref().map(|answering| answering.provider.clone()).unwrap_or_default();
    tracing::warn!(request.id = %job.id, provider.name = %provider, failure.kind = ?error.kind, "a stream broke off");
    Ending::Failed(GatewayError::StreamInterrupted { provider, kind: error.kind })
}
