//! The places of running requests, and the queue for them.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Capacity;
use crate::{
    error::GatewayError,
    principal::Principal,
    shares::{Held, Holder, Portions, Share},
};

/// A node's places. They are taken in the order of arrival; but some are kept for accounts with few running requests, so
/// that those who fill the others up, or wait for one, keep nobody else from theirs.
pub(super) struct Places {
    capacity: Capacity,
    for_all: Arc<Semaphore>,
    kept: Arc<Semaphore>,
    portions: Portions,
    waiting: Arc<Share>,
}

/// One of the node's places.
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

/// A place in the queue for a place.
pub struct Waiting {
    /// How many wait before this one, itself included, when it joined.
    pub position: usize,
    _held: Held,
}

impl Places {
    pub fn new(capacity: Capacity) -> Self {
        let portions = Portions::of(capacity.running_requests);
        let queue = Portions::of(capacity.waiting_requests);
        Self {
            capacity,
            for_all: Arc::new(Semaphore::new(portions.all - portions.kept)),
            kept: Arc::new(Semaphore::new(portions.kept)),
            portions,
            waiting: Share::new("waiting requests", queue),
        }
    }

    /// `running` are the account's, the one that asks included.
    pub fn try_take(&self, running: u32) -> Option<Place> {
        let mut permit = self.for_all.clone().try_acquire_owned();
        if permit.is_err() && running as usize <= self.portions.little {
            permit = self.kept.clone().try_acquire_owned();
        }
        permit.ok().map(|permit| Place { _permit: permit })
    }

    pub fn join_queue(&self, principal: &Principal) -> Result<Waiting, GatewayError> {
        let full = |refused: GatewayError| match refused.code() {
            "QUEUE_FULL" => self.queue_full(),
            _ => refused,
        };
        let held = self.waiting.take(Holder::of(principal), 1).map_err(|used_up| full(used_up.into()))?;
        Ok(Waiting { position: self.waiting.taken(), _held: held })
    }

    pub async fn wait(&self, waiting: Waiting) -> Result<Place, GatewayError> {
        let wait = Duration::from_millis(self.capacity.wait_ms);
        let permit = tokio::time::timeout(wait, self.for_all.clone().acquire_owned()).await;
        drop(waiting);
        match permit {
            Ok(Ok(permit)) => Ok(Place { _permit: permit }),
            Ok(Err(_)) => Err(GatewayError::ShuttingDown),
            Err(_) => Err(self.queue_full()),
        }
    }

    pub fn taken(&self) -> usize {
        self.portions.all - self.for_all.available_permits() - self.kept.available_permits()
    }

    fn queue_full(&self) -> GatewayError {
        GatewayError::QueueFull {
            running: self.taken(),
            waiting: self.waiting.taken(),
            retry_after: Duration::from_secs(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::principal::Capabilities;

    fn principal(account: &str) -> Principal {
        Principal {
            user: account.into(),
            account: account.into(),
            roles: vec![],
            expires_at: chrono::DateTime::UNIX_EPOCH,
            capabilities: Capabilities::default(),
        }
    }

    fn places(running_requests: usize, waiting_requests: usize) -> Places {
        Places::new(Capacity { running_requests, waiting_requests, wait_ms: 10 })
    }

    #[tokio::test]
    async fn beyond_the_places_a_bounded_number_waits_for_a_bounded_time() {
        let places = places(1, 1);
        let place = places.try_take(1).unwrap();
        assert!(places.try_take(2).is_none());
        let first = places.join_queue(&principal("ann")).unwrap();
        assert_eq!(first.position, 1);
        let full = places.join_queue(&principal("ann")).err();
        assert!(matches!(full, Some(GatewayError::QueueFull { running: 1, waiting: 1, .. })));
        assert!(matches!(places.wait(first).await, Err(GatewayError::QueueFull { .. })));
        drop(place);
        let second = places.join_queue(&principal("ann")).unwrap();
        assert!(places.wait(second).await.is_ok());
        assert_eq!(places.taken(), 0);
    }

    #[tokio::test]
    async fn accounts_with_many_requests_leave_places_to_those_with_few_and_wait_for_theirs() {
        let places = places(1_280, 1_280);
        let many: Vec<Place> = std::iter::from_fn(|| places.try_take(100)).collect();
        assert_eq!(many.len(), 640);
        let waiting: Vec<Waiting> = std::iter::from_fn(|| places.join_queue(&principal("greedy")).ok()).collect();
        assert_eq!(waiting.len(), 320);
        assert!(places.try_take(10).is_some(), "nobody who waits is before whoever has few");
        assert!(places.join_queue(&principal("ann")).is_ok());
        drop(many);
        assert!(places.try_take(100).is_some());
    }
}
