//! What can be asked of an account. Times and ids come in with the command.

use chrono::{DateTime, Utc};

use super::UsageLimits;
use crate::{money::Microcredits, price::Charge};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountCommand {
    /// Does nothing on an open account.
    OpenAccount {
        opened_at: DateTime<Utc>,
    },
    /// Opens the account when it is not open yet. The same `grant_id` with the same amount does nothing.
    GrantCredits {
        grant_id: String,
        amount: Microcredits,
        reason: String,
        actor: String,
        granted_at: DateTime<Utc>,
    },
    SetUsageLimits {
        limits: UsageLimits,
        reason: String,
        actor: String,
        set_at: DateTime<Utc>,
    },
    /// Holds `amount` for the work that `reservation_id` names.
    ReserveCredits {
        reservation_id: String,
        amount: Microcredits,
        reserved_at: DateTime<Utc>,
    },
    /// Holds `by` more for work that outgrows what was held for it.
    ExtendReservation {
        reservation_id: String,
        by: Microcredits,
        extended_at: DateTime<Utc>,
    },
    /// Ends a hold: takes the charge out of it and gives the rest back.
    SettleReservation {
        reservation_id: String,
        charge: Charge,
        settled_at: DateTime<Utc>,
    },
    /// Ends a hold and gives all of it back.
    ReleaseReservation {
        reservation_id: String,
        released_at: DateTime<Utc>,
    },
}
