//! Token counts in Anthropic's form.

use aihub_domain::price::TokenUsage;
use serde::Deserialize;

use crate::providers::MAX_TOKEN_COUNT;

/// Cumulative; an absent field or a `null` says nothing new.
#[derive(Deserialize)]
pub(super) struct Usage {
    input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    output_tokens_details: Option<OutputDetails>,
}

#[derive(Deserialize)]
struct OutputDetails {
    thinking_tokens: Option<u64>,
}

/// Anthropic's own counts, the last value of each.
#[derive(Default)]
pub(super) struct UsageSoFar {
    input: Option<u64>,
    output: Option<u64>,
    cached: u64,
    cache_write: u64,
    thinking: u64,
}

impl UsageSoFar {
    /// Field by field, since `message_delta` may repeat, correct or leave out what `message_start` said. `None` as
    /// long as one side was never counted: a nought in its place would be taken for a count. `input_tokens` does not
    /// include what was read from or written to the cache.
    pub(super) fn merge(&mut self, report: &Usage) -> Option<TokenUsage> {
        self.input = report.input_tokens.or(self.input);
        self.output = report.output_tokens.or(self.output);
        self.cached = report.cache_read_input_tokens.unwrap_or(self.cached);
        self.cache_write = report.cache_creation_input_tokens.unwrap_or(self.cache_write);
        let thinking = report.output_tokens_details.as_ref().and_then(|details| details.thinking_tokens);
        self.thinking = thinking.unwrap_or(self.thinking);
        Some(TokenUsage {
            input: self.input?.min(MAX_TOKEN_COUNT),
            cached_input: self.cached.min(MAX_TOKEN_COUNT),
            cache_write: self.cache_write.min(MAX_TOKEN_COUNT),
            output: self.output?.min(MAX_TOKEN_COUNT),
            reasoning: self.thinking.min(MAX_TOKEN_COUNT),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_beyond_all_reason_is_cut_down_so_that_sums_do_not_overflow() {
        let report = r#"{"input_tokens": 18446744073709551615, "cache_read_input_tokens": 18446744073709551615,
            "output_tokens": 18446744073709551615}"#;
        let usage = UsageSoFar::default().merge(&serde_json::from_str(report).unwrap()).unwrap();
        assert_eq!(usage.total_tokens(), 3 * MAX_TOKEN_COUNT);
    }
}
