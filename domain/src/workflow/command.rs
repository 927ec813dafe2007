//! What can be asked of a workflow. Times and ids come in with the command.

use chrono::{DateTime, Utc};

use super::event::WorkflowRequest;
use crate::{content::ContentRef, money::Microcredits};

#[derive(Debug, Clone, PartialEq)]
pub enum WorkflowCommand {
    StartWorkflow(Box<WorkflowRequest>),
    /// Before anything is done for it.
    StartStep {
        at: StepName,
        /// Of a text: what its request will be called.
        request_id: Option<String>,
        node: String,
        started_at: DateTime<Utc>,
    },
    /// A video was asked for. Shots are recorded in their order; one that is recorded already does nothing.
    RecordShot {
        at: StepName,
        /// Counts from 0.
        shot: u32,
        video_id: String,
        recorded_at: DateTime<Utc>,
    },
    /// Completes the workflow as well where it was the last one.
    CompleteStep {
        at: StepName,
        output: Option<ContentRef>,
        /// By this attempt.
        charged: Microcredits,
        completed_at: DateTime<Utc>,
    },
    /// Fails the workflow as well where it is not tried again.
    FailStep {
        at: StepName,
        code: String,
        reason: String,
        /// By this attempt.
        charged: Microcredits,
        will_retry: bool,
        failed_at: DateTime<Utc>,
    },
    CancelWorkflow {
        actor: String,
        cancelled_at: DateTime<Utc>,
    },
}

/// Which attempt of which step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepName {
    pub step: String,
    /// Counts from 1.
    pub attempt: u32,
}
