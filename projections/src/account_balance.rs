//! What an account was granted, holds, has spent and has left.

use std::{collections::BTreeMap, sync::Arc};

use aihub_domain::account::{Account, AdjustmentKind, event::AccountEvent};
use aihub_infrastructure::{
    audit::balances::BalanceView,
    event_store::{
        decode::{LogEntry, events_of},
        subscription::EventHandler,
    },
    row,
};
use futures::{FutureExt, future::BoxFuture};
use serde::Serialize;
use sqlx::{PgPool, PgTransaction};

use crate::{
    credit_ledger, rebuild,
    watermark::{AsOf, Snapshot},
};

pub const NAME: &str = "account_balance_v1";

/// For `aihub audit verify`, which adds up the balances itself.
pub const AUDITED: BalanceView = BalanceView {
    name: NAME,
    rows: "SELECT account, granted_microcredits, available_microcredits, held_microcredits, spent_microcredits,
           expired_microcredits FROM account_balance_v1",
};

/// `granted = available + held + spent + expired`; the table has that as a constraint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AccountBalance {
    pub account: String,
    pub granted_microcredits: i64,
    /// As the account's last event states it.
    pub available_microcredits: i64,
    pub held_microcredits: i64,
    /// After credit and debit notes.
    pub spent_microcredits: i64,
    pub expired_microcredits: i64,
    /// Debit notes less credit notes: what corrections have added to what was spent.
    pub adjusted_microcredits: i64,
    /// Used, but charged to nobody: our loss.
    pub uncovered_microcredits: i64,
    /// `None` is no limit.
    pub daily_limit_microcredits: Option<i64>,
    pub monthly_limit_microcredits: Option<i64>,
    /// Where the account's last event stands in the log.
    pub last_position: i64,
}

row!(
    AccountBalance,
    "account_balance_v1",
    account,
    granted_microcredits,
    available_microcredits,
    held_microcredits,
    spent_microcredits,
    expired_microcredits,
    adjusted_microcredits,
    uncovered_microcredits,
    daily_limit_microcredits,
    monthly_limit_microcredits,
    last_position,
);

impl AccountBalance {
    /// As in the ledger, what is beyond all bounds is cut off and does not wrap.
    fn evolve(&mut self, event: &AccountEvent) {
        let add = |balance: &mut i64, change: i64| *balance = balance.saturating_add(change);
        let take = |balance: &mut i64, change: i64| *balance = balance.saturating_sub(change);
        match event {
            AccountEvent::AccountOpened { .. } => {}
            AccountEvent::CreditsGranted { amount_microcredits, available_microcredits, .. } => {
                add(&mut self.granted_microcredits, amount_microcredits.0);
                self.available_microcredits = available_microcredits.0;
            }
            AccountEvent::GrantVoided { amount_microcredits, available_microcredits, .. } => {
                take(&mut self.granted_microcredits, amount_microcredits.0);
                self.available_microcredits = available_microcredits.0;
            }
            AccountEvent::CreditsExpired { amount_microcredits, available_microcredits, .. } => {
                add(&mut self.expired_microcredits, amount_microcredits.0);
                self.available_microcredits = available_microcredits.0;
            }
            AccountEvent::CreditsAdjusted { kind, amount_microcredits, available_microcredits, .. } => {
                let change = match kind {
                    AdjustmentKind::CreditNote => 0_i64.saturating_sub(amount_microcredits.0),
                    AdjustmentKind::DebitNote => amount_microcredits.0,
                };
                add(&mut self.spent_microcredits, change);
                add(&mut self.adjusted_microcredits, change);
                self.available_microcredits = available_microcredits.0;
            }
            AccountEvent::UsageLimitsSet { limits, .. } => {
                self.daily_limit_microcredits = limits.daily_microcredits.map(|limit| limit.0);
                self.monthly_limit_microcredits = limits.monthly_microcredits.map(|limit| limit.0);
            }
            AccountEvent::CreditsReserved { amount_microcredits: more, available_microcredits, .. }
            | AccountEvent::ReservationExtended { by_microcredits: more, available_microcredits, .. } => {
                add(&mut self.held_microcredits, more.0);
                self.available_microcredits = available_microcredits.0;
            }
            AccountEvent::CreditsSettled {
                charged_microcredits,
                released_microcredits,
                uncovered_microcredits,
                available_microcredits,
                ..
            } => {
                take(&mut self.held_microcredits, charged_microcredits.0);
                take(&mut self.held_microcredits, released_microcredits.0);
                add(&mut self.spent_microcredits, charged_microcredits.0);
                add(&mut self.uncovered_microcredits, uncovered_microcredits.0);
                self.available_microcredits = available_microcredits.0;
            }
            AccountEvent::CreditsReleased { released_microcredits, available_microcredits, .. } => {
                take(&mut self.held_microcredits, released_microcredits.0);
                self.available_microcredits = available_microcredits.0;
            }
        }
    }
}

/// `None` for an account that was never heard of.
pub async fn find(pool: &PgPool, account: &str) -> Result<AsOf<Option<AccountBalance>>, sqlx::Error> {
    let mut snapshot = Snapshot::of(pool, NAME).await?;
    let found = sqlx::query_as!(AccountBalance, "SELECT * FROM account_balance_v1 WHERE account = $1", account)
        .fetch_optional(snapshot.connection())
        .await?;
    snapshot.close(found).await
}

#[derive(Debug, Clone, Copy)]
pub struct View;

impl rebuild::View for View {
    fn tables(&self) -> &'static [&'static str] {
        &[NAME]
    }

    fn event_types(&self) -> &'static [&'static str] {
        credit_ledger::ACCOUNT_EVENT_TYPES
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
    let changes = events_of::<Account>(events).collect::<anyhow::Result<Vec<_>>>()?;
    if changes.is_empty() {
        return Ok(());
    }
    let accounts: Vec<&str> = changes.iter().map(|(event, _)| event.aggregate_id.as_str()).collect();
    let known = sqlx::query_as!(
        AccountBalance,
        "SELECT * FROM account_balance_v1 WHERE account = ANY($1)",
        &accounts as &[&str]
    )
    .fetch_all(&mut **transaction)
    .await?;
    // Each with the position up to which it was applied before: several events may come from one position.
    let mut balances: BTreeMap<String, (i64, AccountBalance)> =
        known.into_iter().map(|balance| (balance.account.clone(), (balance.last_position, balance))).collect();
    for (event, change) in changes {
        let (applied, balance) = balances.entry(event.aggregate_id.clone()).or_insert_with(|| {
            (0, AccountBalance { account: event.aggregate_id.clone(), ..AccountBalance::default() })
        });
        let position = event.position.cast_signed();
        if position > *applied {
            balance.evolve(change);
            balance.last_position = position;
        }
    }
    let rows: Vec<AccountBalance> = balances.into_values().map(|(_, balance)| balance).collect();
    sqlx::query!(
        "INSERT INTO account_balance_v1 SELECT * FROM unnest($1::rows.account_balance_v1[])
         ON CONFLICT (account) DO UPDATE SET
             granted_microcredits = excluded.granted_microcredits,
             available_microcredits = excluded.available_microcredits,
             held_microcredits = excluded.held_microcredits,
             spent_microcredits = excluded.spent_microcredits,
             expired_microcredits = excluded.expired_microcredits,
             adjusted_microcredits = excluded.adjusted_microcredits,
             uncovered_microcredits = excluded.uncovered_microcredits,
             daily_limit_microcredits = excluded.daily_limit_microcredits,
             monthly_limit_microcredits = excluded.monthly_limit_microcredits,
             last_position = excluded.last_position",
        rows as _,
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}
