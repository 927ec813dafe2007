//! What waits for the writer: bounded, in the order of the calls, and already in batches. Who queues a unit puts it into
//! the last batch, so the batches are made while the server works on the one before. No account gets more than a quarter of it:
//! who floods it is told so, and the others go on.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aihub_application::{
    ports::event_log::{AppendError, Appended},
    shares::{Held, Holder, Portions, Share},
};
use metrics::gauge;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::WriterOptions;
use crate::event_store::batch::{Batch, PreparedUnit};

/// What a unit takes besides its texts.
const UNIT_BYTES: usize = 1 << 10;

pub type Outcome = Result<Appended, AppendError>;

/// A unit, and who waits for its outcome.
#[derive(Debug)]
pub struct Queued {
    pub unit: PreparedUnit,
    pub since: Instant,
    pub outcome: oneshot::Sender<Outcome>,
    /// Until its outcome is known.
    _room: Held,
}

/// What goes to the server in one call, and the units that it is made of.
#[derive(Debug, Default)]
pub struct QueuedBatch {
    pub batch: Batch,
    pub units: Vec<Queued>,
}

#[derive(Debug)]
pub struct Queue {
    limits: Limits,
    room: Arc<Share>,
    waiting: Mutex<Waiting>,
    /// Something was queued, or the queue was closed.
    changed: Notify,
}

#[derive(Debug)]
struct Limits {
    unit_bytes: usize,
    queued_units: usize,
    batch_events: usize,
    batch_bytes: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    batches: VecDeque<QueuedBatch>,
    units: usize,
    closed: bool,
}

impl Queue {
    pub fn new(options: &WriterOptions) -> Self {
        let limits = Limits {
            unit_bytes: options.max_unit_bytes,
            queued_units: options.max_queued_units,
            batch_events: options.max_batch_events,
            batch_bytes: options.max_batch_bytes,
        };
        let quarter = options.max_queued_bytes / 4;
        let room = Portions::of(options.max_queued_bytes).with(quarter, quarter);
        let room = Share::new("bytes that wait for the event log", room);
        Self { limits, room, waiting: Mutex::default(), changed: Notify::new() }
    }

    /// A unit that is refused here breaks its basis, like one that the log refuses.
    pub fn push(&self, unit: PreparedUnit) -> Result<oneshot::Receiver<Outcome>, AppendError> {
        let basis = unit.basis.clone();
        self.push_unit(unit).inspect_err(|_| {
            if let Some(basis) = basis {
                basis.break_off();
            }
        })
    }

    fn push_unit(&self, unit: PreparedUnit) -> Result<oneshot::Receiver<Outcome>, AppendError> {
        let bytes = unit.bytes;
        if bytes > self.limits.unit_bytes {
            return Err(AppendError::TooLarge { bytes, limit: self.limits.unit_bytes });
        }
        let holder = Holder::Principal { user: unit.account.clone(), account: unit.account.clone() };
        let room = self.room.take(holder, bytes + UNIT_BYTES).map_err(|_| AppendError::Overloaded)?;
        let (outcome, receiver) = oneshot::channel();
        let queued = Queued { unit, since: Instant::now(), outcome, _room: room };
        {
            let mut waiting = self.waiting();
            if waiting.closed {
                return Err(AppendError::Unavailable("it is shutting down".to_owned()));
            }
            if waiting.units >= self.limits.queued_units {
                return Err(AppendError::Overloaded);
            }
            waiting.units += 1;
            let last = match waiting.batches.pop_back() {
                Some(last) if self.limits.allow(&last.batch, &queued.unit) => last,
                full => {
                    waiting.batches.extend(full);
                    QueuedBatch::default()
                }
            };
            waiting.batches.push_back(last.with(queued));
        }
        self.changed.notify_one();
        Ok(receiver)
    }

    pub fn close(&self) {
        self.waiting().closed = true;
        self.changed.notify_one();
    }

    /// The next batch; none if nothing waits.
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    pub fn try_take(&self) -> Option<QueuedBatch> {
        let mut waiting = self.waiting();
        let next = waiting.batches.pop_front()?;
        waiting.units -= next.units.len();
        gauge!("event_log_queue_units").set(waiting.units as f64);
        Some(next)
    }

    /// The next batch; none when the queue is closed and empty. Waits for a first unit, not for more.
    pub async fn take(&self) -> Option<QueuedBatch> {
        loop {
            if let Some(batch) = self.try_take() {
                return Some(batch);
            }
            if self.waiting().closed {
                // What was queued before it closed is there to be seen now.
                return self.try_take();
            }
            self.changed.notified().await;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Limits {
    /// Whether the batch may take the unit along.
    fn allow(&self, batch: &Batch, unit: &PreparedUnit) -> bool {
        batch.event_count() + unit.event_count() <= self.batch_events
            && batch.bytes + unit.bytes <= self.batch_bytes
            // The same command again gets its answer from a call after the one that appends it.
            && !batch.has_command(unit.command_id)
    }
}

impl QueuedBatch {
    fn with(mut self, queued: Queued) -> Self {
        self.batch.push(&queued.unit);
        self.units.push(queued);
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aihub_application::ports::event_log::{Metadata, NewEvent, StreamAppend, Unit};
    use uuid::Uuid;

    use super::*;

    fn unit(account: &str, bytes: usize) -> PreparedUnit {
        let (event_type, event_version) = ("Noted".to_owned(), "1.0".to_owned());
        let event = NewEvent { event_type, event_version, payload: format!("\"{}\"", "x".repeat(bytes)) };
        let stream = StreamAppend {
            aggregate_type: "account",
            aggregate_id: account.to_owned(),
            expected_sequence: 0,
            events: vec![event],
            contents: vec![],
        };
        let metadata = Arc::<Metadata>::default();
        PreparedUnit::new(Unit { command_id: Uuid::now_v7(), streams: vec![stream], metadata, basis: None }, "us")
            .unwrap()
    }

    #[tokio::test]
    async fn an_account_that_floods_the_queue_is_refused_and_the_others_are_not() {
        let options = WriterOptions { max_queued_bytes: 4 << 20, ..WriterOptions::default() };
        let queue = Queue::new(&options);
        let flood = |account: &str| (0..100).take_while(|_| queue.push(unit(account, 60_000)).is_ok()).count();
        assert_eq!(flood("greedy"), 17);
        for other in 0..20 {
            flood(&other.to_string());
        }
        assert!(queue.push(unit("modest", 500)).is_ok());
        while queue.try_take().is_some() {}
        assert_eq!(flood("greedy"), 17, "what was taken off is room again");
    }
}
