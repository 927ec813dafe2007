//! What can be asked of an account. Times and ids come in with the command.

use chrono::{DateTime, Utc};

use super::{AdjustmentKind, UsageLimits};
use crate::{money::Microcredits, period::Month, price::Charge};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountCommand {
    /// Does nothing on an open account.
    OpenAccount {
        opened_at: DateTime<Utc>,
    },
    /// Opens the account when it is not open yet. The same `grant_id` with the same amount and expiry does nothing.
    GrantCredits {
        grant_id: String,
        amount: Microcredits,
        /// From when on it cannot be held any more; `None` is never.
        expires_at: Option<DateTime<Utc>>,
        reason: String,
        actor: String,
        granted_at: DateTime<Utc>,
    },
    /// Takes a grant back of which nothing is spent, and which nothing that is held needs. One that was taken back already is left as it is.
    VoidGrant {
        grant_id: String,
        reason: String,
        actor: String,
        voided_at: DateTime<Utc>,
    },
    /// Takes back what is left of an expired grant and is not held. Again and again, until nothing is.
    ExpireCredits {
        grant_id: String,
        expired_at: DateTime<Utc>,
    },
    /// Corrects what was charged. The same `adjustment_id` with the same kind and amount does nothing.
    AdjustCredits(Adjustment),
    SetUsageLimits {
        limits: UsageLimits,
        reason: String,
        actor: String,
        set_at: DateTime<Utc>,
    },
    /// Holds `amount` for the work that `reservation_id` names; where the account has less, all that it has, if that is
    /// `at_least` so much.
    ReserveCredits {
        reservation_id: String,
        amount: Microcredits,
        at_least: Microcredits,
        reserved_at: DateTime<Utc>,
    },
    /// Holds `by` more for work that outgrows what was held for it, or the less that there is, as above. It is one decision,
    /// so that two that reach for the last of it cannot both be told that it is there.
    ExtendReservation {
        reservation_id: String,
        by: Microcredits,
        at_least: Microcredits,
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

/// A credit or a debit note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adjustment {
    pub adjustment_id: String,
    pub kind: AdjustmentKind,
    /// At least one.
    pub corrects: Vec<Corrected>,
    /// How many notes the account had when it was reckoned what is left of the charges: with others, less may be left.
    pub notes: usize,
    /// The month of the charges, where that is closed or over.
    pub corrects_month: Option<Month>,
    pub reason: String,
    pub actor: String,
    pub adjusted_at: DateTime<Utc>,
}

/// A charge that is corrected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corrected {
    /// The reservation that was settled.
    pub charge: String,
    /// What is given back of it, or taken on top.
    pub amount: Microcredits,
    /// What was charged, with what debit notes took on top and less what credit notes gave back.
    pub left: Microcredits,
}
