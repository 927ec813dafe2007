//! Workflows: models write, then videos are made from what they wrote.
//!
//! | module | holds |
//! |---|---|
//! | [`plan`] | the types that are configured, and what has to fit together in one |
//! | [`templates`] | what models are told, with placeholders |
//! | [`new_workflow`] | what a client asks for |
//! | [`opening`] | a workflow is started, or found under its idempotency key |
//! | [`list`] | the workflows, as they are read from the log |
//! | [`runs`] | a workflow as the log has it, and its next event |
//! | [`driver`] | the one loop, on one node at a time, that has a task for each workflow that runs |
//! | [`steps`] | what steps of all kinds have in common |
//! | [`writing`] | a step of text: a request to a model, through the gateway like any other |
//! | [`answers`] | how a request of ours ended, as the log says |
//! | [`making`] | a step that makes videos: jobs like any other |
//! | [`standing`] | how a workflow stands, for its owner |
//!
//! Requests and videos are named after the workflow, the step and the attempt or shot. So whoever takes a step up again
//! after a crash finds what the one before had asked for, and neither asks nor pays twice.

mod answers;
mod driver;
pub mod list;
mod making;
pub mod new_workflow;
mod opening;
pub mod plan;
pub mod runs;
pub mod standing;
mod steps;
pub mod templates;
mod writing;

use std::{collections::BTreeMap, sync::Arc};

use aihub_domain::workflow::{Workflow, WorkflowError};
use chrono::DateTime;

use crate::{
    ports::{seats::Depth, vault::VaultError},
    principal::{Capabilities, Principal},
    videos::Videos,
};
use list::WorkflowList;
use new_workflow::WorkflowContent;
use plan::WorkflowType;
use runs::Run;

#[derive(Debug, Clone)]
pub struct WorkflowSettings {
    /// Workflows that have not ended. Beyond it: `QUEUE_FULL`.
    pub max_running: Depth,
    /// How often a step of text is tried, the first time included.
    pub max_attempts: u32,
}

/// What roles of these names grant together.
pub type Grants = dyn Fn(&[String]) -> Capabilities + Send + Sync;

/// Workflows. The videos and their gateway do the work.
pub struct Workflows {
    pub settings: WorkflowSettings,
    /// By the names that clients use.
    pub types: BTreeMap<String, WorkflowType>,
    pub videos: Arc<Videos>,
    pub list: Arc<dyn WorkflowList>,
    pub capabilities: Arc<Grants>,
}

impl Workflows {
    /// What the client wrote.
    async fn content(&self, run: &Run) -> Result<WorkflowContent, VaultError> {
        let request = run.workflow.request().ok_or(VaultError::Unreadable)?;
        let opened = self.videos.gateway.vault.open(&request.content).await?;
        serde_json::from_slice(&opened).map_err(|_| VaultError::Unreadable)
    }

    /// The one who started it, with what their roles grant today.
    fn principal(&self, workflow: &Workflow) -> Result<Arc<Principal>, WorkflowError> {
        let request = workflow.request().ok_or(WorkflowError::NotStarted)?;
        Ok(Arc::new(Principal {
            user: request.user.clone(),
            account: request.account.clone(),
            roles: request.roles.clone(),
            expires_at: DateTime::<chrono::Utc>::MAX_UTC,
            capabilities: (self.capabilities)(&request.roles),
        }))
    }
}
