//! Token counts in OpenAI's form.

use aihub_domain::price::TokenUsage;
use serde::Deserialize;

use crate::providers::MAX_TOKEN_COUNT;

/// A report as it stands in an answer. Absent fields and `null` say nothing new.
#[derive(Deserialize)]
pub(super) struct Usage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
    cache_write_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct CompletionDetails {
    reasoning_tokens: Option<u64>,
}

/// The server's own counts, the last value of each.
#[derive(Default)]
pub(super) struct UsageSoFar {
    prompt: Option<u64>,
    completion: Option<u64>,
    cached: u64,
    cache_write: u64,
    reasoning: u64,
}

impl UsageSoFar {
    /// An embedding completes nothing, so servers do not count that.
    pub(super) fn of_embedding() -> Self {
        Self { completion: Some(0), ..Self::default() }
    }

    /// `None` as long as one side was never counted: a nought in its place would be taken for a count. `prompt_tokens`
    /// includes what was read from and written to the cache, so these are taken out of it.
    pub(super) fn merge(&mut self, report: &Usage) -> Option<TokenUsage> {
        let prompt = report.prompt_tokens_details.as_ref();
        let completion = report.completion_tokens_details.as_ref();
        self.prompt = report.prompt_tokens.or(self.prompt);
        self.completion = report.completion_tokens.or(self.completion);
        self.cached = prompt.and_then(|details| details.cached_tokens).unwrap_or(self.cached);
        self.cache_write = prompt.and_then(|details| details.cache_write_tokens).unwrap_or(self.cache_write);
        self.reasoning = completion.and_then(|details| details.reasoning_tokens).unwrap_or(self.reasoning);
        Some(TokenUsage {
            input: self.prompt?.saturating_sub(self.cached).saturating_sub(self.cache_write).min(MAX_TOKEN_COUNT),
            cached_input: self.cached.min(MAX_TOKEN_COUNT),
            cache_write: self.cache_write.min(MAX_TOKEN_COUNT),
            output: self.completion?.min(MAX_TOKEN_COUNT),
            reasoning: self.reasoning.min(MAX_TOKEN_COUNT),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_beyond_all_reason_is_cut_down_so_that_sums_do_not_overflow() {
        let report = r#"{"prompt_tokens": 18446744073709551615, "completion_tokens": 18446744073709551615}"#;
        let usage = UsageSoFar::default().merge(&serde_json::from_str(report).unwrap()).unwrap();
        assert_eq!(usage.total_tokens(), 2 * MAX_TOKEN_COUNT);
    }
}
