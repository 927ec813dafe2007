//! A workflow: some texts, then the videos that are made from them. Started once, with its steps frozen; ended once.
//!
//! Steps are done one after another. Each says that it begins before it does anything, so that whoever comes after a crash
//! knows which one it was, and under which name its request is found.

pub mod command;
pub mod event;
#[cfg(test)]
mod tests;

use chrono::{DateTime, Utc};
use cqrs_es::{Aggregate, event_sink::EventSink};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{content::ContentRef, money::Microcredits};
use command::{StepName, WorkflowCommand};
use event::{Asked, Step, WorkflowEvent, WorkflowRequest};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Workflow {
    status: WorkflowStatus,
    /// From its start on.
    request: Option<Box<WorkflowRequest>>,
    /// As many as the request has, from the start on.
    steps: Vec<StepState>,
    ended_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkflowStatus {
    /// Not started yet.
    #[default]
    New,
    Running,
    Completed,
    Failed,
    Cancelled,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepState {
    pub status: StepStatus,
    /// Counts from 1, once it has begun.
    pub attempt: u32,
    /// That of the last attempt of a text.
    pub request_id: Option<String>,
    /// The jobs of a step that makes videos, by their shot.
    pub videos: Vec<String>,
    /// What a text has made: the JSON object that was asked for.
    pub output: Option<ContentRef>,
    /// Over all attempts that have ended.
    pub charged: Microcredits,
    /// Of the last attempt that failed.
    pub failure: Option<StepFailure>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    #[default]
    Pending,
    Running,
    /// An attempt has failed, and there will be another one.
    Retrying,
    Completed,
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepFailure {
    pub code: String,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WorkflowError {
    #[error("the workflow was started before")]
    AlreadyStarted,
    #[error("the workflow was never started")]
    NotStarted,
    #[error("a workflow without steps does nothing")]
    NoSteps,
    #[error("the workflow has ended already: {0:?}")]
    AlreadyEnded(WorkflowStatus),
    /// Somebody else was first.
    #[error("the workflow is not at attempt {attempt} of step {step}")]
    NotThere { step: String, attempt: u32 },
}

impl WorkflowStatus {
    pub fn is_end(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Workflow {
    pub fn status(&self) -> WorkflowStatus {
        self.status
    }

    pub fn request(&self) -> Option<&WorkflowRequest> {
        self.request.as_deref()
    }

    pub fn ended_at(&self) -> Option<DateTime<Utc>> {
        self.ended_at
    }

    /// Every step with how it stands, in their order.
    pub fn steps(&self) -> impl Iterator<Item = (&Step, &StepState)> {
        self.request.iter().flat_map(|request| &request.steps).zip(&self.steps)
    }

    /// The step that is to be done now; `None` where there is nothing to do.
    pub fn current(&self) -> Option<(&Step, &StepState)> {
        let mut undone = self.steps().filter(|(_, state)| state.status != StepStatus::Completed);
        undone.next().filter(|_| self.status == WorkflowStatus::Running)
    }

    /// Whose it is, and what it is.
    pub fn asked(&self) -> Option<Asked> {
        self.request.as_ref().map(|request| request.asked())
    }

    pub fn decide(&self, command: WorkflowCommand) -> Result<Vec<WorkflowEvent>, WorkflowError> {
        use WorkflowCommand as C;
        let (request, command) = match (&self.request, command) {
            (None, C::StartWorkflow(request)) if request.steps.is_empty() => return Err(WorkflowError::NoSteps),
            (None, C::StartWorkflow(request)) => return Ok(vec![WorkflowEvent::WorkflowStarted(request)]),
            (Some(_), C::StartWorkflow(_)) => return Err(WorkflowError::AlreadyStarted),
            (None, _) => return Err(WorkflowError::NotStarted),
            (Some(request), command) => (request, command),
        };
        if self.status.is_end() {
            return Err(WorkflowError::AlreadyEnded(self.status));
        }
        let asked = request.asked();
        Ok(match command {
            C::StartWorkflow(_) => return Err(WorkflowError::AlreadyStarted),
            C::StartStep { at, request_id, node, started_at } => {
                self.require(&at, false)?;
                let StepName { step, attempt } = at;
                vec![WorkflowEvent::StepStarted { step, attempt, request_id, node, started_at }]
            }
            C::RecordShot { at, shot, video_id, recorded_at } => {
                let state = self.require(&at, true)?;
                match (state.videos.get(shot as usize), state.videos.len() == shot as usize) {
                    (Some(known), _) if *known == video_id => vec![],
                    (None, true) => vec![WorkflowEvent::ShotRequested { step: at.step, shot, video_id, recorded_at }],
                    _ => return Err(at.into()),
                }
            }
            C::CompleteStep { at, output, charged, completed_at } => {
                let state = self.require(&at, true)?;
                let (request_id, videos) = (state.request_id.clone(), state.videos.clone());
                let is_last = self.steps().last().is_some_and(|(last, _)| last.name == at.step);
                let charged_microcredits = state.charged.plus(charged);
                let StepName { step, .. } = at;
                let completed = WorkflowEvent::StepCompleted {
                    step,
                    output,
                    request_id,
                    videos,
                    charged_microcredits,
                    completed_at,
                };
                let end = is_last.then_some(WorkflowEvent::WorkflowCompleted { asked, completed_at });
                [completed].into_iter().chain(end).collect()
            }
            C::FailStep { at, code, reason, charged, will_retry, failed_at } => {
                let state = self.require(&at, true)?;
                let StepName { step, attempt } = at;
                let failed = WorkflowEvent::StepFailed {
                    step: step.clone(),
                    attempt,
                    code: code.clone(),
                    reason: reason.clone(),
                    request_id: state.request_id.clone(),
                    charged_microcredits: state.charged.plus(charged),
                    will_retry,
                    failed_at,
                };
                let end =
                    (!will_retry).then_some(WorkflowEvent::WorkflowFailed { asked, step, code, reason, failed_at });
                [failed].into_iter().chain(end).collect()
            }
            C::CancelWorkflow { actor, cancelled_at } => {
                vec![WorkflowEvent::WorkflowCancelled { asked, actor, cancelled_at }]
            }
        })
    }

    /// The current step, if that is the one that is meant: the attempt that runs, or the one that would be next.
    fn require(&self, at: &StepName, running: bool) -> Result<&StepState, WorkflowError> {
        let fits = |(step, state): &(&Step, &StepState)| {
            let attempt = if running { state.attempt } else { state.attempt + 1 };
            step.name == at.step && attempt == at.attempt && (state.status == StepStatus::Running) == running
        };
        self.current().filter(fits).map(|(_, state)| state).ok_or_else(|| at.clone().into())
    }

    pub fn evolve(&mut self, event: &WorkflowEvent) {
        match event {
            WorkflowEvent::WorkflowStarted(request) => {
                self.status = WorkflowStatus::Running;
                self.steps = vec![StepState::default(); request.steps.len()];
                self.request = Some(request.clone());
            }
            WorkflowEvent::StepStarted { step, attempt, request_id, .. } => self.evolve_step(step, |state| {
                state.status = StepStatus::Running;
                state.attempt = *attempt;
                state.request_id.clone_from(request_id);
            }),
            WorkflowEvent::ShotRequested { step, video_id, .. } => {
                self.evolve_step(step, |state| state.videos.push(video_id.clone()));
            }
            WorkflowEvent::StepCompleted { step, output, charged_microcredits, .. } => {
                self.evolve_step(step, |state| {
                    state.status = StepStatus::Completed;
                    state.output.clone_from(output);
                    state.charged = *charged_microcredits;
                    state.failure = None;
                });
            }
            WorkflowEvent::StepFailed { step, code, reason, charged_microcredits, will_retry, .. } => {
                self.evolve_step(step, |state| {
                    state.status = if *will_retry { StepStatus::Retrying } else { StepStatus::Failed };
                    state.charged = *charged_microcredits;
                    state.failure = Some(StepFailure { code: code.clone(), reason: reason.clone() });
                });
            }
            WorkflowEvent::WorkflowCompleted { completed_at, .. } => self.end(WorkflowStatus::Completed, *completed_at),
            WorkflowEvent::WorkflowFailed { failed_at, .. } => self.end(WorkflowStatus::Failed, *failed_at),
            WorkflowEvent::WorkflowCancelled { cancelled_at, .. } => self.end(WorkflowStatus::Cancelled, *cancelled_at),
        }
    }

    fn evolve_step(&mut self, name: &str, change: impl FnOnce(&mut StepState)) {
        let steps = self.request.iter().flat_map(|request| &request.steps).zip(&mut self.steps);
        if let Some((_, state)) = { steps }.find(|(step, _)| step.name == name) {
            change(state);
        }
    }

    fn end(&mut self, status: WorkflowStatus, at: DateTime<Utc>) {
        self.status = status;
        self.ended_at = Some(at);
    }
}

impl From<StepName> for WorkflowError {
    fn from(StepName { step, attempt }: StepName) -> Self {
        Self::NotThere { step, attempt }
    }
}

impl Aggregate for Workflow {
    const TYPE: &'static str = "workflow";
    type Command = WorkflowCommand;
    type Event = WorkflowEvent;
    type Error = WorkflowError;
    type Services = ();

    async fn handle(&mut self, command: WorkflowCommand, (): &(), sink: &EventSink<Self>) -> Result<(), WorkflowError> {
        for event in self.decide(command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: WorkflowEvent) {
        self.evolve(&event);
    }
}
