//! What a call has used so far.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use aihub_domain::price::TokenUsage;

use crate::ports::provider::Delta;

/// Counts what comes by, and keeps what the provider says about it. The provider's word counts when the stream came
/// to its end and no output came after that word: Anthropic's first is a placeholder. Otherwise output is counted by
/// what came, because then the provider's last word, if there was one, was spoken before the end.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    input_estimate: u64,
    /// What the provider was told to produce at most.
    cap: u64,
    reported: Option<TokenUsage>,
    /// Output by our own count, see [`tokens_of_piece`].
    output: u64,
    /// As much of it as there was when the provider reported last.
    output_at_report: u64,
}

/// The longest piece that is taken for one token, in bytes: hardly any token is longer.
const MAX_TOKEN_BYTES: usize = 16;

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallEnd {
    /// The answer came to its own end.
    Finished,
    /// We went, while the provider was working.
    Left,
    /// The provider broke off.
    Failed,
}

/// A usage, and whether it is our own count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Metered {
    pub usage: TokenUsage,
    pub estimated: bool,
}

impl Meter {
    pub fn new(input_estimate: u64, cap: u64) -> Self {
        Self { input_estimate, cap, ..Self::default() }
    }

    pub fn observe(&mut self, delta: &Delta) {
        match delta {
            Delta::Usage(usage) => self.report(*usage),
            delta => self.output = self.output.saturating_add(tokens_of(delta)),
        }
    }

    pub fn report(&mut self, usage: TokenUsage) {
        self.reported = Some(usage);
        self.output_at_report = self.output;
    }

    /// Output so far: by our own count, or by the provider's where that is more.
    pub fn seen(&self) -> u64 {
        self.output.max(self.told())
    }

    /// Output by the provider's last word.
    pub fn told(&self) -> u64 {
        self.reported.map_or(0, |usage| usage.output)
    }

    /// What is to be paid. A provider that broke off before it produced anything is paid nothing; of one that we left, the
    /// input is.
    pub fn metered(&self, end: CallEnd) -> Metered {
        // Our count may be too high where pieces are not tokens; the provider was told where to stop.
        let output = self.output.min(self.cap);
        match self.reported {
            // An explicit zero is a zero.
            Some(usage) if end == CallEnd::Finished && self.output == self.output_at_report => {
                Metered { usage, estimated: false }
            }
            _ if end == CallEnd::Failed && self.output == 0 => Metered::default(),
            Some(usage) => Metered { usage: TokenUsage { output: output.max(usage.output), ..usage }, estimated: true },
            None => {
                let usage = TokenUsage { input: self.input_estimate, output, ..TokenUsage::default() };
                Metered { usage, estimated: true }
            }
        }
    }
}

/// Output tokens in a piece of an answer, by our own count.
pub fn tokens_of(delta: &Delta) -> u64 {
    match delta {
        Delta::Text(text) => tokens_of_piece(text.len()).max(words(text)),
        Delta::Thinking { bytes } => tokens_of_piece(*bytes),
        Delta::ToolCall(call) => {
            let name = call.name.as_ref().map_or(0, String::len);
            tokens_of_piece(call.arguments.len().saturating_add(name)).max(words(&call.arguments))
        }
        Delta::Usage(_) | Delta::Model(_) | Delta::Flaw(_) | Delta::Finish { .. } => 0,
    }
}

/// Most providers send a token a piece, however long the token is. A piece that is too long for that holds several,
/// and then four bytes a token is what current tokenizers make of English on average.
fn tokens_of_piece(bytes: usize) -> u64 {
    match bytes {
        0 => 0,
        1..=MAX_TOKEN_BYTES => 1,
        _ => u64::try_from(bytes.div_ceil(4)).unwrap_or(u64::MAX),
    }
}

/// No tokenizer makes one token of two words; Anthropic sends several in a short piece.
fn words(text: &str) -> u64 {
    u64::try_from(text.split_whitespace().count()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(texts: &[&str]) -> Meter {
        let mut meter = Meter::new(7, 1_000);
        for text in texts {
            meter.observe(&Delta::Text((*text).to_owned()));
        }
        meter
    }

    #[test]
    fn the_providers_word_counts_at_the_end_also_when_it_is_zero() {
        let mut meter = seen(&["a", "b"]);
        meter.report(TokenUsage { input: 3, output: 0, ..TokenUsage::default() });
        let metered = meter.metered(CallEnd::Finished);
        assert_eq!((metered.usage.prompt_tokens(), metered.usage.output, metered.estimated), (3, 0, false));
    }

    #[test]
    fn a_missing_usage_is_estimated_and_marked() {
        let metered = seen(&["one", " internationally", " a much longer piece of text"]).metered(CallEnd::Finished);
        assert_eq!((metered.usage.input, metered.usage.output, metered.estimated), (7, 9, true));
        assert_eq!(seen(&["! How can I", " a b c d e f g h i"]).seen(), 4 + 9, "a word is a token at least");
    }

    #[test]
    fn a_placeholder_at_the_beginning_is_not_taken_for_the_output_when_no_other_report_follows() {
        let mut meter = Meter::new(7, 1_000);
        meter.report(TokenUsage { input: 20, output: 2, ..TokenUsage::default() });
        for _ in 0..5 {
            meter.observe(&Delta::Text("a".to_owned()));
        }
        let metered = meter.metered(CallEnd::Finished);
        assert_eq!((metered.usage.input, metered.usage.output, metered.estimated), (20, 5, true));
        meter.report(TokenUsage { input: 20, output: 4, ..TokenUsage::default() });
        let metered = meter.metered(CallEnd::Finished);
        assert_eq!((metered.usage.input, metered.usage.output, metered.estimated), (20, 4, false));
    }

    #[test]
    fn a_stream_that_was_cut_off_is_counted_by_what_it_brought() {
        let mut meter = seen(&["a", "b", "c"]);
        meter.report(TokenUsage { input: 20, output: 1, ..TokenUsage::default() });
        for end in [CallEnd::Left, CallEnd::Failed] {
            let metered = meter.metered(end);
            assert_eq!((metered.usage.input, metered.usage.output, metered.estimated), (20, 3, true));
        }
    }

    #[test]
    fn a_call_that_was_left_before_it_brought_anything_is_paid_its_input_and_one_that_failed_nothing() {
        let mut meter = seen(&[]);
        let metered = meter.metered(CallEnd::Left);
        assert_eq!((metered.usage.input, metered.usage.output, metered.estimated), (7, 0, true));
        assert_eq!(meter.metered(CallEnd::Failed).usage, TokenUsage::default());
        meter.report(TokenUsage { input: 20, output: 1, ..TokenUsage::default() });
        assert_eq!(meter.metered(CallEnd::Left).usage.input, 20, "the provider's own count");
        assert_eq!(meter.metered(CallEnd::Failed).usage, TokenUsage::default());
    }

    #[test]
    fn an_estimate_is_never_above_what_the_provider_was_told_to_produce() {
        let mut meter = Meter::new(7, 5);
        for _ in 0..9 {
            meter.observe(&Delta::Text("a".to_owned()));
        }
        assert_eq!((meter.seen(), meter.metered(CallEnd::Left).usage.output), (9, 5));
        assert_eq!(meter.metered(CallEnd::Finished).usage.output, 5);
        meter.report(TokenUsage { input: 20, output: 8, ..TokenUsage::default() });
        assert_eq!(meter.metered(CallEnd::Finished).usage.output, 8, "but its own word counts");
        assert_eq!((meter.seen(), meter.told()), (9, 8));
    }
}
