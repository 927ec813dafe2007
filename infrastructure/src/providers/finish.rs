//! Why an answer ended, in the words of all dialects.

use aihub_application::ports::provider::{FailureKind, FinishReason, providers_word};

/// What a provider's word for the end says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It is whole, or cut where it had to be. With the provider's own word, where that is another one than ours.
    Finished(FinishReason, Option<String>),
    /// Something went wrong at the provider's.
    Failed(FailureKind),
}

const STOP: &[&str] = &["stop", "end_turn", "stop_sequence", "eos", "eos_token", "complete", "completed", "finished"];
const LENGTH: &[&str] =
    &["length", "max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded", "max_length"];
const TOOL_CALLS: &[&str] = &["tool_calls", "tool_use", "tool_call", "function_call"];
/// OpenAI, Anthropic, Gemini (`finishReason`), Zhipu.
const CONTENT_FILTER: &[&str] = &[
    "content_filter",
    "refusal",
    "safety",
    "recitation",
    "blocklist",
    "prohibited_content",
    "spii",
    "image_safety",
    "sensitive",
];
/// `OpenRouter` and Mistral say `error`, Zhipu `network_error`, `DeepSeek` `insufficient_system_resource`, vLLM `abort`, Gemini the
/// `malformed_` and `unexpected_` ones.
const FAILURES: &[(&str, FailureKind)] = &[
    ("error", FailureKind::ServerError),
    ("server_error", FailureKind::ServerError),
    ("internal_error", FailureKind::ServerError),
    ("internal_server_error", FailureKind::ServerError),
    ("network_error", FailureKind::ServerError),
    ("engine_error", FailureKind::ServerError),
    ("model_error", FailureKind::ServerError),
    ("failed", FailureKind::ServerError),
    ("failure", FailureKind::ServerError),
    ("abort", FailureKind::ServerError),
    ("aborted", FailureKind::ServerError),
    ("cancelled", FailureKind::ServerError),
    ("canceled", FailureKind::ServerError),
    ("malformed_function_call", FailureKind::ServerError),
    ("malformed_response", FailureKind::ServerError),
    ("unexpected_tool_call", FailureKind::ServerError),
    ("insufficient_system_resource", FailureKind::Overloaded),
    ("overloaded", FailureKind::Overloaded),
    ("rate_limit", FailureKind::RateLimited),
    ("timeout", FailureKind::Timeout),
];

/// What servers write as long as there is no reason, in whichever language they are.
pub(super) fn is_blank(word: &str) -> bool {
    const BLANK: [&str; 6] = ["", "null", "none", "nil", "undefined", "finish_reason_unspecified"];
    BLANK.contains(&word.trim().to_lowercase().as_str())
}

/// A word that is not known is passed on: new reasons come, and none of them is to cost an answer.
pub(super) fn end(word: &str) -> End {
    let said = word.trim().to_lowercase();
    if let Some((_, kind)) = FAILURES.iter().find(|(name, _)| *name == said) {
        return End::Failed(*kind);
    }
    let known = [
        (STOP, FinishReason::Stop),
        (LENGTH, FinishReason::Length),
        (TOOL_CALLS, FinishReason::ToolCalls),
        (CONTENT_FILTER, FinishReason::ContentFilter),
    ];
    let own = || providers_word(word.trim().to_owned());
    match known.into_iter().find(|(names, _)| names.contains(&said.as_str())) {
        // The first is our own word.
        Some((names, reason)) => End::Finished(reason, (names.first() != Some(&word)).then(own)),
        None => End::Finished(FinishReason::Other(own()), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_all_dialects_are_known_and_unknown_ones_passed_on() {
        assert_eq!(end("stop"), End::Finished(FinishReason::Stop, None));
        assert_eq!(end("MAX_TOKENS"), End::Finished(FinishReason::Length, Some("MAX_TOKENS".into())));
        assert_eq!(end("pause_turn"), End::Finished(FinishReason::Other("pause_turn".into()), None));
        assert_eq!(end("Error"), End::Failed(FailureKind::ServerError));
    }
}
