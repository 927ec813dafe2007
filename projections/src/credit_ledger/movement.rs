//! What an account's event moves, from where to where.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use aihub_domain::{
    account::{AdjustmentKind, event::AccountEvent},
    money::Microcredits,
    period::Month,
};
use aihub_infrastructure::event_store::decode::LogEntry;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{Balances, CreditEntry};
use crate::booking::Booking;

/// Changes are in microcredits. `available` is what the event says is available after it.
#[derive(Debug, Default)]
pub struct Movement {
    name: &'static str,
    reference: String,
    pub happened_at: DateTime<Utc>,
    granted: i64,
    held: i64,
    spent: i64,
    expired: i64,
    available: i64,
    uncovered: i64,
    price_id: Option<String>,
    cost_picousd: Option<i64>,
    expires_at: Option<DateTime<Utc>>,
    corrects: Option<Value>,
    corrects_month: Option<Month>,
    reason: Option<String>,
    actor: Option<String>,
}

impl Movement {
    fn new(name: &'static str, reference: &str, happened_at: DateTime<Utc>, available: Microcredits) -> Self {
        Self { name, reference: reference.to_owned(), happened_at, available: available.0, ..Self::default() }
    }

    /// `None` where nothing moves.
    ///
    /// What an event states was decided within bounds that no sum over one account exceeds; what somebody else may have put
    /// into the log is cut off, and does not wrap: then the table's constraint finds it.
    pub fn of(event: &AccountEvent) -> Option<Self> {
        use AccountEvent as E;
        Some(match event {
            E::AccountOpened { .. } | E::UsageLimitsSet { .. } => return None,
            E::CreditsGranted {
                grant_id,
                amount_microcredits,
                available_microcredits: available,
                expires_at,
                reason,
                actor,
                granted_at,
            } => Self {
                granted: amount_microcredits.0,
                expires_at: *expires_at,
                reason: Some(reason.clone()),
                actor: Some(actor.clone()),
                ..Self::new("grant", grant_id, *granted_at, *available)
            },
            E::GrantVoided {
                grant_id,
                amount_microcredits,
                available_microcredits: available,
                reason,
                actor,
                voided_at,
            } => Self {
                granted: 0_i64.saturating_sub(amount_microcredits.0),
                reason: Some(reason.clone()),
                actor: Some(actor.clone()),
                ..Self::new("void", grant_id, *voided_at, *available)
            },
            E::CreditsExpired {
                grant_id, amount_microcredits, available_microcredits: available, expired_at, ..
            } => Self { expired: amount_microcredits.0, ..Self::new("expire", grant_id, *expired_at, *available) },
            E::CreditsAdjusted {
                adjustment_id,
                kind,
                amount_microcredits,
                available_microcredits: available,
                corrects,
                corrects_month,
                reason,
                actor,
                adjusted_at,
            } => Self {
                spent: match kind {
                    AdjustmentKind::CreditNote => 0_i64.saturating_sub(amount_microcredits.0),
                    AdjustmentKind::DebitNote => amount_microcredits.0,
                },
                corrects: Some(json!(corrects)),
                corrects_month: *corrects_month,
                reason: Some(reason.clone()),
                actor: Some(actor.clone()),
                ..Self::new("adjust", adjustment_id, *adjusted_at, *available)
            },
            E::CreditsReserved {
                reservation_id,
                amount_microcredits,
                available_microcredits: available,
                reserved_at,
            } => Self { held: amount_microcredits.0, ..Self::new("reserve", reservation_id, *reserved_at, *available) },
            E::ReservationExtended {
                reservation_id,
                by_microcredits,
                available_microcredits: available,
                extended_at,
                ..
            } => Self { held: by_microcredits.0, ..Self::new("extend", reservation_id, *extended_at, *available) },
            E::CreditsSettled {
                reservation_id,
                charged_microcredits,
                released_microcredits,
                uncovered_microcredits,
                available_microcredits: available,
                price_id,
                cost_picousd,
                settled_at,
            } => Self {
                held: 0_i64.saturating_sub(charged_microcredits.0).saturating_sub(released_microcredits.0),
                spent: charged_microcredits.0,
                uncovered: uncovered_microcredits.0,
                price_id: price_id.clone(),
                cost_picousd: Some(cost_picousd.0),
                ..Self::new("settle", reservation_id, *settled_at, *available)
            },
            E::CreditsReleased {
                reservation_id,
                released_microcredits,
                available_microcredits: available,
                released_at,
            } => Self {
                held: 0_i64.saturating_sub(released_microcredits.0),
                ..Self::new("release", reservation_id, *released_at, *available)
            },
        })
    }

    fn available_change(&self) -> i64 {
        self.granted.saturating_sub(self.held).saturating_sub(self.spent).saturating_sub(self.expired)
    }

    /// What is available is taken from the event: the table's constraint compares it with what the amounts come to.
    pub fn apply(&self, balances: &mut Balances) {
        let add = |balance: &mut i64, change: i64| *balance = balance.saturating_add(change);
        add(&mut balances.granted_microcredits, self.granted);
        add(&mut balances.held_microcredits, self.held);
        add(&mut balances.spent_microcredits, self.spent);
        add(&mut balances.expired_microcredits, self.expired);
        balances.available_microcredits = self.available;
    }

    pub fn row(self, entry: &LogEntry, booking: Booking, balances: Balances) -> CreditEntry {
        CreditEntry {
            account: entry.aggregate_id.clone(),
            position: entry.position.cast_signed(),
            recorded_at: entry.recorded_at,
            happened_at: self.happened_at,
            accounting_month: booking.month.first_day(),
            corrects_month: self.corrects_month.or(booking.corrects).map(Month::first_day),
            movement: self.name.to_owned(),
            available_change_microcredits: self.available_change(),
            reference: self.reference,
            granted_change_microcredits: self.granted,
            held_change_microcredits: self.held,
            spent_change_microcredits: self.spent,
            expired_change_microcredits: self.expired,
            balances,
            uncovered_microcredits: self.uncovered,
            price_id: self.price_id,
            cost_picousd: self.cost_picousd,
            expires_at: self.expires_at,
            corrects: self.corrects,
            reason: self.reason,
            actor: self.actor,
        }
    }
}
