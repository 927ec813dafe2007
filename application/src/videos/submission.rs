//! A job goes to a provider, once. That it is about to is in the log before the call, and what came of it after.

use std::{
    slice,
    sync::{Arc, PoisonError},
};

use aihub_domain::{
    video::{VideoError, VideoStatus, command::VideoCommand, event::Doubt},
    workflow::{Workflow, WorkflowStatus, event::WorkflowEvent},
};
use cqrs_es::Aggregate;
use tokio::time::sleep;

use super::{
    catalog::VideoBackend,
    driver::{Driver, InHand},
    jobs::{ChangeError, DRIVER, FIRST_RETRY, Known, SLOWEST_RETRY},
    new_video::VideoContent,
};
use crate::{
    ports::{
        provider::FailureKind,
        vault::VaultError,
        video_provider::{Recovery, SubmitError, VideoCall},
    },
    upstream::guard::Turn,
};

/// A job that was refused so often for what it is, and not for the provider's state, is given up.
const MAX_REFUSALS: usize = 12;
/// The failure of a submission that the provider was looked through for.
pub(super) const NEVER_ARRIVED: &str = "never_arrived";

impl Driver {
    /// Submits a job that waits, and sees it through.
    pub(super) async fn submit(
        self: &Arc<Self>,
        hand: &InHand,
        backend: &Arc<VideoBackend>,
        turn: Turn,
    ) -> anyhow::Result<()> {
        let jobs = &self.videos.jobs;
        let Some(mut known) = jobs.load(&hand.video_id).await? else { return Ok(()) };
        self.end_with_workflow(&mut known).await?;
        if known.status() != VideoStatus::Queued {
            return Ok(());
        }
        let Some(content) = self.content(&mut known).await? else { return Ok(()) };
        let Some(offer) = known.request()?.offers.iter().position(|offer| offer.provider == backend.name) else {
            return Ok(());
        };
        // Whoever looks for lost submissions goes first: what is started is to be called at once.
        let lock = self.submitting(&backend.name);
        let submitting = lock.read().await;
        let now = jobs.clock.now();
        let start = VideoCommand::StartSubmission {
            offer,
            node: jobs.node.clone(),
            deadline_at: now + self.videos.settings.deadline,
            started_at: now,
        };
        match jobs.change(&mut known, start, DRIVER).await {
            Ok(_) => {}
            // Somebody else was first: it is cancelled, or with a provider.
            Err(ChangeError::Refused(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let call = call(&known, content)?;
        // If writing that down took long, somebody else may look for it already, and must not look too early.
        let since = (jobs.clock.now() - now).to_std().unwrap_or_default();
        let is_late = since > self.videos.settings.recover_after / 4;
        if is_late && backend.provider.recovery() != Recovery::Idempotent {
            return Ok(());
        }
        self.call(&mut known, backend, &call, Some(turn)).await?;
        drop(submitting);
        self.see_through(hand, known).await
    }

    /// Cancels the job if it belongs to a workflow that was cancelled. Whoever cancels one calls off the videos that he knows
    /// of, and whoever asks for another one just then calls off that; either may die before he has.
    pub(super) async fn end_with_workflow(&self, known: &mut Known) -> anyhow::Result<()> {
        let jobs = &self.videos.jobs;
        let Some(workflow_id) = known.request()?.workflow_id.clone().filter(|_| !known.status().is_end()) else {
            return Ok(());
        };
        let mut workflow = Workflow::default();
        for event in jobs.log.load(Workflow::TYPE, &workflow_id, 0).await? {
            workflow.evolve(&event.decode::<WorkflowEvent>(Workflow::TYPE, &workflow_id)?);
        }
        if workflow.status() == WorkflowStatus::Cancelled {
            let cancel = VideoCommand::CancelVideo { actor: DRIVER.to_owned(), cancelled_at: jobs.clock.now() };
            jobs.end(known, &cancel, DRIVER).await?;
        }
        Ok(())
    }

    /// Calls once more for a submission whose answer was lost: the provider knows it again by its token.
    pub(super) async fn submit_again(self: &Arc<Self>, hand: &InHand) -> anyhow::Result<()> {
        let Some(mut known) = self.videos.jobs.load(&hand.video_id).await? else { return Ok(()) };
        let Some(submission) = known.job.submission().filter(|_| known.status() == VideoStatus::Submitting) else {
            return Ok(());
        };
        let Some(backend) = self.videos.catalog.backends.get(&submission.provider).cloned() else { return Ok(()) };
        let content = match self.content(&mut known).await {
            Ok(Some(content)) => content,
            Ok(None) => return Ok(()),
            Err(error) => {
                self.doubt_if_late(&mut known).await?;
                return Err(error);
            }
        };
        let call = call(&known, content)?;
        self.call(&mut known, &backend, &call, None).await?;
        self.see_through(hand, known).await
    }

    /// Calls the provider and writes down what came of it. What the provider may have taken stays as it is, unless it knows
    /// the call again: then it is made until there is an answer, or the deadline has passed. Without a `turn` it was made
    /// before.
    async fn call(
        &self,
        known: &mut Known,
        backend: &VideoBackend,
        call: &VideoCall,
        mut turn: Option<Turn>,
    ) -> anyhow::Result<()> {
        let jobs = &self.videos.jobs;
        let mut may_be_taken = turn.is_none();
        let mut retry = FIRST_RETRY;
        let Some(submission) = known.job.submission().cloned() else { return Ok(()) };
        loop {
            match backend.provider.submit(call).await {
                Ok(provider_job_id) => {
                    if let Some(turn) = &mut turn {
                        turn.succeeded();
                    }
                    return self.taken(known, backend, submission.number, provider_job_id).await;
                }
                Err(SubmitError { error, in_doubt, said_yes }) => {
                    if let Some(mut turn) = turn.take() {
                        turn.failed(&error);
                    }
                    tracing::warn!(
                        video.id = %known.video_id, provider.name = %backend.name, error.kind = ?error.kind,
                        submission.in_doubt = in_doubt, "a video was not taken",
                    );
                    if said_yes {
                        return self.doubt(known, Doubt::Unnamed).await;
                    }
                    // That a provider has no room now does not say that it had none then. What it judges, it would have
                    // known again.
                    may_be_taken = in_doubt || (may_be_taken && error.kind.allows_fallback());
                    if !may_be_taken {
                        return self.refused(known, submission.number, &error).await;
                    }
                }
            }
            if backend.provider.recovery() != Recovery::Idempotent {
                self.pause_for(&known.video_id, self.videos.settings.recover_after);
                return Ok(());
            }
            if jobs.clock.now() > submission.deadline_at {
                return self.doubt(known, Doubt::Unanswered).await;
            }
            if self.stop.run_until_cancelled(sleep(retry)).await.is_none() {
                return Ok(());
            }
            retry = (retry * 2).min(SLOWEST_RETRY);
        }
    }

    pub(super) async fn taken(
        &self,
        known: &mut Known,
        backend: &VideoBackend,
        submission: u32,
        provider_job_id: String,
    ) -> anyhow::Result<()> {
        let jobs = &self.videos.jobs;
        // One film is one job's: whose it is, an operator has to see. Two that come at once are told apart here, and what the
        // queue knows, by it; that it cannot say is no reason to lose what a provider has said yes to.
        let _alone = self.naming.lock().await;
        if self.is_named(&backend.name, &provider_job_id).await {
            return self.doubt(known, Doubt::NamedTwice).await;
        }
        let submitted_at = jobs.clock.now();
        let record = VideoCommand::RecordSubmission {
            submission,
            provider_job_id: provider_job_id.clone(),
            actor: None,
            submitted_at,
        };
        match jobs.change(known, record, DRIVER).await {
            // It ended meanwhile: nobody wants what the provider makes of it.
            Err(ChangeError::Refused(VideoError::AlreadyEnded(_))) => {
                self.call_off(known, backend, &provider_job_id).await;
                Ok(())
            }
            // Refused: somebody else has recorded the same.
            Ok(_) => {
                self.named
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert((backend.name.clone(), provider_job_id));
                Ok(())
            }
            Err(ChangeError::Refused(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether another job of ours has this name.
    async fn is_named(&self, provider: &str, provider_job_id: &str) -> bool {
        let name = (provider.to_owned(), provider_job_id.to_owned());
        if self.named.lock().unwrap_or_else(PoisonError::into_inner).contains(&name) {
            return true;
        }
        match self.videos.queue.known(provider, slice::from_ref(&name.1)).await {
            Ok(known) => !known.is_empty(),
            Err(error) => {
                tracing::warn!(
                    error.message = format!("{error:#}"),
                    "whether another job has the same name is not known"
                );
                false
            }
        }
    }

    async fn refused(
        &self,
        known: &mut Known,
        submission: u32,
        error: &crate::ports::provider::ProviderError,
    ) -> anyhow::Result<()> {
        let jobs = &self.videos.jobs;
        let failure = serde_json::to_value(error.kind)?.as_str().unwrap_or_default().to_owned();
        let refused_at = jobs.clock.now();
        let refused_by = known.job.submission().map(|last| last.provider.clone()).unwrap_or_default();
        let refuse = VideoCommand::RefuseSubmission { submission, failure, status: error.status, refused_at };
        match jobs.change(known, refuse, DRIVER).await {
            Ok(_) => {}
            Err(ChangeError::Refused(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if error.kind == FailureKind::ModelUnavailable {
            self.give_up_on(&known.video_id, &refused_by);
        }
        let offers = &known.request()?.offers;
        if !error.kind.allows_fallback() {
            jobs.fail(known, "rejected_by_provider").await?;
        } else if offers.iter().all(|offer| self.has_given_up_on(&known.video_id, &offer.provider)) {
            // None of them has the model, and asking again would not help.
            jobs.fail(known, "all_providers_failed").await?;
        } else if known.job.refusals().iter().filter(|refusal| !is_outage(&refusal.failure)).count() >= MAX_REFUSALS {
            jobs.fail(known, "all_providers_failed").await?;
        } else {
            self.pause(&known.video_id);
        }
        Ok(())
    }

    /// Leaves the job to an operator.
    pub(super) async fn doubt(&self, known: &mut Known, doubt: Doubt) -> anyhow::Result<()> {
        let jobs = &self.videos.jobs;
        let Some(submission) = known.job.submission().map(|last| last.number) else { return Ok(()) };
        let command = VideoCommand::DoubtSubmission { submission, doubt, doubted_at: jobs.clock.now() };
        match jobs.change(known, command, DRIVER).await {
            Ok(_) => {
                tracing::error!(
                    video.id = %known.video_id, submission.doubt = ?doubt,
                    "whether a provider has this video cannot be known: decide with `aihub videos`",
                );
                Ok(())
            }
            Err(ChangeError::Refused(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// What the client wrote. Where that was erased the job fails, and there is none.
    pub(super) async fn content(&self, known: &mut Known) -> anyhow::Result<Option<VideoContent>> {
        match self.videos.content(known).await {
            Ok(content) => Ok(Some(content)),
            Err(VaultError::Erased) => {
                self.videos.jobs.fail(known, "content_erased").await?;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What the provider makes is not wanted any more. If it cannot be told so, that costs us and nobody else.
    pub(super) async fn call_off(&self, known: &Known, backend: &VideoBackend, provider_job_id: &str) {
        if let Err(error) = backend.provider.cancel(provider_job_id).await {
            tracing::warn!(
                video.id = %known.video_id, provider.name = %backend.name, error.kind = ?error.kind,
                "a video that nobody wants any more could not be called off",
            );
        }
    }
}

/// The provider, or our account there, is to blame: such refusals only make the job wait.
fn is_outage(failure: &str) -> bool {
    let kind: Result<FailureKind, _> = serde_json::from_value(failure.into());
    match kind {
        Ok(kind) => {
            kind.counts_against_provider()
                || matches!(kind, FailureKind::RateLimited | FailureKind::QuotaExceeded | FailureKind::Unauthorized)
        }
        Err(_) => failure == NEVER_ARRIVED,
    }
}

/// The same for every try of one submission.
pub(super) fn call(known: &Known, content: VideoContent) -> anyhow::Result<VideoCall> {
    let request = known.request()?;
    let submission = known.job.submission().ok_or(VideoError::WrongStatus(known.status()))?;
    Ok(VideoCall {
        token: format!("{}-{}", known.video_id, submission.number),
        model: submission.model.clone(),
        prompt: content.prompt.into(),
        style: content.style.map(Into::into),
        seconds: known.job.tried().map_or(request.seconds, |offer| offer.seconds(request.seconds)),
        resolution: request.resolution,
        aspect_ratio: request.aspect_ratio,
    })
}
