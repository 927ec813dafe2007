//! Providers are asked one after another until one has something to show. After its first visible piece no other
//! is asked.

use std::time::Duration;

use aihub_domain::request::event::CancelReason;
use futures::StreamExt;
use tokio::time::Instant;

use super::{
    Ending, Gateway, Job,
    allowance::Cover,
    hedging::Chosen,
    meter::CallEnd,
    patience::{Patience, within},
    progress::{Call, Progress},
};
use crate::{
    catalog::Candidate,
    error::GatewayError,
    ports::provider::{
        Delta, DeltaStream, EmbedCall, Embeddings, FailureKind, FinishReason, GenerateCall, ProviderError, Reached,
    },
    upstream::guard::{Turn, UnavailableReason},
};

/// How often the whole list of candidates is gone through.
const MAX_ROUNDS: u32 = 3;
/// The longest wait for a provider to become available again.
const MAX_WAIT: Duration = Duration::from_secs(15);
/// A stream has begun with this status.
pub(super) const ANSWERED: Option<u16> = Some(200);
const FIRST_BACK_OFF: Duration = Duration::from_millis(500);

/// A candidate that is asked now.
pub struct Chance<'a> {
    pub candidate: &'a Candidate,
    pub turn: &'a mut Turn,
    pub patience: Patience,
}

/// A stream that has something to show.
pub struct Begun {
    pub stream: DeltaStream,
    pub first: Delta,
    pub patience: Patience,
}

/// Why a call came to nothing.
pub enum Unanswered {
    Failed(ProviderError),
    /// We ended it, and the request with it.
    Ended(Ending),
}

impl From<Ending> for Unanswered {
    fn from(ending: Ending) -> Self {
        Self::Ended(ending)
    }
}

impl From<ProviderError> for Unanswered {
    fn from(error: ProviderError) -> Self {
        Self::Failed(error)
    }
}

/// What one pass over the candidates came to.
enum Round<T> {
    Answered(Box<Candidate>, Turn, T),
    /// Nobody can do it: asking again would not help.
    Ended(Ending),
    /// Nobody could just now; somebody may after this time.
    Later(Duration),
}

impl Gateway {
    /// An answer that is shown as it is made.
    pub(super) async fn stream(&self, job: &Job, progress: &mut Progress, beside: &mut Option<Progress>) -> Ending {
        let Chosen { candidate, mut turn, begun, is_second } = match self.begin(job, progress, beside).await {
            Ok(chosen) => chosen,
            Err(ending) => return ending,
        };
        let progress = match beside {
            Some(second) if is_second => second,
            _ => progress,
        };
        match self.drive(job, &candidate, begun, progress).await {
            Ok(ending) => finished(ending, &mut turn, progress),
            Err(Unanswered::Ended(ending)) => ending,
            Err(Unanswered::Failed(error)) => interrupted(job, &mut turn, &error, progress),
        }
    }

    /// An answer that is shown when it is whole: until then another candidate can still be asked.
    pub(super) async fn gather(&self, job: &Job, progress: &mut Progress, beside: &mut Option<Progress>) -> Ending {
        let mut progress = progress;
        if self.hedges_after(job).is_some() {
            let Chosen { candidate, mut turn, begun, is_second } = match self.begin(job, progress, beside).await {
                Ok(chosen) => chosen,
                Err(ending) => return ending,
            };
            if let (Some(second), true) = (beside, is_second) {
                progress = second;
            }
            match self.gather_rest(job, &candidate, begun, progress).await {
                Ok(ending) => return finished(ending, &mut turn, progress),
                Err(Unanswered::Ended(ending)) => return ending,
                Err(Unanswered::Failed(error)) => self.fail(job, &candidate, &mut turn, &error, progress),
            }
            progress.passed_over.push(candidate.upstream.name.clone());
        }
        match self.ask(job, progress, Self::gather_from).await {
            Ok((_, mut turn, ending)) => finished(ending, &mut turn, progress),
            Err(ending) => ending,
        }
    }

    pub(super) async fn embed(&self, job: &Job, progress: &mut Progress) -> Ending {
        let (_, mut turn, embeddings) = match self.ask(job, progress, Self::begin_embedding).await {
            Ok(answered) => answered,
            Err(ending) => return ending,
        };
        turn.succeeded();
        progress.end_attempt(None);
        if let Some(call) = &mut progress.call {
            call.end = CallEnd::Finished;
            call.answered_model = embeddings.model;
            if let Some(usage) = embeddings.usage {
                call.meter.report(usage);
            }
        }
        progress.vectors = embeddings.vectors;
        progress.finish_reason = Some(FinishReason::Stop);
        Ending::Completed
    }

    /// Goes through the candidates, at once from a known failure to the next, and waits only when none is left. Who took too
    /// long is not asked again: each time would begin the work anew.
    pub(super) async fn ask<T>(
        &self,
        job: &Job,
        progress: &mut Progress,
        call: impl AsyncFn(&Self, &Job, Chance<'_>, &mut Progress) -> Result<T, Unanswered>,
    ) -> Result<(Candidate, Turn, T), Ending> {
        let mut back_off = FIRST_BACK_OFF;
        for round in 1..=MAX_ROUNDS {
            match self.ask_each(job, progress, &call).await {
                Round::Answered(candidate, turn, answered) => return Ok((*candidate, turn, answered)),
                Round::Ended(ending) => return Err(ending),
                Round::Later(wait) => {
                    let wait = wait.max(back_off.mul_f64(rand::random_range(0.75..1.0)));
                    back_off *= 2;
                    if round == MAX_ROUNDS || wait > MAX_WAIT || Instant::now() + wait >= job.deadline {
                        return Err(all_failed(progress, Some(wait)));
                    }
                    tokio::time::sleep(wait).await;
                }
            }
        }
        Err(all_failed(progress, None))
    }

    async fn ask_each<T>(
        &self,
        job: &Job,
        progress: &mut Progress,
        call: &impl AsyncFn(&Self, &Job, Chance<'_>, &mut Progress) -> Result<T, Unanswered>,
    ) -> Round<T> {
        let mut later: Option<Duration> = None;
        let mut too_long = 0;
        for (nth, candidate) in job.candidates.iter().enumerate() {
            // Without fallback, whoever was called first stays the only one; passing over others is no fallback.
            let mut called = progress.attempts.iter().filter(|attempt| !attempt.skipped);
            let is_other = called.next().is_some_and(|first| first.provider != candidate.upstream.name);
            if progress.passed_over.contains(&candidate.upstream.name) || (!job.request.fallback && is_other) {
                continue;
            }
            if progress.side.as_ref().is_some_and(|side| !side.takes(&candidate.upstream.name)) {
                continue;
            }
            if progress.attempts.len() >= progress.most_attempts() {
                return Round::Ended(all_failed(progress, later));
            }
            let expected = job.input_tokens.saturating_add(self.expected_output_tokens(&job.request, candidate));
            let mut turn = match candidate.turn(&job.principal, expected) {
                Ok(turn) => turn,
                Err(unavailable) => {
                    progress.skip(candidate, unavailable.reason.as_str());
                    if unavailable.reason != UnavailableReason::BreakerOpen {
                        later = Some(sooner(later, unavailable.retry_after));
                    }
                    continue;
                }
            };
            let allowance = match self.allow(job, candidate, progress).await {
                Ok(Some(allowance)) => allowance,
                Ok(None) => {
                    progress.skip(candidate, "insufficient_credits");
                    continue;
                }
                Err(ending) => return Round::Ended(ending),
            };
            progress.begin_attempt(job, candidate, allowance);
            let wait = candidate.timing().first_piece;
            let can_do = |other: &&Candidate| {
                let is_there = other.is_available_within(wait);
                job.request.fallback && is_there && !progress.passed_over.contains(&other.upstream.name)
            };
            let others = job.candidates.iter().skip(nth + 1).filter(can_do).count();
            let patience = Patience::of(candidate, &job.request, others, turn.is_finding_out(), job.deadline);
            match call(self, job, Chance { candidate, turn: &mut turn, patience }, progress).await {
                Ok(answered) => return Round::Answered(Box::new(candidate.clone()), turn, answered),
                Err(Unanswered::Ended(ending)) => return Round::Ended(ending),
                Err(Unanswered::Failed(error)) => {
                    self.fail(job, candidate, &mut turn, &error, progress);
                    match error.kind {
                        FailureKind::InvalidRequest => return Round::Ended(Ending::Failed(refused_by(&error))),
                        FailureKind::ContextTooLong => too_long += 1,
                        FailureKind::Timeout => progress.passed_over.push(candidate.upstream.name.clone()),
                        FailureKind::RateLimited
                        | FailureKind::Overloaded
                        | FailureKind::Connection
                        | FailureKind::ServerError
                        | FailureKind::Empty => {
                            later = Some(sooner(later, error.retry_after.unwrap_or_default()));
                        }
                        _ => {}
                    }
                    let nobody_else = !job.request.fallback || too_long == job.candidates.len();
                    if error.kind == FailureKind::ContextTooLong && nobody_else {
                        return Round::Ended(Ending::Failed(refused_by(&error)));
                    }
                }
            }
        }
        match later {
            Some(wait) => Round::Later(wait),
            None => Round::Ended(all_failed(progress, None)),
        }
    }

    /// Puts an attempt behind that came to nothing.
    fn fail(&self, job: &Job, candidate: &Candidate, turn: &mut Turn, error: &ProviderError, progress: &mut Progress) {
        turn.failed(error);
        progress.end_attempt(Some(error));
        progress.leave_attempt(CallEnd::Failed, self.settings.rate, self.settings.charge_abandoned);
        log_failure(job, candidate, error);
    }

    /// Asks for an answer and reads up to its first visible piece. What the model thinks before is held for as it comes.
    pub(super) async fn begin_stream(
        &self,
        job: &Job,
        Chance { candidate, turn, patience }: Chance<'_>,
        progress: &mut Progress,
    ) -> Result<Begun, Unanswered> {
        let (cap, reached) = asked(progress);
        let call = GenerateCall {
            request_id: job.id.clone(),
            model: candidate.model.upstream_name.clone(),
            prompt: job.request.prompt.clone(),
            max_output_tokens: u32::try_from(cap).unwrap_or(u32::MAX),
            is_capped_by_context: is_capped_by_context(job, candidate, cap),
            stream: candidate.upstream.is_asked_for_a_stream(&job.request),
            reached,
        };
        let mut stream = within(patience.first_byte, None, candidate.upstream.provider.generate(call)).await?;
        let mut first_piece = patience.first_piece;
        while let Some(delta) = within(first_piece, ANSWERED, async { stream.next().await.transpose() }).await? {
            match &delta {
                Delta::Text(_) | Delta::ToolCall(_) | Delta::Finish { .. } => {
                    turn.answered();
                    return Ok(Begun { stream, first: delta, patience });
                }
                Delta::Model(_) | Delta::Flaw(_) => progress.note(delta),
                Delta::Usage(_) | Delta::Thinking { .. } => {
                    if matches!(delta, Delta::Thinking { .. }) {
                        first_piece = patience.after_a_thought();
                    }
                    if let Some(call) = &mut progress.call {
                        call.meter.observe(&delta);
                    }
                    if self.cover(job, candidate, progress).await? == Cover::Beyond {
                        return Err(Unanswered::Ended(cut(progress)));
                    }
                }
            }
        }
        Err(Unanswered::Failed(ProviderError::cut("the stream ended before it began")))
    }

    /// Asks for an answer and reads it to its end, without showing any of it.
    async fn gather_from(&self, job: &Job, chance: Chance<'_>, progress: &mut Progress) -> Result<Ending, Unanswered> {
        let candidate = chance.candidate;
        let begun = self.begin_stream(job, chance, progress).await?;
        self.gather_rest(job, candidate, begun, progress).await
    }

    async fn gather_rest(
        &self,
        job: &Job,
        candidate: &Candidate,
        begun: Begun,
        progress: &mut Progress,
    ) -> Result<Ending, Unanswered> {
        let gathered = self.drive(job, candidate, begun, progress).await;
        if let Err(Unanswered::Failed(_)) = gathered {
            job.answer.forget_gathered();
            progress.first_chunk_ms = None;
            progress.finish_reason = None;
        }
        gathered
    }

    async fn begin_embedding(
        &self,
        job: &Job,
        Chance { candidate, patience, .. }: Chance<'_>,
        progress: &mut Progress,
    ) -> Result<Embeddings, Unanswered> {
        let call = EmbedCall {
            request_id: job.id.clone(),
            model: candidate.model.upstream_name.clone(),
            inputs: job.request.inputs.clone(),
            user: job.request.prompt.user.clone(),
            reached: asked(progress).1,
        };
        // Some providers take so many inputs in several calls.
        Ok(within(patience.whole_piece(job.request.inputs.len()), None, candidate.upstream.provider.embed(call))
            .await?)
    }
}

/// What the provider is told, once its answer is over.
fn finished(ending: Ending, turn: &mut Turn, progress: &Progress) -> Ending {
    if progress.call.as_ref().is_some_and(|call| call.end == CallEnd::Finished) {
        turn.succeeded();
    }
    ending
}

/// The provider broke off what was shown already.
fn interrupted(job: &Job, turn: &mut Turn, error: &ProviderError, progress: &mut Progress) -> Ending {
    turn.failed(error);
    progress.end_attempt(Some(error));
    let provider = progress.call.as_mut().map(|call| {
        call.end = CallEnd::Failed;
        call.provider.clone()
    });
    let provider = provider.unwrap_or_default();
    tracing::warn!(
        request.id = %job.id,
        provider.name = %provider,
        failure.kind = ?error.kind,
        failure.flaw = error.flaw.as_ref().map(tracing::field::display),
        "a stream broke off"
    );
    Ending::Failed(GatewayError::StreamInterrupted { provider, kind: error.kind })
}

/// The context has less room than the cap by our count, and even if that is too low, no more than what is held for: then a
/// provider that counts itself may set the limit. One that the client has set is sent as it is.
fn is_capped_by_context(job: &Job, candidate: &Candidate, cap: u64) -> bool {
    let context = candidate.model.context_tokens;
    let about = context.saturating_sub(job.request.input_tokens_estimate(&candidate.model));
    let at_most = context.saturating_sub(job.request.input_tokens_at_least());
    job.request.max_tokens.is_none() && about < cap && at_most <= cap
}

/// The cap of the call that is to be made, and where it is noted that it left.
fn asked(progress: &Progress) -> (u64, Reached) {
    let of_call = |call: &Call| (call.allowance.cap, call.reached.clone());
    progress.call.as_ref().map_or_else(Default::default, of_call)
}

/// How an answer ends that goes no further because what is held does not: at its cap, or for want of credits.
pub(super) fn cut(progress: &mut Progress) -> Ending {
    progress.is_cut = true;
    let is_full = |call: &Call| call.allowance.held == call.allowance.cap && !call.allowance.is_lowered();
    if progress.call.as_ref().is_some_and(is_full) {
        // The provider was told to stop here, and did not.
        progress.finish_reason = Some(FinishReason::Length);
        return Ending::Completed;
    }
    Ending::Cancelled(CancelReason::CreditsExhausted)
}

fn sooner(later: Option<Duration>, wait: Duration) -> Duration {
    later.map_or(wait, |later| later.min(wait))
}

/// The provider found fault with the request itself: its words are for the client.
fn refused_by(error: &ProviderError) -> GatewayError {
    GatewayError::faulty("(refused by the provider)", error.message.clone())
}

fn all_failed(progress: &Progress, retry_after: Option<Duration>) -> Ending {
    Ending::Failed(GatewayError::AllProvidersFailed { attempts: progress.attempts.clone(), retry_after })
}

/// Without the provider's message, which may quote the prompt.
fn log_failure(job: &Job, candidate: &Candidate, error: &ProviderError) {
    let provider = &candidate.upstream.name;
    metrics::counter!("aihub_provider_failures_total", "provider" => provider.clone(), "kind" => failure_name(error.kind))
        .increment(1);
    tracing::warn!(
        request.id = %job.id,
        provider.name = %provider,
        model.name = %candidate.model_name,
        failure.kind = ?error.kind,
        failure.flaw = error.flaw.as_ref().map(tracing::field::display),
        http.status = error.status,
        "a provider failed"
    );
}

pub(super) fn failure_name(kind: FailureKind) -> String {
    serde_json::to_value(kind).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
