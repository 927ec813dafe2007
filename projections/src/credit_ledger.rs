//! Every movement of credits, with the balances that it left, in the order of the log. Rows never change, so what was
//! known at a position is what stands up to it.

use std::{collections::BTreeMap, sync::Arc};

use aihub_domain::{
    account::{Account, event::AccountEvent},
    money::MicrocreditsSum,
    period::{Month, event::MonthTotals},
};
use aihub_infrastructure::{
    event_store::{decode::LogEntry, subscription::EventHandler},
    row,
};
use chrono::{DateTime, NaiveDate, Utc};
use cqrs_es::Aggregate;
use futures::{FutureExt, future::BoxFuture};
use serde::Serialize;
use serde_json::Value;
use sqlx::{PgConnection, PgTransaction};

use crate::{
    booking::{Booking, State},
    rebuild,
};

pub mod movement;

use movement::Movement;

pub const NAME: &str = "credit_ledger_v1";
const STATE: &str = "credit_ledger_state_v1";

/// What accounts are made from.
pub const ACCOUNT_EVENT_TYPES: &[&str] = &[
    "CreditsGranted",
    "GrantVoided",
    "CreditsExpired",
    "CreditsAdjusted",
    "UsageLimitsSet",
    "CreditsReserved",
    "ReservationExtended",
    "CreditsSettled",
    "CreditsReleased",
];

const EVENT_TYPES: &[&str] = &[
    "CreditsGranted",
    "GrantVoided",
    "CreditsExpired",
    "CreditsAdjusted",
    "CreditsReserved",
    "ReservationExtended",
    "CreditsSettled",
    "CreditsReleased",
    "MonthClosed",
];

/// A movement of an account's credits. In microcredits; `granted = available + held + spent + expired`.
#[derive(Debug, Clone, PartialEq, Serialize, sqlx::FromRow)]
pub struct CreditEntry {
    pub account: String,
    pub position: i64,
    pub recorded_at: DateTime<Utc>,
    /// By the clock of the node that did it.
    pub happened_at: DateTime<Utc>,
    /// By its first day.
    pub accounting_month: NaiveDate,
    /// The month before in which it happened, or which the note says that it corrects.
    pub corrects_month: Option<NaiveDate>,
    /// `grant | void | reserve | extend | settle | release | expire | adjust`
    pub movement: String,
    /// The grant, the request or the note.
    pub reference: String,
    pub granted_change_microcredits: i64,
    pub available_change_microcredits: i64,
    pub held_change_microcredits: i64,
    /// Below zero in a credit note.
    pub spent_change_microcredits: i64,
    pub expired_change_microcredits: i64,
    #[serde(flatten)]
    #[sqlx(flatten)]
    pub balances: Balances,
    /// Used, but charged to nobody.
    pub uncovered_microcredits: i64,
    pub price_id: Option<String>,
    pub cost_picousd: Option<i64>,
    pub expires_at: Option<DateTime<Utc>>,
    /// Of a note: a list of charges, each with its amount.
    pub corrects: Option<Value>,
    pub reason: Option<String>,
    pub actor: Option<String>,
}

row!(
    CreditEntry,
    "credit_ledger_v1",
    account,
    position,
    recorded_at,
    happened_at,
    accounting_month,
    corrects_month,
    movement,
    reference,
    granted_change_microcredits,
    available_change_microcredits,
    held_change_microcredits,
    spent_change_microcredits,
    expired_change_microcredits,
    balances.granted_microcredits,
    balances.available_microcredits,
    balances.held_microcredits,
    balances.spent_microcredits,
    balances.expired_microcredits,
    uncovered_microcredits,
    price_id,
    cost_picousd,
    expires_at,
    corrects,
    reason,
    actor,
);

/// After a movement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Balances {
    pub granted_microcredits: i64,
    pub available_microcredits: i64,
    pub held_microcredits: i64,
    pub spent_microcredits: i64,
    pub expired_microcredits: i64,
}

/// An account's movements after one position and up to another, at most `limit`, in their order.
pub async fn movements(
    connection: &mut PgConnection,
    account: &str,
    after: u64,
    up_to: u64,
    limit: u32,
) -> Result<Vec<CreditEntry>, sqlx::Error> {
    sqlx::query_as(
        "SELECT * FROM credit_ledger_v1 WHERE account = $1 AND position > $2 AND position <= $3
         ORDER BY position LIMIT $4",
    )
    .bind(account)
    .bind(after.cast_signed())
    .bind(up_to.cast_signed())
    .bind(i64::from(limit))
    .fetch_all(connection)
    .await
}

/// An account's balances as they were at a position; all zero before its first movement.
pub async fn balances_at(connection: &mut PgConnection, account: &str, position: u64) -> Result<Balances, sqlx::Error> {
    let balances = sqlx::query_as!(
        Balances,
        "SELECT granted_microcredits, available_microcredits, held_microcredits, spent_microcredits,
                expired_microcredits
         FROM credit_ledger_v1 WHERE account = $1 AND position <= $2 ORDER BY position DESC LIMIT 1",
        account,
        position.cast_signed(),
    );
    Ok(balances.fetch_optional(connection).await?.unwrap_or_default())
}

/// The credits that are booked in a month up to a position otherwise than by requests: what was granted, what expired,
/// and the notes. The other totals are zero.
pub async fn totals(connection: &mut PgConnection, month: Month, up_to: u64) -> Result<MonthTotals, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT coalesce(sum(granted_change_microcredits), 0)::text AS "granted!",
                  coalesce(sum(expired_change_microcredits), 0)::text AS "expired!",
                  coalesce(sum(-spent_change_microcredits)
                      FILTER (WHERE movement = 'adjust' AND spent_change_microcredits < 0), 0)::text AS "credited!",
                  coalesce(sum(spent_change_microcredits)
                      FILTER (WHERE movement = 'adjust' AND spent_change_microcredits > 0), 0)::text AS "debited!"
           FROM credit_ledger_v1
           WHERE accounting_month = $1 AND position <= $2 AND movement IN ('grant', 'void', 'expire', 'adjust')"#,
        month.first_day(),
        up_to.cast_signed(),
    )
    .fetch_one(connection)
    .await?;
    let sum = |text: String| MicrocreditsSum::try_from(text).map_err(|error| sqlx::Error::Decode(Box::new(error)));
    Ok(MonthTotals {
        granted_microcredits: sum(row.granted)?,
        expired_microcredits: sum(row.expired)?,
        credit_notes_microcredits: sum(row.credited)?,
        debit_notes_microcredits: sum(row.debited)?,
        ..MonthTotals::default()
    })
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
    let mut moved: Vec<(&LogEntry, Movement, Option<Month>)> = Vec::new();
    for entry in events {
        if state.takes(entry)? && entry.aggregate_type == Account::TYPE {
            let event: &AccountEvent = entry.event::<Account>()?;
            moved.extend(Movement::of(event).map(|movement| (&**entry, movement, state.closed)));
        }
    }
    let accounts = moved.iter().map(|(entry, ..)| entry.aggregate_id.as_str());
    let mut balances = last_balances(transaction, accounts.collect()).await?;
    let mut rows = Vec::with_capacity(moved.len());
    for (entry, movement, closed) in moved {
        let balances = balances.entry(entry.aggregate_id.clone()).or_default();
        movement.apply(balances);
        let booking = Booking::of(movement.happened_at, closed);
        rows.push(movement.row(entry, booking, *balances));
    }
    if !rows.is_empty() {
        sqlx::query!("INSERT INTO credit_ledger_v1 SELECT * FROM unnest($1::rows.credit_ledger_v1[])", rows as _)
            .execute(&mut **transaction)
            .await?;
    }
    Ok(())
}

async fn last_balances(
    transaction: &mut PgTransaction<'_>,
    mut accounts: Vec<&str>,
) -> Result<BTreeMap<String, Balances>, sqlx::Error> {
    accounts.sort_unstable();
    accounts.dedup();
    let rows = sqlx::query!(
        r#"SELECT a.account AS "account!", l.granted_microcredits, l.available_microcredits, l.held_microcredits,
                  l.spent_microcredits, l.expired_microcredits
           FROM unnest($1::text[]) AS a (account) CROSS JOIN LATERAL (
               SELECT * FROM credit_ledger_v1 l WHERE l.account = a.account ORDER BY l.position DESC LIMIT 1) l"#,
        &accounts as &[&str],
    )
    .fetch_all(&mut **transaction)
    .await?;
    let balances = rows.into_iter().map(|row| {
        let balances = Balances {
            granted_microcredits: row.granted_microcredits,
            available_microcredits: row.available_microcredits,
            held_microcredits: row.held_microcredits,
            spent_microcredits: row.spent_microcredits,
            expired_microcredits: row.expired_microcredits,
        };
        (row.account, balances)
    });
    Ok(balances.collect())
}
