//! A credit account: what was granted, what is held for running work, what was spent.
//!
//! Money moves in two phases. A reservation is checked against the balance once, when it is made; settling it can
//! never fail for want of credits, because it takes at most what is held. At every event
//! `granted = available + held + spent`.

pub mod command;
pub mod event;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveTime, Utc};
use cqrs_es::{Aggregate, event_sink::EventSink};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::money::Microcredits;
use command::AccountCommand;
use event::AccountEvent;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    opened: bool,
    granted: Microcredits,
    held: Microcredits,
    spent: Microcredits,
    /// Reservations that were neither settled nor released, by id. Their sum is `held`.
    holds: BTreeMap<String, Microcredits>,
    /// Every grant by its idempotency key.
    grants: BTreeMap<String, Microcredits>,
    limits: UsageLimits,
    day: PeriodSpend,
    month: PeriodSpend,
}

/// The most that may be spent in a UTC day or month; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageLimits {
    pub daily_microcredits: Option<Microcredits>,
    pub monthly_microcredits: Option<Microcredits>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct PeriodSpend {
    /// The period's first day.
    start: NaiveDate,
    spent: Microcredits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    Day,
    Month,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AccountError {
    #[error("the account is not open")]
    NotOpen,
    #[error("an amount must be above zero, not {0}")]
    InvalidAmount(Microcredits),
    #[error("{available} credits are available and {required} are required")]
    InsufficientCredits { available: Microcredits, required: Microcredits },
    #[error("{used} of this {period:?}'s limit of {limit} credits are used or held; {required} more do not fit")]
    UsageLimitExceeded {
        period: Period,
        limit: Microcredits,
        used: Microcredits,
        required: Microcredits,
        resets_at: DateTime<Utc>,
    },
    #[error("reservation {0} is open already")]
    ReservationExists(String),
    #[error("there is no open reservation {0}: it was settled, released or never made")]
    NoSuchReservation(String),
    #[error("grant {grant_id} was made before, of {granted} credits")]
    GrantConflict { grant_id: String, granted: Microcredits },
}

impl Account {
    pub fn is_open(&self) -> bool {
        self.opened
    }

    pub fn granted(&self) -> Microcredits {
        self.granted
    }

    pub fn held(&self) -> Microcredits {
        self.held
    }

    pub fn spent(&self) -> Microcredits {
        self.spent
    }

    pub fn available(&self) -> Microcredits {
        self.granted - self.held - self.spent
    }

    pub fn limits(&self) -> UsageLimits {
        self.limits
    }

    pub fn hold(&self, reservation_id: &str) -> Option<Microcredits> {
        self.holds.get(reservation_id).copied()
    }

    pub fn decide(&self, command: AccountCommand) -> Result<Vec<AccountEvent>, AccountError> {
        match command {
            AccountCommand::OpenAccount { opened_at } => {
                Ok(if self.opened { vec![] } else { vec![AccountEvent::AccountOpened { opened_at }] })
            }
            AccountCommand::GrantCredits { grant_id, amount, reason, actor, granted_at } => {
                positive(amount)?;
                match self.grants.get(&grant_id) {
                    Some(granted) if *granted == amount => return Ok(vec![]),
                    Some(granted) => return Err(AccountError::GrantConflict { grant_id, granted: *granted }),
                    None => {}
                }
                let mut events = self.decide(AccountCommand::OpenAccount { opened_at: granted_at })?;
                events.push(AccountEvent::CreditsGranted {
                    grant_id,
                    amount_microcredits: amount,
                    available_microcredits: self.available() + amount,
                    reason,
                    actor,
                    granted_at,
                });
                Ok(events)
            }
            AccountCommand::SetUsageLimits { limits, reason, actor, set_at } => {
                for limit in [limits.daily_microcredits, limits.monthly_microcredits].into_iter().flatten() {
                    positive(limit)?;
                }
                self.require_open()?;
                Ok(vec![AccountEvent::UsageLimitsSet { limits, reason, actor, set_at }])
            }
            AccountCommand::ReserveCredits { reservation_id, amount, reserved_at } => {
                positive(amount)?;
                if self.holds.contains_key(&reservation_id) {
                    return Err(AccountError::ReservationExists(reservation_id));
                }
                let available_microcredits = self.available_after_holding(amount, reserved_at)?;
                Ok(vec![AccountEvent::CreditsReserved {
                    reservation_id,
                    amount_microcredits: amount,
                    available_microcredits,
                    reserved_at,
                }])
            }
            AccountCommand::ExtendReservation { reservation_id, by, extended_at } => {
                positive(by)?;
                let reserved = self.require_hold(&reservation_id)?;
                let available_microcredits = self.available_after_holding(by, extended_at)?;
                Ok(vec![AccountEvent::ReservationExtended {
                    reservation_id,
                    by_microcredits: by,
                    reserved_microcredits: reserved + by,
                    available_microcredits,
                    extended_at,
                }])
            }
            AccountCommand::SettleReservation { reservation_id, charge, settled_at } => {
                if charge.amount < Microcredits::ZERO {
                    return Err(AccountError::InvalidAmount(charge.amount));
                }
                let reserved = self.require_hold(&reservation_id)?;
                // The provider used more than was held: what the account still has covers it, and what it has not
                // is our loss, written down as such. It never becomes a debt.
                let missing = (charge.amount - reserved).max(Microcredits::ZERO);
                let extension = missing.min(self.available().max(Microcredits::ZERO));
                let reserved_at_last = reserved + extension;
                let charged = charge.amount.min(reserved_at_last);
                let mut events = Vec::with_capacity(2);
                if extension > Microcredits::ZERO {
                    events.push(AccountEvent::ReservationExtended {
                        reservation_id: reservation_id.clone(),
                        by_microcredits: extension,
                        reserved_microcredits: reserved_at_last,
                        available_microcredits: self.available() - extension,
                        extended_at: settled_at,
                    });
                }
                events.push(AccountEvent::CreditsSettled {
                    reservation_id,
                    charged_microcredits: charged,
                    released_microcredits: reserved_at_last - charged,
                    uncovered_microcredits: charge.amount - charged,
                    available_microcredits: self.available() - extension + (reserved_at_last - charged),
                    price_id: charge.price_id,
                    cost_picousd: charge.cost,
                    settled_at,
                });
                Ok(events)
            }
            AccountCommand::ReleaseReservation { reservation_id, released_at } => {
                let reserved = self.require_hold(&reservation_id)?;
                Ok(vec![AccountEvent::CreditsReleased {
                    reservation_id,
                    released_microcredits: reserved,
                    available_microcredits: self.available() + reserved,
                    released_at,
                }])
            }
        }
    }

    pub fn evolve(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::AccountOpened { .. } => self.opened = true,
            AccountEvent::CreditsGranted { grant_id, amount_microcredits, .. } => {
                self.granted += *amount_microcredits;
                self.grants.insert(grant_id.clone(), *amount_microcredits);
            }
            AccountEvent::UsageLimitsSet { limits, .. } => self.limits = *limits,
            AccountEvent::CreditsReserved { reservation_id, amount_microcredits, .. } => {
                self.held += *amount_microcredits;
                self.holds.insert(reservation_id.clone(), *amount_microcredits);
            }
            AccountEvent::ReservationExtended { reservation_id, by_microcredits, reserved_microcredits, .. } => {
                self.held += *by_microcredits;
                self.holds.insert(reservation_id.clone(), *reserved_microcredits);
            }
            AccountEvent::CreditsSettled { reservation_id, charged_microcredits, settled_at, .. } => {
                self.end_hold(reservation_id);
                self.spent += *charged_microcredits;
                let today = settled_at.date_naive();
                self.day.add(today, *charged_microcredits);
                self.month.add(first_of_month(today), *charged_microcredits);
            }
            AccountEvent::CreditsReleased { reservation_id, .. } => self.end_hold(reservation_id),
        }
    }

    /// What would be available with `amount` more held, or the rule that forbids it.
    fn available_after_holding(&self, amount: Microcredits, at: DateTime<Utc>) -> Result<Microcredits, AccountError> {
        self.require_open()?;
        self.require_within_limits(amount, at)?;
        let available = self.available();
        if amount > available {
            return Err(AccountError::InsufficientCredits { available, required: amount });
        }
        Ok(available - amount)
    }

    fn require_open(&self) -> Result<(), AccountError> {
        if self.opened { Ok(()) } else { Err(AccountError::NotOpen) }
    }

    fn require_hold(&self, reservation_id: &str) -> Result<Microcredits, AccountError> {
        self.hold(reservation_id).ok_or_else(|| AccountError::NoSuchReservation(reservation_id.to_owned()))
    }

    /// What is held counts against the running period, for that is when it will be settled at the earliest.
    fn require_within_limits(&self, required: Microcredits, at: DateTime<Utc>) -> Result<(), AccountError> {
        let today = at.date_naive();
        let month = first_of_month(today);
        let periods = [
            (Period::Day, self.limits.daily_microcredits, self.day.spent_since(today), today + Days::new(1)),
            (Period::Month, self.limits.monthly_microcredits, self.month.spent_since(month), month + Months::new(1)),
        ];
        for (period, limit, spent, next) in periods {
            let used = spent + self.held;
            if let Some(limit) = limit
                && used.saturating_add(required) > limit
            {
                let resets_at = next.and_time(NaiveTime::MIN).and_utc();
                return Err(AccountError::UsageLimitExceeded { period, limit, used, required, resets_at });
            }
        }
        Ok(())
    }

    fn end_hold(&mut self, reservation_id: &str) {
        if let Some(reserved) = self.holds.remove(reservation_id) {
            self.held -= reserved;
        }
    }
}

impl PeriodSpend {
    fn add(&mut self, start: NaiveDate, charged: Microcredits) {
        if start > self.start {
            *self = Self { start, spent: Microcredits::ZERO };
        }
        self.spent += charged;
    }

    fn spent_since(&self, start: NaiveDate) -> Microcredits {
        if self.start < start { Microcredits::ZERO } else { self.spent }
    }
}

fn positive(amount: Microcredits) -> Result<(), AccountError> {
    if amount > Microcredits::ZERO { Ok(()) } else { Err(AccountError::InvalidAmount(amount)) }
}

fn first_of_month(day: NaiveDate) -> NaiveDate {
    day.with_day(1).unwrap_or(day)
}

impl Aggregate for Account {
    const TYPE: &'static str = "account";
    type Command = AccountCommand;
    type Event = AccountEvent;
    type Error = AccountError;
    type Services = ();

    async fn handle(&mut self, command: AccountCommand, (): &(), sink: &EventSink<Self>) -> Result<(), AccountError> {
        for event in self.decide(command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: AccountEvent) {
        self.evolve(&event);
    }
}
