//! What a provider asks for a model's tokens, from one day to another.

use aihub_domain::price::{LongContext, Price, Rates};
use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use serde::{Deserialize, Serialize};

use super::amount::UsdPerMillionTokens;

/// One entry of a model's `prices`. A day is the UTC day, written as `"2026-11-22"`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceSettings {
    /// What charges name. Left out, it is made of the provider, the model and `valid_from`.
    pub id: Option<String>,
    pub input_usd_per_mtok: UsdPerMillionTokens,
    /// Input read from the provider's cache. Left out, it costs what other input costs, as does the next.
    pub cached_input_usd_per_mtok: Option<UsdPerMillionTokens>,
    /// Input written into the provider's cache.
    pub cache_write_usd_per_mtok: Option<UsdPerMillionTokens>,
    /// The same, to be kept for an hour. Left out, it costs twice what input costs: so it is at Anthropic, which alone has it.
    pub cache_write_1h_usd_per_mtok: Option<UsdPerMillionTokens>,
    /// Everything produced, thinking included. An embedding has none.
    pub output_usd_per_mtok: Option<UsdPerMillionTokens>,
    /// The first day. Left out, it is valid since ever.
    pub valid_from: Option<NaiveDate>,
    /// The first day on which it is no longer valid. Left out, it is valid until further notice.
    pub valid_until: Option<NaiveDate>,
    /// Where the figures come from.
    #[serde(default = "configuration")]
    pub source: String,
    /// What a call with a long prompt costs instead. Left out, the length makes no difference.
    pub long_context: Option<LongContextSettings>,
}

/// The prices of all tokens of a call whose prompt is long. What can be left out means the same as above.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongContextSettings {
    /// A prompt of more tokens is long. Those from and into the provider's cache count.
    pub above_input_tokens: u64,
    pub input_usd_per_mtok: UsdPerMillionTokens,
    pub cached_input_usd_per_mtok: Option<UsdPerMillionTokens>,
    pub cache_write_usd_per_mtok: Option<UsdPerMillionTokens>,
    pub cache_write_1h_usd_per_mtok: Option<UsdPerMillionTokens>,
    pub output_usd_per_mtok: Option<UsdPerMillionTokens>,
}

fn configuration() -> String {
    "configuration".to_owned()
}

impl PriceSettings {
    /// The name that charges give it; `None` where nothing tells it from another one.
    pub fn id(&self, provider: &str, model: &str) -> Option<String> {
        self.id.clone().or_else(|| self.valid_from.map(|day| format!("{provider}/{model}@{day}")))
    }

    pub fn price(&self, provider: &str, model: &str) -> Price {
        Price {
            id: self.id(provider, model).unwrap_or_default(),
            rates: rates(
                self.input_usd_per_mtok,
                self.cached_input_usd_per_mtok,
                self.cache_write_usd_per_mtok,
                self.cache_write_1h_usd_per_mtok,
                self.output_usd_per_mtok,
            ),
            long_context: self.long_context.as_ref().map(|long| LongContext {
                above_input_tokens: long.above_input_tokens,
                rates: rates(
                    long.input_usd_per_mtok,
                    long.cached_input_usd_per_mtok,
                    long.cache_write_usd_per_mtok,
                    long.cache_write_1h_usd_per_mtok,
                    long.output_usd_per_mtok,
                ),
            }),
            valid_from: self.valid_from.map_or(DateTime::UNIX_EPOCH, midnight),
            valid_until: self.valid_until.map(midnight),
            source: self.source.clone(),
        }
    }

    /// Whether there is a day on which both are valid.
    pub fn overlaps(&self, other: &Self) -> bool {
        overlap((self.valid_from, self.valid_until), (other.valid_from, other.valid_until))
    }
}

/// Of two stretches from the first day to the first one after them.
pub fn overlap(one: (Option<NaiveDate>, Option<NaiveDate>), other: (Option<NaiveDate>, Option<NaiveDate>)) -> bool {
    let starts_before_end = |from: Option<NaiveDate>, until: Option<NaiveDate>| match (from, until) {
        (Some(from), Some(until)) => from < until,
        _ => true,
    };
    starts_before_end(one.0, other.1) && starts_before_end(other.0, one.1)
}

fn rates(
    UsdPerMillionTokens(input): UsdPerMillionTokens,
    cached_input: Option<UsdPerMillionTokens>,
    cache_write: Option<UsdPerMillionTokens>,
    cache_write_1h: Option<UsdPerMillionTokens>,
    output: Option<UsdPerMillionTokens>,
) -> Rates {
    Rates {
        input,
        cached_input: cached_input.map_or(input, |price| price.0),
        cache_write: cache_write.map_or(input, |price| price.0),
        cache_write_1h: cache_write_1h.map_or(input.twice(), |price| price.0),
        output: output.map(|price| price.0).unwrap_or_default(),
    }
}

pub fn midnight(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(NaiveTime::MIN).and_utc()
}
