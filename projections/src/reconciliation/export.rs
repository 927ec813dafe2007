//! What providers export about usage.
//!
//! - `OpenAI`, `GET /v1/organization/usage/completions` with `group_by=model`: pages of buckets with `start_time` in Unix
//!   seconds; `input_tokens` includes `input_cached_tokens`.
//! - Anthropic, `GET /v1/organizations/usage_report/messages` with `group_by[]=model`: pages of buckets with `starting_at`
//!   in RFC 3339; the kinds of input are told apart.
//!
//! A file holds the pages as they came, one behind the other or in a list. Neither vendor documents a CSV form.

use chrono::{DateTime, NaiveDate, Utc};
use serde::Deserialize;
use thiserror::Error;

use super::{ByDayAndModel, Vendor};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    pub figures: ByDayAndModel,
    /// The first and the last day that it has buckets for.
    pub days: (NaiveDate, NaiveDate),
}

#[derive(Debug, Error)]
pub enum ExportError {
    #[error("this is no usage export in JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("there is no bucket in it")]
    Empty,
    #[error("its last page says that there are more (has_more): fetch them as well")]
    Incomplete,
    #[error("a result names no model: ask for the export with group_by=model")]
    NoModel,
    #[error("a bucket begins at {0}, which is no time")]
    BadTime(i64),
    #[error("{cached} of {input} input tokens are said to be from the cache")]
    MoreCachedThanInput { input: u64, cached: u64 },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Pages<B> {
    One(Page<B>),
    List(Vec<Page<B>>),
}

#[derive(Deserialize)]
struct Page<B> {
    data: Vec<B>,
    has_more: bool,
}

#[derive(Deserialize)]
struct OpenAiBucket {
    start_time: i64,
    results: Vec<OpenAiResult>,
}

#[derive(Deserialize)]
struct OpenAiResult {
    model: Option<String>,
    input_tokens: u64,
    #[serde(default)]
    input_cached_tokens: u64,
    /// An embedding has none.
    #[serde(default)]
    output_tokens: u64,
    num_model_requests: u64,
}

#[derive(Deserialize)]
struct AnthropicBucket {
    starting_at: DateTime<Utc>,
    results: Vec<AnthropicResult>,
}

#[derive(Deserialize)]
struct AnthropicResult {
    model: Option<String>,
    uncached_input_tokens: u64,
    cache_creation: CacheCreation,
    cache_read_input_tokens: u64,
    output_tokens: u64,
}

#[derive(Deserialize)]
struct CacheCreation {
    ephemeral_1h_input_tokens: u64,
    ephemeral_5m_input_tokens: u64,
}

impl Export {
    pub fn read(vendor: Vendor, text: &[u8]) -> Result<Self, ExportError> {
        let (mut figures, mut days) = (ByDayAndModel::new(), Vec::new());
        match vendor {
            Vendor::OpenAi => {
                for bucket in buckets::<OpenAiBucket>(text)? {
                    let start = DateTime::from_timestamp(bucket.start_time, 0);
                    let day = start.ok_or(ExportError::BadTime(bucket.start_time))?.date_naive();
                    days.push(day);
                    for result in bucket.results {
                        let (input, cached) = (result.input_tokens, result.input_cached_tokens);
                        let uncached =
                            input.checked_sub(cached).ok_or(ExportError::MoreCachedThanInput { input, cached })?;
                        let sums = figures.entry((day, result.model.ok_or(ExportError::NoModel)?)).or_default();
                        sums.requests = Some(sums.requests.unwrap_or(0) + result.num_model_requests);
                        sums.input_tokens += uncached;
                        sums.cached_input_tokens += cached;
                        sums.output_tokens += result.output_tokens;
                    }
                }
            }
            Vendor::Anthropic => {
                for bucket in buckets::<AnthropicBucket>(text)? {
                    let day = bucket.starting_at.date_naive();
                    days.push(day);
                    for result in bucket.results {
                        let CacheCreation { ephemeral_1h_input_tokens, ephemeral_5m_input_tokens } =
                            result.cache_creation;
                        let sums = figures.entry((day, result.model.ok_or(ExportError::NoModel)?)).or_default();
                        sums.input_tokens += result.uncached_input_tokens;
                        sums.cached_input_tokens += result.cache_read_input_tokens;
                        sums.cache_write_tokens += ephemeral_1h_input_tokens + ephemeral_5m_input_tokens;
                        sums.output_tokens += result.output_tokens;
                    }
                }
            }
        }
        let (Some(first), Some(last)) = (days.iter().min(), days.iter().max()) else {
            return Err(ExportError::Empty);
        };
        Ok(Self { figures, days: (*first, *last) })
    }
}

fn buckets<B: for<'de> Deserialize<'de>>(text: &[u8]) -> Result<Vec<B>, ExportError> {
    let (mut buckets, mut has_more) = (Vec::new(), false);
    for pages in serde_json::Deserializer::from_slice(text).into_iter::<Pages<B>>() {
        let pages = match pages? {
            Pages::One(page) => vec![page],
            Pages::List(pages) => pages,
        };
        for page in pages {
            has_more = page.has_more;
            buckets.extend(page.data);
        }
    }
    if has_more { Err(ExportError::Incomplete) } else { Ok(buckets) }
}
