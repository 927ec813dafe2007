//! Workflows and their types.

use std::collections::BTreeMap;

use aihub_application::{
    ports::seats::Depth,
    request::AUTO,
    workflows::{
        WorkflowSettings,
        plan::{StepFault, WorkflowType, object_schema},
    },
};
use aihub_domain::workflow::event::{Step, Work};
use aihub_infrastructure::event_store::batch::MAX_EVENT_BYTES;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Config, error::Fault};

/// Half of what an event may take.
const MAX_STEPS_BYTES: usize = MAX_EVENT_BYTES / 2;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkflowKeys {
    /// Workflows that have not ended; over it: `QUEUE_FULL`, as for the next.
    pub max_running: u64,
    pub max_running_per_account: u64,
    /// How often a step of text is tried, the first time included.
    pub max_attempts: u32,
    /// By the names that clients use.
    pub types: BTreeMap<String, WorkflowTypeSettings>,
}

/// One type, as in `[workflows.types.enhance]`. Where the file has `steps` for a built-in one, they take the place of all of
/// its steps; a type without steps is not offered.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkflowTypeSettings {
    /// In the order in which they are done.
    pub steps: Vec<StepSettings>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepSettings {
    pub name: String,
    #[serde(default)]
    pub kind: StepKind,
    /// What the model is told, or the prompt of a video, with placeholders: `{{ prompt }}`, `{{ steps.enhance.prompt }}`.
    pub template: String,
    /// `text` only: whom to ask. Left out, whoever has the model; and the default model of whoever is asked.
    pub provider: Option<String>,
    pub model: Option<String>,
    /// `text` only: the fields of the answer, each with its JSON Schema. All of them are required, and no others allowed.
    #[serde(default)]
    pub output: Map<String, Value>,
    #[serde(default = "usual_max_tokens")]
    pub max_tokens: u32,
    /// `make` only: the list with an entry for each video, `steps.storyboard.shots`. Left out, there is one video.
    pub shots: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepKind {
    /// A model writes.
    #[default]
    Text,
    /// Videos are made.
    Make,
}

fn usual_max_tokens() -> u32 {
    2_000
}

impl StepSettings {
    fn step(&self) -> Step {
        let template = self.template.clone();
        let work = match self.kind {
            StepKind::Text => Work::Text {
                provider: self.provider.clone().unwrap_or_else(|| AUTO.to_owned()),
                model: self.model.clone(),
                template,
                output: object_schema(&self.output),
                max_tokens: self.max_tokens,
            },
            StepKind::Make => Work::Make { template, shots: self.shots.as_deref().map(list) },
        };
        Step { name: self.name.clone(), work }
    }

    /// Keys that mean nothing in a step of this kind, and names that nobody has.
    fn faults(&self, config: &Config) -> Vec<(&'static str, String)> {
        let is_text = self.kind == StepKind::Text;
        let idle = [
            ("output", !is_text && !self.output.is_empty()),
            ("provider", !is_text && self.provider.is_some()),
            ("model", !is_text && self.model.is_some()),
            ("shots", is_text && self.shots.is_some()),
        ];
        let kind = if is_text { "text" } else { "make" };
        let mut faults: Vec<_> = idle
            .into_iter()
            .filter(|(_, idle)| *idle)
            .map(|(key, _)| (key, format!("means nothing in a step of the kind `{kind}`")))
            .collect();
        if let Some(provider) = &self.provider
            && provider != AUTO
            && !config.providers.contains_key(provider)
        {
            faults.push(("provider", format!("names {provider}, which is not configured")));
        }
        if let Some(model) = &self.model
            && !config.providers.values().any(|one| one.unlisted.is_some() || one.models.contains_key(model))
        {
            faults.push(("model", format!("names {model}, which no provider has")));
        }
        faults
    }
}

/// `steps.storyboard.shots` as a step and its field. What is not of that form names nothing, and is told as such.
fn list(path: &str) -> (String, String) {
    let named = path.strip_prefix("steps.").and_then(|rest| rest.split_once('.'));
    let (step, field) = named.unwrap_or(("", path));
    (step.to_owned(), field.to_owned())
}

impl WorkflowTypeSettings {
    fn workflow_type(&self) -> WorkflowType {
        WorkflowType { steps: self.steps.iter().map(StepSettings::step).collect() }
    }
}

impl Config {
    pub fn workflow_settings(&self) -> WorkflowSettings {
        let WorkflowKeys { max_running, max_running_per_account, max_attempts, .. } = self.workflows;
        let max_running = Depth { all: max_running, of_account: max_running_per_account };
        WorkflowSettings { max_running, max_attempts }
    }

    /// Those that are offered.
    pub fn workflow_types(&self) -> BTreeMap<String, WorkflowType> {
        let types = self.workflows.types.iter().filter(|(_, settings)| !settings.steps.is_empty());
        types.map(|(name, settings)| (name.clone(), settings.workflow_type())).collect()
    }

    pub(super) fn check_workflows(&self, faults: &mut Vec<Fault>) {
        let keys = &self.workflows;
        let sizes = [
            ("workflows.max_running", keys.max_running),
            ("workflows.max_running_per_account", keys.max_running_per_account),
            ("workflows.max_attempts", keys.max_attempts.into()),
        ];
        let zero = sizes.iter().filter(|(_, size)| *size == 0);
        faults.extend(zero.map(|(key, _)| Fault::new(*key, "must be at least 1")));
        for (name, settings) in keys.types.iter().filter(|(_, settings)| !settings.steps.is_empty()) {
            let mut fault = |step: usize, field: &str, reason: String| {
                faults.push(Fault::new(format!("workflows.types.{name}.steps.{step}.{field}"), reason));
            };
            for (step, settings) in settings.steps.iter().enumerate() {
                for (field, reason) in settings.faults(self) {
                    fault(step, field, reason);
                }
            }
            let workflow_type = settings.workflow_type();
            for StepFault { step, field, reason } in workflow_type.faults() {
                fault(step, field, reason);
            }
            // They stand in the event that starts a workflow.
            let bytes = serde_json::to_string(&workflow_type.steps).map_or(0, |steps| steps.len());
            if bytes > MAX_STEPS_BYTES {
                let reason =
                    format!("take {bytes} bytes with their templates and outputs, and may take {MAX_STEPS_BYTES}");
                faults.push(Fault::new(format!("workflows.types.{name}.steps"), reason));
            }
        }
    }
}

#[cfg(test)]
mod tests;
