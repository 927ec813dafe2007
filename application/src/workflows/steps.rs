//! What steps of all kinds have in common: how they begin, what they know, and how they fail.

use std::time::Duration;

use aihub_domain::{
    money::Microcredits,
    workflow::command::{StepName, WorkflowCommand},
};
use serde_json::{Map, Value};

use super::{
    Workflows,
    driver::Next,
    new_workflow::{DEFAULT_LANGUAGE, WorkflowContent},
    runs::{DRIVER, Run, RunError},
    templates::Names,
};
use crate::{
    error::GatewayError,
    ports::{event_log::Piece, vault::VaultError},
};

/// After a first failed attempt; twice as long each time.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Where a refusal does not say when to come back.
const USUAL_PAUSE: Duration = Duration::from_secs(1);

/// What an attempt failed of.
pub(super) struct Failed {
    pub code: String,
    pub reason: String,
    pub charged: Microcredits,
    pub is_transient: bool,
}

impl Failed {
    /// For good, and for nothing.
    pub fn new(code: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { code: code.into(), reason: reason.into(), charged: Microcredits::ZERO, is_transient: false }
    }

    pub fn erased() -> Self {
        Self::new("CONTENT_ERASED", "the account's content was erased")
    }

    /// What operators wrote does not fit what models made of it.
    pub fn of_template(reason: &str) -> Self {
        Self::new("INVALID_TEMPLATE", format!("the step's template cannot be filled in: {reason}"))
    }
}

impl Workflows {
    /// Commits `command`; `false` when the workflow is somewhere else by now.
    pub(super) async fn record(&self, run: &mut Run, command: WorkflowCommand) -> Result<bool, RunError> {
        self.record_with(run, command, vec![]).await
    }

    /// The same with what the events name.
    pub(super) async fn record_with(
        &self,
        run: &mut Run,
        command: WorkflowCommand,
        contents: Vec<Piece>,
    ) -> Result<bool, RunError> {
        match self.change(run, command, contents, DRIVER).await {
            Ok(()) => Ok(true),
            Err(RunError::Refused(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Says that an attempt begins; `false` when somebody else did.
    pub(super) async fn begin(
        &self,
        run: &mut Run,
        at: &StepName,
        request_id: Option<String>,
    ) -> Result<bool, RunError> {
        let (node, started_at) = (self.videos.jobs.node.clone(), self.videos.jobs.clock.now());
        self.record(run, WorkflowCommand::StartStep { at: at.clone(), request_id, node, started_at }).await
    }

    /// Ends the attempt, and with it the step unless it is worth another one.
    pub(super) async fn fail(&self, run: &mut Run, at: StepName, failed: Failed) -> anyhow::Result<Next> {
        let Failed { code, reason, charged, is_transient } = failed;
        let will_retry = is_transient && at.attempt < self.settings.max_attempts;
        let pause = FIRST_RETRY * 2_u32.saturating_pow(at.attempt.saturating_sub(1));
        let failed_at = self.videos.jobs.clock.now();
        self.record(run, WorkflowCommand::FailStep { at, code, reason, charged, will_retry, failed_at }).await?;
        Ok(if will_retry { Next::Pause(pause) } else { Next::Go })
    }

    /// What was asked for was refused before anything happened: it is asked for again where there is no room now.
    pub(super) async fn refused(&self, run: &mut Run, at: StepName, error: &GatewayError) -> anyhow::Result<Next> {
        match error {
            GatewayError::RateLimitExceeded { .. } | GatewayError::QueueFull { .. } | GatewayError::ShuttingDown => {
                Ok(Next::Pause(error.retry_after().unwrap_or(USUAL_PAUSE)))
            }
            error => {
                let is_transient = matches!(error, GatewayError::Internal { .. });
                self.fail(run, at, Failed { is_transient, ..Failed::new(error.code(), error.to_string()) }).await
            }
        }
    }

    /// What templates can name by now.
    pub(super) async fn names(&self, run: &Run) -> anyhow::Result<Result<Names, Failed>> {
        let (WorkflowContent { video, language }, steps) = match self.opened(run).await {
            Ok(opened) => opened,
            Err(VaultError::Erased) => return Ok(Err(Failed::erased())),
            Err(error) => return Err(error.into()),
        };
        let parameters = &run.request()?.video;
        Ok(Ok(Names {
            prompt: video.prompt,
            style: video.style.unwrap_or_default(),
            language: language.unwrap_or_else(|| DEFAULT_LANGUAGE.to_owned()),
            duration: parameters.seconds,
            resolution: parameters.resolution.to_string(),
            aspect_ratio: parameters.aspect_ratio.to_string(),
            steps,
            shot: Value::Null,
        }))
    }

    /// What the client wrote, and what each step has made of it.
    pub(super) async fn opened(&self, run: &Run) -> Result<(WorkflowContent, Map<String, Value>), VaultError> {
        let content = self.content(run).await?;
        let mut outputs = Map::new();
        for (step, state) in run.workflow.steps() {
            if let Some(output) = &state.output {
                let text = self.videos.gateway.vault.open(output).await?;
                let value = serde_json::from_slice(&text).map_err(|_| VaultError::Unreadable)?;
                outputs.insert(step.name.clone(), value);
            }
        }
        Ok((content, outputs))
    }
}
