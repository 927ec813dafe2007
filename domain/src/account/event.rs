//! What happened to an account. Each event carries the balance that it left, so that no reader has to calculate it.

use chrono::{DateTime, Utc};
use cqrs_es::DomainEvent;
use serde::{Deserialize, Serialize};

use super::{AdjustmentKind, UsageLimits};
use crate::{
    money::{Microcredits, PicoUsd},
    period::Month,
};

/// A note's part for one charge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Correction {
    /// The reservation that was settled: the id of the request or job.
    pub charge: String,
    /// What is given back of it, or taken on top: as the note's kind says.
    pub amount_microcredits: Microcredits,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountEvent {
    AccountOpened {
        opened_at: DateTime<Utc>,
    },
    CreditsGranted {
        /// The grant's idempotency key.
        grant_id: String,
        amount_microcredits: Microcredits,
        available_microcredits: Microcredits,
        /// `None` is never.
        expires_at: Option<DateTime<Utc>>,
        reason: String,
        actor: String,
        granted_at: DateTime<Utc>,
    },
    /// A grant that was made in error is taken back, all of it.
    GrantVoided {
        grant_id: String,
        amount_microcredits: Microcredits,
        available_microcredits: Microcredits,
        reason: String,
        actor: String,
        voided_at: DateTime<Utc>,
    },
    CreditsExpired {
        grant_id: String,
        /// None at all where everything had been spent: then this only ends the grant.
        amount_microcredits: Microcredits,
        /// Of the grant: it is spent, or expires later. Zero in the grant's last event.
        still_held_microcredits: Microcredits,
        available_microcredits: Microcredits,
        expired_at: DateTime<Utc>,
    },
    /// What was spent is changed, and what is available with it.
    CreditsAdjusted {
        /// The note's idempotency key.
        adjustment_id: String,
        kind: AdjustmentKind,
        amount_microcredits: Microcredits,
        available_microcredits: Microcredits,
        /// What it comes to, charge by charge.
        corrects: Vec<Correction>,
        /// The month of the charges, where that was closed or over by then.
        corrects_month: Option<Month>,
        reason: String,
        actor: String,
        adjusted_at: DateTime<Utc>,
    },
    UsageLimitsSet {
        limits: UsageLimits,
        reason: String,
        actor: String,
        set_at: DateTime<Utc>,
    },
    CreditsReserved {
        /// The id of the request or job that it is for.
        reservation_id: String,
        amount_microcredits: Microcredits,
        available_microcredits: Microcredits,
        reserved_at: DateTime<Utc>,
    },
    ReservationExtended {
        reservation_id: String,
        by_microcredits: Microcredits,
        /// What is held for it now, altogether.
        reserved_microcredits: Microcredits,
        available_microcredits: Microcredits,
        extended_at: DateTime<Utc>,
    },
    CreditsSettled {
        reservation_id: String,
        charged_microcredits: Microcredits,
        released_microcredits: Microcredits,
        /// Used, but neither held nor available: our loss, not the account's debt. Zero but for estimates that
        /// were too low on an account that was nearly empty.
        uncovered_microcredits: Microcredits,
        available_microcredits: Microcredits,
        /// The price that the charge was calculated from; `None` where nothing was used.
        price_id: Option<String>,
        cost_picousd: PicoUsd,
        settled_at: DateTime<Utc>,
    },
    CreditsReleased {
        reservation_id: String,
        released_microcredits: Microcredits,
        available_microcredits: Microcredits,
        released_at: DateTime<Utc>,
    },
}

impl DomainEvent for AccountEvent {
    fn event_type(&self) -> String {
        match self {
            Self::AccountOpened { .. } => "AccountOpened",
            Self::CreditsGranted { .. } => "CreditsGranted",
            Self::GrantVoided { .. } => "GrantVoided",
            Self::CreditsExpired { .. } => "CreditsExpired",
            Self::CreditsAdjusted { .. } => "CreditsAdjusted",
            Self::UsageLimitsSet { .. } => "UsageLimitsSet",
            Self::CreditsReserved { .. } => "CreditsReserved",
            Self::ReservationExtended { .. } => "ReservationExtended",
            Self::CreditsSettled { .. } => "CreditsSettled",
            Self::CreditsReleased { .. } => "CreditsReleased",
        }
        .to_owned()
    }

    fn event_version(&self) -> String {
        "1.0".to_owned()
    }
}
