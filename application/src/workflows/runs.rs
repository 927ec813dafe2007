//! A workflow as the log has it, and its next event, decided on that.

use std::sync::Arc;

use aihub_domain::workflow::{
    Workflow, WorkflowError, WorkflowStatus,
    command::WorkflowCommand,
    event::{Work, WorkflowEvent, WorkflowRequest},
};
use cqrs_es::Aggregate;
use thiserror::Error;
use uuid::Uuid;

use super::Workflows;
use crate::{
    ports::event_log::{AppendError, LoadError, Metadata, Piece, StreamAppend, Unit},
    videos::jobs::ChangeError,
};

/// Who acts where nobody asked.
pub(super) const DRIVER: &str = "workflows";

/// A workflow as the log has it.
#[derive(Debug, Clone)]
pub struct Run {
    pub workflow_id: String,
    pub workflow: Workflow,
    pub(super) sequence: u64,
}

/// Why a workflow was not changed.
#[derive(Debug, Error)]
pub enum RunError {
    #[error("there is no such workflow")]
    Unknown,
    #[error(transparent)]
    Refused(#[from] WorkflowError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error("an event does not serialise: {0}")]
    Serialise(#[from] serde_json::Error),
}

impl Run {
    pub(super) fn new(workflow_id: String) -> Self {
        Self { workflow_id, workflow: Workflow::default(), sequence: 0 }
    }

    /// Counts the workflow's events.
    pub fn version(&self) -> u64 {
        self.sequence
    }

    /// Of a workflow that was started, which every loaded one was.
    pub fn request(&self) -> Result<&WorkflowRequest, WorkflowError> {
        self.workflow.request().ok_or(WorkflowError::NotStarted)
    }
}

impl Workflows {
    /// A workflow as the log has it; `None` where there is none of this name.
    pub async fn load(&self, workflow_id: &str) -> Result<Option<Run>, LoadError> {
        let mut run = Run::new(workflow_id.to_owned());
        self.catch_up(&mut run).await?;
        Ok((run.workflow.status() != WorkflowStatus::New).then_some(run))
    }

    pub(super) async fn catch_up(&self, run: &mut Run) -> Result<(), LoadError> {
        let log = &self.videos.jobs.log;
        for event in log.load(Workflow::TYPE, &run.workflow_id, run.sequence).await? {
            run.sequence = event.sequence;
            let event: WorkflowEvent = event.decode(Workflow::TYPE, &run.workflow_id)?;
            run.workflow.evolve(&event);
        }
        Ok(())
    }

    /// Decides `command` on the workflow and commits what follows, on the workflow as it is by then where somebody else
    /// was first.
    pub(super) async fn change(
        &self,
        run: &mut Run,
        command: WorkflowCommand,
        contents: Vec<Piece>,
        actor: &str,
    ) -> Result<(), RunError> {
        loop {
            let events = run.workflow.decide(command.clone())?;
            if events.is_empty() {
                return Ok(());
            }
            let append = StreamAppend::of::<Workflow>(&run.workflow_id, run.sequence, &events)?.with(contents.clone());
            let metadata = Metadata::from([
                ("actor", actor.to_owned()),
                ("correlationId", run.workflow_id.clone()),
                ("node", self.videos.jobs.node.clone()),
            ]);
            let metadata = Arc::new(metadata);
            let unit = Unit { command_id: Uuid::now_v7(), streams: vec![append], metadata, basis: None };
            match self.videos.jobs.log.append(unit).await {
                Ok(_) => {
                    for event in &events {
                        run.workflow.evolve(event);
                    }
                    run.sequence += events.len() as u64;
                    note(&run.workflow_id, &events);
                    return Ok(());
                }
                Err(AppendError::Conflict { .. }) => self.catch_up(run).await?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends the workflow as its owner wants, and the videos that it is making. One that has ended stays as it is.
    pub async fn cancel(&self, workflow_id: &str, actor: &str) -> Result<Run, RunError> {
        let mut run = self.load(workflow_id).await?.ok_or(RunError::Unknown)?;
        let cancelled_at = self.videos.jobs.clock.now();
        let cancel = WorkflowCommand::CancelWorkflow { actor: actor.to_owned(), cancelled_at };
        match self.change(&mut run, cancel, vec![], actor).await {
            Ok(()) | Err(RunError::Refused(WorkflowError::AlreadyEnded(_))) => {}
            Err(error) => return Err(error),
        }
        if run.workflow.status() == WorkflowStatus::Cancelled {
            self.call_off(&run, actor).await;
        }
        Ok(run)
    }

    /// Cancels the videos that are being made. What is done stays; a running text is ended by whoever drives it.
    pub(super) async fn call_off(&self, run: &Run, actor: &str) {
        for (step, state) in run.workflow.steps() {
            // Beside those that are recorded there may be the next one: of whoever asked for it and died.
            let next = match step.work {
                Work::Make { .. } => self.shot_id(run, &step.name, state.videos.len()),
                Work::Text { .. } => None,
            };
            for video_id in state.videos.iter().chain(&next) {
                match self.videos.cancel(video_id, actor).await {
                    Ok(_) => {}
                    Err(ChangeError::Unknown) if next.as_ref() == Some(video_id) => {}
                    Err(error) => {
                        tracing::warn!(video.id = %video_id, error.message = %error, "a cancelled workflow's video goes on");
                    }
                }
            }
        }
    }
}

fn note(workflow_id: &str, events: &[WorkflowEvent]) {
    for event in events {
        let (status, step, code) = match event {
            WorkflowEvent::StepFailed { step, code, .. } => {
                tracing::info!(workflow.id = %workflow_id, step = %step, code = %code, "a workflow's step has failed");
                continue;
            }
            WorkflowEvent::WorkflowStarted(_) => {
                metrics::counter!("aihub_workflows_started_total").increment(1);
                continue;
            }
            WorkflowEvent::WorkflowCompleted { .. } => ("completed", "", ""),
            WorkflowEvent::WorkflowFailed { step, code, .. } => ("failed", step.as_str(), code.as_str()),
            WorkflowEvent::WorkflowCancelled { .. } => ("cancelled", "", ""),
            _ => continue,
        };
        metrics::counter!("aihub_workflows_ended_total", "status" => status).increment(1);
        tracing::info!(workflow.id = %workflow_id, workflow.status = status, step, code, "a workflow has ended");
    }
}
