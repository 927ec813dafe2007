//! Seats in queues of limited length. A seat is taken before what sits there is in the log, so that a limit holds for all
//! who ask at the same time, on every node.

use futures::future::BoxFuture;
use uuid::Uuid;

use super::jobs::JobKind;

/// How many wait, or may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth {
    pub all: u64,
    pub of_account: u64,
}

/// Who wants one.
#[derive(Debug, Clone, Copy)]
pub struct Applicant<'a> {
    pub kind: JobKind,
    pub id: &'a str,
    pub account: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    Seat(Uuid),
    /// So many wait already.
    Full(Depth),
}

pub trait Seats: Send + Sync {
    /// Takes one if fewer than `most` wait, of all and of the account. It is held until the queue has read the applicant from
    /// the log, or is given back. After a minute it is free, unless the applicant is in the log and the queue has not come
    /// so far.
    fn take<'a>(&'a self, applicant: Applicant<'a>, most: Depth) -> BoxFuture<'a, anyhow::Result<Taken>>;

    /// For who took it and certainly does not come.
    fn give_back(&self, seat: Uuid) -> BoxFuture<'_, anyhow::Result<()>>;
}
