//! From a request to its answer, with the money on both ends.
//!
//! [`Gateway::submit`] checks and admits, then hands the request to a task of its own, which lives until the request
//! has ended, whoever leaves meanwhile:
//!
//! 1. [`opening`]: hold the credits and accept the request, in one commit. Nothing is called before.
//! 2. [`dispatch`]: ask providers one after another until one has something to show.
//! 3. [`drive`]: pass its stream on, and meter it.
//! 4. [`closing`]: the request's end and the account's settlement, in one commit. Only then the client hears `done`.

mod answers;
mod closing;
mod dispatch;
mod drive;
mod eligible;
mod finish;
mod meter;
mod opening;

use std::{sync::Arc, time::Duration};

use aihub_domain::{
    money::{Microcredits, MicrocreditsPerUsd},
    request::event::{Asked, CancelReason, RequestKind},
};
use chrono::{DateTime, Utc};
use futures::FutureExt;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

pub use answers::Answers;

use crate::{
    accounts::Accounts,
    answer::{Answer, AnswerEnd, AnswerItems, Done, Failed},
    catalog::{Candidate, Catalog},
    error::GatewayError,
    limits::{Limits, Place, Running, Waiting},
    ports::{
        clock::Clock,
        event_log::{EventLog, Metadata},
        vault::ContentVault,
    },
    principal::Principal,
    refusals::Refusals,
    request::AnswerRequest,
};
use answers::Known;
use dispatch::Progress;
use eligible::eligible;
use finish::Finish;
use meter::Metered;

/// Makes request ids out of idempotency keys.
const REQUEST_NAMESPACE: Uuid = Uuid::from_u128(0x5b1f_3f0c_7d0e_4a52_9c1d_6f6a_0d9b_21e7);

#[derive(Debug, Clone)]
pub struct GatewaySettings {
    /// This node's name, in the metadata of its events.
    pub node: String,
    pub rate: MicrocreditsPerUsd,
    /// From the frame's arrival to the end, whatever happens.
    pub request_timeout: Duration,
    /// Output that is held for when the client set no `maxTokens`; the hold grows by as much at a time.
    pub output_hold_tokens: u32,
    /// How long an answer goes on when nobody reads it any more. Zero aborts it at the provider at once.
    pub drain_after_leaving: Duration,
    /// How long an answer can be resumed after its end.
    pub resumable_for: Duration,
    /// What an unknown account is granted; `None` refuses it.
    pub welcome_credits: Option<Microcredits>,
}

pub struct Gateway {
    pub settings: GatewaySettings,
    pub clock: Arc<dyn Clock>,
    pub log: Arc<dyn EventLog>,
    pub vault: Arc<dyn ContentVault>,
    pub accounts: Arc<Accounts>,
    pub catalog: Catalog,
    pub limits: Limits,
    pub answers: Answers,
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
    candidates: Vec<Candidate>,
    input_tokens: u64,
    answer: Arc<Answer>,
    metadata: Arc<Metadata>,
    started: Instant,
    deadline: Instant,
    /// When it came in, which its candidates' prices are of.
    asked_at: DateTime<Utc>,
}

impl Job {
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

enum Entry {
    Now(Place),
    Queued(Waiting),
}

impl Gateway {
    /// Checks and admits `request`, and starts it. What is refused here has changed nothing.
    ///
    /// `client_id` is the client's name for it, under which it can be resumed.
    pub fn submit(
        self: &Arc<Self>,
        principal: &Arc<Principal>,
        client_id: &str,
        request: AnswerRequest,
    ) -> Result<Submitted, GatewayError> {
        self.admit(principal, client_id, request, true).inspect_err(|error| self.note(principal, error))
    }

    /// The same for a workflow, which tells itself what it was refused, and asks again: that is no refusal of its user.
    pub fn submit_for_workflow(
        self: &Arc<Self>,
        principal: &Arc<Principal>,
        workflow_id: &str,
        request: AnswerRequest,
    ) -> Result<Submitted, GatewayError> {
        self.admit(principal, workflow_id, request, false)
    }

    /// Counts what somebody was refused, for the log.
    pub fn note(&self, principal: &Principal, error: &GatewayError) {
        self.refusals.note(principal, error, self.clock.now());
    }

    fn admit(
        self: &Arc<Self>,
        principal: &Arc<Principal>,
        client_id: &str,
        request: AnswerRequest,
        is_callers: bool,
    ) -> Result<Submitted, GatewayError> {
        if self.draining.is_cancelled() {
            return Err(GatewayError::ShuttingDown);
        }
        let id = request_id(principal, request.idempotency_key.as_deref());
        if request.idempotency_key.is_some()
            && let Some(known) = self.answers.join(principal, client_id, &id, &request)
        {
            return joined(known, id);
        }
        let now = self.clock.now();
        let (provider, model) = (&request.provider, request.model.as_deref());
        let all = self.catalog.candidates(request.kind, provider, model, request.fallback, now)?;
        let candidates = eligible(all, principal, &request)?;
        let input_tokens = request.input_tokens_estimate();
        let output_tokens = candidates.first().map_or(0, |candidate| self.held_output_tokens(&request, candidate));
        let running = self.limits.admit(principal, input_tokens + u64::from(output_tokens))?;
        let entry = match self.limits.try_place() {
            Some(place) => Entry::Now(place),
            None => Entry::Queued(self.limits.join_queue()?),
        };

        let answer = Arc::<Answer>::default();
        // The same key may have come in meanwhile, on another socket.
        if let Some(known) = self.answers.insert(principal, client_id, &id, &request, &answer) {
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
            candidates,
            input_tokens,
            answer: answer.clone(),
            metadata: Arc::new(metadata),
            started,
            deadline: started + self.settings.request_timeout,
            asked_at: now,
        };
        self.tasks.spawn(self.clone().serve(job, entry, running));
        Ok(Submitted { answer, items })
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
                let nothing = Progress::new(&job, Microcredits::ZERO);
                self.told(&job, nothing, ending, Metered::default(), Microcredits::ZERO)
            }
        };
        if let Err(Failed { error, .. }) = &end
            && !finish.accepted
            && job.is_callers
        {
            self.note(&job.principal, error);
        }
        drop(running);
        finish.end = Some(end.map_or_else(AnswerEnd::Failed, AnswerEnd::Done));
    }

    /// Waits for a place, while the client does.
    async fn enter(&self, job: &Job, entry: Entry) -> Result<Place, Ending> {
        let waiting = match entry {
            Entry::Now(place) => return Ok(place),
            Entry::Queued(waiting) => waiting,
        };
        job.answer.set_queued(waiting.position);
        tokio::select! {
            place = self.limits.place(waiting) => place.map_err(Ending::Failed),
            () = self.draining.cancelled() => Err(Ending::Failed(GatewayError::ShuttingDown)),
            reason = self.interruption(job) => Err(Ending::Cancelled(reason)),
        }
    }

    async fn answer(self: &Arc<Self>, job: &Arc<Job>, accepted: &mut bool) -> Result<Done, Failed> {
        let reserved = self.open(job).await?;
        *accepted = true;
        let mut progress = Progress::new(job, reserved);
        let interruption = self.interruption(job);
        tokio::pin!(interruption);
        // Nobody is asked for a request that is to end already; later on, work that is done comes first.
        let ending = if let Some(reason) = interruption.as_mut().now_or_never() {
            Ending::Cancelled(reason)
        } else {
            tokio::select! {
                biased;
                ending = self.work(job, &mut progress) => ending,
                reason = interruption => Ending::Cancelled(reason),
            }
        };
        self.close(job, progress, ending).await
    }

    async fn work(&self, job: &Job, progress: &mut Progress) -> Ending {
        if job.request.kind == RequestKind::Embedding {
            return self.embed(job, progress).await;
        }
        match self.dispatch(job, progress).await {
            Ok(live) => self.drive(job, live, progress).await,
            Err(ending) => ending,
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

    /// Output tokens that are held for at first: all that the client allows, or a portion that can be extended.
    fn held_output_tokens(&self, request: &AnswerRequest, candidate: &Candidate) -> u32 {
        if request.kind == RequestKind::Embedding {
            return 0;
        }
        request.max_tokens.unwrap_or(self.settings.output_hold_tokens).min(candidate.model.max_output_tokens)
    }
}

fn joined(known: Known, request_id: String) -> Result<Submitted, GatewayError> {
    match known {
        Known::Same(answer) => Ok(Submitted { items: answer.read(0), answer }),
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
