//! The two phases of spending: held first, then settled or released, once.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use chrono::{DateTime, Utc};

use super::{Account, AccountError, check, event::AccountEvent};
use crate::{money::Microcredits, price::Charge};

impl Account {
    pub(super) fn decide_reservation(
        &self,
        reservation_id: String,
        amount: Microcredits,
        at_least: Microcredits,
        reserved_at: DateTime<Utc>,
    ) -> Result<Vec<AccountEvent>, AccountError> {
        if self.holds.contains_key(&reservation_id) {
            return Err(AccountError::ReservationExists(reservation_id));
        }
        let amount = self.affordable(amount, at_least, reserved_at)?;
        Ok(vec![AccountEvent::CreditsReserved {
            reservation_id,
            amount_microcredits: amount,
            available_microcredits: self.available().minus(amount),
            reserved_at,
        }])
    }

    pub(super) fn decide_extension(
        &self,
        reservation_id: String,
        by: Microcredits,
        at_least: Microcredits,
        extended_at: DateTime<Utc>,
    ) -> Result<Vec<AccountEvent>, AccountError> {
        let reserved = self.require_hold(&reservation_id)?;
        let by = self.affordable(by, at_least, extended_at)?;
        Ok(vec![AccountEvent::ReservationExtended {
            reservation_id,
            by_microcredits: by,
            reserved_microcredits: reserved.plus(by),
            available_microcredits: self.available().minus(by),
            extended_at,
        }])
    }

    pub(super) fn decide_settlement(
        &self,
        reservation_id: String,
        charge: Charge,
        settled_at: DateTime<Utc>,
    ) -> Result<Vec<AccountEvent>, AccountError> {
        if charge.amount < Microcredits::ZERO {
            return Err(AccountError::InvalidAmount(charge.amount));
        }
        let reserved = self.require_hold(&reservation_id)?;
        // The provider used more than was held: what the account still has covers it, and what it has not
        // is our loss, written down as such. It never becomes a debt.
        let missing = charge.amount.minus(reserved).max(Microcredits::ZERO);
        let extension = missing.min(self.available().max(Microcredits::ZERO));
        let reserved_at_last = reserved.plus(extension);
        let charged = charge.amount.min(reserved_at_last);
        let released = reserved_at_last.minus(charged);
        let available = self.available().minus(extension);
        let mut events = Vec::with_capacity(2);
        if extension > Microcredits::ZERO {
            events.push(AccountEvent::ReservationExtended {
                reservation_id: reservation_id.clone(),
                by_microcredits: extension,
                reserved_microcredits: reserved_at_last,
                available_microcredits: available,
                extended_at: settled_at,
            });
        }
        events.push(AccountEvent::CreditsSettled {
            reservation_id,
            charged_microcredits: charged,
            released_microcredits: released,
            uncovered_microcredits: charge.amount.minus(charged),
            available_microcredits: available.plus(released),
            price_id: charge.price_id,
            cost_picousd: charge.cost,
            settled_at,
        });
        Ok(events)
    }

    pub(super) fn decide_release(
        &self,
        reservation_id: String,
        released_at: DateTime<Utc>,
    ) -> Result<Vec<AccountEvent>, AccountError> {
        let reserved = self.require_hold(&reservation_id)?;
        Ok(vec![AccountEvent::CreditsReleased {
            reservation_id,
            released_microcredits: reserved,
            available_microcredits: self.available().plus(reserved),
            released_at,
        }])
    }

    /// How much of `amount` can be held, or the rule that forbids even `at_least` so much.
    fn affordable(
        &self,
        amount: Microcredits,
        at_least: Microcredits,
        at: DateTime<Utc>,
    ) -> Result<Microcredits, AccountError> {
        check(amount)?;
        check(at_least)?;
        self.require_open()?;
        let room = self.spend.room(&self.limits, self.held, at_least, at)?;
        let available = self.available();
        if at_least > available {
            return Err(AccountError::InsufficientCredits { available, required: at_least });
        }
        Ok(amount.min(room).min(available))
    }

    fn require_hold(&self, reservation_id: &str) -> Result<Microcredits, AccountError> {
        self.hold(reservation_id).ok_or_else(|| AccountError::NoSuchReservation(reservation_id.to_owned()))
    }
}
