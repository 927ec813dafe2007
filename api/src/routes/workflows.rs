//! `/api/mcp/gpt/video-workflow`: models write, then videos are made. Only one's own: what models wrote is content.

use std::{fmt::Write, sync::Arc};

use aihub_application::{
    error::GatewayError,
    ports::jobs::{JobKind, News},
    principal::Principal,
    workflows::{
        new_workflow::NewWorkflow,
        runs::{Run, RunError},
    },
};
use aihub_domain::workflow::WorkflowStatus;
use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Caller,
    body::object,
    parameters::{Path, Query},
    status::{Look, StatusQuery, Watched, status},
    videos::{check_webhook, idempotency_key},
};
use crate::{hub::Hub, problem::Problem, videos, workflows::tell};

/// Each entry of a list is told whole, with its videos.
const DEFAULT_PAGE: usize = 20;
const MAX_PAGE: usize = 50;

pub async fn start(
    State(hub): State<Arc<Hub>>,
    Caller(caller): Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let key = idempotency_key(&headers)?;
    let (fields, _memory) = object(&hub, &caller, body).await?;
    let new = NewWorkflow::from_fields(fields, &caller.user).map_err(GatewayError::Validation)?;
    check_webhook(&hub, &new.video)?;
    let run = hub.workflows.start(&caller, new, key.as_deref()).await?;
    let location = format!("/api/mcp/gpt/video-workflow/{}", run.workflow_id);
    let mut response = (StatusCode::ACCEPTED, Json(tell(&hub.workflows, &run).await?)).into_response();
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// As a video's: with its `ETag`, and `?wait=30` for the next change of it or of one of its videos.
pub async fn show(
    State(hub): State<Arc<Hub>>,
    Caller(caller): Caller,
    Path(workflow_id): Path<String>,
    query: Query<StatusQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let workflow = WatchedWorkflow { hub: &hub, caller: &caller, workflow_id: &workflow_id };
    status(&hub, &caller, &workflow, query, &headers).await
}

struct WatchedWorkflow<'a> {
    hub: &'a Hub,
    caller: &'a Principal,
    workflow_id: &'a str,
}

impl Watched for WatchedWorkflow<'_> {
    type Job = Run;

    async fn look(&self) -> Result<Look<Run>, Problem> {
        let run = find(self.hub, self.caller, self.workflow_id).await?;
        let mut version = run.version().to_string();
        for video_id in run.workflow.steps().flat_map(|(_, state)| &state.videos) {
            let known = self.hub.videos.jobs.load(video_id).await.map_err(|error| Problem::internal(&error))?;
            if let Some(known) = known {
                let placed = videos::placed(&self.hub.videos, known).await?;
                let _ = write!(version, ".{}", videos::version(&placed));
            }
        }
        let has_ended = run.workflow.status().is_end();
        Ok(Look { job: run, version, has_ended })
    }

    fn is_about(&self, run: &Run, news: &News) -> bool {
        match news {
            News::Changed { kind: JobKind::Workflow, id, .. } => *id == run.workflow_id,
            News::Changed { kind: JobKind::Video, id, .. } => {
                run.workflow.steps().any(|(_, state)| state.videos.contains(id))
            }
            News::Missed => false,
        }
    }

    async fn tell(&self, run: &Run) -> Result<Value, Problem> {
        tell(&self.hub.workflows, run).await
    }
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
    Ok(Json(tell(&hub.workflows, &run).await?))
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
    Query(Page { limit, cursor }): Query<Page>,
) -> Result<Json<Value>, Problem> {
    let limit = limit.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Problem::faulty("limit", format!("must be 1 to {MAX_PAGE}")));
    }
    let listed = hub.workflows.list.of_user(&caller.account, &caller.user, cursor, limit).await;
    let listed = listed.map_err(|error| Problem::internal(&format!("{error:#}")))?;
    let next_cursor = listed.last().filter(|_| listed.len() == limit).map(|last| last.position.to_string());
    let mut workflows = Vec::new();
    for one in listed {
        workflows.push(tell(&hub.workflows, &find(&hub, &caller, &one.workflow_id).await?).await?);
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
