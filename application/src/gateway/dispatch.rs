//! Providers are asked one after another until one has something to show. After its first visible piece no other
//! is asked.

use std::time::Duration;

use aihub_domain::{
    account::{AccountError, command::AccountCommand},
    money::Microcredits,
    price::Price,
    request::event::Attempt,
};
use futures::StreamExt;
use tokio::time::Instant;

use super::{Ending, Gateway, Job, meter::Meter};
use crate::{
    accounts::ExecuteError,
    catalog::Candidate,
    error::{FaultyField, GatewayError},
    ports::{
        event_log::{AppendError, LoadError},
        provider::{Delta, DeltaStream, EmbedCall, Embeddings, FailureKind, FinishReason, GenerateCall, ProviderError},
    },
    upstream::guard::{Turn, UnavailableReason},
};

/// How often the whole list of candidates is gone through.
const MAX_ROUNDS: u32 = 3;
/// The longest wait for a provider to become available again.
const MAX_WAIT: Duration = Duration::from_secs(15);
const FIRST_BACK_OFF: Duration = Duration::from_millis(500);
const FIRST_EXTEND_RETRY: Duration = Duration::from_millis(20);
const SLOWEST_EXTEND_RETRY: Duration = Duration::from_secs(2);

/// What is known of a request's work at any moment. Outlives the work, which may be interrupted anywhere.
pub struct Progress {
    pub reserved: Microcredits,
    pub attempts: Vec<Attempt>,
    attempt_started: Option<Instant>,
    pub meter: Meter,
    pub answering: Option<Answering>,
    pub first_chunk_ms: Option<u64>,
    pub finish_reason: Option<FinishReason>,
    pub vectors: Vec<Vec<f32>>,
}

/// Who is being asked, or has answered.
pub struct Answering {
    pub provider: String,
    pub model: String,
    pub simulated: bool,
    pub price: Price,
}

/// A stream that has something to show.
pub struct Live {
    pub candidate: Candidate,
    pub turn: Turn,
    pub stream: DeltaStream,
    pub first: Delta,
}

impl Progress {
    pub fn new(job: &Job, reserved: Microcredits) -> Self {
        Self {
            reserved,
            attempts: vec![],
            attempt_started: None,
            meter: Meter::new(job.input_tokens),
            answering: None,
            first_chunk_ms: None,
            finish_reason: None,
            vectors: vec![],
        }
    }

    fn begin_attempt(&mut self, job: &Job, candidate: &Candidate) {
        self.meter = Meter::new(job.input_tokens);
        self.answering = Some(Answering {
            provider: candidate.upstream.name.clone(),
            model: candidate.model_name.clone(),
            simulated: candidate.upstream.simulated,
            price: candidate.price.clone(),
        });
        self.attempt_started = Some(Instant::now());
        self.attempts.push(Attempt {
            provider: candidate.upstream.name.clone(),
            model: candidate.model_name.clone(),
            skipped: false,
            failure: None,
            status: None,
            duration_ms: 0,
        });
    }

    /// Notes how long the attempt took, and why it failed if it did.
    pub fn end_attempt(&mut self, error: Option<&ProviderError>) {
        let started = self.attempt_started.take();
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.duration_ms = started.map_or(0, |started| millis(started.elapsed()));
            attempt.failure = error.map(|error| failure_name(error.kind));
            attempt.status = error.and_then(|error| error.status);
        }
    }

    /// A candidate that was not asked, and why.
    fn skip(&mut self, candidate: &Candidate, reason: &str) {
        self.attempts.push(Attempt {
            provider: candidate.upstream.name.clone(),
            model: candidate.model_name.clone(),
            skipped: true,
            failure: Some(reason.to_owned()),
            status: None,
            duration_ms: 0,
        });
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
    pub(super) async fn dispatch(&self, job: &Job, progress: &mut Progress) -> Result<Live, Ending> {
        let (candidate, mut turn, (stream, first)) = self.ask(job, progress, Self::begin_stream).await?;
        turn.answered();
        Ok(Live { candidate, turn, stream, first })
    }

    pub(super) async fn embed(&self, job: &Job, progress: &mut Progress) -> Ending {
        let (candidate, mut turn, embeddings) = match self.ask(job, progress, Self::begin_embedding).await {
            Ok(answered) => answered,
            Err(ending) => return ending,
        };
        turn.succeeded();
        progress.end_attempt(None);
        if let Some(usage) = embeddings.usage {
            progress.meter.report(usage);
        }
        if let Some(answering) = &mut progress.answering {
            answering.model = embeddings.model.unwrap_or(candidate.model_name);
        }
        progress.vectors = embeddings.vectors;
        progress.finish_reason = Some(FinishReason::Stop);
        Ending::Completed
    }

    /// Goes through the candidates, at once from a known failure to the next, and waits only when none is left.
    async fn ask<T>(
        &self,
        job: &Job,
        progress: &mut Progress,
        call: impl AsyncFn(&Self, &Job, &Candidate, &mut Progress) -> Result<T, ProviderError>,
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
        call: &impl AsyncFn(&Self, &Job, &Candidate, &mut Progress) -> Result<T, ProviderError>,
    ) -> Round<T> {
        let mut later: Option<Duration> = None;
        let mut too_long = 0;
        let mut note_later = |wait: Duration| later = Some(later.map_or(wait, |other| other.min(wait)));
        for candidate in &job.candidates {
            // Without fallback, whoever was called first stays the only one; passing over others is no fallback.
            let mut called = progress.attempts.iter().filter(|attempt| !attempt.skipped);
            if !job.request.fallback && called.next().is_some_and(|first| first.provider != candidate.upstream.name) {
                continue;
            }
            let held_tokens = u64::from(self.held_output_tokens(&job.request, candidate));
            let mut turn = match candidate.upstream.turn(job.input_tokens + held_tokens) {
                Ok(turn) => turn,
                Err(unavailable) => {
                    progress.skip(candidate, unavailable.reason.as_str());
                    if unavailable.reason != UnavailableReason::BreakerOpen {
                        note_later(unavailable.retry_after);
                    }
                    continue;
                }
            };
            match self.hold_for(job, candidate, held_tokens, progress).await {
                Ok(true) => {}
                Ok(false) => {
                    progress.skip(candidate, "insufficient_credits");
                    continue;
                }
                Err(ending) => return Round::Ended(ending),
            }
            progress.begin_attempt(job, candidate);
            match call(self, job, candidate, progress).await {
                Ok(answered) => return Round::Answered(Box::new(candidate.clone()), turn, answered),
                Err(error) => {
                    turn.failed(&error);
                    progress.end_attempt(Some(&error));
                    log_failure(job, candidate, &error);
                    progress.answering = None;
                    progress.meter = Meter::new(job.input_tokens);
                    match error.kind {
                        FailureKind::InvalidRequest => return Round::Ended(Ending::Failed(refused_by(&error))),
                        FailureKind::ContextTooLong => too_long += 1,
                        FailureKind::RateLimited
                        | FailureKind::Overloaded
                        | FailureKind::Timeout
                        | FailureKind::Connection
                        | FailureKind::ServerError => note_later(error.retry_after.unwrap_or_default()),
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

    /// Asks for a stream and reads up to its first visible piece.
    async fn begin_stream(
        &self,
        job: &Job,
        candidate: &Candidate,
        progress: &mut Progress,
    ) -> Result<(DeltaStream, Delta), ProviderError> {
        let call = GenerateCall {
            request_id: job.id.clone(),
            model: candidate.model.upstream_name.clone(),
            prompt: job.request.prompt.clone(),
            max_output_tokens: job
                .request
                .max_tokens
                .map_or(candidate.model.max_output_tokens, |most| most.min(candidate.model.max_output_tokens)),
            stream: job.request.stream,
        };
        let mut stream = candidate.upstream.provider.generate(call).await?;
        while let Some(delta) = stream.next().await {
            let delta = delta?;
            match delta {
                Delta::Text(_) | Delta::ToolCall(_) | Delta::Finish(_) => return Ok((stream, delta)),
                Delta::Model(name) => {
                    if let Some(answering) = &mut progress.answering {
                        answering.model = name;
                    }
                }
                Delta::Usage(_) | Delta::Thinking { .. } => progress.meter.observe(&delta),
            }
        }
        Err(ProviderError {
            kind: FailureKind::Connection,
            status: Some(200),
            message: "the stream ended before it began".to_owned(),
            retry_after: None,
        })
    }

    async fn begin_embedding(
        &self,
        job: &Job,
        candidate: &Candidate,
        _: &mut Progress,
    ) -> Result<Embeddings, ProviderError> {
        let call = EmbedCall {
            request_id: job.id.clone(),
            model: candidate.model.upstream_name.clone(),
            inputs: job.request.inputs.clone(),
            user: job.request.prompt.user.clone(),
        };
        candidate.upstream.provider.embed(call).await
    }

    /// Sees to it that what is held covers the input and `output_tokens` at this candidate's price; `false` when the
    /// account cannot.
    pub(super) async fn hold_for(
        &self,
        job: &Job,
        candidate: &Candidate,
        output_tokens: u64,
        progress: &mut Progress,
    ) -> Result<bool, Ending> {
        let worst_case = candidate.price.worst_case(job.input_tokens, output_tokens);
        let needed = self.settings.rate.charge(worst_case);
        if needed <= progress.reserved {
            return Ok(true);
        }
        self.extend(job, needed - progress.reserved, progress).await
    }

    /// Holds `by` more; `false` when the account cannot. What passes is waited for: the request's deadline ends that.
    /// An outcome that was not learned may be a hold that was made; it is then made twice, and released at the end.
    async fn extend(&self, job: &Job, by: Microcredits, progress: &mut Progress) -> Result<bool, Ending> {
        let mut retry = FIRST_EXTEND_RETRY;
        loop {
            let command =
                AccountCommand::ExtendReservation { reservation_id: job.id.clone(), by, extended_at: self.clock.now() };
            match self.accounts.execute(&job.principal.account, &command, &|_| Ok(vec![]), &job.metadata).await {
                Ok(_) => {
                    progress.reserved = progress.reserved.saturating_add(by);
                    return Ok(true);
                }
                Err(ExecuteError::Refused(
                    AccountError::InsufficientCredits { .. } | AccountError::UsageLimitExceeded { .. },
                )) => return Ok(false),
                Err(error) if passes(&error) && Instant::now() + retry < job.deadline => {
                    tracing::warn!(request.id = %job.id, error.message = %error, "no more is held yet; trying again");
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(SLOWEST_EXTEND_RETRY);
                }
                // Among them a reservation that is gone: somebody took this request for orphaned and ended it.
                Err(error) => return Err(Ending::Failed(GatewayError::internal(&error))),
            }
        }
    }
}

/// Whether the same may succeed a little later.
fn passes(error: &ExecuteError) -> bool {
    matches!(
        error,
        ExecuteError::Contended
            | ExecuteError::Append(AppendError::Overloaded | AppendError::Unavailable(_))
            | ExecuteError::Load(LoadError::Unavailable(_))
    )
}

/// The provider found fault with the request itself: its words are for the client.
fn refused_by(error: &ProviderError) -> GatewayError {
    GatewayError::Validation(vec![FaultyField::new("(refused by the provider)", error.message.clone())])
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
