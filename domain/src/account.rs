//! A credit account: what was granted, what is held for running work, what was spent.
//!
//! Money moves in two phases. A reservation is checked against the balance once, when it is made; settling it can
//! never fail for want of credits, because it takes at most what is held. At every event
//! `granted = available + held + spent + expired`.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

pub mod command;
pub mod event;
mod grants;
mod notes;
pub mod repricing;
mod reservations;
mod spend;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use cqrs_es::{Aggregate, event_sink::EventSink};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{money::Microcredits, period::Month};
use command::AccountCommand;
use event::AccountEvent;
use grants::{Expiry, Grants};
use spend::Spend;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    opened: bool,
    granted: Microcredits,
    held: Microcredits,
    spent: Microcredits,
    expired: Microcredits,
    /// Reservations that were neither settled nor released, by id. Their sum is `held`.
    holds: BTreeMap<String, Microcredits>,
    grants: Grants,
    /// Every credit and debit note by its idempotency key.
    adjustments: BTreeMap<String, (AdjustmentKind, Microcredits)>,
    limits: UsageLimits,
    spend: Spend,
}

/// The most that may be spent in a UTC day or month; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageLimits {
    pub daily_microcredits: Option<Microcredits>,
    pub monthly_microcredits: Option<Microcredits>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    Day,
    Month,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdjustmentKind {
    /// Gives spent credits back.
    CreditNote,
    /// Takes available credits.
    DebitNote,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AccountError {
    #[error("the account is not open")]
    NotOpen,
    #[error("an amount must be above zero and at most {most} credits, not {0}", most = Microcredits::MAX)]
    InvalidAmount(Microcredits),
    #[error(
        "{granted} credits were granted, and with {required} more it would be above {} altogether",
        Microcredits::MAX
    )]
    GrantedTooMuch { granted: Microcredits, required: Microcredits },
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
    #[error("grant {grant_id} was made before, of {granted} credits or with another expiry")]
    GrantConflict { grant_id: String, granted: Microcredits },
    #[error("grant {0} was made before and taken back: another one needs another name")]
    GrantVoided(String),
    #[error("there is no grant {0}")]
    NoSuchGrant(String),
    #[error(
        "only {free} of the {granted} credits of grant {grant_id} are neither spent nor needed for what is held: it cannot be taken back"
    )]
    GrantUsed { grant_id: String, granted: Microcredits, free: Microcredits },
    #[error("grant {grant_id} has not expired")]
    NotExpired { grant_id: String, expires_at: Option<DateTime<Utc>> },
    #[error("adjustment {adjustment_id} was made before, as a {kind:?} of {amount} credits")]
    AdjustmentConflict { adjustment_id: String, kind: AdjustmentKind, amount: Microcredits },
    #[error("{month} has been repriced already, see the note {note}")]
    RepricedAlready { month: Month, note: String },
    #[error("a note has to name what it corrects")]
    NothingCorrected,
    #[error("{left} credits are left of the charge for {charge}, so {required} cannot be given back of it")]
    MoreThanLeft { charge: String, left: Microcredits, required: Microcredits },
    #[error("another note was made meanwhile: what is left of the charges has to be reckoned again")]
    NotesChanged,
    #[error("{spent} credits were spent, so {required} cannot be given back")]
    MoreThanSpent { spent: Microcredits, required: Microcredits },
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

    pub fn expired(&self) -> Microcredits {
        self.expired
    }

    pub fn available(&self) -> Microcredits {
        self.granted.minus(self.held).minus(self.spent).minus(self.expired)
    }

    /// How many credit and debit notes there are.
    pub fn notes(&self) -> usize {
        self.adjustments.len()
    }

    /// What the note of this name was, and of how much.
    pub fn note(&self, adjustment_id: &str) -> Option<(AdjustmentKind, Microcredits)> {
        self.adjustments.get(adjustment_id).copied()
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
            AccountCommand::GrantCredits { grant_id, amount, expires_at, reason, actor, granted_at } => {
                check(amount)?;
                match self.grants.get(&grant_id) {
                    Some(made) if made.voided => return Err(AccountError::GrantVoided(grant_id)),
                    Some(made) if made.amount == amount && made.expires_at == expires_at => return Ok(vec![]),
                    Some(made) => return Err(AccountError::GrantConflict { grant_id, granted: made.amount }),
                    None => {}
                }
                if self.granted.plus(amount) > Microcredits::MAX {
                    return Err(AccountError::GrantedTooMuch { granted: self.granted, required: amount });
                }
                let mut events = self.decide(AccountCommand::OpenAccount { opened_at: granted_at })?;
                events.push(AccountEvent::CreditsGranted {
                    grant_id,
                    amount_microcredits: amount,
                    available_microcredits: self.available().plus(amount),
                    expires_at,
                    reason,
                    actor,
                    granted_at,
                });
                Ok(events)
            }
            AccountCommand::VoidGrant { grant_id, reason, actor, voided_at } => {
                let Some(grant) = self.grants.get(&grant_id) else { return Err(AccountError::NoSuchGrant(grant_id)) };
                if grant.voided {
                    return Ok(vec![]);
                }
                // What is held is held of no grant: it is enough that the others cover it.
                let free = self.grants.left_of(&grant_id).min(self.available());
                if free < grant.amount {
                    return Err(AccountError::GrantUsed { grant_id, granted: grant.amount, free });
                }
                Ok(vec![AccountEvent::GrantVoided {
                    grant_id,
                    amount_microcredits: grant.amount,
                    available_microcredits: self.available().minus(grant.amount),
                    reason,
                    actor,
                    voided_at,
                }])
            }
            AccountCommand::ExpireCredits { grant_id, expired_at } => self.decide_expiry(grant_id, expired_at),
            AccountCommand::AdjustCredits(adjustment) => self.decide_adjustment(adjustment),
            AccountCommand::SetUsageLimits { limits, reason, actor, set_at } => {
                for limit in [limits.daily_microcredits, limits.monthly_microcredits].into_iter().flatten() {
                    check(limit)?;
                }
                self.require_open()?;
                Ok(vec![AccountEvent::UsageLimitsSet { limits, reason, actor, set_at }])
            }
            AccountCommand::ReserveCredits { reservation_id, amount, at_least, reserved_at } => {
                self.decide_reservation(reservation_id, amount, at_least, reserved_at)
            }
            AccountCommand::ExtendReservation { reservation_id, by, at_least, extended_at } => {
                self.decide_extension(reservation_id, by, at_least, extended_at)
            }
            AccountCommand::SettleReservation { reservation_id, charge, settled_at } => {
                self.decide_settlement(reservation_id, charge, settled_at)
            }
            AccountCommand::ReleaseReservation { reservation_id, released_at } => {
                self.decide_release(reservation_id, released_at)
            }
        }
    }

    pub fn evolve(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::AccountOpened { .. } => self.opened = true,
            AccountEvent::CreditsGranted { grant_id, amount_microcredits, expires_at, .. } => {
                self.granted = self.granted.plus(*amount_microcredits);
                self.grants.add(grant_id, *amount_microcredits, *expires_at);
            }
            AccountEvent::GrantVoided { grant_id, amount_microcredits, .. } => {
                self.granted = self.granted.minus(*amount_microcredits);
                self.grants.void(grant_id);
            }
            AccountEvent::CreditsExpired { grant_id, amount_microcredits, still_held_microcredits, .. } => {
                self.expired = self.expired.plus(*amount_microcredits);
                let expiry = Expiry { expires_now: *amount_microcredits, still_held: *still_held_microcredits };
                self.grants.expire(grant_id, expiry);
            }
            AccountEvent::CreditsAdjusted { adjustment_id, kind, amount_microcredits: amount, .. } => {
                self.adjustments.insert(adjustment_id.clone(), (*kind, *amount));
                match kind {
                    AdjustmentKind::CreditNote => {
                        self.spent = self.spent.minus(*amount);
                        self.grants.give_back(*amount);
                    }
                    AdjustmentKind::DebitNote => {
                        self.spent = self.spent.plus(*amount);
                        self.grants.draw(*amount);
                    }
                }
            }
            AccountEvent::UsageLimitsSet { limits, .. } => self.limits = *limits,
            AccountEvent::CreditsReserved { reservation_id, amount_microcredits, .. } => {
                self.held = self.held.plus(*amount_microcredits);
                self.holds.insert(reservation_id.clone(), *amount_microcredits);
            }
            AccountEvent::ReservationExtended { reservation_id, by_microcredits, reserved_microcredits, .. } => {
                self.held = self.held.plus(*by_microcredits);
                self.holds.insert(reservation_id.clone(), *reserved_microcredits);
            }
            AccountEvent::CreditsSettled { reservation_id, charged_microcredits, settled_at, .. } => {
                self.end_hold(reservation_id);
                self.spent = self.spent.plus(*charged_microcredits);
                self.grants.draw(*charged_microcredits);
                self.spend.add(*settled_at, *charged_microcredits);
            }
            AccountEvent::CreditsReleased { reservation_id, .. } => self.end_hold(reservation_id),
        }
    }

    /// What is available of an expired grant expires; the rest when it comes free. The last of these events leaves
    /// nothing of it, and may be of no credits.
    fn decide_expiry(&self, grant_id: String, expired_at: DateTime<Utc>) -> Result<Vec<AccountEvent>, AccountError> {
        let Some(grant) = self.grants.get(&grant_id) else { return Err(AccountError::NoSuchGrant(grant_id)) };
        if grant.expires_at.is_none_or(|expires_at| expired_at < expires_at) {
            return Err(AccountError::NotExpired { grant_id, expires_at: grant.expires_at });
        }
        let Expiry { expires_now, still_held } = self.grants.expiry(&grant_id, self.held);
        if grant.closed || (expires_now == Microcredits::ZERO && still_held > Microcredits::ZERO) {
            return Ok(vec![]);
        }
        Ok(vec![AccountEvent::CreditsExpired {
            grant_id,
            amount_microcredits: expires_now,
            still_held_microcredits: still_held,
            available_microcredits: self.available().minus(expires_now),
            expired_at,
        }])
    }

    fn require_open(&self) -> Result<(), AccountError> {
        if self.opened { Ok(()) } else { Err(AccountError::NotOpen) }
    }

    fn end_hold(&mut self, reservation_id: &str) {
        if let Some(reserved) = self.holds.remove(reservation_id) {
            self.held = self.held.minus(reserved);
        }
    }
}

fn check(amount: Microcredits) -> Result<(), AccountError> {
    let is_amount = amount > Microcredits::ZERO && amount <= Microcredits::MAX;
    if is_amount { Ok(()) } else { Err(AccountError::InvalidAmount(amount)) }
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
