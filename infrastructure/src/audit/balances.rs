//! What accounts have, added up from their events alone and with an arithmetic of its own: neither what the accounts'
//! aggregate makes of them nor what a view does is taken for granted. In memory is one row for each account.

use std::collections::HashMap;

use aihub_domain::account::{Account, AdjustmentKind, event::AccountEvent};
use cqrs_es::Aggregate;
use futures::TryStreamExt;
use sqlx::PgConnection;

use super::Fault;
use crate::event_store::reader::RecordedEvent;

/// The view that the balances are held against.
#[derive(Debug, Clone, Copy)]
pub struct BalanceView {
    /// The name of its subscription.
    pub name: &'static str,
    /// Gives account, granted, available, held, spent and expired, these in microcredits, for each account.
    pub rows: &'static str,
}

/// In microcredits, 128 bits wide: no event, whoever put it into the log, makes a sum wrap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Balance {
    granted: i128,
    held: i128,
    spent: i128,
    expired: i128,
}

#[derive(Debug, Default)]
pub struct Balances(HashMap<String, Balance>);

impl Balance {
    fn available(self) -> i128 {
        self.granted - self.held - self.spent - self.expired
    }

    /// What the event states is available after it.
    fn add(&mut self, event: &AccountEvent) -> Option<i128> {
        let stated = match event {
            AccountEvent::AccountOpened { .. } | AccountEvent::UsageLimitsSet { .. } => return None,
            AccountEvent::CreditsGranted { amount_microcredits, available_microcredits, .. } => {
                self.granted += i128::from(amount_microcredits.0);
                available_microcredits
            }
            AccountEvent::GrantVoided { amount_microcredits, available_microcredits, .. } => {
                self.granted -= i128::from(amount_microcredits.0);
                available_microcredits
            }
            AccountEvent::CreditsExpired { amount_microcredits, available_microcredits, .. } => {
                self.expired += i128::from(amount_microcredits.0);
                available_microcredits
            }
            AccountEvent::CreditsAdjusted { kind, amount_microcredits, available_microcredits, .. } => {
                match kind {
                    AdjustmentKind::CreditNote => self.spent -= i128::from(amount_microcredits.0),
                    AdjustmentKind::DebitNote => self.spent += i128::from(amount_microcredits.0),
                }
                available_microcredits
            }
            AccountEvent::CreditsReserved { amount_microcredits: more, available_microcredits, .. }
            | AccountEvent::ReservationExtended { by_microcredits: more, available_microcredits, .. } => {
                self.held += i128::from(more.0);
                available_microcredits
            }
            AccountEvent::CreditsSettled {
                charged_microcredits,
                released_microcredits,
                available_microcredits,
                ..
            } => {
                self.held -= i128::from(charged_microcredits.0) + i128::from(released_microcredits.0);
                self.spent += i128::from(charged_microcredits.0);
                available_microcredits
            }
            AccountEvent::CreditsReleased { released_microcredits, available_microcredits, .. } => {
                self.held -= i128::from(released_microcredits.0);
                available_microcredits
            }
        };
        Some(stated.0.into())
    }
}

impl Balances {
    /// Adds the event, if it is an account's. What it states is available has to be what there is, and no debt.
    pub fn add(&mut self, event: &RecordedEvent) -> Result<(), Fault> {
        if event.aggregate_type != Account::TYPE {
            return Ok(());
        }
        let account = &event.aggregate_id;
        let fault = |what: &str, expected: String, found: String| Fault {
            position: event.position,
            what: format!("account {account}: {what}"),
            expected,
            found,
        };
        let change = event
            .decode()
            .map_err(|error| fault("the event does not decode", event.event_type.clone(), error.to_string()))?;
        if !self.0.contains_key(account) {
            self.0.insert(account.clone(), Balance::default());
        }
        let Some(balance) = self.0.get_mut(account) else { return Ok(()) };
        let stated = balance.add(&change);
        let available = balance.available();
        if stated.is_some_and(|stated| stated != available) || balance.held < 0 || available < 0 {
            let found = format!("{} available, {} held", stated.unwrap_or(available), balance.held);
            return Err(fault("the balance is not what its events add up to", format!("{available} available"), found));
        }
        Ok(())
    }

    /// How many accounts there are, if the view has the same figures; `position` is the one that both are true at.
    pub async fn compare(
        mut self,
        connection: &mut PgConnection,
        view: BalanceView,
        position: u64,
    ) -> Result<Result<usize, Fault>, sqlx::Error> {
        let fault = |account: &str, expected: String, found: String| Fault {
            position,
            what: format!("{} does not show what the events of account {account} add up to", view.name),
            expected,
            found,
        };
        let accounts = self.0.len();
        let mut rows = sqlx::query_as::<_, (String, i64, i64, i64, i64, i64)>(view.rows).fetch(connection);
        while let Some((account, granted, available, held, spent, expired)) = rows.try_next().await? {
            let [granted, available, held, spent, expired] = [granted, available, held, spent, expired].map(i128::from);
            let shown = Balance { granted, held, spent, expired };
            let expected = self.0.remove(&account).unwrap_or_default();
            if expected != shown || shown.available() != available {
                return Ok(Err(fault(
                    &account,
                    format!("{expected:?}"),
                    format!("{shown:?} and {available} available"),
                )));
            }
        }
        // One that was opened and nothing more need not be shown.
        self.0.retain(|_, balance| *balance != Balance::default());
        Ok(match self.0.iter().min_by_key(|(account, _)| account.as_str()) {
            None => Ok(accounts),
            Some((account, balance)) => Err(fault(account, format!("{balance:?}"), "nothing".to_owned())),
        })
    }
}
