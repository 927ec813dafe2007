//! From a request to its answer, with the money on both ends.
//!
//! [`Gateway::submit`] checks and admits, then hands the request to a task of its own, which lives until the request
//! has ended, whoever leaves meanwhile:
//!
//! 1. [`opening`]: hold the credits and accept the request, in one commit. Nothing is called before.
//! 2. [`dispatch`]: ask providers one after another until one has something to show.
//! 3. [`drive`]: pass its stream on, and meter it.
//! 4. [`closing`]: the request's end and the account's settlement, in one commit. Only then the client hears `done`.
//!
//! What may be asked for, and what of it is held, [`allowance`] says; [`holding`] asks the account for it.

mod allowance;
mod answers;
mod closing;
mod dispatch;
mod drive;
mod eligible;
mod finish;
mod hedging;
mod holding;
mod meter;
mod opening;
mod patience;
mod progress;

use std::{sync::Arc, time::Duration};

use aihub_domain::{
    content::ContentKind,
    money::{Microcredits, MicrocreditsPerUsd},
    request::event::{Asked, CancelReason, RequestKind},
};
use chrono::{DateTime, Utc};
use futures::FutureExt;
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

pub use answers::{Answers, KeptAnswer};

use crate::{
    accounts::Accounts,
    answer::{Answer, AnswerEnd, AnswerItems, Done, Failed, RUNNING_BYTES, VECTOR_BYTES, name::Called},
    catalog::{Candidate, Catalog},
    error::GatewayError,
    limits::{Entry, Limits, Place, Running},
    lost_answers::client_key,
    ports::{
        clock::Clock,
        event_log::{EventLog, Metadata},
        vault::ContentVault,
    },
    principal::Principal,
    refusals::Refusals,
    request::AnswerRequest,
    shares::{Held, Holder, Share},
    weight::bytes_once_read,
};
use answers::Known;
use eligible::eligible;
use finish::Finish;
use progress::Progress;

/// So many large prompts are sealed at the same time: what takes long is done for who came first before others begin.
pub const SEALED_AT_ONCE: usize = 2;

/// Makes request ids out of idempotency keys.
const REQUEST_NAMESPACE: Uuid = Uuid::from_u128(0x5b1f_3f0c_7d0e_4a52_9c1d_6f6a_0d9b_21e7);

#[derive(Debug, Clone)]
pub struct GatewaySettings {
    /// This node's name, in the metadata of its events.
    pub node: String,
    pub rate: MicrocreditsPerUsd,
    /// After how long without a first piece of a stream the next provider is asked as well; `None`: never.
    pub hedge_after: Option<Duration>,
    /// From the frame's arrival to the end, whatever happens.
    pub request_timeout: Duration,
    /// Output that is held for at first when the client set no `maxTokens` and the answer is seen as it is made; the hold grows
    /// by at least as much at a time.
    pub output_hold_tokens: u32,
    /// The most output that is asked for, and held for, when the client set no `maxTokens` and the answer is not seen as it is
    /// made.
    pub hidden_output_hold_tokens: u32,
    /// What was asked of a provider and left before it showed anything is charged its input, and what was produced.
    pub charge_abandoned: bool,
    /// How long an answer goes on when nobody reads it any more. Zero aborts it at the provider at once.
    pub drain_after_leaving: Duration,
    /// The most text, with the arguments of calls, that an answer may have: what goes beyond is not given.
    pub max_answer_bytes: usize,
    /// How long an answer can be resumed after its end; a large one, half as long.
    pub resumable_for: Duration,
    /// What an unknown account is granted; `None` refuses it.
    pub welcome_credits: Option<Microcredits>,
    /// Where credits are to be had, for whoever has too few.
    pub top_up: Option<Arc<str>>,
}

pub struct Gateway {
    pub settings: GatewaySettings,
    pub clock: Arc<dyn Clock>,
    pub log: Arc<dyn EventLog>,
    pub vault: Arc<dyn ContentVault>,
    pub accounts: Arc<Accounts>,
    pub catalog: Catalog,
    pub limits: Limits,
    /// Memory for what is asked: from the first byte of a frame to the end of its request.
    pub asked: Arc<Share>,
    pub answers: Answers,
    /// Large prompts that are sealed at the same time, in the order in which they came.
    pub sealing: Semaphore,
    /// Of requests, and whatever else callers ask for.
    pub refusals: Refusals,
    /// Every request's task. Shutdown waits for it.
    pub tasks: TaskTracker,
    /// No new work.
    pub draining: CancellationToken,
    /// Running streams end now.
    pub stopping: CancellationToken,
}

/// One request on its way.
struct Job {
    /// Names the request and its reservation.
    id: String,
    principal: Arc<Principal>,
    /// It came from outside, and not from a workflow.
    is_callers: bool,
    request: AnswerRequest,
    /// The client's name for the model, where that is another one.
    alias: Option<String>,
    candidates: Vec<Candidate>,
    /// About, for what goes by rates, as the next.
    input_tokens: u64,
    output_tokens: u64,
    /// What the request takes.
    _memory: Held,
    answer: Arc<Answer>,
    metadata: Arc<Metadata>,
    /// The client's own name for it, hashed, and the connection on which it came; `None` where nobody comes back for it.
    asked_as: Option<(Uuid, Uuid)>,
    started: Instant,
    deadline: Instant,
    /// When it came in, which its candidates' prices are of.
    asked_at: DateTime<Utc>,
}

impl Job {
    /// What its content is kept as. What a workflow asks is needed by the workflow.
    fn content_kind(&self) -> ContentKind {
        if self.is_callers { self.request.kind.into() } else { ContentKind::Workflow }
    }

    /// What the log says it asked for: the first candidate's name for the model is the one that was meant.
    fn asked(&self) -> Result<Asked, GatewayError> {
        let first = self.candidates.first();
        let first = first.ok_or_else(|| GatewayError::internal("a request without candidates was submitted"))?;
        Ok(Asked {
            account: self.principal.account.clone(),
            user: self.principal.user.clone(),
            kind: self.request.kind,
            provider: self.request.provider.clone(),
            model: first.model_name.clone(),
        })
    }
}

/// A request that was admitted.
pub struct Submitted {
    pub request_id: Arc<str>,
    pub answer: Arc<Answer>,
    /// From the first chunk on. It was there before the request began, so that nobody takes the client for gone.
    pub items: AnswerItems,
}

/// How the work on a request ended, before that is written down.
enum Ending {
    Completed,
    Failed(GatewayError),
    Cancelled(CancelReason),
}

impl Gateway {
    /// Checks and admits `request`, and starts it. What is refused here has changed nothing.
    ///
    /// `client_id` is the client's name for it, under which it can be resumed; `memory` is what it takes.
    pub fn submit(
        self: &Arc<Self>,
        principal: &Arc<Principal>,
        called: &Called,
        request: AnswerRequest,
        memory: Held,
    ) -> Result<Submitted, GatewayError> {
        self.admit(principal, called, request, memory, true).inspect_err(|error| self.note(principal, error))
    }

    /// The same for a workflow, which tells itself what it was refused, and asks again: that is no refusal of its user.
    pub fn submit_for_workflow(
        self: &Arc<Self>,
        principal: &Arc<Principal>,
        workflow_id: &str,
        request: AnswerRequest,
    ) -> Result<Submitted, GatewayError> {
        let said = request.content().map_err(|error| GatewayError::internal(&error))?.concat();
        self.limits.take_bytes(principal, said.len())?;
        let memory = self.asked.take(Holder::of(principal), bytes_once_read(said.as_bytes()))?;
        let called = Called { id: workflow_id.to_owned(), connection: Uuid::nil() };
        self.admit(principal, &called, request, memory, false)
    }

    /// Refuses new work while it is not taken.
    pub fn require_open(&self) -> Result<(), GatewayError> {
        if self.draining.is_cancelled() {
            return Err(GatewayError::ShuttingDown);
        }
        self.require_log()
    }

    /// Refuses what could not be written down.
    fn require_log(&self) -> Result<(), GatewayError> {
        if self.log.outage().is_some() { Err(GatewayError::unavailable()) } else { Ok(()) }
    }

    /// Counts what somebody was refused, for the log.
    pub fn note(&self, principal: &Principal, error: &GatewayError) {
        self.refusals.note(principal, error, self.clock.now());
    }

    fn admit(
        self: &Arc<Self>,
        principal: &Arc<Principal>,
        called: &Called,
        request: AnswerRequest,
        memory: Held,
        is_callers: bool,
    ) -> Result<Submitted, GatewayError> {
        self.require_open()?;
        let mut request = request;
        let alias = self.catalog.resolve(&mut request);
        let id = request_id(principal, request.idempotency_key.as_deref());
        if request.idempotency_key.is_some()
            && let Some(known) = self.answers.join(principal, called, &id, &request)
        {
            return joined(known, id);
        }
        let now = self.clock.now();
        let (provider, model) = (&request.provider, request.model.as_deref());
        let all = self.catalog.candidates(request.kind, provider, model, request.fallback, now)?;
        let candidates = eligible(all, principal, &request)?;
        let (mut input_tokens, mut output_tokens) = (0, 0);
        if let Some(first) = candidates.first() {
            input_tokens = request.input_tokens_estimate(&first.model);
            output_tokens = self.expected_output_tokens(&request, first);
        }
        let running = self.limits.admit(principal, input_tokens.saturating_add(output_tokens))?;
        let room = self.answers.room(principal, RUNNING_BYTES + VECTOR_BYTES * request.inputs.len())?;
        let entry = self.limits.enter(principal)?;

        let answer = Arc::new(Answer::new(room, self.settings.max_answer_bytes));
        // The same key may have come in meanwhile, on another socket.
        if let Some(known) = self.answers.insert(principal, called, &id, &request, &answer) {
            return joined(known, id);
        }
        let items = answer.read(0);
        let started = Instant::now();
        let metadata = Metadata::from([
            ("actor", principal.user.clone()),
            ("correlationId", id.clone()),
            ("node", self.settings.node.clone()),
        ]);
        let job = Job {
            id,
            principal: principal.clone(),
            is_callers,
            request,
            alias,
            candidates,
            input_tokens,
            output_tokens,
            _memory: memory,
            answer: answer.clone(),
            metadata: Arc::new(metadata),
            asked_as: is_callers.then(|| (client_key(principal, &called.id), called.connection)),
            started,
            deadline: started + self.settings.request_timeout,
            asked_at: now,
        };
        let request_id = job.id.as_str().into();
        self.tasks.spawn(self.clone().serve(job, entry, running));
        Ok(Submitted { request_id, answer, items })
    }

    /// The request's whole life. Ends with the answer's end, always.
    async fn serve(self: Arc<Self>, job: Job, entry: Entry, running: Running) {
        let job = Arc::new(job);
        let mut finish = Finish { gateway: self.clone(), job: job.clone(), accepted: false, end: None };
        let end = match self.enter(&job, entry).await {
            Ok(place) => {
                let end = self.answer(&job, &mut finish.accepted).await;
                drop(place);
                end
            }
            // Nothing was accepted, so there is nothing to write down.
            Err(ending) => {
                let nothing = Progress::new(&job, Microcredits::ZERO, Microcredits::ZERO);
                let used = nothing.total(None);
                self.told(&job, nothing, ending, &used, Microcredits::ZERO)
            }
        };
        if let Err(Failed { error, .. }) = &end
            && !finish.accepted
            && job.is_callers
        {
            self.note(&job.principal, error);
        }
        drop(running);
        finish.end = Some(end.map_or_else(AnswerEnd::Failed, |done| AnswerEnd::Done(Box::new(done))));
    }

    /// Waits for a place, and until it may begin, while the client does.
    async fn enter(&self, job: &Job, entry: Entry) -> Result<Place, Ending> {
        let place = async {
            let place = match entry {
                Entry::Now(place) => place,
                Entry::Queued(waiting) => {
                    let place = self.limits.place(waiting, |position| job.answer.set_queued(position)).await;
                    job.answer.set_running();
                    place?
                }
            };
            self.limits.start(&job.principal.user).await;
            Ok(place)
        };
        tokio::select! {
            // As a rule it is there at once.
            biased;
            place = place => place.map_err(Ending::Failed),
            () = self.draining.cancelled() => Err(Ending::Failed(GatewayError::ShuttingDown)),
            reason = self.interruption(job) => Err(Ending::Cancelled(reason)),
        }
    }

    async fn answer(self: &Arc<Self>, job: &Arc<Job>, accepted: &mut bool) -> Result<Done, Failed> {
        let (mut progress, mut beside) = (self.open_in_time(job).await?, None);
        *accepted = true;
        let interruption = self.interruption(job);
        tokio::pin!(interruption);
        // Nobody is asked for a request that is to end already; later on, work that is done comes first.
        let ending = if let Some(reason) = interruption.as_mut().now_or_never() {
            Ending::Cancelled(reason)
        } else {
            tokio::select! {
                biased;
                ending = self.work(job, &mut progress, &mut beside) => ending,
                reason = interruption => Ending::Cancelled(reason),
            }
        };
        let (rate, charges) = (self.settings.rate, self.settings.charge_abandoned);
        let progress = match beside {
            Some(second) if second.first_chunk_ms.is_some() || second.finish_reason.is_some() => {
                second.with_left(progress, rate, charges)
            }
            Some(second) => progress.with_left(second, rate, charges),
            None => progress,
        };
        self.close(job, progress, ending).await
    }

    async fn work(&self, job: &Job, progress: &mut Progress, beside: &mut Option<Progress>) -> Ending {
        if job.request.kind == RequestKind::Embedding {
            return self.embed(job, progress).await;
        }
        if job.request.stream {
            self.stream(job, progress, beside).await
        } else {
            self.gather(job, progress, beside).await
        }
    }

    /// Resolves when the request is to end before its provider is done.
    async fn interruption(&self, job: &Job) -> CancelReason {
        tokio::select! {
            () = job.answer.cancelled.cancelled() => CancelReason::ClientCancelled,
            () = job.answer.left(self.settings.drain_after_leaving) => CancelReason::ClientLeft,
            () = tokio::time::sleep_until(job.deadline) => CancelReason::DeadlineExceeded,
            () = self.stopping.cancelled() => CancelReason::Shutdown,
        }
    }

    /// Output tokens that are reckoned with at first: all that the client allows, or a portion.
    fn expected_output_tokens(&self, request: &AnswerRequest, candidate: &Candidate) -> u64 {
        if request.kind == RequestKind::Embedding {
            return 0;
        }
        let expected = request.max_tokens.unwrap_or(self.settings.output_hold_tokens);
        expected.min(candidate.model.max_output_tokens).into()
    }
}

fn joined(known: Known, request_id: String) -> Result<Submitted, GatewayError> {
    match known {
        Known::Same(answer) => Ok(Submitted { request_id: request_id.into(), items: answer.read(0), answer }),
        Known::Different => {
            let reason = "this idempotency key was used for a different request";
            Err(GatewayError::DuplicateRequest { request_id: Some(request_id), reason })
        }
    }
}

/// What the log calls a request: under a key the same every time.
pub fn request_id(principal: &Principal, idempotency_key: Option<&str>) -> String {
    match idempotency_key {
        // The lengths keep two different pairs of names from spelling the same text.
        Some(key) => {
            let (account, user) = (&principal.account, &principal.user);
            let name = format!("{}:{account}{}:{user}{key}", account.len(), user.len());
            Uuid::new_v5(&REQUEST_NAMESPACE, name.as_bytes()).to_string()
        }
        None => Uuid::now_v7().to_string(),
    }
}
