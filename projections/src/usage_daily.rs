//! Requests, tokens and money a day, by account, user, provider and model. A request counts on the UTC day of its end.

use std::collections::BTreeMap;

use aihub_domain::request::{
    Request,
    event::{Accepted, Outcome, RequestEvent},
};
use aihub_infrastructure::event_store::{decode::events_of, reader::RecordedEvent, subscription::EventHandler};
use anyhow::Context;
use chrono::NaiveDate;
use futures::{FutureExt, future::BoxFuture};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, PgTransaction};
use thiserror::Error;

use crate::{
    rebuild,
    watermark::{AsOf, Snapshot, unapplied},
};

pub const NAME: &str = "usage_daily_v1";
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
        filter.account.as_deref(),
        filter.user.as_deref(),
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
        &[NAME, "usage_daily_open_v1"]
    }
}

impl EventHandler for View {
    fn name(&self) -> &'static str {
        NAME
    }

    fn apply<'a>(
        &'a self,
        transaction: &'a mut PgTransaction<'_>,
        events: &'a [RecordedEvent],
    ) -> BoxFuture<'a, anyhow::Result<()>> {
        apply(transaction, events).boxed()
    }
}

/// Whose a request is, and what it asked for.
#[derive(Debug, Clone, Serialize)]
struct Open {
    request_id: String,
    account: String,
    user_id: String,
    provider: String,
    model: String,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Key {
    day: NaiveDate,
    account: String,
    user_id: String,
    provider: String,
    model: String,
}

#[derive(Serialize)]
struct Addition {
    #[serde(flatten)]
    key: Key,
    #[serde(flatten)]
    usage: Usage,
}

async fn apply(transaction: &mut PgTransaction<'_>, events: &[RecordedEvent]) -> anyhow::Result<()> {
    let events = unapplied(transaction, NAME, events).await?;
    let mut accepted: BTreeMap<&str, Open> = BTreeMap::new();
    let mut ends: Vec<(&RecordedEvent, RequestEvent)> = Vec::new();
    for change in events_of::<Request>(events) {
        match change? {
            (event, RequestEvent::RequestAccepted(accept)) => {
                let Accepted { account, user: user_id, provider, model, .. } = *accept;
                let request_id = event.aggregate_id.clone();
                accepted.insert(&event.aggregate_id, Open { request_id, account, user_id, provider, model });
            }
            end => ends.push(end),
        }
    }
    let before: Vec<&str> = ends.iter().map(|(event, _)| event.aggregate_id.as_str()).collect();
    let mut known = take(transaction, &before).await?;
    let mut additions: BTreeMap<Key, Usage> = BTreeMap::new();
    for (event, end) in ends {
        let request_id = event.aggregate_id.as_str();
        let open = accepted
            .remove(request_id)
            .or_else(|| known.remove(request_id))
            .with_context(|| format!("request {request_id} ends at position {} and is not open", event.position))?;
        if let Some((key, usage)) = contribution(open, &end)? {
            let sum = additions.entry(key).or_default();
            *sum = sum.plus(&usage);
        }
    }
    put(transaction, accepted.into_values().collect()).await?;
    add(transaction, additions.into_iter().map(|(key, usage)| Addition { key, usage }).collect()).await
}

/// What the end of a request adds, and to which row.
fn contribution(open: Open, end: &RequestEvent) -> anyhow::Result<Option<(Key, Usage)>> {
    let (ended_at, failed) = match end {
        RequestEvent::RequestAccepted(_) => return Ok(None),
        RequestEvent::RequestCompleted(outcome) | RequestEvent::RequestCancelled { outcome, .. } => {
            (outcome.ended_at, 0)
        }
        RequestEvent::RequestFailed { outcome, .. } => (outcome.ended_at, 1),
        RequestEvent::RequestAbandoned { abandoned_at, .. } => (*abandoned_at, 1),
    };
    let outcome = end.outcome();
    let key = Key {
        day: ended_at.date_naive(),
        account: open.account,
        user_id: open.user_id,
        provider: outcome.and_then(|outcome| outcome.provider.clone()).unwrap_or(open.provider),
        model: outcome.and_then(|outcome| outcome.model.clone()).unwrap_or(open.model),
    };
    let used = outcome.map(Usage::of).transpose()?.unwrap_or_default();
    Ok(Some((key, Usage { requests: 1, failed, ..used })))
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

/// Takes requests that were put before out again.
async fn take(transaction: &mut PgTransaction<'_>, ids: &[&str]) -> Result<BTreeMap<String, Open>, sqlx::Error> {
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let taken = sqlx::query_as!(
        Open,
        "DELETE FROM usage_daily_open_v1 WHERE request_id = ANY($1)
         RETURNING request_id, account, user_id, provider, model",
        ids as &[&str]
    );
    Ok(taken.fetch_all(&mut **transaction).await?.into_iter().map(|open| (open.request_id.clone(), open)).collect())
}

async fn put(transaction: &mut PgTransaction<'_>, open: Vec<Open>) -> anyhow::Result<()> {
    if !open.is_empty() {
        sqlx::query!(
            "INSERT INTO usage_daily_open_v1
                 SELECT * FROM json_populate_recordset(NULL::usage_daily_open_v1, $1::text::json)",
            serde_json::to_string(&open)?,
        )
        .execute(&mut **transaction)
        .await?;
    }
    Ok(())
}

async fn add(transaction: &mut PgTransaction<'_>, additions: Vec<Addition>) -> anyhow::Result<()> {
    if !additions.is_empty() {
        sqlx::query!(
            "INSERT INTO usage_daily_v1 AS u
                 SELECT * FROM json_populate_recordset(NULL::usage_daily_v1, $1::text::json)
             ON CONFLICT ON CONSTRAINT usage_daily_v1_key DO UPDATE SET
                 requests = u.requests + excluded.requests, failed = u.failed + excluded.failed,
                 estimated = u.estimated + excluded.estimated, input_tokens = u.input_tokens + excluded.input_tokens,
                 cached_input_tokens = u.cached_input_tokens + excluded.cached_input_tokens,
                 cache_write_tokens = u.cache_write_tokens + excluded.cache_write_tokens,
                 output_tokens = u.output_tokens + excluded.output_tokens,
                 reasoning_tokens = u.reasoning_tokens + excluded.reasoning_tokens,
                 charged_microcredits = u.charged_microcredits + excluded.charged_microcredits,
                 cost_picousd = u.cost_picousd + excluded.cost_picousd",
            serde_json::to_string(&additions)?,
        )
        .execute(&mut **transaction)
        .await?;
    }
    Ok(())
}
