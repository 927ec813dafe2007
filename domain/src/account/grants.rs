//! What is left of each grant, and in which order it is drawn on: what expires first goes first, then what was granted
//! first. Holds are not tied to a grant, only spending draws; what is held counts as the first of what is left.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::money::Microcredits;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grants {
    /// Every grant by its idempotency key.
    made: BTreeMap<String, Grant>,
    /// What is neither spent nor expired, in the order in which it is drawn on.
    left: Vec<Pool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pub amount: Microcredits,
    pub expires_at: Option<DateTime<Utc>>,
    /// It has expired and nothing is left of it.
    pub closed: bool,
    /// It was taken back.
    pub voided: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Pool {
    /// `None` for what credit notes gave back, which does not expire.
    grant_id: Option<String>,
    amount: Microcredits,
    expires_at: Option<DateTime<Utc>>,
}

/// What becomes of a grant's rest when it expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    pub expires_now: Microcredits,
    /// Held for running work: it is spent, or expires when it comes free.
    pub still_held: Microcredits,
}

impl Grants {
    pub fn get(&self, grant_id: &str) -> Option<&Grant> {
        self.made.get(grant_id)
    }

    /// Available and held together.
    #[cfg(test)]
    pub fn left(&self) -> Microcredits {
        self.left.iter().fold(Microcredits::ZERO, |sum, pool| sum.plus(pool.amount))
    }

    pub fn add(&mut self, grant_id: &str, amount: Microcredits, expires_at: Option<DateTime<Utc>>) {
        self.made.insert(grant_id.to_owned(), Grant { amount, expires_at, closed: false, voided: false });
        self.put(Pool { grant_id: Some(grant_id.to_owned()), amount, expires_at });
    }

    /// Back from what was spent, and so from grants that may have expired since: it does not expire again.
    pub fn give_back(&mut self, amount: Microcredits) {
        self.put(Pool { grant_id: None, amount, expires_at: None });
    }

    pub fn draw(&mut self, mut amount: Microcredits) {
        self.left.retain_mut(|pool| {
            let part = pool.amount.min(amount);
            pool.amount = pool.amount.minus(part);
            amount = amount.minus(part);
            pool.amount > Microcredits::ZERO
        });
    }

    /// What would expire of the grant now, with `held` for running work.
    pub fn expiry(&self, grant_id: &str, held: Microcredits) -> Expiry {
        let mut ahead = Microcredits::ZERO;
        for pool in &self.left {
            if pool.grant_id.as_deref() == Some(grant_id) {
                let still_held = held.minus(ahead).max(Microcredits::ZERO).min(pool.amount);
                return Expiry { expires_now: pool.amount.minus(still_held), still_held };
            }
            ahead = ahead.plus(pool.amount);
        }
        Expiry { expires_now: Microcredits::ZERO, still_held: Microcredits::ZERO }
    }

    /// What is neither spent nor expired of the grant.
    pub fn left_of(&self, grant_id: &str) -> Microcredits {
        let pool = self.left.iter().find(|pool| pool.grant_id.as_deref() == Some(grant_id));
        pool.map_or(Microcredits::ZERO, |pool| pool.amount)
    }

    pub fn void(&mut self, grant_id: &str) {
        self.left.retain(|pool| pool.grant_id.as_deref() != Some(grant_id));
        if let Some(grant) = self.made.get_mut(grant_id) {
            (grant.closed, grant.voided) = (true, true);
        }
    }

    pub fn expire(&mut self, grant_id: &str, expiry: Expiry) {
        if expiry.still_held > Microcredits::ZERO {
            let pool = self.left.iter_mut().find(|pool| pool.grant_id.as_deref() == Some(grant_id));
            if let Some(pool) = pool {
                pool.amount = expiry.still_held;
            }
            return;
        }
        self.left.retain(|pool| pool.grant_id.as_deref() != Some(grant_id));
        if let Some(grant) = self.made.get_mut(grant_id) {
            grant.closed = true;
        }
    }

    fn put(&mut self, pool: Pool) {
        let expires_late = |pool: &Pool| (pool.expires_at.is_none(), pool.expires_at);
        let after = self.left.partition_point(|other| expires_late(other) <= expires_late(&pool));
        self.left.insert(after, pool);
    }
}
