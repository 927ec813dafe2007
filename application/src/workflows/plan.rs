//! The types of workflow that are configured, and what has to fit together in one.

use std::collections::BTreeMap;

use aihub_domain::workflow::event::{Step, Work};
use serde_json::{Map, Value, json};

use super::templates::{NAMES, names_in};

/// The most videos that one workflow makes.
pub const MAX_SHOTS: u64 = 10;
const MAX_STEPS: usize = 20;

/// A type of workflow.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkflowType {
    pub steps: Vec<Step>,
}

/// What is wrong with a step: which one, with which of its fields, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepFault {
    pub step: usize,
    pub field: &'static str,
    pub reason: String,
}

/// The JSON Schema of an object that has all of these fields and no others.
pub fn object_schema(fields: &Map<String, Value>) -> Value {
    let required: Vec<&String> = fields.keys().collect();
    json!({ "type": "object", "properties": fields, "required": required, "additionalProperties": false })
}

impl WorkflowType {
    /// Everything that is wrong with it.
    pub fn faults(&self) -> Vec<StepFault> {
        let mut faults = Vec::new();
        // What the steps before one make, by their names.
        let mut made: BTreeMap<&str, &Value> = BTreeMap::new();
        let mut makes = 0;
        for (index, step) in self.steps.iter().enumerate() {
            let mut fault = |field, reason: String| faults.push(StepFault { step: index, field, reason });
            if !is_name(&step.name) {
                fault("name", "must be a small letter, then small letters, digits and `_`".to_owned());
            }
            if self.steps[..index].iter().any(|earlier| earlier.name == step.name) {
                fault("name", format!("is that of an earlier step: {}", step.name));
            }
            let (template, has_shot) = match &step.work {
                Work::Text { template, output, max_tokens, .. } => {
                    if let Some(reason) = schema_fault(output) {
                        fault("output", reason);
                    }
                    if *max_tokens == 0 {
                        fault("max_tokens", "must be at least 1".to_owned());
                    }
                    (template, false)
                }
                Work::Make { template, shots } => {
                    makes += 1;
                    if let Some(reason) = shots.as_ref().and_then(|(step, field)| shots_fault(&made, step, field)) {
                        fault("shots", reason);
                    }
                    (template, shots.is_some())
                }
            };
            match names_in(template) {
                Err(reason) => fault("template", format!("is no template: {reason}")),
                Ok(names) => {
                    for name in names.iter().filter(|name| !is_known(name, &made, has_shot)) {
                        fault(
                            "template",
                            format!("names `{name}`, which is not there: there are {}", known(&made, has_shot)),
                        );
                    }
                }
            }
            if let Work::Text { output, .. } = &step.work {
                made.insert(&step.name, output);
            }
        }
        let last = self.steps.len().saturating_sub(1);
        if makes != 1 {
            let reason = format!("{makes} steps make videos, and exactly one has to");
            faults.push(StepFault { step: last, field: "kind", reason });
        }
        if self.steps.len() > MAX_STEPS {
            faults.push(StepFault {
                step: last,
                field: "name",
                reason: format!("is one of more than {MAX_STEPS} steps"),
            });
        }
        faults
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.chars().all(|char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_')
}

fn schema_fault(output: &Value) -> Option<String> {
    if output["properties"].as_object().is_none_or(Map::is_empty) {
        return Some("has no fields: name those that are asked for".to_owned());
    }
    jsonschema::validator_for(output).err().map(|error| format!("is no JSON Schema: {error}"))
}

/// A list of videos has to be one, with an end.
fn shots_fault(made: &BTreeMap<&str, &Value>, step: &str, field: &str) -> Option<String> {
    let list = made.get(step).map(|output| &output["properties"][field]);
    let Some(list) = list.filter(|list| list["type"] == "array") else {
        return Some(format!("is not a list that a step before makes: {step}.{field}"));
    };
    let (least, most) = (list["minItems"].as_u64().unwrap_or(0), list["maxItems"].as_u64().unwrap_or(u64::MAX));
    (least == 0 || most > MAX_SHOTS || least > most)
        .then(|| format!("{step}.{field} needs a `minItems` and a `maxItems` between 1 and {MAX_SHOTS}"))
}

fn is_known(name: &str, made: &BTreeMap<&str, &Value>, has_shot: bool) -> bool {
    let mut parts = name.split('.');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("steps"), Some(step), Some(field)) => {
            made.get(step).is_some_and(|output| output["properties"].get(field).is_some())
        }
        (Some("shot"), ..) => has_shot,
        (Some(name), None, _) => NAMES.contains(&name),
        _ => false,
    }
}

fn known(made: &BTreeMap<&str, &Value>, has_shot: bool) -> String {
    let fields = made.iter().flat_map(|(step, output)| {
        let fields = output["properties"].as_object().into_iter().flat_map(Map::keys);
        fields.map(move |field| format!("steps.{step}.{field}"))
    });
    let names = NAMES.iter().map(ToString::to_string).chain(fields).chain(has_shot.then(|| "shot".to_owned()));
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
