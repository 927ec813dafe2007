//! Requests, tokens, seconds of video and money a day, by account, user, provider and model. A request counts on the UTC day of its end,
//! or, where the end's month was closed before it was recorded, on the first day of the month that was open then.

use std::sync::Arc;

use aihub_infrastructure::event_store::{decode::LogEntry, subscription::EventHandler};
use chrono::NaiveDate;
use futures::{FutureExt, future::BoxFuture};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool, PgTransaction};
use thiserror::Error;

use crate::{
    booking::State,
    key_text::key_text,
    rebuild,
    usage::{Additions, EVENT_TYPES, Usage},
    usage_ledger::UsageEntry,
    watermark::{AsOf, Snapshot},
};

pub const NAME: &str = "usage_daily_v1";
const STATE: &str = "usage_daily_state_v1";
/// The most rows that one report has.
pub const MAX_ROWS: i64 = 10_000;

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
    /// Who answered, or was asked last; who was asked for where nobody was, and `unknown` where that was left open.
    pub provider: Option<String>,
    pub model: Option<String>,
    #[serde(flatten)]
    pub usage: Usage,
}

#[derive(Debug, Error)]
pub enum ReportError {
    #[error("the report has more than {MAX_ROWS} rows: ask for fewer days, or keep fewer things apart")]
    TooManyRows,
    #[error("the database is unavailable: {0}")]
    Database(#[from] sqlx::Error),
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
                  sum(cache_write_1h_tokens)::bigint AS "cache_write_1h_tokens!",
                  sum(output_tokens)::bigint AS "output_tokens!", sum(reasoning_tokens)::bigint AS "reasoning_tokens!",
                  sum(video_seconds)::bigint AS "video_seconds!",
                  sum(list_microcredits)::text AS "list_microcredits!",
                  sum(charged_microcredits)::text AS "charged_microcredits!",
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
            cache_write_1h_tokens: row.cache_write_1h_tokens,
            output_tokens: row.output_tokens,
            reasoning_tokens: row.reasoning_tokens,
            video_seconds: row.video_seconds,
            list_microcredits: sum(&row.list_microcredits)?,
            charged_microcredits: sum(&row.charged_microcredits)?,
            cost_picousd: sum(&row.cost_picousd)?,
        };
        let (day, account, user, provider, model) = (row.day, row.account, row.user_id, row.provider, row.model);
        report.push(UsageRow { day, account, user, provider, model, usage });
    }
    Ok(snapshot.close(report).await?)
}

fn sum(text: &str) -> Result<i128, sqlx::Error> {
    text.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// The days between, both included, that something was added to behind a position, and where the first event of each
/// stands. All others are now as they were there.
pub async fn changed_since(
    connection: &mut PgConnection,
    position: u64,
    (from, to): (NaiveDate, NaiveDate),
) -> Result<Vec<(NaiveDate, u64)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT day, min(first_position) AS "first!" FROM usage_daily_v1 WHERE day BETWEEN $1 AND $2
           GROUP BY day HAVING max(last_position) > $3 ORDER BY day"#,
        from,
        to,
        position.cast_signed(),
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.day, row.first.cast_unsigned())).collect())
}

#[derive(Debug, Clone, Copy)]
pub struct View;

impl rebuild::View for View {
    fn tables(&self) -> &'static [&'static str] {
        &[STATE, NAME]
    }

    fn event_types(&self) -> &'static [&'static str] {
        EVENT_TYPES
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
        apply(transaction, events).boxed()
    }
}

async fn apply(transaction: &mut PgTransaction<'_>, events: &[Arc<LogEntry>]) -> anyhow::Result<()> {
    let Some(mut state) = State::advance(transaction, STATE, EVENT_TYPES, events).await? else { return Ok(()) };
    let mut additions = Additions::default();
    for entry in events {
        if state.takes(entry)? {
            for end in UsageEntry::of(entry, state.closed)? {
                additions.add(end.usage_day, end);
            }
        }
    }
    additions.write(transaction, NAME, "day").await?;
    Ok(())
}
