//! What an account was charged, and what notes have made of it since.

use aihub_domain::{
    account::{AdjustmentKind, event::Correction},
    money::Microcredits,
};
use chrono::{DateTime, Utc};
use futures::future::BoxFuture;

/// A settled reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// Of the reservation, which is that of the request or job.
    pub id: String,
    pub charged: Microcredits,
    pub settled_at: DateTime<Utc>,
}

/// A credit or debit note that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub adjustment_id: String,
    pub kind: AdjustmentKind,
    pub corrects: Vec<Correction>,
}

/// Where that is looked up: in the log itself, so that it is as new as the account is.
pub trait Charges: Send + Sync {
    /// The charge of this account for a request or a job of this id, or whose settlement, or end, stands at this position.
    fn find<'a>(&'a self, account: &'a str, named: &'a str) -> BoxFuture<'a, anyhow::Result<Option<Charge>>>;

    /// Every note of the account, in their order.
    fn notes<'a>(&'a self, account: &'a str) -> BoxFuture<'a, anyhow::Result<Vec<Note>>>;
}
