//! The log as it grows, for whoever only wants to know what comes now.

use std::sync::Arc;

use tokio::sync::watch;

use super::tail::Tail;
use crate::event_store::{chain::ChainHead, decode::LogEntry, reader::ReadLimit};

/// Takes events from the node's tail, from where that stands on. It asks the database nothing, so it keeps nobody up
/// and never catches up: what the tail does not have any more is missed.
#[derive(Debug)]
pub struct Live {
    tail: Arc<Tail>,
    more: watch::Receiver<u64>,
    /// The last event that was taken; `None` while that is not in the tail.
    at: Option<ChainHead>,
}

impl Live {
    pub(super) fn new(tail: Arc<Tail>) -> Self {
        Self { more: tail.position(), tail, at: None }
    }

    /// The events that came since, in their order. `None`, first and whenever some were missed: whoever keeps something
    /// up to date with them has to look at all of it once.
    pub async fn next(&mut self) -> Option<Vec<Arc<LogEntry>>> {
        loop {
            // Before the look, so that nothing falls between it and the wait.
            self.more.borrow_and_update();
            if let Some(at) = self.at {
                match self.tail.after(at, ReadLimit::default()) {
                    Some(events) => {
                        if let Some(last) = events.last() {
                            self.at = Some(last.head());
                            return Some(events);
                        }
                    }
                    None => self.at = None,
                }
            }
            if self.at.is_none() {
                self.at = self.tail.end();
                if self.at.is_some() {
                    return None;
                }
            }
            // It cannot fail: the tail, which is ours as well, tells.
            let _ = self.more.changed().await;
        }
    }
}
