//! From the events to the rows. The event that ends a request does not say whose it was, so what is open is kept too.

use std::{collections::BTreeMap, sync::Arc};

use aihub_domain::request::{
    Request,
    event::{Accepted, RequestEvent},
};
use aihub_infrastructure::{
    event_store::{
        decode::{LogEntry, events_of},
        reader::RecordedEvent,
    },
    json_rows::json_rows,
};
use anyhow::Context;
use chrono::NaiveDate;
use serde::Serialize;
use sqlx::PgTransaction;

use super::{NAME, Usage, key_text};
use crate::watermark::unapplied;

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

/// Counts every end among the events on its day, for whom the acceptance named.
pub async fn apply(transaction: &mut PgTransaction<'_>, events: &[Arc<LogEntry>]) -> anyhow::Result<()> {
    let events = unapplied(transaction, NAME, events).await?;
    let mut accepted: BTreeMap<&str, Open> = BTreeMap::new();
    let mut ends: Vec<(&RecordedEvent, &RequestEvent)> = Vec::new();
    for change in events_of::<Request>(events) {
        match change? {
            (event, RequestEvent::RequestAccepted(accept)) => {
                let Accepted { account, user: user_id, provider, model, .. } = (**accept).clone();
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
        if let Some((key, usage)) = contribution(&open, end)? {
            let sum = additions.entry(key).or_default();
            *sum = sum.plus(&usage);
        }
    }
    put(transaction, accepted.into_values().collect()).await?;
    add(transaction, additions.into_iter().map(|(key, usage)| Addition { key, usage }).collect()).await
}

/// What the end of a request adds, and to which row.
fn contribution(open: &Open, end: &RequestEvent) -> anyhow::Result<Option<(Key, Usage)>> {
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
        account: key_text(&open.account),
        user_id: key_text(&open.user_id),
        provider: key_text(outcome.and_then(|outcome| outcome.provider.as_ref()).unwrap_or(&open.provider)),
        model: key_text(outcome.and_then(|outcome| outcome.model.as_ref()).unwrap_or(&open.model)),
    };
    let used = outcome.map(Usage::of).transpose()?.unwrap_or_default();
    Ok(Some((key, Usage { requests: 1, failed, ..used })))
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
            json_rows(&open)?,
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
            json_rows(&additions)?,
        )
        .execute(&mut **transaction)
        .await?;
    }
    Ok(())
}
