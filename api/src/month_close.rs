//! The close of an accounting month: what it comes to is read from the ledgers, and written down as the very next event
//! after the position that this is true at. So nothing of the month can slip in between, and whatever is recorded later
//! stands behind the close and is booked in an open month.

use std::{fmt::Write, time::Duration};

use aihub_application::ports::event_log::{Metadata, NewEvent};
use aihub_domain::period::{
    Month, Period, PeriodError,
    command::PeriodCommand,
    event::{MonthTotals, PeriodEvent},
};
use aihub_infrastructure::{
    database::Database,
    event_store::{
        chain::{ChainHead, Hash},
        decode::{LogEntry, entries},
        reader::{self, ReadLimit},
        still_log::LogStopper,
        subscription::checkpoint,
        upcast::Upcasters,
    },
};
use aihub_projections::{booking, credit_ledger, usage_ledger};
use anyhow::Context;
use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;
use sqlx::Connection;
use thiserror::Error;
use tokio::time::{Instant, sleep};

/// How long the views may take to catch up with the log.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often the totals are taken again because the log went on too fast or something of the month came in late.
const ATTEMPTS: u32 = 10;
/// What may have been recorded since the totals were taken: it is looked through while nobody can append.
const SINCE: ReadLimit = ReadLimit { events: 2_000, bytes: 8 << 20 };

/// Why a month is not closed.
#[derive(Debug, Error)]
pub enum CloseError {
    #[error(transparent)]
    Refused(#[from] PeriodError),
    #[error("{view} stands at position {position} and the log ends at {head}: it has to catch up first")]
    Behind { view: &'static str, position: u64, head: u64 },
    #[error("there is nothing in the log")]
    EmptyLog,
    #[error("{ATTEMPTS} times something of the month was recorded while it was being closed")]
    NeverStill,
    #[error(transparent)]
    Unavailable(#[from] anyhow::Error),
}

impl From<sqlx::Error> for CloseError {
    fn from(error: sqlx::Error) -> Self {
        Self::Unavailable(error.into())
    }
}

/// A month that is closed now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    pub position: u64,
    pub event: PeriodEvent,
}

/// Closes `month` in the name of `actor`.
pub async fn close_month(
    database: &Database,
    upcasters: &Upcasters,
    month: Month,
    actor: &str,
    now: DateTime<Utc>,
) -> Result<Closed, CloseError> {
    let period = load(database, upcasters, month).await?;
    let mut stopper = LogStopper::connect(database).await?;
    for _ in 0..ATTEMPTS {
        let watermark = caught_up(database, &[usage_ledger::NAME, credit_ledger::NAME]).await?;
        let (first_open, totals) = take_totals(database, month, watermark).await?;
        let close = |head: ChainHead| PeriodCommand::CloseMonth {
            month,
            first_open,
            position: head.position,
            chain_hash: hex(&head.chain_hash),
            totals: Box::new(totals.clone()),
            actor: actor.to_owned(),
            closed_at: now,
        };
        // What is refused anyway keeps nobody waiting.
        period.decide(close(ChainHead::GENESIS))?;
        let mut still = stopper.stop().await?;
        let Some(since) = still.since(watermark, SINCE).await? else { continue };
        let since = entries(upcasters.apply(since).map_err(anyhow::Error::from)?);
        if any_of(&since, month)? {
            continue;
        }
        let events = period.decide(close(still.head))?;
        let event = events.into_iter().next().context("a close without an event")?;
        let metadata = Metadata::from([
            ("actor", actor.to_owned()),
            ("correlationId", format!("close:{month}")),
            ("node", "cli".to_owned()),
        ]);
        let new = NewEvent::of(&event).map_err(anyhow::Error::from)?;
        let position = still.append_first(Period::TYPE, &month.to_string(), &new, &metadata).await?;
        return Ok(Closed { position, event });
    }
    Err(CloseError::NeverStill)
}

async fn load(database: &Database, upcasters: &Upcasters, month: Month) -> anyhow::Result<Period> {
    let events = reader::stream_from(database.pool(), Period::TYPE, &month.to_string(), 1).await?;
    let mut period = Period::default();
    for event in upcasters.apply(events)? {
        period.evolve(&event.decode()?);
    }
    Ok(period)
}

/// The log's head, once the views have applied it.
pub async fn caught_up(database: &Database, views: &[&'static str]) -> Result<u64, CloseError> {
    let head = reader::head(database.pool()).await?.position;
    let give_up_at = Instant::now() + PATIENCE;
    for &view in views {
        loop {
            let status = checkpoint::status(database.pool(), view).await?;
            let position = status.as_ref().map_or(0, |status| status.position);
            if position >= head {
                break;
            }
            let stands = status.is_none_or(|status| status.failure.is_some() || status.paused_at.is_some());
            if stands || Instant::now() > give_up_at {
                return Err(CloseError::Behind { view, position, head });
            }
            sleep(LOOK_EVERY).await;
        }
    }
    Ok(head)
}

/// The first month that is not closed, and what `month` comes to at the watermark.
async fn take_totals(database: &Database, month: Month, watermark: u64) -> Result<(Month, MonthTotals), CloseError> {
    let mut connection = database.pool().acquire().await?;
    // A month of many millions of rows may take longer than the pool's statements otherwise may.
    let mut snapshot = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    sqlx::query("SET LOCAL statement_timeout = '10min'").execute(&mut *snapshot).await?;
    let closed = usage_ledger::closes(&mut snapshot).await?.pop();
    let first_open = match closed {
        Some(last) => last.month.next(),
        None => booking::first_month(&mut snapshot).await?.ok_or(CloseError::EmptyLog)?,
    };
    let usage = usage_ledger::totals(&mut snapshot, month, watermark).await?;
    let credits = credit_ledger::totals(&mut snapshot, month, watermark).await?;
    snapshot.commit().await?;
    let totals = MonthTotals {
        granted_microcredits: credits.granted_microcredits,
        expired_microcredits: credits.expired_microcredits,
        credit_notes_microcredits: credits.credit_notes_microcredits,
        debit_notes_microcredits: credits.debit_notes_microcredits,
        ..usage
    };
    Ok((first_open, totals))
}

/// Whether anything among these is booked in the month or before it, or closes one.
fn any_of(events: &[std::sync::Arc<LogEntry>], month: Month) -> anyhow::Result<bool> {
    for entry in events {
        if entry.aggregate_type == Period::TYPE {
            return Ok(true);
        }
        if booking::happened_at(entry)?.is_some_and(|at| Month::of(at) <= month) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn hex(hash: &Hash) -> String {
    let mut text = String::with_capacity(64);
    for byte in hash {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
