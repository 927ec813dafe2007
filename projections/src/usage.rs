//! What daily and monthly usage have in common: their figures, and how ends are added to them.

use std::collections::BTreeMap;

use aihub_infrastructure::row;
use chrono::NaiveDate;
use serde::Serialize;
use sqlx::PgConnection;

use crate::usage_ledger::UsageEntry;

/// What usage is made from: the ends of requests and of videos, and the closes.
pub const EVENT_TYPES: &[&str] = &[
    "RequestCompleted",
    "RequestFailed",
    "RequestCancelled",
    "RequestAbandoned",
    "VideoCompleted",
    "VideoFailed",
    "VideoCancelled",
    "VideoExpired",
    "MonthClosed",
];

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Ended, in whatever way.
    pub requests: i64,
    /// Of these, failed, abandoned or expired.
    pub failed: i64,
    /// How often what a provider was paid for is our own count.
    pub estimated: i64,
    pub input_tokens: i64,
    pub cached_input_tokens: i64,
    pub cache_write_tokens: i64,
    pub cache_write_1h_tokens: i64,
    /// Thinking included.
    pub output_tokens: i64,
    pub reasoning_tokens: i64,
    /// That were billed.
    pub video_seconds: i64,
    /// By the price list.
    pub list_microcredits: i128,
    pub charged_microcredits: i128,
    /// The provider's cost, in 10⁻¹² US dollars, exact.
    pub cost_picousd: i128,
}

/// A row of daily or monthly usage, `period` being the first day of either.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    period: NaiveDate,
    account: String,
    user_id: String,
    provider: String,
    model: String,
}

/// What is added to a row.
#[derive(Debug)]
pub struct AddedUsage {
    key: Key,
    usage: Usage,
    /// Of the events that it comes from.
    first_position: i64,
    last_position: i64,
}

row!(
    AddedUsage,
    "usage_v1",
    key.period,
    key.account,
    key.user_id,
    key.provider,
    key.model,
    usage.requests,
    usage.failed,
    usage.estimated,
    usage.input_tokens,
    usage.cached_input_tokens,
    usage.cache_write_tokens,
    usage.cache_write_1h_tokens,
    usage.output_tokens,
    usage.reasoning_tokens,
    usage.video_seconds,
    usage.list_microcredits,
    usage.charged_microcredits,
    usage.cost_picousd,
    first_position,
    last_position,
);

/// What is to be added, row by row.
#[derive(Debug, Default)]
pub struct Additions(BTreeMap<Key, AddedUsage>);

impl Usage {
    pub fn of(entry: &UsageEntry) -> Self {
        Self {
            requests: entry.requests.into(),
            failed: if entry.has_failed() { entry.requests.into() } else { 0 },
            estimated: i64::from(entry.estimated),
            input_tokens: entry.input_tokens,
            cached_input_tokens: entry.cached_input_tokens,
            cache_write_tokens: entry.cache_write_tokens,
            cache_write_1h_tokens: entry.cache_write_1h_tokens,
            output_tokens: entry.output_tokens,
            reasoning_tokens: entry.reasoning_tokens,
            video_seconds: entry.video_seconds,
            list_microcredits: entry.list_microcredits.into(),
            charged_microcredits: entry.charged_microcredits.into(),
            cost_picousd: entry.cost_picousd.into(),
        }
    }

    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.estimated += other.estimated;
        self.input_tokens += other.input_tokens;
        self.cached_input_tokens += other.cached_input_tokens;
        self.cache_write_tokens += other.cache_write_tokens;
        self.cache_write_1h_tokens += other.cache_write_1h_tokens;
        self.output_tokens += other.output_tokens;
        self.reasoning_tokens += other.reasoning_tokens;
        self.video_seconds += other.video_seconds;
        self.list_microcredits += other.list_microcredits;
        self.charged_microcredits += other.charged_microcredits;
        self.cost_picousd += other.cost_picousd;
    }
}

impl Additions {
    pub fn add(&mut self, period: NaiveDate, entry: UsageEntry) {
        let added = Usage::of(&entry);
        let UsageEntry { position, account, user_id, provider, model, .. } = entry;
        let key = Key { period, account, user_id, provider, model };
        let addition = self.0.entry(key).or_insert_with_key(|key| AddedUsage {
            key: key.clone(),
            usage: Usage::default(),
            first_position: position,
            last_position: position,
        });
        addition.usage.add(&added);
        addition.last_position = position;
    }

    /// Adds to `table`, whose rows are named by `period` (`day` or `month`) and the four names.
    pub async fn write(self, connection: &mut PgConnection, table: &str, period: &str) -> anyhow::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let upsert = format!(
            "INSERT INTO {table} AS u SELECT * FROM unnest($1::rows.usage_v1[])
             ON CONFLICT ({period}, account, user_id, provider, model) DO UPDATE SET
                 requests = u.requests + excluded.requests, failed = u.failed + excluded.failed,
                 estimated = u.estimated + excluded.estimated, input_tokens = u.input_tokens + excluded.input_tokens,
                 cached_input_tokens = u.cached_input_tokens + excluded.cached_input_tokens,
                 cache_write_tokens = u.cache_write_tokens + excluded.cache_write_tokens,
                 cache_write_1h_tokens = u.cache_write_1h_tokens + excluded.cache_write_1h_tokens,
                 output_tokens = u.output_tokens + excluded.output_tokens,
                 reasoning_tokens = u.reasoning_tokens + excluded.reasoning_tokens,
                 video_seconds = u.video_seconds + excluded.video_seconds,
                 list_microcredits = u.list_microcredits + excluded.list_microcredits,
                 charged_microcredits = u.charged_microcredits + excluded.charged_microcredits,
                 cost_picousd = u.cost_picousd + excluded.cost_picousd, last_position = excluded.last_position"
        );
        sqlx::query(&upsert).bind(self.0.into_values().collect::<Vec<_>>()).execute(connection).await?;
        Ok(())
    }
}
