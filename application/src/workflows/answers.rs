//! How a request of ours ended, as the log says. It is asked there also when the answer came in just now: one way to read
//! it, whoever had it made and died.

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
            RequestEvent::RequestCompleted { outcome, .. } => match self.text(request_id, &outcome).await {
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
                CancelReason::DeadlineExceeded => failed("TIMEOUT", "the model was not done in time", true),
                CancelReason::ClientCancelled | CancelReason::ClientLeft | CancelReason::Shutdown => {
                    failed("SHUTTING_DOWN", "the node that asked was shut down", true)
                }
            },
            RequestEvent::RequestAbandoned { .. } => failed("ABANDONED", "the node that asked has died", true),
        }
    }

    async fn text(&self, request_id: &str, outcome: &Outcome) -> Result<String, VaultError> {
        // An answer of nothing is not sealed.
        let Some(sealed) = &outcome.answer else { return Ok(String::new()) };
        let opened = self.videos.gateway.vault.open(request_id, sealed).await?;
        let answer: SealedAnswer = serde_json::from_slice(&opened).map_err(|_| VaultError::Unreadable)?;
        Ok(answer.tool_calls.into_iter().next().map_or(answer.text, |call| call.arguments))
    }
}

/// The object that `schema` asks for, or what is wrong with `text`: in words that hold none of it.
pub(super) fn checked(text: &str, schema: &Value) -> Result<Value, String> {
    // Some models put it into a block of Markdown.
    let bare = text.trim().trim_start_matches("```json").trim_matches('`');
    let value: Value = serde_json::from_str(bare).map_err(|_| "it is no JSON object".to_owned())?;
    let validator = jsonschema::validator_for(schema).map_err(|error| format!("the schema is none: {error}"))?;
    let faults: Vec<String> = validator
        .iter_errors(&value)
        .take(MOST_FAULTS)
        .map(|error| match error.instance_path.as_str() {
            "" => error.masked().to_string(),
            path => format!("{path}: {}", error.masked()),
        })
        .collect();
    if faults.is_empty() { Ok(value) } else { Err(faults.join("; ")) }
}

/// That a model is told at once.
const MOST_FAULTS: usize = 5;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_taken_apart_strictly_and_its_faults_name_places_and_no_content() {
        let shots = json!({ "type": "array", "minItems": 2, "items": { "type": "string" } });
        let schema = json!({ "type": "object", "properties": { "shots": shots }, "required": ["shots"] });
        let good = json!({ "shots": ["a", "b"] });
        assert_eq!(checked(&good.to_string(), &schema), Ok(good.clone()));
        assert_eq!(checked(&format!("```json\n{good}\n```"), &schema), Ok(good));
        for (text, fault) in [
            ("zebrafinch", "it is no JSON object"),
            (r#"{"shots": ["zebrafinch"]}"#, "/shots: "),
            (r#"{"shots": ["zebrafinch", 7]}"#, "/shots/1: "),
            (r#"{"shot": "zebrafinch"}"#, "\"shots\" is a required property"),
        ] {
            let told = checked(text, &schema).unwrap_err();
            assert!(told.contains(fault) && !told.contains("zebrafinch"), "{text}: {told}");
        }
    }
}
