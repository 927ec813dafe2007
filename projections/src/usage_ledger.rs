//! One row per request or video that ended, with what it used and its money, in the order of the log; where several providers
//! were paid for it, one for each. Rows never change, so what was known at a position is what stands up to it. Beside it the
//! months that are closed.

mod end;

use std::sync::Arc;

use aihub_domain::{
    money::{MicrocreditsSum, PicoUsdSum},
    period::{
        Month, Period,
        event::{MonthTotals, PeriodEvent},
    },
};
use aihub_infrastructure::{
    event_store::{decode::LogEntry, subscription::EventHandler},
    row,
};
use chrono::{DateTime, NaiveDate, Utc};
use cqrs_es::Aggregate;
use futures::{FutureExt, future::BoxFuture};
use serde::Serialize;
use sqlx::{PgConnection, PgTransaction};

use crate::{booking::State, rebuild, usage::EVENT_TYPES};

pub const NAME: &str = "usage_ledger_v1";
const STATE: &str = "usage_ledger_state_v1";

/// What a request or a video came to in the end, or a part of it. Where nothing was used, its figures are zero.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct UsageEntry {
    pub position: i64,
    /// Counts the rows of one end, in the order in which the providers were asked.
    pub part: i32,
    pub recorded_at: DateTime<Utc>,
    pub ended_at: DateTime<Utc>,
    /// The day of the end, or the first one of the accounting month where the end's own month was closed.
    pub usage_day: NaiveDate,
    /// By its first day.
    pub accounting_month: NaiveDate,
    /// The closed month in which it ended.
    pub corrects_month: Option<NaiveDate>,
    /// Or the video's.
    pub request_id: String,
    pub account: String,
    pub user_id: String,
    /// `chat | completion | embedding | video`
    pub kind: String,
    /// Who answered, or was asked last; who was asked for where nobody was, and `unknown` where that was left open.
    pub provider: String,
    /// The model that was asked there, by the name that prices and limits go by.
    pub model: String,
    /// What was asked for.
    pub requested_model: String,
    /// What the provider called the model that answered, where it said so.
    pub answered_model: Option<String>,
    /// `completed | failed | cancelled | abandoned | expired`
    pub status: String,
    pub client_left: bool,
    /// The tokens are our own count.
    pub estimated: bool,
    pub input_tokens: i64,
    pub cached_input_tokens: i64,
    pub cache_write_tokens: i64,
    pub cache_write_1h_tokens: i64,
    /// Thinking included.
    pub output_tokens: i64,
    pub reasoning_tokens: i64,
    /// That were charged for.
    pub video_seconds: i64,
    pub price_id: Option<String>,
    /// By the price list; more than was charged where the account had no more.
    pub list_microcredits: i64,
    pub charged_microcredits: i64,
    pub cost_picousd: i64,
    /// How many requests it stands for: 1 in the last row of an end, 0 in those before it.
    pub requests: i32,
}

row!(
    UsageEntry,
    "usage_ledger_v1",
    position,
    part,
    recorded_at,
    ended_at,
    usage_day,
    accounting_month,
    corrects_month,
    request_id,
    account,
    user_id,
    kind,
    provider,
    model,
    requested_model,
    answered_model,
    status,
    client_left,
    estimated,
    input_tokens,
    cached_input_tokens,
    cache_write_tokens,
    cache_write_1h_tokens,
    output_tokens,
    reasoning_tokens,
    video_seconds,
    price_id,
    list_microcredits,
    charged_microcredits,
    cost_picousd,
    requests,
);

/// A closed month. Its totals are true at `watermark`, right in front of the close.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonthClose {
    pub month: Month,
    pub position: u64,
    pub watermark: u64,
    pub chain_hash: String,
    pub totals: MonthTotals,
    pub actor: String,
    pub closed_at: DateTime<Utc>,
}

/// What is booked in a month, of requests and videos, up to a position; the credits that moved otherwise are not in it.
pub async fn totals(connection: &mut PgConnection, month: Month, up_to: u64) -> Result<MonthTotals, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT coalesce(sum(requests), 0)::bigint AS "requests!", coalesce(sum(input_tokens), 0)::bigint AS "input_tokens!",
                  coalesce(sum(cached_input_tokens), 0)::bigint AS "cached_input_tokens!",
                  coalesce(sum(cache_write_tokens), 0)::bigint AS "cache_write_tokens!",
                  coalesce(sum(cache_write_1h_tokens), 0)::bigint AS "cache_write_1h_tokens!",
                  coalesce(sum(output_tokens), 0)::bigint AS "output_tokens!",
                  coalesce(sum(reasoning_tokens), 0)::bigint AS "reasoning_tokens!",
                  coalesce(sum(video_seconds), 0)::bigint AS "video_seconds!",
                  coalesce(sum(charged_microcredits), 0)::text AS "charged_microcredits!",
                  coalesce(sum(cost_picousd), 0)::text AS "cost_picousd!"
           FROM usage_ledger_v1 WHERE accounting_month = $1 AND position <= $2"#,
        month.first_day(),
        up_to.cast_signed(),
    )
    .fetch_one(connection)
    .await?;
    Ok(MonthTotals {
        requests: row.requests.cast_unsigned(),
        input_tokens: row.input_tokens.cast_unsigned(),
        cached_input_tokens: row.cached_input_tokens.cast_unsigned(),
        cache_write_tokens: row.cache_write_tokens.cast_unsigned(),
        cache_write_1h_tokens: row.cache_write_1h_tokens.cast_unsigned(),
        output_tokens: row.output_tokens.cast_unsigned(),
        reasoning_tokens: row.reasoning_tokens.cast_unsigned(),
        video_seconds: row.video_seconds.cast_unsigned(),
        charged_microcredits: credits(row.charged_microcredits)?,
        cost_picousd: sum(row.cost_picousd)?,
        ..MonthTotals::default()
    })
}

/// The closed months, in their order.
pub async fn closes(connection: &mut PgConnection) -> Result<Vec<MonthClose>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT month, position, watermark, chain_hash, requests, input_tokens, cached_input_tokens,
                  cache_write_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens, video_seconds,
                  charged_microcredits::text AS "charged_microcredits!", cost_picousd::text AS "cost_picousd!",
                  granted_microcredits::text AS "granted_microcredits!",
                  expired_microcredits::text AS "expired_microcredits!",
                  credit_notes_microcredits::text AS "credit_notes_microcredits!",
                  debit_notes_microcredits::text AS "debit_notes_microcredits!", actor, closed_at
           FROM month_close_v1 ORDER BY month"#
    )
    .fetch_all(connection)
    .await?;
    let closes = rows.into_iter().map(|row| {
        Ok(MonthClose {
            month: Month::of_day(row.month),
            position: row.position.cast_unsigned(),
            watermark: row.watermark.cast_unsigned(),
            chain_hash: row.chain_hash,
            totals: MonthTotals {
                requests: row.requests.cast_unsigned(),
                input_tokens: row.input_tokens.cast_unsigned(),
                cached_input_tokens: row.cached_input_tokens.cast_unsigned(),
                cache_write_tokens: row.cache_write_tokens.cast_unsigned(),
                cache_write_1h_tokens: row.cache_write_1h_tokens.cast_unsigned(),
                output_tokens: row.output_tokens.cast_unsigned(),
                reasoning_tokens: row.reasoning_tokens.cast_unsigned(),
                video_seconds: row.video_seconds.cast_unsigned(),
                charged_microcredits: credits(row.charged_microcredits)?,
                cost_picousd: sum(row.cost_picousd)?,
                granted_microcredits: credits(row.granted_microcredits)?,
                expired_microcredits: credits(row.expired_microcredits)?,
                credit_notes_microcredits: credits(row.credit_notes_microcredits)?,
                debit_notes_microcredits: credits(row.debit_notes_microcredits)?,
            },
            actor: row.actor,
            closed_at: row.closed_at,
        })
    });
    closes.collect()
}

fn credits(text: String) -> Result<MicrocreditsSum, sqlx::Error> {
    text.try_into().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

fn sum(text: String) -> Result<PicoUsdSum, sqlx::Error> {
    text.try_into().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

#[derive(Debug, Clone, Copy)]
pub struct View;

impl rebuild::View for View {
    fn tables(&self) -> &'static [&'static str] {
        &[STATE, NAME, "month_close_v1"]
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
    let (mut rows, mut closes) = (Vec::new(), Vec::new());
    for entry in events {
        if state.takes(entry)? {
            rows.extend(UsageEntry::of(entry, state.closed)?);
            if entry.aggregate_type == Period::TYPE {
                closes.push((entry.position, entry.event::<Period>()?));
            }
        }
    }
    if !rows.is_empty() {
        sqlx::query!("INSERT INTO usage_ledger_v1 SELECT * FROM unnest($1::rows.usage_ledger_v1[])", rows as _)
            .execute(&mut **transaction)
            .await?;
    }
    for (position, close) in closes {
        insert_close(transaction, position, close).await?;
    }
    Ok(())
}

async fn insert_close(
    transaction: &mut PgTransaction<'_>,
    at: u64,
    PeriodEvent::MonthClosed { month, position, chain_hash, totals, actor, closed_at }: &PeriodEvent,
) -> anyhow::Result<()> {
    sqlx::query!(
        "INSERT INTO month_close_v1
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13::text::numeric, $14::text::numeric,
                 $15::text::numeric, $16::text::numeric, $17::text::numeric, $18::text::numeric, $19, $20)",
        month.first_day(),
        at.cast_signed(),
        position.cast_signed(),
        chain_hash,
        i64::try_from(totals.requests)?,
        i64::try_from(totals.input_tokens)?,
        i64::try_from(totals.cached_input_tokens)?,
        i64::try_from(totals.cache_write_tokens)?,
        i64::try_from(totals.cache_write_1h_tokens)?,
        i64::try_from(totals.output_tokens)?,
        i64::try_from(totals.reasoning_tokens)?,
        i64::try_from(totals.video_seconds)?,
        totals.charged_microcredits.0.to_string(),
        totals.cost_picousd.0.to_string(),
        totals.granted_microcredits.0.to_string(),
        totals.expired_microcredits.0.to_string(),
        totals.credit_notes_microcredits.0.to_string(),
        totals.debit_notes_microcredits.0.to_string(),
        actor,
        closed_at,
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}
