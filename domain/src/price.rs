//! Token usage, dated prices, and the formula from one to the other.

use chrono::{DateTime, Utc};
use rust_decimal::{Decimal, prelude::ToPrimitive};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::money::{Microcredits, PicoUsd};

/// What one call used, in tokens. The kinds do not overlap, whatever the provider's own way of counting:
/// `OpenAI`'s `prompt_tokens` includes cached ones and Anthropic's `input_tokens` does not; adapters take them apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TokenUsage {
    /// Input at the full price.
    pub input: u64,
    /// Input read from the provider's cache.
    pub cached_input: u64,
    /// Input written into the provider's cache.
    pub cache_write: u64,
    /// Everything produced, thinking included.
    pub output: u64,
    /// The part of `output` that was thinking; for information, it is not charged twice.
    pub reasoning: u64,
}

impl TokenUsage {
    pub fn prompt_tokens(&self) -> u64 {
        self.input.saturating_add(self.cached_input).saturating_add(self.cache_write)
    }

    pub fn total_tokens(&self) -> u64 {
        self.prompt_tokens().saturating_add(self.output)
    }
}

/// What a provider asks for a model's tokens, from one day to another, and who says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// Named by every charge that was calculated from it: `provider/model@2026-11-22`.
    pub id: String,
    #[serde(flatten)]
    pub rates: Rates,
    /// What long prompts are asked instead; `None` where the vendor makes no difference.
    pub long_context: Option<LongContext>,
    pub valid_from: DateTime<Utc>,
    pub valid_until: Option<DateTime<Utc>>,
    /// Where the figures come from.
    pub source: String,
}

/// What a token of each kind costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    pub input: PicoUsdPerToken,
    pub cached_input: PicoUsdPerToken,
    pub cache_write: PicoUsdPerToken,
    pub output: PicoUsdPerToken,
}

/// The rates of a call whose prompt is long. They hold for all of its tokens, not only for those above the limit: the
/// price lists of `OpenAI` ("for the full request") and Anthropic ("for prompts over 100,000 tokens") say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LongContext {
    /// A prompt of more tokens than this is long; see [`TokenUsage::prompt_tokens`].
    pub above_input_tokens: u64,
    #[serde(flatten)]
    pub rates: Rates,
}

/// What a usage came to: the provider's cost and what the account pays for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// `None` where nothing was used.
    pub price_id: Option<String>,
    #[serde(rename = "cost_picousd")]
    pub cost: PicoUsd,
    /// By the price list. More than `amount` where the account had not that much.
    #[serde(rename = "list_microcredits")]
    pub list: Microcredits,
    #[serde(rename = "amount_microcredits")]
    pub amount: Microcredits,
}

/// 10⁻¹² US dollars a token; numerically, a millionth of the customary "dollars per million tokens".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PicoUsdPerToken(pub u64);

#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0} is not a price in US dollars per million tokens: 0 to 1,000,000 with at most six decimals")]
pub struct InvalidPrice(pub Decimal);

impl PicoUsdPerToken {
    /// From the figure that price lists print.
    pub fn from_usd_per_million(usd: Decimal) -> Result<Self, InvalidPrice> {
        let pico = usd * Decimal::from(1_000_000);
        if usd.is_sign_negative() || usd > Decimal::from(1_000_000) || pico.fract() != Decimal::ZERO {
            return Err(InvalidPrice(usd));
        }
        pico.to_u64().map(Self).ok_or(InvalidPrice(usd))
    }
}

impl Price {
    pub fn is_valid_at(&self, at: DateTime<Utc>) -> bool {
        self.valid_from <= at && self.valid_until.is_none_or(|until| at < until)
    }

    /// The provider's cost of `usage`: tokens x price, summed over the kinds of token, exact.
    pub fn cost(&self, usage: &TokenUsage) -> PicoUsd {
        match self.long_context {
            Some(long) if usage.prompt_tokens() > long.above_input_tokens => long.rates.cost(usage),
            _ => self.rates.cost(usage),
        }
    }

    /// The most that up to `input` tokens in and up to `output` tokens out can cost, however the provider's cache
    /// treats them, and whether or not the prompt turns out to be long.
    pub fn worst_case(&self, input: u64, output: u64) -> PicoUsd {
        match self.long_context {
            Some(long) if input > long.above_input_tokens => {
                self.rates.worst_case(long.above_input_tokens, output).max(long.rates.worst_case(input, output))
            }
            _ => self.rates.worst_case(input, output),
        }
    }
}

impl Rates {
    fn cost(&self, usage: &TokenUsage) -> PicoUsd {
        let part = |tokens: u64, price: PicoUsdPerToken| i128::from(tokens).saturating_mul(price.0.into());
        let total = part(usage.input, self.input)
            .saturating_add(part(usage.cached_input, self.cached_input))
            .saturating_add(part(usage.cache_write, self.cache_write))
            .saturating_add(part(usage.output, self.output));
        PicoUsd(i64::try_from(total).unwrap_or(i64::MAX))
    }

    fn worst_case(&self, input: u64, output: u64) -> PicoUsd {
        let dearest = self.input.max(self.cache_write).max(self.cached_input);
        let dearest = Self { input: dearest, ..*self };
        dearest.cost(&TokenUsage { input, output, ..TokenUsage::default() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rates([input, cached_input, cache_write, output]: [u64; 4]) -> Rates {
        let [input, cached_input, cache_write, output] =
            [input, cached_input, cache_write, output].map(PicoUsdPerToken);
        Rates { input, cached_input, cache_write, output }
    }

    fn price(long_context: Option<LongContext>) -> Price {
        Price {
            id: "openai/gpt-6-luna@2026-11-22".into(),
            rates: rates([100_000, 10_000, 125_000, 500_000]),
            long_context,
            valid_from: DateTime::UNIX_EPOCH,
            valid_until: None,
            source: "test".into(),
        }
    }

    fn luna() -> Price {
        let rates = rates([200_000, 20_000, 250_000, 750_000]);
        price(Some(LongContext { above_input_tokens: 272_000, rates }))
    }

    #[test]
    fn a_cost_beyond_all_amounts_is_the_largest_amount() {
        let most = u64::MAX;
        let usage = TokenUsage { input: most, cached_input: most, cache_write: most, output: most, reasoning: most };
        let price = Price { rates: rates([most; 4]), ..price(None) };
        assert_eq!(price.cost(&usage), PicoUsd(i64::MAX));
        assert_eq!(price.worst_case(most, most), PicoUsd(i64::MAX));
        assert_eq!(usage.total_tokens(), most);
    }

    #[test]
    fn every_kind_of_token_has_its_own_price() {
        let usage = TokenUsage { input: 1, cached_input: 2, cache_write: 3, output: 4, reasoning: 4 };
        assert_eq!(price(None).cost(&usage), PicoUsd(100_000 + 20_000 + 375_000 + 2_000_000));
    }

    #[test]
    fn a_prompt_that_is_long_by_one_token_is_charged_the_long_rates_for_all_of_its_tokens() {
        // Cached input and input that is written into the cache are part of the prompt; output is not.
        let short = TokenUsage { input: 1_000, cached_input: 270_000, cache_write: 1_000, output: 9, reasoning: 0 };
        let long = TokenUsage { input: 1_001, ..short };
        let parts = |parts: [i64; 4]| PicoUsd(parts.iter().sum());
        assert_eq!(luna().cost(&short), parts([1_000 * 100_000, 270_000 * 10_000, 1_000 * 125_000, 9 * 500_000]));
        assert_eq!(luna().cost(&long), parts([1_001 * 200_000, 270_000 * 20_000, 1_000 * 250_000, 9 * 750_000]));
    }

    #[test]
    fn the_worst_case_of_a_prompt_that_cannot_be_long_has_the_ordinary_rates() {
        assert_eq!(luna().worst_case(272_000, 7), price(None).worst_case(272_000, 7));
        assert_eq!(luna().worst_case(272_001, 7), PicoUsd(272_001 * 250_000 + 7 * 750_000));
    }

    proptest! {
        #[test]
        fn no_usage_within_the_estimates_costs_more_than_the_worst_case(
            ordinary in any::<[u16; 4]>(),
            long in any::<[u16; 4]>(),
            above_input_tokens in 0..200_u64,
            [input, cached_input, cache_write, output] in [0..100_u64, 0..100, 0..100, 0..100],
            (unused_input, unused_output) in (0..50_u64, 0..50_u64),
        ) {
            // Long rates may also be the lower ones.
            let long = LongContext { above_input_tokens, rates: rates(long.map(u64::from)) };
            let price = Price { rates: rates(ordinary.map(u64::from)), ..price(Some(long)) };
            let usage = TokenUsage { input, cached_input, cache_write, output, reasoning: 0 };
            let worst = price.worst_case(usage.prompt_tokens() + unused_input, output + unused_output);
            prop_assert!(price.cost(&usage) <= worst);
        }
    }

    #[test]
    fn a_price_finer_than_a_pico_dollar_a_token_is_refused() {
        assert_eq!(PicoUsdPerToken::from_usd_per_million(Decimal::new(1_875, 5)), Ok(PicoUsdPerToken(18_750)));
        assert!(PicoUsdPerToken::from_usd_per_million(Decimal::new(1, 7)).is_err());
        assert!(PicoUsdPerToken::from_usd_per_million(Decimal::new(-1, 0)).is_err());
    }
}
