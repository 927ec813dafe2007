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
        self.input + self.cached_input + self.cache_write
    }

    pub fn total_tokens(&self) -> u64 {
        self.prompt_tokens() + self.output
    }
}

/// What a provider asks for a model's tokens, from one day to another, and who says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// Named by every charge that was calculated from it: `provider/model@2026-11-22`.
    pub id: String,
    pub input: PicoUsdPerToken,
    pub cached_input: PicoUsdPerToken,
    pub cache_write: PicoUsdPerToken,
    pub output: PicoUsdPerToken,
    pub valid_from: DateTime<Utc>,
    pub valid_until: Option<DateTime<Utc>>,
    /// Where the figures come from.
    pub source: String,
}

/// What a usage came to: the provider's cost and what the account pays for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// `None` where nothing was used.
    pub price_id: Option<String>,
    #[serde(rename = "cost_picousd")]
    pub cost: PicoUsd,
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
        let part = |tokens: u64, price: PicoUsdPerToken| i128::from(tokens) * i128::from(price.0);
        let total = part(usage.input, self.input)
            + part(usage.cached_input, self.cached_input)
            + part(usage.cache_write, self.cache_write)
            + part(usage.output, self.output);
        PicoUsd(i64::try_from(total).unwrap_or(i64::MAX))
    }

    /// The most that `input` tokens in and `output` tokens out can cost, however the provider's cache treats them.
    pub fn worst_case(&self, input: u64, output: u64) -> PicoUsd {
        let dearest = self.input.max(self.cache_write).max(self.cached_input);
        let total = i128::from(input) * i128::from(dearest.0) + i128::from(output) * i128::from(self.output.0);
        PicoUsd(i64::try_from(total).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price() -> Price {
        Price {
            id: "openai/gpt-6-luna@2026-11-22".into(),
            input: PicoUsdPerToken(100_000),
            cached_input: PicoUsdPerToken(10_000),
            cache_write: PicoUsdPerToken(125_000),
            output: PicoUsdPerToken(500_000),
            valid_from: DateTime::UNIX_EPOCH,
            valid_until: None,
            source: "test".into(),
        }
    }

    #[test]
    fn every_kind_of_token_has_its_own_price() {
        let usage = TokenUsage { input: 1, cached_input: 2, cache_write: 3, output: 4, reasoning: 4 };
        assert_eq!(price().cost(&usage), PicoUsd(100_000 + 20_000 + 375_000 + 2_000_000));
    }

    #[test]
    fn the_worst_case_covers_any_split_of_the_input() {
        let worst = price().worst_case(10, 4);
        for cached in 0..=10 {
            let usage = TokenUsage { input: 10 - cached, cache_write: cached, output: 4, ..TokenUsage::default() };
            assert!(price().cost(&usage) <= worst);
        }
    }

    #[test]
    fn a_price_finer_than_a_pico_dollar_a_token_is_refused() {
        assert_eq!(PicoUsdPerToken::from_usd_per_million(Decimal::new(1_875, 5)), Ok(PicoUsdPerToken(18_750)));
        assert!(PicoUsdPerToken::from_usd_per_million(Decimal::new(1, 7)).is_err());
        assert!(PicoUsdPerToken::from_usd_per_million(Decimal::new(-1, 0)).is_err());
    }
}
