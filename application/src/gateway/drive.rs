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

impl Gateway {
    pub(super) async fn drive(&self, job: &Job, live: Live, progress: &mut Progress) -> Ending {
        let Live { candidate, mut turn, mut stream, first } = live;
        let mut next = Some(Ok(first));
        // Output that is held for, where that may not suffice. It always does where the client set a limit.
        let step = u64::from(self.held_output_tokens(&job.request, &candidate)).max(1);
        let mut held_tokens = job.request.max_tokens.is_none().then_some(step);

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
            if let Some(held) = held_tokens
                && progress.meter.output_estimate() + step / 8 >= held
            {
                match self.hold_for(job, &candidate, held + step, progress).await {
                    Ok(true) => held_tokens = Some(held + step),
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

fn interrupted(job: &Job, turn: &mut crate::upstream::Turn, error: &ProviderError, progress: &mut Progress) -> Ending {
    turn.failed(error);
    progress.end_attempt(Some(error));
    let provider = progress.answering.as_ref().map(|answering| answering.provider.clone()).unwrap_or_default();
    tracing::warn!(request.id = %job.id, provider.name = %provider, failure.kind = ?error.kind, "a stream broke off");
    Ending::Failed(GatewayError::StreamInterrupted { provider, kind: error.kind })
}
