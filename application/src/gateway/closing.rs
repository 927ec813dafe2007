//! The request's end and the account's settlement, both in one commit. Only when that is durable does the client
//! hear of it, so `credits` is what was charged.

use std::time::Duration;

use aihub_domain::{
    account::{AccountError, command::AccountCommand, event::AccountEvent},
    content::ContentRef,
    money::Microcredits,
    request::{
        Request,
        command::RequestCommand,
        event::{Billed, CancelReason, Outcome, RequestEvent},
    },
};
use cqrs_es::Aggregate;
use serde_json::json;

use super::{Ending, Gateway, Job, dispatch::millis, progress::Progress};
use crate::{
    accounts::ExecuteError,
    answer::{Done, Failed},
    error::GatewayError,
    ports::{
        event_log::{Piece, StreamAppend},
        provider::FinishReason,
        vault::{Sealed, VaultError},
    },
};

pub(super) const FIRST_RETRY: Duration = Duration::from_millis(20);
pub(super) const SLOWEST_RETRY: Duration = Duration::from_secs(2);
/// How often the sealing of an answer is tried, with some 6 s of waiting: the account's settlement comes after it.
const SEAL_ATTEMPTS: u32 = 10;

/// The reason of an answer that ended because nobody read it any more.
pub(super) const CLIENT_LEFT: &str = "client_left";

impl Gateway {
    pub(super) async fn close(&self, job: &Job, mut progress: Progress, ending: Ending) -> Result<Done, Failed> {
        if progress.attempts.last().is_some_and(|last| last.failure.is_none()) {
            progress.end_attempt(None);
        }
        // A whole answer is shown when it is as whole as it will be.
        job.answer.show_gathered();
        let last = progress.billed(self.settings.rate, self.settings.charge_abandoned);
        let mut used = progress.total(last.as_ref());
        if progress.is_cut {
            // What goes beyond was not handed out: it is the provider's doing, and our loss.
            used.charge.amount = used.charge.amount.min(progress.reserved);
        }
        self.debit(job, used.usage.output, &mut progress);
        let is_estimated = last.is_some_and(|last| last.estimated);
        let answer = self.answered(job).await;
        let (answer, contents) = answer.map(|Sealed { content, pieces }| (content, pieces)).unzip();
        let outcome = self.outcome(job, &progress, &used, is_estimated, answer);
        let command = match &ending {
            Ending::Completed => {
                RequestCommand::CompleteRequest { client_left: job.answer.has_no_reader(), outcome: Box::new(outcome) }
            }
            Ending::Failed(error) => {
                RequestCommand::FailRequest { code: error.code().to_owned(), outcome: Box::new(outcome) }
            }
            Ending::Cancelled(reason) => RequestCommand::CancelRequest { reason: *reason, outcome: Box::new(outcome) },
        };
        let charged = self.settle(job, command, contents.unwrap_or_default(), &progress).await?;
        self.told(job, progress, ending, &used, charged)
    }

    /// What the client is told of an ending.
    pub(super) fn told(
        &self,
        job: &Job,
        progress: Progress,
        ending: Ending,
        used: &Billed,
        charged: Microcredits,
    ) -> Result<Done, Failed> {
        let failed = |error| Err(Failed { error, charged });
        let reason = match ending {
            Ending::Failed(error) => return failed(error),
            Ending::Cancelled(CancelReason::Shutdown) => return failed(GatewayError::ShuttingDown),
            Ending::Cancelled(CancelReason::DeadlineExceeded) => {
                let limit_ms = millis(self.settings.request_timeout);
                return failed(GatewayError::Timeout { limit_ms, attempts: progress.attempts });
            }
            // What was cut short on the client's side is an answer all the same.
            Ending::Cancelled(CancelReason::ClientCancelled) => "cancelled".to_owned(),
            Ending::Cancelled(CancelReason::ClientLeft) => CLIENT_LEFT.to_owned(),
            Ending::Cancelled(CancelReason::CreditsExhausted) => "credits_exhausted".to_owned(),
            Ending::Cancelled(CancelReason::AnswerTooLong) => "answer_too_long".to_owned(),
            Ending::Completed => finish_name(progress.finish_reason.as_ref().unwrap_or(&FinishReason::Stop)),
        };
        Ok(done(job, progress, used, charged, reason))
    }

    fn outcome(
        &self,
        job: &Job,
        progress: &Progress,
        used: &Billed,
        is_estimated: bool,
        answer: Option<ContentRef>,
    ) -> Outcome {
        Outcome {
            provider: progress.call.as_ref().map(|call| call.provider.clone()),
            model: progress.call.as_ref().map(|call| call.model.clone()),
            answered_model: progress.call.as_ref().and_then(|call| call.answered_model.clone()),
            usage: used.usage,
            estimated: is_estimated,
            charge: used.charge.clone(),
            finish_reason: progress.finish_reason.as_ref().map(finish_name),
            attempts: progress.attempts.clone(),
            first_chunk_ms: progress.first_chunk_ms,
            duration_ms: millis(job.started.elapsed()),
            answer,
            ended_at: self.clock.now(),
        }
    }

    /// What the client was shown, sealed.
    async fn answered(&self, job: &Job) -> Option<Sealed> {
        let (text, tool_calls) = job.answer.collect();
        if text.is_empty() && tool_calls.is_empty() {
            return None;
        }
        let content = json!({ "text": text, "toolCalls": tool_calls }).to_string();
        self.seal_answer(job, content.as_bytes()).await
    }

    /// `None` where the answer is not to be kept, perhaps because its key was destroyed meanwhile, or cannot be.
    async fn seal_answer(&self, job: &Job, content: &[u8]) -> Option<Sealed> {
        let mut retry = FIRST_RETRY;
        for attempt in 1..=SEAL_ATTEMPTS {
            match self.vault.seal(&job.principal.account, job.content_kind(), &[content]).await {
                Ok(sealed) => return sealed,
                Err(VaultError::Erased) => return None,
                Err(VaultError::Unavailable(error)) if attempt < SEAL_ATTEMPTS => {
                    tracing::warn!(request.id = %job.id, error.message = %error, "an answer is not sealed yet; trying again");
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(SLOWEST_RETRY);
                }
                Err(error) => {
                    tracing::error!(request.id = %job.id, error.message = %error, "an answer is not in the log: it cannot be sealed");
                    return None;
                }
            }
        }
        None
    }

    /// Commits the end, as often as it takes: what was accepted is never lost. Returns what was charged.
    async fn settle(
        &self,
        job: &Job,
        command: RequestCommand,
        contents: Vec<Piece>,
        progress: &Progress,
    ) -> Result<Microcredits, GatewayError> {
        let end = end_of(job, command)?;
        // The same instant: what was used and what was spent for it are booked in the same month.
        let settled_at = end.ended().map_or_else(|| self.clock.now(), |(_, ended_at)| ended_at);
        let charge = end.outcome().map(|outcome| outcome.charge.clone()).unwrap_or_default();
        let reservation_id = job.id.clone();
        let account_command = if charge.price_id.is_none() && progress.finish_reason.is_none() {
            AccountCommand::ReleaseReservation { reservation_id, released_at: settled_at }
        } else {
            AccountCommand::SettleReservation { reservation_id, charge, settled_at }
        };
        let companions = |events: &[AccountEvent]| {
            let end = with_charged(end.clone(), charged(events));
            Ok(vec![StreamAppend::of::<Request>(&job.id, 1, &[end])?.with(contents.clone())])
        };
        let mut retry = FIRST_RETRY;
        loop {
            let executed =
                self.accounts.execute(&job.principal.account, &account_command, &companions, &job.metadata).await;
            match executed {
                Ok(events) => return Ok(charged(&events)),
                // It has ended already: by us, in a commit whose reply was lost, or by somebody else.
                Err(ExecuteError::Refused(AccountError::NoSuchReservation(_)) | ExecuteError::CompanionConflict) => {
                    match self.recorded_charge(job).await {
                        Ok(Some(charged)) => return Ok(charged),
                        Ok(None) => return Err(GatewayError::internal("the request was abandoned while it ran")),
                        Err(error) => {
                            tracing::warn!(request.id = %job.id, error.message = %error, "cannot see how it ended");
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(request.id = %job.id, error.message = %error, "an end is not durable yet; trying again");
                }
            }
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(SLOWEST_RETRY);
        }
    }

    /// What the log says was charged; `None` when the request did not end with an outcome.
    async fn recorded_charge(&self, job: &Job) -> Result<Option<Microcredits>, crate::ports::event_log::LoadError> {
        let events = self.log.load(Request::TYPE, &job.id, 1).await?;
        let Some(end) = events.into_iter().next() else { return Ok(None) };
        let end: RequestEvent = end.decode(Request::TYPE, &job.id)?;
        Ok(end.outcome().map(|outcome| outcome.charge.amount))
    }
}

fn end_of(job: &Job, command: RequestCommand) -> Result<RequestEvent, GatewayError> {
    let events = Request::accepted(job.asked()?).decide(command).map_err(|error| GatewayError::internal(&error))?;
    events.into_iter().next().ok_or_else(|| GatewayError::internal("an end without an event"))
}

fn charged(events: &[AccountEvent]) -> Microcredits {
    events
        .iter()
        .find_map(|event| match event {
            AccountEvent::CreditsSettled { charged_microcredits, .. } => Some(*charged_microcredits),
            _ => None,
        })
        .unwrap_or_default()
}

/// The account has the last word on the charge: it may not have had enough.
fn with_charged(mut end: RequestEvent, charged: Microcredits) -> RequestEvent {
    if let Some(outcome) = end.outcome_mut() {
        outcome.pay(charged);
    }
    end
}

fn finish_name(reason: &FinishReason) -> String {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::ToolCalls => "tool_calls",
        FinishReason::ContentFilter => "content_filter",
        FinishReason::Other(name) => name,
    }
    .to_owned()
}

fn done(job: &Job, progress: Progress, used: &Billed, charged: Microcredits, finish_reason: String) -> Done {
    let attempts = progress.attempts.iter().filter(|attempt| !attempt.skipped).count();
    let (provider, model, answered_model, simulated) = match progress.call {
        Some(call) => (Some(call.provider), Some(call.model), call.answered_model, call.simulated),
        None => (None, None, None, false),
    };
    Done {
        request_id: job.id.clone(),
        kind: job.request.kind,
        usage: used.usage,
        charged,
        estimated: used.estimated,
        provider,
        requested_model: job.alias.clone(),
        model,
        answered_model,
        simulated,
        latency_ms: millis(job.started.elapsed()),
        first_chunk_ms: progress.first_chunk_ms,
        attempts,
        finish_reason,
        provider_finish_reason: progress.provider_finish_reason,
        in_parts: Done::is_told_in_parts(&job.request, &progress.vectors),
        vectors: progress.vectors,
        encoding: job.request.encoding,
    }
}
