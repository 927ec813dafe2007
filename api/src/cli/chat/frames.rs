//! The server's frames as far as this client needs them, and what it makes of them for a person.

use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Frame {
    Ready,
    Queued {
        position: usize,
    },
    Chunk {
        data: String,
    },
    Done {
        usage: Usage,
        metadata: Metadata,
    },
    Error {
        error: Refusal,
    },
    /// One of a later version.
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    credits: f64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    model: String,
    provider: String,
    /// In milliseconds.
    latency: u64,
    first_chunk_ms: Option<u64>,
    attempts: usize,
    finish_reason: String,
    #[serde(default)]
    estimated: bool,
    #[serde(default)]
    simulated: bool,
}

/// An error as it comes in a frame, or as `application/problem+json`.
#[derive(Debug, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    code: String,
    message: String,
    #[serde(default)]
    details: Map<String, Value>,
    retry_after_ms: Option<u64>,
}

/// `— 12+57 tokens · 0.0312 credits · openai gpt-6-luna (simulated) · first chunk 152 ms · 1.1 s`, and whatever was
/// out of the ordinary.
#[expect(clippy::cast_precision_loss, reason = "milliseconds of one request")]
pub fn summary(usage: &Usage, metadata: &Metadata) -> String {
    let estimated = if metadata.estimated { " (estimated)" } else { "" };
    let simulated = if metadata.simulated { " (simulated)" } else { "" };
    let mut parts = vec![
        format!("{}+{} tokens{estimated}", usage.prompt_tokens, usage.completion_tokens),
        format!("{} credits", usage.credits),
        format!("{} {}{simulated}", metadata.provider, metadata.model),
    ];
    parts.extend(metadata.first_chunk_ms.map(|ms| format!("first chunk {ms} ms")));
    parts.push(format!("{:.1} s", metadata.latency as f64 / 1000.0));
    if metadata.attempts > 1 {
        parts.push(format!("{} attempts", metadata.attempts));
    }
    if metadata.finish_reason != "stop" {
        parts.push(metadata.finish_reason.clone());
    }
    format!("— {}", parts.join(" · "))
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)?;
        for (name, value) in &self.details {
            match value {
                Value::Null => {}
                Value::String(text) => write!(f, "\n  {name}: {text}")?,
                // One line each, so that the attempts at several providers can be told apart.
                Value::Array(list) if list.iter().any(Value::is_object) => {
                    write!(f, "\n  {name}:")?;
                    list.iter().try_for_each(|one| write!(f, "\n    {one}"))?;
                }
                other => write!(f, "\n  {name}: {other}")?,
            }
        }
        self.advice().map_or(Ok(()), |advice| write!(f, "\n→ {advice}"))
    }
}

impl Refusal {
    /// What to do now.
    fn advice(&self) -> Option<String> {
        let advice = match self.code.as_str() {
            "UNAUTHORIZED" => {
                "the token was not accepted: give one that this service knows as --token or AIHUB_TOKEN; beside the \
                 service, `aihub token --sub <you>` makes one"
            }
            "FORBIDDEN" => "the token's roles or account do not allow this: ask whoever issued it",
            "INSUFFICIENT_CREDITS" => {
                "beside the service: aihub account grant --account <account> --credits <n> --reason <why>"
            }
            "USAGE_LIMIT_EXCEEDED" => "wait for the limit's next period, or raise it: aihub account limit",
            "MODEL_NOT_FOUND" => "choose one of the known models with --model, or leave it out for the default",
            "ALL_PROVIDERS_FAILED" => "the attempts say why; another --provider or --model may do",
            "STREAM_INTERRUPTED" | "TIMEOUT" => "what was produced so far is billed and no more; ask again",
            "INTERNAL" => "the service's log has the cause under this reference",
            _ => return self.retry_after_ms.map(|ms| format!("ask again in {} s", ms.div_ceil(1000))),
        };
        Some(advice.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(json: &str) -> Frame {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn an_answer_ends_with_its_tokens_credits_provider_model_and_times() {
        let done = frame(
            r#"{"type":"done","id":"1","usage":{"promptTokens":12,"completionTokens":57,"totalTokens":69,"credits":0.000031},
                "metadata":{"requestId":"r","model":"gpt-6-luna","provider":"openai","latency":1123,"firstChunkMs":152,
                "attempts":1,"finishReason":"stop","estimated":false,"simulated":true}}"#,
        );
        let Frame::Done { usage, mut metadata } = done else { panic!("{done:?}") };
        let plain = "— 12+57 tokens · 0.000031 credits · openai gpt-6-luna (simulated) · first chunk 152 ms · 1.1 s";
        assert_eq!(summary(&usage, &metadata), plain);
        metadata.attempts = 2;
        metadata.finish_reason = "length".to_owned();
        assert_eq!(summary(&usage, &metadata), format!("{plain} · 2 attempts · length"));
    }

    #[test]
    fn an_error_is_shown_with_code_message_details_and_what_to_do() {
        let error = frame(
            r#"{"type":"error","id":"1","error":{"code":"ALL_PROVIDERS_FAILED","message":"no provider answered",
                "details":{"attempts":[{"provider":"openai","status":503},{"provider":"claude","status":529}]}}}"#,
        );
        let Frame::Error { error } = error else { panic!("{error:?}") };
        assert_eq!(
            error.to_string(),
            "ALL_PROVIDERS_FAILED: no provider answered\n  attempts:\n    {\"provider\":\"openai\",\"status\":503}\n    \
             {\"provider\":\"claude\",\"status\":529}\n→ the attempts say why; another --provider or --model may do"
        );
        let busy = frame(r#"{"type":"error","error":{"code":"QUEUE_FULL","message":"full","retryAfterMs":1001}}"#);
        let Frame::Error { error } = busy else { panic!("{busy:?}") };
        assert_eq!(error.to_string(), "QUEUE_FULL: full\n→ ask again in 2 s");
    }

    #[test]
    fn a_frame_of_a_later_version_is_passed_over() {
        assert!(matches!(frame(r#"{"type":"weather","x":1}"#), Frame::Other));
        assert!(matches!(frame(r#"{"type":"ready","connectionId":"c","limits":{},"credits":1}"#), Frame::Ready));
    }
}
