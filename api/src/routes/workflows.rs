//! `/api/mcp/gpt/video-workflow`: models write, then videos are made. Only one's own: what models wrote is content.

use std::{collections::BTreeMap, sync::Arc};

use aihub_application::{
    error::GatewayError,
    principal::Principal,
    workflows::{
        new_workflow::NewWorkflow,
        runs::{Run, RunError},
        standing::Standing,
    },
};
use aihub_domain::{
    money::Microcredits,
    workflow::{StepState, StepStatus, WorkflowStatus, event::Step},
};
use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Caller,
    videos::{self, check_webhook, idempotency_key, object},
};
use crate::{hub::Hub, problem::Problem};

/// Each entry of a list is told whole, with its videos.
const DEFAULT_PAGE: usize = 20;
const MAX_PAGE: usize = 50;

pub async fn start(
    State(hub): State<Arc<Hub>>,
    Caller(caller): Caller,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let key = idempotency_key(&headers)?;
    let new = NewWorkflow::from_fields(object(&body)?, &caller.user).map_err(GatewayError::Validation)?;
    check_webhook(&hub, &new.video)?;
    let run = hub.workflows.start(&caller, new, key.as_deref()).await?;
    let location = format!("/api/mcp/gpt/video-workflow/{}", run.workflow_id);
    let mut response = (StatusCode::ACCEPTED, Json(tell(&hub, &run).await?)).into_response();
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

pub async fn show(
    State(hub): State<Arc<Hub>>,
    Caller(caller): Caller,
    Path(workflow_id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let run = find(&hub, &caller, &workflow_id).await?;
    Ok(Json(tell(&hub, &run).await?))
}

/// What was made stays; what is being made is called off.
pub async fn cancel(
    State(hub): State<Arc<Hub>>,
    Caller(caller): Caller,
    Path(workflow_id): Path<String>,
) -> Result<Json<Value>, Problem> {
    find(&hub, &caller, &workflow_id).await?;
    let run = hub.workflows.cancel(&workflow_id, &caller.user).await.map_err(|error| match error {
        RunError::Unknown => Problem::not_found("there is no such workflow"),
        error => Problem::internal(&error),
    })?;
    if run.workflow.status() != WorkflowStatus::Cancelled {
        let state = run.workflow.status().as_str();
        let reason = format!("the workflow is {state}, and cannot be cancelled any more");
        return Err(Problem::new("CONFLICT", reason).with_details(json!({ "state": state })));
    }
    Ok(Json(tell(&hub, &run).await?))
}

#[derive(Debug, Deserialize)]
pub struct Page {
    limit: Option<usize>,
    /// The `nextCursor` of the page before.
    cursor: Option<u64>,
}

/// The caller's, latest first.
pub async fn list(
    State(hub): State<Arc<Hub>>,
    Caller(caller): Caller,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(Page { limit, cursor }) = page.map_err(|error| Problem::faulty("(query)", error.body_text()))?;
    let limit = limit.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Problem::faulty("limit", format!("must be 1 to {MAX_PAGE}")));
    }
    let listed = hub.workflows.list.of_user(&caller.account, &caller.user, cursor, limit).await;
    let listed = listed.map_err(|error| Problem::internal(&format!("{error:#}")))?;
    let next_cursor = listed.last().filter(|_| listed.len() == limit).map(|last| last.position.to_string());
    let mut workflows = Vec::new();
    for one in listed {
        workflows.push(tell(&hub, &find(&hub, &caller, &one.workflow_id).await?).await?);
    }
    Ok(Json(json!({ "workflows": workflows, "nextCursor": next_cursor })))
}

/// Whether somebody else's exists is nobody's business.
async fn find(hub: &Hub, caller: &Principal, workflow_id: &str) -> Result<Run, Problem> {
    let run = hub.workflows.load(workflow_id).await.map_err(|error| Problem::internal(&error))?;
    let is_own =
        |run: &Run| run.workflow.request().is_some_and(|own| own.account == caller.account && own.user == caller.user);
    run.filter(is_own).ok_or_else(|| Problem::not_found(format!("there is no workflow {workflow_id} of yours")))
}

/// The workflow response. Fields that do not apply are left out.
async fn tell(hub: &Hub, run: &Run) -> Result<Value, Problem> {
    let request = run.request().map_err(|error| Problem::internal(&error))?;
    let standing = hub.workflows.standing(run).await?;
    let steps: Vec<Value> =
        run.workflow.steps().map(|(step, state)| tell_step(step, state, run.workflow.status(), &standing)).collect();
    let mut made = Vec::new();
    for video_id in run.workflow.steps().flat_map(|(_, state)| &state.videos) {
        if let Some(known) = standing.videos.get(video_id) {
            made.push(videos::tell(hub, known).await?);
        }
    }
    let credits: i64 = standing.charged.values().map(|charged| charged.0).sum();
    let status = match run.workflow.status() {
        WorkflowStatus::Completed => "completed",
        WorkflowStatus::Failed | WorkflowStatus::Cancelled => "failed",
        WorkflowStatus::New | WorkflowStatus::Running => "processing",
    };
    Ok(present([
        ("workflowId", json!(run.workflow_id)),
        ("workflowType", json!(request.workflow_type)),
        ("status", json!(status)),
        ("state", json!(run.workflow.status().as_str())),
        ("steps", json!(steps)),
        ("videos", json!(made)),
        ("creditsUsed", json!(Microcredits(credits).as_credits())),
        ("createdAt", json!(request.started_at)),
        ("completedAt", json!(run.workflow.ended_at())),
        ("sessionId", json!(request.video.session_id)),
        ("error", error(run)),
    ]))
}

fn tell_step(step: &Step, state: &StepState, workflow: WorkflowStatus, standing: &Standing) -> Value {
    let status = match state.status {
        StepStatus::Completed => "completed",
        StepStatus::Failed => "failed",
        _ if workflow == WorkflowStatus::Cancelled => "cancelled",
        StepStatus::Pending => "pending",
        StepStatus::Running | StepStatus::Retrying => "running",
    };
    let failure = state.failure.as_ref().map(|failure| json!({ "code": failure.code, "message": failure.reason }));
    let charged = standing.charged.get(&step.name).copied().unwrap_or_default();
    present([
        ("name", json!(step.name)),
        ("kind", json!(step.work.kind())),
        ("status", json!(status)),
        ("attempts", json!((state.attempt > 0).then_some(state.attempt))),
        ("requestId", json!(state.request_id)),
        ("videoIds", json!((!state.videos.is_empty()).then_some(&state.videos))),
        ("output", standing.outputs.get(&step.name).cloned().unwrap_or_default()),
        ("credits", json!(charged.as_credits())),
        ("error", json!(failure)),
    ])
}

/// Names the step.
fn error(run: &Run) -> Value {
    if run.workflow.status() == WorkflowStatus::Cancelled {
        let message = "it was cancelled; what was made until then is charged for and stays";
        return json!({ "code": "CANCELLED", "message": message });
    }
    let failed = run.workflow.steps().find(|(_, state)| state.status == StepStatus::Failed);
    failed.and_then(|(step, state)| Some((step, state.failure.as_ref()?))).map_or(
        Value::Null,
        |(step, failure)| json!({ "step": step.name, "code": failure.code, "message": failure.reason }),
    )
}

fn present<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let fields: BTreeMap<&str, Value> = fields.into_iter().filter(|(_, value)| !value.is_null()).collect();
    Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}
