//! A workflow is started: written down, for the driver to find. Nothing is held for it: each of its requests and videos is
//! held for by itself, when it comes to it.

use std::sync::Arc;

use aihub_domain::{
    content::ContentKind,
    money::PicoUsd,
    workflow::{WorkflowError, command::WorkflowCommand, event::WorkflowRequest},
};
use uuid::Uuid;

use super::{
    Workflows,
    new_workflow::NewWorkflow,
    runs::{Run, RunError},
};
use crate::{
    admission::{NotAdmitted, Queue, keyed_id, overloaded},
    error::GatewayError,
    ports::{
        event_log::AppendError,
        jobs::JobKind,
        vault::{Sealed, VaultError, seal_needed},
    },
    principal::Principal,
};

impl Workflows {
    /// Checks `new` and starts it. The same `idempotency_key` of the same user with the same request is the same
    /// workflow. What is refused here has changed nothing: an unknown type, a video that nobody makes or that the
    /// account cannot pay for.
    pub async fn start(
        self: &Arc<Self>,
        principal: &Principal,
        new: NewWorkflow,
        idempotency_key: Option<&str>,
    ) -> Result<Run, GatewayError> {
        let admitted = self.admit(principal, new, idempotency_key).await;
        admitted.inspect_err(|error| self.videos.gateway.note(principal, error))
    }

    async fn admit(
        self: &Arc<Self>,
        principal: &Principal,
        new: NewWorkflow,
        idempotency_key: Option<&str>,
    ) -> Result<Run, GatewayError> {
        let gateway = &self.videos.gateway;
        gateway.require_open()?;
        let workflow_id = match idempotency_key {
            Some(key) => keyed_id(JobKind::Workflow, principal, key),
            None => Uuid::now_v7().to_string(),
        };
        if idempotency_key.is_some()
            && let Some(run) = self.load(&workflow_id).await.map_err(|error| GatewayError::outside(&error))?
        {
            return self.repeated(run, &new).await;
        }
        let Some(kind) = self.types.get(&new.workflow_type) else {
            let known: Vec<&str> = self.types.keys().map(String::as_str).collect();
            let reason = format!("there is no such type; there are {}", known.join(", "));
            return Err(GatewayError::faulty("workflowType", reason));
        };
        let now = gateway.clock.now();
        drop(gateway.limits.admit(principal, 0)?);
        self.require_credits(principal, &new).await?;
        let content = serde_json::to_vec(&new.content()).map_err(|error| GatewayError::internal(&error))?;
        let sealed = seal_needed(&*gateway.vault, &principal.account, ContentKind::Workflow, &content).await;
        let Sealed { content, pieces } = sealed.map_err(|error| match error {
            VaultError::Erased => GatewayError::Erased { account: principal.account.clone() },
            error => GatewayError::outside(&error),
        })?;
        let request = WorkflowRequest {
            account: principal.account.clone(),
            user: principal.user.clone(),
            roles: principal.roles.clone(),
            workflow_type: new.workflow_type.clone(),
            steps: kind.steps.clone(),
            video: new.parameters(),
            has_webhook: new.video.content.webhook_url.is_some(),
            content,
            started_at: now,
        };
        let queue = Queue {
            kind: JobKind::Workflow,
            most: self.settings.max_running,
            seats: self.videos.seats.clone(),
            tasks: gateway.tasks.clone(),
        };
        let open = {
            let (workflows, user, mut run) = (self.clone(), principal.user.clone(), Run::new(workflow_id.clone()));
            async move {
                workflows.change(&mut run, WorkflowCommand::StartWorkflow(Box::new(request)), pieces, &user).await?;
                Ok(run)
            }
        };
        match queue.admit(workflow_id.clone(), principal.account.clone(), open).await {
            Ok(run) => Ok(run),
            Err(NotAdmitted::Unknown(error) | NotAdmitted::Refused(error)) => Err(error),
            // The same key came in meanwhile, here or on another node.
            Err(NotAdmitted::Known) => {
                let run = self.load(&workflow_id).await.map_err(|error| GatewayError::outside(&error))?;
                let run = run.ok_or_else(|| GatewayError::internal("a workflow is there and cannot be loaded"))?;
                self.repeated(run, &new).await
            }
        }
    }

    /// Whether there is enough for one such video: no text is paid for before that.
    async fn require_credits(&self, principal: &Principal, new: &NewWorkflow) -> Result<(), GatewayError> {
        let gateway = &self.videos.gateway;
        let offers = self.videos.catalog.offers(&new.video, principal, gateway.clock.now())?;
        let costs = offers.iter().filter_map(|offer| offer.cost(new.video.resolution, new.video.seconds));
        let required = gateway.settings.rate.charge(costs.max().unwrap_or(PicoUsd(0)));
        let available = gateway.available(principal).await?;
        if available < required {
            let top_up = gateway.settings.top_up.clone();
            return Err(GatewayError::InsufficientCredits { available, required, top_up });
        }
        Ok(())
    }

    /// The workflow that this key made, if it was asked for the same.
    async fn repeated(&self, run: Run, new: &NewWorkflow) -> Result<Run, GatewayError> {
        let same = match run.workflow.request() {
            Some(request) if request.workflow_type == new.workflow_type && request.video == new.parameters() => {
                match self.content(&run).await {
                    Ok(written) => written == new.content(),
                    // What it was cannot be told any more; the key has its workflow all the same.
                    Err(VaultError::Erased) => true,
                    Err(error) => return Err(GatewayError::outside(&error)),
                }
            }
            _ => false,
        };
        if same {
            return Ok(run);
        }
        let reason = "this Idempotency-Key was used for a different workflow";
        Err(GatewayError::DuplicateRequest { request_id: Some(run.workflow_id), reason })
    }
}

impl From<RunError> for NotAdmitted {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Refused(WorkflowError::AlreadyStarted) => Self::Known,
            RunError::Append(AppendError::Overloaded) => Self::Refused(overloaded()),
            RunError::Append(AppendError::Unavailable(_)) => Self::Unknown(GatewayError::internal(&error)),
            // What the log refused, or somebody else was first to start, is not there.
            error => Self::Refused(GatewayError::internal(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_with_too_much_to_do_asks_to_come_back_and_only_a_lost_answer_leaves_it_open() {
        let busy = NotAdmitted::from(RunError::Append(AppendError::Overloaded));
        assert!(matches!(busy, NotAdmitted::Refused(GatewayError::QueueFull { .. })));
        let lost = NotAdmitted::from(RunError::Append(AppendError::Unavailable("gone".to_owned())));
        assert!(matches!(lost, NotAdmitted::Unknown(GatewayError::Internal { .. })));
        let refused = NotAdmitted::from(RunError::Append(AppendError::Malformed("a zero byte".to_owned())));
        assert!(matches!(refused, NotAdmitted::Refused(GatewayError::Internal { .. })));
    }
}
