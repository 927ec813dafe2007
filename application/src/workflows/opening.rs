//! A workflow is started: written down, for the driver to find. Nothing is held for it: each of its requests and videos is
//! held for by itself, when it comes to it.

use aihub_domain::{
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
    error::{FaultyField, GatewayError},
    ports::{jobs::JobKind, seats::Applicant, vault::VaultError},
    principal::Principal,
    videos::opening::{give_back, take_seat},
};

/// Makes workflow ids out of idempotency keys.
const WORKFLOW_NAMESPACE: Uuid = Uuid::from_u128(0x71c3_9e54_0ab8_4d1f_b6e2_58d4_903f_a7c6);

impl Workflows {
    /// Checks `new` and starts it. The same `idempotency_key` of the same user with the same request is the same
    /// workflow. What is refused here has changed nothing: an unknown type, a video that nobody makes or that the
    /// account cannot pay for.
    pub async fn start(
        &self,
        principal: &Principal,
        new: NewWorkflow,
        idempotency_key: Option<&str>,
    ) -> Result<Run, GatewayError> {
        let admitted = self.admit(principal, new, idempotency_key).await;
        admitted.inspect_err(|error| self.videos.gateway.note(principal, error))
    }

    async fn admit(
        &self,
        principal: &Principal,
        new: NewWorkflow,
        idempotency_key: Option<&str>,
    ) -> Result<Run, GatewayError> {
        let gateway = &self.videos.gateway;
        if gateway.draining.is_cancelled() {
            return Err(GatewayError::ShuttingDown);
        }
        let workflow_id = match idempotency_key {
            Some(key) => keyed_id(principal, key),
            None => Uuid::now_v7().to_string(),
        };
        if idempotency_key.is_some()
            && let Some(run) = self.load(&workflow_id).await.map_err(|error| GatewayError::internal(&error))?
        {
            return self.repeated(run, &new).await;
        }
        let Some(kind) = self.types.get(&new.workflow_type) else {
            let known: Vec<&str> = self.types.keys().map(String::as_str).collect();
            let reason = format!("there is no such type; there are {}", known.join(", "));
            return Err(GatewayError::Validation(vec![FaultyField::new("workflowType", reason)]));
        };
        let now = gateway.clock.now();
        drop(gateway.limits.admit(principal, 0)?);
        self.require_credits(principal, &new).await?;
        let content = serde_json::to_vec(&new.content()).map_err(|error| GatewayError::internal(&error))?;
        let content =
            gateway.vault.seal(&principal.account, &workflow_id, &content).await.map_err(|error| match error {
                VaultError::Erased => GatewayError::Erased { account: principal.account.clone() },
                error => GatewayError::internal(&error),
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
        let mut run = Run::new(workflow_id);
        let applicant = Applicant { kind: JobKind::Workflow, id: &run.workflow_id, account: &principal.account };
        let seat = take_seat(&*self.videos.seats, applicant, self.settings.max_running).await?;
        match self.change(&mut run, WorkflowCommand::StartWorkflow(Box::new(request)), &principal.user).await {
            Ok(()) => Ok(run),
            // The same key came in meanwhile, here or on another node.
            Err(RunError::Refused(WorkflowError::AlreadyStarted)) => {
                give_back(&*self.videos.seats, seat).await;
                self.repeated(run, &new).await
            }
            // Whether it was committed is not known. If it was, it is a workflow like any other: the same key finds it.
            Err(error) => Err(GatewayError::internal(&error)),
        }
    }

    /// Whether there is enough for one such video: no text is paid for before that.
    async fn require_credits(&self, principal: &Principal, new: &NewWorkflow) -> Result<(), GatewayError> {
        let gateway = &self.videos.gateway;
        let offers = self.videos.catalog.offers(&new.video, principal, gateway.clock.now())?;
        let costs = offers.iter().filter_map(|offer| offer.price.cost(new.video.resolution, new.video.seconds));
        let required = gateway.settings.rate.charge(costs.max().unwrap_or(PicoUsd(0)));
        let available = gateway.available(principal).await?;
        if available < required {
            return Err(GatewayError::InsufficientCredits { available, required });
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
                    Err(error) => return Err(GatewayError::internal(&error)),
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

fn keyed_id(principal: &Principal, key: &str) -> String {
    // The lengths keep two different pairs of names from spelling the same text.
    let (account, user) = (&principal.account, &principal.user);
    let name = format!("{}:{account}{}:{user}{key}", account.len(), user.len());
    Uuid::new_v5(&WORKFLOW_NAMESPACE, name.as_bytes()).to_string()
}
