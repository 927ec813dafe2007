//! A workflow as its owner sees it.

use std::collections::BTreeMap;

use aihub_application::workflows::{Workflows, runs::Run, standing::Standing};
use aihub_domain::{
    money::Microcredits,
    workflow::{StepState, StepStatus, WorkflowStatus, event::Step},
};
use serde_json::{Map, Value, json};

use crate::{problem::Problem, videos};

/// The workflow response. Fields that do not apply are left out.
pub async fn tell(workflows: &Workflows, run: &Run) -> Result<Value, Problem> {
    let request = run.request().map_err(|error| Problem::internal(&error))?;
    let mut standing = workflows.standing(run).await?;
    let steps: Vec<Value> =
        run.workflow.steps().map(|(step, state)| tell_step(step, state, run.workflow.status(), &standing)).collect();
    let mut made = Vec::new();
    for video_id in run.workflow.steps().flat_map(|(_, state)| &state.videos) {
        if let Some(known) = standing.videos.remove(video_id) {
            made.push(videos::tell(&workflows.videos, known).await?);
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
