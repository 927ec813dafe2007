//! Token usage, dated prices, and the formula from one to the other.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

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
    /// Input written into the provider's cache for as long as it keeps it by itself.
    pub cache_write: u64,
    /// Input written into the provider's cache for an hour, which costs more.
    pub cache_write_1h: u64,
    /// Everything produced, thinking included.
    pub output: u64,
    /// The part of `output` that was thinking; for information, it is not charged twice.
    pub reasoning: u64,
    /// The part of the input that was sound; for information, charged as the rest is. Absent from an event where it is nought,
    /// as the next two.
    #[serde(skip_serializing_if = "is_nought")]
    pub audio_input: u64,
    /// The part of `output` that was sound.
    #[serde(skip_serializing_if = "is_nought")]
    pub audio_output: u64,
    /// How often the provider ran a tool of its own, as a search of the web. Not tokens, and not charged: what would make a
    /// provider do so is refused at the door.
    #[serde(skip_serializing_if = "is_nought")]
    pub provider_tools: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
fn is_nought(count: &u64) -> bool {
    *count == 0
}

impl TokenUsage {
    /// No call uses more tokens than this of any kind: a count above it is nonsense, and adapters cut it down to this. At the
    /// dearest price that is taken, the cost of as many tokens of each kind still fits into [`PicoUsd`].
    pub const MAX_COUNT: u64 = 1 << 27;

    pub fn prompt_tokens(&self) -> u64 {
        [self.input, self.cached_input, self.cache_write, self.cache_write_1h].into_iter().fold(0, u64::saturating_add)
    }

    pub fn total_tokens(&self) -> u64 {
        self.prompt_tokens().saturating_add(self.output)
    }

    /// Of two calls together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    /// What is left of this one without a part of it.
    #[must_use]
    pub fn minus(&self, part: &Self) -> Self {
        self.with(part, u64::saturating_sub)
    }

    fn with(&self, other: &Self, of: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            input: of(self.input, other.input),
            cached_input: of(self.cached_input, other.cached_input),
            cache_write: of(self.cache_write, other.cache_write),
            cache_write_1h: of(self.cache_write_1h, other.cache_write_1h),
            output: of(self.output, other.output),
            reasoning: of(self.reasoning, other.reasoning),
            audio_input: of(self.audio_input, other.audio_input),
            audio_output: of(self.audio_output, other.audio_output),
            provider_tools: of(self.provider_tools, other.provider_tools),
        }
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
    pub cache_write_1h: PicoUsdPerToken,
    pub output: PicoUsdPerToken,
}

/// The most that a call can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// However the provider's cache treats it.
    pub input: u64,
    pub output: u64,
    /// It asks the provider to keep some of its input for an hour.
    pub writes_for_an_hour: bool,
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
#[error("{0} is not a price in US dollars per million tokens: 0 to 10,000 with at most six decimals")]
pub struct InvalidPrice(pub Decimal);

impl Charge {
    /// What is left of this one without a part of it. It has no price where nothing is left.
    #[must_use]
    pub fn minus(&self, part: &Self) -> Self {
        let (cost, list) = (self.cost.minus(part.cost), self.list.minus(part.list));
        let price_id = self.price_id.clone().filter(|_| (cost, list) != (PicoUsd(0), Microcredits::ZERO));
        Self { price_id, cost, list, amount: self.amount.minus(part.amount) }
    }
}

impl PicoUsdPerToken {
    /// A cent a token: the dearest price that is taken, a hundred times what any list asks.
    const MAX_USD_PER_MILLION: u32 = 10_000;

    #[must_use]
    pub const fn twice(self) -> Self {
        Self(self.0.saturating_mul(2))
    }

    /// From the figure that price lists print.
    pub fn from_usd_per_million(usd: Decimal) -> Result<Self, InvalidPrice> {
        let pico = usd.checked_mul(Decimal::from(1_000_000)).ok_or(InvalidPrice(usd))?;
        let most = Decimal::from(Self::MAX_USD_PER_MILLION);
        if usd.is_sign_negative() || usd > most || pico.fract() != Decimal::ZERO {
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

    /// The most that a call within these bounds can cost, however the provider's cache treats its input, and whether or not
    /// the prompt turns out to be long.
    pub fn worst_case(&self, bound: Bound) -> PicoUsd {
        match self.long_context {
            Some(long) if bound.input > long.above_input_tokens => {
                let short = Bound { input: long.above_input_tokens, ..bound };
                self.rates.worst_case(short).max(long.rates.worst_case(bound))
            }
            _ => self.rates.worst_case(bound),
        }
    }
}

impl Rates {
    fn cost(&self, usage: &TokenUsage) -> PicoUsd {
        let parts = [
            (usage.input, self.input),
            (usage.cached_input, self.cached_input),
            (usage.cache_write, self.cache_write),
            (usage.cache_write_1h, self.cache_write_1h),
            (usage.output, self.output),
        ];
        let parts = parts.map(|(tokens, price)| i128::from(tokens).saturating_mul(price.0.into()));
        PicoUsd(i64::try_from(parts.into_iter().fold(0, i128::saturating_add)).unwrap_or(i64::MAX))
    }

    fn worst_case(&self, Bound { input, output, writes_for_an_hour }: Bound) -> PicoUsd {
        let mut dearest = self.input.max(self.cache_write).max(self.cached_input);
        if writes_for_an_hour {
            dearest = dearest.max(self.cache_write_1h);
        }
        Self { input: dearest, ..*self }.cost(&TokenUsage { input, output, ..TokenUsage::default() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rates(rates: [u64; 5]) -> Rates {
        let [input, cached_input, cache_write, cache_write_1h, output] = rates.map(PicoUsdPerToken);
        Rates { input, cached_input, cache_write, cache_write_1h, output }
    }

    fn bound(input: u64, output: u64) -> Bound {
        Bound { input, output, writes_for_an_hour: false }
    }

    fn price(long_context: Option<LongContext>) -> Price {
        Price {
            id: "openai/gpt-6-luna@2026-11-22".into(),
            rates: rates([100_000, 10_000, 125_000, 200_000, 500_000]),
            long_context,
            valid_from: DateTime::UNIX_EPOCH,
            valid_until: None,
            source: "test".into(),
        }
    }

    fn luna() -> Price {
        let rates = rates([200_000, 20_000, 250_000, 400_000, 750_000]);
        price(Some(LongContext { above_input_tokens: 272_000, rates }))
    }

    fn usage([input, cached_input, cache_write, cache_write_1h, output]: [u64; 5]) -> TokenUsage {
        TokenUsage { input, cached_input, cache_write, cache_write_1h, output, ..TokenUsage::default() }
    }

    #[test]
    fn the_largest_counts_at_the_largest_price_still_cost_what_they_cost() {
        let dearest = PicoUsdPerToken::from_usd_per_million(Decimal::from(10_000)).unwrap().0;
        let price = Price { rates: rates([dearest; 5]), ..price(None) };
        let cost = 5 * TokenUsage::MAX_COUNT * dearest;
        assert_eq!(price.cost(&usage([TokenUsage::MAX_COUNT; 5])), PicoUsd(i64::try_from(cost).unwrap()));
        assert!(PicoUsdPerToken::from_usd_per_million(Decimal::new(10_000_000_001, 6)).is_err());
    }

    #[test]
    fn a_cost_beyond_all_amounts_is_the_largest_amount() {
        let most = u64::MAX;
        let price = Price { rates: rates([most; 5]), ..price(None) };
        assert_eq!(price.cost(&usage([most; 5])), PicoUsd(i64::MAX));
        assert_eq!(price.worst_case(bound(most, most)), PicoUsd(i64::MAX));
        assert_eq!(usage([most; 5]).total_tokens(), most);
    }

    #[test]
    fn every_kind_of_token_has_its_own_price() {
        let cost = price(None).cost(&usage([1, 2, 3, 4, 5]));
        assert_eq!(cost, PicoUsd(100_000 + 20_000 + 375_000 + 800_000 + 2_500_000));
    }

    #[test]
    fn a_prompt_that_is_long_by_one_token_is_charged_the_long_rates_for_all_of_its_tokens() {
        // Cached input and input that is written into the cache are part of the prompt; output is not.
        let short = usage([1_000, 270_000, 900, 100, 9]);
        let long = TokenUsage { input: 1_001, ..short };
        let parts = |parts: [i64; 5]| PicoUsd(parts.iter().sum());
        let costs = [1_000 * 100_000, 270_000 * 10_000, 900 * 125_000, 100 * 200_000, 9 * 500_000];
        assert_eq!(luna().cost(&short), parts(costs));
        let costs = [1_001 * 200_000, 270_000 * 20_000, 900 * 250_000, 100 * 400_000, 9 * 750_000];
        assert_eq!(luna().cost(&long), parts(costs));
    }

    #[test]
    fn the_worst_case_of_a_prompt_that_cannot_be_long_has_the_ordinary_rates() {
        assert_eq!(luna().worst_case(bound(272_000, 7)), price(None).worst_case(bound(272_000, 7)));
        assert_eq!(luna().worst_case(bound(272_001, 7)), PicoUsd(272_001 * 250_000 + 7 * 750_000));
    }

    #[test]
    fn what_may_be_kept_for_an_hour_is_held_at_that_price() {
        let hour = Bound { writes_for_an_hour: true, ..bound(10, 1) };
        assert_eq!(price(None).worst_case(hour), PicoUsd(10 * 200_000 + 500_000));
    }

    #[test]
    fn two_calls_and_one_of_them_leave_the_other() {
        let (one, other) = (usage([1, 2, 3, 4, 5]), usage([10, 20, 30, 40, 50]));
        assert_eq!(one.plus(&other).minus(&one), other);
        let charge = |list: i64, price: &str| {
            let (cost, list) = (PicoUsd(list * 7), Microcredits(list));
            Charge { price_id: Some(price.into()), cost, list, amount: list }
        };
        assert_eq!(charge(5, "b").minus(&charge(2, "a")), charge(3, "b"));
        assert_eq!(charge(5, "b").minus(&charge(5, "a")), Charge::default());
    }

    proptest! {
        #[test]
        fn no_usage_within_the_estimates_costs_more_than_the_worst_case(
            ordinary in any::<[u16; 5]>(),
            long in any::<[u16; 5]>(),
            above_input_tokens in 0..200_u64,
            used in [0..100_u64, 0..100, 0..100, 0..100, 0..100],
            writes_for_an_hour: bool,
            (unused_input, unused_output) in (0..50_u64, 0..50_u64),
        ) {
            // Long rates may also be the lower ones.
            let long = LongContext { above_input_tokens, rates: rates(long.map(u64::from)) };
            let price = Price { rates: rates(ordinary.map(u64::from)), ..price(Some(long)) };
            let mut usage = usage(used);
            if !writes_for_an_hour {
                usage.cache_write_1h = 0;
            }
            let (input, output) = (usage.prompt_tokens() + unused_input, usage.output + unused_output);
            let worst = price.worst_case(Bound { input, output, writes_for_an_hour });
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
