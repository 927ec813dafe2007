//! What waits for the writer: bounded, in the order of the calls.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use aihub_application::ports::event_log::{AppendError, Appended};
use metrics::gauge;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::WriterOptions;
use crate::event_store::batch::PreparedUnit;

pub type Outcome = Result<Appended, AppendError>;

/// A unit, and who waits for its outcome.
#[derive(Debug)]
pub struct Queued {
    pub unit: PreparedUnit,
    pub since: Instant,
    pub outcome: oneshot::Sender<Outcome>,
}

#[derive(Debug)]
pub struct Queue {
    limits: Limits,
    waiting: Mutex<Waiting>,
    /// Something was queued, or the queue was closed.
    changed: Notify,
}

#[derive(Debug)]
struct Limits {
    unit_bytes: usize,
    queued_units: usize,
    queued_bytes: usize,
    batch_events: usize,
    batch_bytes: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    units: VecDeque<Queued>,
    bytes: usize,
    closed: bool,
}

impl Queue {
    pub fn new(options: &WriterOptions) -> Self {
        let limits = Limits {
            unit_bytes: options.max_unit_bytes,
            queued_units: options.max_queued_units,
            queued_bytes: options.max_queued_bytes,
            batch_events: options.max_batch_events,
            batch_bytes: options.max_batch_bytes,
        };
        Self { limits, waiting: Mutex::default(), changed: Notify::new() }
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
        let (outcome, receiver) = oneshot::channel();
        let queued = Queued { unit, since: Instant::now(), outcome };
        {
            let mut waiting = self.waiting();
            if waiting.closed {
                return Err(AppendError::Unavailable("it is shutting down".to_owned()));
            }
            if waiting.units.len() >= self.limits.queued_units || waiting.bytes + bytes > self.limits.queued_bytes {
                return Err(AppendError::Overloaded);
            }
            waiting.bytes += bytes;
            waiting.units.push_back(queued);
        }
        self.changed.notify_one();
        Ok(receiver)
    }

    pub fn close(&self) {
        self.waiting().closed = true;
        self.changed.notify_one();
    }

    /// The next batch, as large as the limits allow and with distinct command ids; none if nothing waits.
    pub fn try_take(&self) -> Option<Vec<Queued>> {
        let mut waiting = self.waiting();
        (!waiting.units.is_empty()).then(|| self.take_batch(&mut waiting))
    }

    /// The next batch; none when the queue is closed and empty. Waits for a first unit, not for more.
    pub async fn take(&self) -> Option<Vec<Queued>> {
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

    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    fn take_batch(&self, waiting: &mut Waiting) -> Vec<Queued> {
        let (mut batch, mut events, mut bytes) = (Vec::new(), 0, 0);
        let mut command_ids = HashSet::new();
        while let Some(Queued { unit, .. }) = waiting.units.front() {
            events += unit.event_count();
            bytes += unit.bytes;
            let full = events > self.limits.batch_events || bytes > self.limits.batch_bytes;
            // The same command again gets its answer from the call after the one that appends it.
            if !command_ids.insert(unit.command_id) || full && !batch.is_empty() {
                break;
            }
            batch.extend(waiting.units.pop_front());
        }
        waiting.bytes -= batch.iter().map(|queued| queued.unit.bytes).sum::<usize>();
        gauge!("event_log_queue_units").set(waiting.units.len() as f64);
        batch
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
