//! How a request of ours ended, as the log says. It is asked there also when the answer came in just now: one way to read
//! it, whoever had it made and died.

use std::collections::BTreeSet;

use aihub_domain::{
    money::Microcredits,
    request::{
        Request,
        event::{CancelReason, Outcome, RequestEvent},
    },
};
use anyhow::Context;
use cqrs_es::Aggregate;
use serde::Deserialize;
use serde_json::Value;

use super::Workflows;
use crate::ports::{provider::ToolCallDelta, vault::VaultError};

/// What a model is told of at once, and how much of it.
const MOST_FAULTS: usize = 5;
const MAX_FAULT_CHARS: usize = 500;

pub(super) enum Recorded {
    /// It never was accepted.
    Nothing,
    Open,
    Answered {
        /// The JSON that was asked for, or whatever came.
        text: String,
        charged: Microcredits,
    },
    Failed {
        code: String,
        reason: &'static str,
        charged: Microcredits,
        /// It may well do better the next time.
        is_transient: bool,
    },
}

/// As the gateway seals it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SealedAnswer {
    text: String,
    tool_calls: Vec<ToolCallDelta>,
}

impl Workflows {
    pub(super) async fn recorded(&self, request_id: &str) -> anyhow::Result<Recorded> {
        let mut events = self.videos.jobs.log.load(Request::TYPE, request_id, 0).await?;
        let last = match events.pop() {
            None => return Ok(Recorded::Nothing),
            Some(last) => last.decode::<RequestEvent>(Request::TYPE, request_id)?,
        };
        let charged = last.outcome().map_or(Microcredits::ZERO, |outcome| outcome.charge.amount);
        let failed = |code: &str, reason, is_transient| {
            Ok(Recorded::Failed { code: code.to_owned(), reason, charged, is_transient })
        };
        match last {
            RequestEvent::RequestAccepted(_) => Ok(Recorded::Open),
            RequestEvent::RequestCompleted { outcome, .. } => match self.text(&outcome).await {
                Ok(text) => Ok(Recorded::Answered { text, charged }),
                Err(VaultError::Erased) => failed("CONTENT_ERASED", "the account's content was erased", false),
                Err(error) => Err(error).context("an answer in the log"),
            },
            RequestEvent::RequestFailed { code, .. } => {
                let transient = ["ALL_PROVIDERS_FAILED", "STREAM_INTERRUPTED", "TIMEOUT", "SHUTTING_DOWN", "INTERNAL"];
                failed(&code, "the model did not answer", transient.contains(&code.as_str()))
            }
            RequestEvent::RequestCancelled { reason, .. } => match reason {
                CancelReason::CreditsExhausted => {
                    failed("INSUFFICIENT_CREDITS", "the credits were used up before the answer was whole", false)
                }
                CancelReason::AnswerTooLong => {
                    failed("ANSWER_TOO_LONG", "the answer was longer than one may be", false)
                }
                CancelReason::DeadlineExceeded => failed("TIMEOUT", "the model was not done in time", true),
                CancelReason::ClientCancelled | CancelReason::ClientLeft | CancelReason::Shutdown => {
                    failed("SHUTTING_DOWN", "the node that asked was shut down", true)
                }
            },
            RequestEvent::RequestAbandoned { .. } => failed("ABANDONED", "the node that asked has died", true),
        }
    }

    async fn text(&self, outcome: &Outcome) -> Result<String, VaultError> {
        // An answer of nothing is not sealed.
        let Some(answer) = &outcome.answer else { return Ok(String::new()) };
        let opened = self.videos.gateway.vault.open(answer).await?;
        let answer: SealedAnswer = serde_json::from_slice(&opened).map_err(|_| VaultError::Unreadable)?;
        Ok(answer.tool_calls.into_iter().next().map_or(answer.text, |call| call.arguments))
    }
}

/// What is wrong with an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misfit {
    /// For whoever runs the service: places of the schema, and nothing of the answer.
    pub broken: String,
    /// For the model: what stands where.
    pub told: String,
}

/// The object that `schema` asks for.
pub(super) fn checked(text: &str, schema: &Value) -> Result<Value, Misfit> {
    // Some models put it into a block of Markdown.
    let bare = text.trim().trim_start_matches("```json").trim_matches('`');
    let Ok(value) = serde_json::from_str::<Value>(bare) else {
        let told = "it is no JSON, or was cut off".to_owned();
        return Err(Misfit { broken: told.clone(), told });
    };
    let validator = jsonschema::validator_for(schema).map_err(|error| {
        let broken = format!("the schema itself is none: {error}");
        Misfit { told: broken.clone(), broken }
    })?;
    let (mut broken, mut told) = (BTreeSet::new(), Vec::new());
    for error in validator.iter_errors(&value).take(MOST_FAULTS) {
        broken.insert(error.schema_path.to_string());
        let place = error.instance_path.to_string();
        told.push(format!("{place}: {error}").chars().take(MAX_FAULT_CHARS).collect::<String>());
    }
    if told.is_empty() {
        return Ok(value);
    }
    let broken = broken.into_iter().collect::<Vec<_>>().join(", ");
    Err(Misfit { broken: format!("it breaks {broken} of the step's schema"), told: told.join("; ") })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::workflows::plan::object_schema;

    #[test]
    fn an_answer_is_checked_and_its_faults_name_places_of_the_schema_and_nothing_of_the_answer() {
        let shots = json!({ "type": "array", "minItems": 2, "items": { "type": "string" } });
        let properties = json!({ "shots": shots });
        let schema = object_schema(properties.as_object().unwrap());
        let good = json!({ "shots": ["a", "b"] });
        assert_eq!(checked(&good.to_string(), &schema), Ok(good.clone()));
        assert_eq!(checked(&format!("```json\n{good}\n```"), &schema), Ok(good));
        for (text, fault) in [
            ("zebrafinch", "no JSON"),
            (r#"{"shots": ["zebrafinch"]}"#, "/properties/shots/minItems"),
            (r#"{"shots": ["zebrafinch", 7]}"#, "/properties/shots/items/type"),
            (r#"{"shot": "zebrafinch"}"#, "/required"),
            (r#"{"shots": ["a", "b"], "zebrafinch": 1}"#, "/additionalProperties"),
        ] {
            let Misfit { broken, told } = checked(text, &schema).unwrap_err();
            assert!(broken.contains(fault) && !broken.contains("zebrafinch"), "{text}: {broken}");
            assert!(!told.is_empty());
        }
    }
}
