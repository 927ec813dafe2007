//! Requests, tokens and money a day, by account, user, provider and model. A request counts on the UTC day of its end.

use std::sync::Arc;

use aihub_domain::request::event::Outcome;
use aihub_infrastructure::event_store::{decode::LogEntry, subscription::EventHandler};
use chrono::NaiveDate;
use futures::{FutureExt, future::BoxFuture};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, PgTransaction};
use thiserror::Error;
use uuid::Uuid;

use crate::{
    rebuild,
    watermark::{AsOf, Snapshot},
};

mod counting;

pub const NAME: &str = "usage_daily_v1";
/// The most rows that one report has.
pub const MAX_ROWS: i64 = 10_000;
/// The longest account, user, provider or model that a row names whole.
pub const MAX_KEY_BYTES: usize = 256;

/// Which days, inclusive, and whose.
#[derive(Debug, Clone)]
pub struct UsageFilter {
    pub from: NaiveDate,
    pub to: NaiveDate,
    pub account: Option<String>,
    pub user: Option<String>,
}

/// What a report keeps apart. What it does not is added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dimension {
    Day,
    Account,
    User,
    Provider,
    Model,
}

/// A line of a report. A dimension that it was not asked to keep apart is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UsageRow {
    pub day: Option<NaiveDate>,
    pub account: Option<String>,
    pub user: Option<String>,
    /// Who answered; what was asked for where nobody did, so possibly `auto`.
    pub provider: Option<String>,
    pub model: Option<String>,
    #[serde(flatten)]
    pub usage: Usage,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Ended, in whatever way.
    pub requests: i64,
    /// Of these, failed or abandoned.
    pub failed: i64,
    /// Of these, those whose tokens are our own count.
    pub estimated: i64,
    pub input_tokens: i64,
    pub cached_input_tokens: i64,
    pub cache_write_tokens: i64,
    /// Thinking included.
    pub output_tokens: i64,
    pub reasoning_tokens: i64,
    pub charged_microcredits: i64,
    /// The provider's cost, in 10⁻¹² US dollars, exact.
    pub cost_picousd: i128,
}

#[derive(Debug, Error)]
pub enum ReportError {
    #[error("the report has more than {MAX_ROWS} rows: ask for fewer days, or keep fewer things apart")]
    TooManyRows,
    #[error("the database is unavailable: {0}")]
    Database(#[from] sqlx::Error),
}

impl Usage {
    fn of(outcome: &Outcome) -> anyhow::Result<Self> {
        Ok(Self {
            requests: 0,
            failed: 0,
            estimated: i64::from(outcome.estimated),
            input_tokens: outcome.usage.input.try_into()?,
            cached_input_tokens: outcome.usage.cached_input.try_into()?,
            cache_write_tokens: outcome.usage.cache_write.try_into()?,
            output_tokens: outcome.usage.output.try_into()?,
            reasoning_tokens: outcome.usage.reasoning.try_into()?,
            charged_microcredits: outcome.charge.amount.0,
            cost_picousd: outcome.charge.cost.0.into(),
        })
    }

    fn plus(&self, other: &Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            failed: self.failed + other.failed,
            estimated: self.estimated + other.estimated,
            input_tokens: self.input_tokens + other.input_tokens,
            cached_input_tokens: self.cached_input_tokens + other.cached_input_tokens,
            cache_write_tokens: self.cache_write_tokens + other.cache_write_tokens,
            output_tokens: self.output_tokens + other.output_tokens,
            reasoning_tokens: self.reasoning_tokens + other.reasoning_tokens,
            charged_microcredits: self.charged_microcredits + other.charged_microcredits,
            cost_picousd: self.cost_picousd + other.cost_picousd,
        }
    }
}

/// A name as it stands in the key: whole up to [`MAX_KEY_BYTES`], which no sane name exceeds, else its beginning and a
/// hash of all of it. A key has to fit into the index, whatever a provider calls its models.
fn key_text(name: &str) -> String {
    let name = name.replace('\0', "\u{fffd}");
    if name.len() <= MAX_KEY_BYTES {
        return name;
    }
    let beginning = name.get(..name.floor_char_boundary(MAX_KEY_BYTES)).unwrap_or_default();
    format!("{beginning}…{}", Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()))
}

/// Ordered by day, account, user, provider and model.
pub async fn report(
    pool: &PgPool,
    filter: &UsageFilter,
    keep_apart: &[Dimension],
) -> Result<AsOf<Vec<UsageRow>>, ReportError> {
    let keeps = |dimension| keep_apart.contains(&dimension);
    let mut snapshot = Snapshot::of(pool, NAME).await?;
    let rows = sqlx::query!(
        r#"SELECT CASE WHEN $5 THEN day END AS day, CASE WHEN $6 THEN account END AS account,
                  CASE WHEN $7 THEN user_id END AS user_id, CASE WHEN $8 THEN provider END AS provider,
                  CASE WHEN $9 THEN model END AS model,
                  sum(requests)::bigint AS "requests!", sum(failed)::bigint AS "failed!",
                  sum(estimated)::bigint AS "estimated!", sum(input_tokens)::bigint AS "input_tokens!",
                  sum(cached_input_tokens)::bigint AS "cached_input_tokens!",
                  sum(cache_write_tokens)::bigint AS "cache_write_tokens!",
                  sum(output_tokens)::bigint AS "output_tokens!", sum(reasoning_tokens)::bigint AS "reasoning_tokens!",
                  sum(charged_microcredits)::bigint AS "charged_microcredits!",
                  sum(cost_picousd)::text AS "cost_picousd!"
           FROM usage_daily_v1
           WHERE day BETWEEN $1 AND $2 AND ($3::text IS NULL OR account = $3) AND ($4::text IS NULL OR user_id = $4)
           GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5 LIMIT $10"#,
        filter.from,
        filter.to,
        filter.account.as_deref().map(key_text),
        filter.user.as_deref().map(key_text),
        keeps(Dimension::Day),
        keeps(Dimension::Account),
        keeps(Dimension::User),
        keeps(Dimension::Provider),
        keeps(Dimension::Model),
        MAX_ROWS + 1,
    )
    .fetch_all(snapshot.connection())
    .await?;
    if i64::try_from(rows.len()).is_ok_and(|count| count > MAX_ROWS) {
        return Err(ReportError::TooManyRows);
    }
    let mut report = Vec::with_capacity(rows.len());
    for row in rows {
        let usage = Usage {
            requests: row.requests,
            failed: row.failed,
            estimated: row.estimated,
            input_tokens: row.input_tokens,
            cached_input_tokens: row.cached_input_tokens,
            cache_write_tokens: row.cache_write_tokens,
            output_tokens: row.output_tokens,
            reasoning_tokens: row.reasoning_tokens,
            charged_microcredits: row.charged_microcredits,
            cost_picousd: row.cost_picousd.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
        };
        let (day, account, user, provider, model) = (row.day, row.account, row.user_id, row.provider, row.model);
        report.push(UsageRow { day, account, user, provider, model, usage });
    }
    Ok(snapshot.close(report).await?)
}

#[derive(Debug, Clone, Copy)]
pub struct View;

impl rebuild::View for View {
    fn tables(&self) -> &'static [&'static str] {
        // In the order in which they are written to, so that emptying them and writing wait for each other.
        &["usage_daily_open_v1", NAME]
    }
}

impl EventHandler for View {
    fn name(&self) -> &'static str {
        NAME
    }

    fn apply<'a>(
        &'a self,
        transaction: &'a mut PgTransaction<'_>,
        events: &'a [Arc<LogEntry>],
    ) -> BoxFuture<'a, anyhow::Result<()>> {
        counting::apply(transaction, events).boxed()
    }
}
