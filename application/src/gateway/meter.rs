//! What a call has used so far.

use aihub_domain::price::TokenUsage;

use crate::ports::provider::Delta;

/// Counts what comes by, and keeps what the provider says about it. The provider's word counts when the stream came
/// to its end and no output came after that word: Anthropic's first is a placeholder. Otherwise output is counted by
/// what came, because then the provider's last word, if there was one, was spoken before the end.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    input_estimate: u64,
    reported: Option<TokenUsage>,
    /// Output by our own count, see [`tokens_of_piece`].
    output: u64,
    /// As much of it as there was when the provider reported last.
    output_at_report: u64,
}

/// The longest piece that is taken for one token, in bytes: hardly any token is longer.
const MAX_TOKEN_BYTES: usize = 16;

/// A usage, and whether it is our own count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Metered {
    pub usage: TokenUsage,
    pub estimated: bool,
}

impl Meter {
    pub fn new(input_estimate: u64) -> Self {
        Self { input_estimate, ..Self::default() }
    }

    pub fn observe(&mut self, delta: &Delta) {
        let bytes = match delta {
            Delta::Text(text) => text.len(),
            Delta::Thinking { bytes } => *bytes,
            Delta::ToolCall(call) => call.arguments.len() + call.name.as_ref().map_or(0, String::len),
            Delta::Usage(usage) => return self.report(*usage),
            Delta::Model(_) | Delta::Finish(_) => return,
        };
        self.output += tokens_of_piece(bytes);
    }

    pub fn report(&mut self, usage: TokenUsage) {
        self.reported = Some(usage);
        self.output_at_report = self.output;
    }

    /// Output by our own count.
    pub fn output_estimate(&self) -> u64 {
        self.output
    }

    /// What is to be paid. `finished`: the stream came to its own end.
    pub fn metered(&self, finished: bool) -> Metered {
        match self.reported {
            // An explicit zero is a zero.
            Some(usage) if finished && self.output == self.output_at_report => Metered { usage, estimated: false },
            Some(usage) if !finished && self.output <= usage.output => Metered { usage, estimated: false },
            Some(usage) => {
                Metered { usage: TokenUsage { output: self.output.max(usage.output), ..usage }, estimated: true }
            }
            None if self.output == 0 && !finished => Metered { usage: TokenUsage::default(), estimated: true },
            None => {
                let usage =
                    TokenUsage { input: self.input_estimate, output: self.output_estimate(), ..TokenUsage::default() };
                Metered { usage, estimated: true }
            }
        }
    }
}

/// Most providers send a token a piece, however long the token is. A piece that is too long for that holds several,
/// and then four bytes a token is what current tokenizers make of English on average.
fn tokens_of_piece(bytes: usize) -> u64 {
    match bytes {
        0 => 0,
        1..=MAX_TOKEN_BYTES => 1,
        _ => (bytes as u64).div_ceil(4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(texts: &[&str]) -> Meter {
        let mut meter = Meter::new(7);
        for text in texts {
            meter.observe(&Delta::Text((*text).to_owned()));
        }
        meter
    }

    #[test]
    fn the_providers_word_counts_at_the_end_also_when_it_is_zero() {
        let mut meter = seen(&["a", "b"]);
        meter.report(TokenUsage { input: 3, output: 0, ..TokenUsage::default() });
        let metered = meter.metered(true);
        assert_eq!((metered.usage.prompt_tokens(), metered.usage.output, metered.estimated), (3, 0, false));
    }

    #[test]
    fn a_missing_usage_is_estimated_and_marked() {
        let metered = seen(&["one", " internationally", " a much longer piece of text"]).metered(true);
        assert_eq!((metered.usage.input, metered.usage.output, metered.estimated), (7, 9, true));
    }

    #[test]
    fn a_placeholder_at_the_beginning_is_not_taken_for_the_output_when_no_other_report_follows() {
        let mut meter = Meter::new(7);
        meter.report(TokenUsage { input: 20, output: 2, ..TokenUsage::default() });
        for _ in 0..5 {
            meter.observe(&Delta::Text("a".to_owned()));
        }
        let metered = meter.metered(true);
        assert_eq!((metered.usage.input, metered.usage.output, metered.estimated), (20, 5, true));
        meter.report(TokenUsage { input: 20, output: 4, ..TokenUsage::default() });
        let metered = meter.metered(true);
        assert_eq!((metered.usage.input, metered.usage.output, metered.estimated), (20, 4, false));
    }

    #[test]
    fn a_stream_that_was_cut_off_is_counted_by_what_it_brought() {
        let mut meter = seen(&["a", "b", "c"]);
        meter.report(TokenUsage { input: 20, output: 1, ..TokenUsage::default() });
        let metered = meter.metered(false);
        assert_eq!((metered.usage.input, metered.usage.output, metered.estimated), (20, 3, true));
    }

    #[test]
    fn a_call_that_brought_nothing_used_nothing() {
        assert_eq!(seen(&[]).metered(false).usage, TokenUsage::default());
    }
}
