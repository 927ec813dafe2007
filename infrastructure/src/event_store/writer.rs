//! One writer a node: it takes everything that was queued while its last call ran and sends it in one call.
//!
//! So a unit waits for at most the call that is under way, batches grow by themselves when the log is busy, and the
//! log's lock is taken once a batch instead of once an event.

mod call;
mod health;
mod queue;
mod task;

use std::{sync::Arc, time::Duration};

use aihub_application::ports::event_log::{Append, AppendError, Outage};
use futures::FutureExt;
use sqlx::PgConnection;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use self::{
    health::Health,
    queue::Queue,
    task::{Beside, Task},
};
use super::batch::PreparedUnit;
use crate::{contents::known::KnownPieces, database::Database};

/// The writer's limits. Beyond each a caller gets the error that is named.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// Of a unit's texts and content: [`AppendError::TooLarge`]. So is an event beyond
    /// [`MAX_EVENT_BYTES`](super::batch::MAX_EVENT_BYTES).
    pub max_unit_bytes: usize,
    /// [`AppendError::Overloaded`], for this and the next.
    pub max_queued_units: usize,
    /// Of the units' texts and contents, which are held twice: as units and as the batches that they are sent in.
    pub max_queued_bytes: usize,
    /// A batch ends before the unit that would exceed this or the next, but has one unit at least.
    pub max_batch_events: usize,
    pub max_batch_bytes: usize,
    /// How long the server works on one call, the wait for the log's lock included.
    pub statement_timeout: Duration,
    /// How long an answer is waited for before the connection is taken for dead. Longer than `statement_timeout`.
    pub call_timeout: Duration,
    /// How long after it was queued a unit's batch is sent again: [`AppendError::Unavailable`].
    pub give_up_after: Duration,
    /// How long nothing may be appended before it is tried whether it could be; `None` where nobody wants to know.
    pub probe_after: Option<Duration>,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            max_unit_bytes: 1 << 20,
            max_queued_units: 8192,
            max_queued_bytes: 64 << 20,
            max_batch_events: 256,
            max_batch_bytes: 1 << 20,
            statement_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(7),
            give_up_after: Duration::from_secs(15),
            probe_after: None,
        }
    }
}

/// Appends units in the order of the calls. Dropping it closes it.
#[derive(Debug)]
pub struct Writer {
    queue: Arc<Queue>,
    /// The pieces of content that it has seen committed.
    pub known: Arc<KnownPieces>,
    appended: watch::Receiver<u64>,
    health: Arc<Health>,
}

impl Writer {
    /// The task ends, and `tracker` with it, when the writer is closed and what was queued has its outcome.
    pub fn start(database: Database, options: WriterOptions, tracker: &TaskTracker) -> Self {
        Self::start_on(None, database, options, tracker)
    }

    /// The same, once there is a connection.
    pub async fn connect(
        database: Database,
        options: WriterOptions,
        tracker: &TaskTracker,
    ) -> Result<Self, sqlx::Error> {
        let connection = call::connect(&database, &options).await?;
        Ok(Self::start_on(Some(connection), database, options, tracker))
    }

    fn start_on(
        connection: Option<PgConnection>,
        database: Database,
        options: WriterOptions,
        tracker: &TaskTracker,
    ) -> Self {
        let queue = Arc::new(Queue::new(&options));
        let (known, health) = (Arc::<KnownPieces>::default(), Arc::<Health>::default());
        let (sender, appended) = watch::channel(0);
        let beside = Beside { known: known.clone(), health: health.clone(), appended: sender };
        tracker.spawn(Task::new(connection, database, options, queue.clone(), beside).run());
        Self { queue, known, appended, health }
    }

    /// The position of the last unit that this writer was told of.
    pub fn appended(&self) -> watch::Receiver<u64> {
        self.appended.clone()
    }

    pub fn append(&self, unit: PreparedUnit) -> Append {
        match self.queue.push(unit) {
            Ok(outcome) => outcome
                .map(|outcome| {
                    outcome.unwrap_or_else(|_| Err(AppendError::Unavailable("the writer has ended".to_owned())))
                })
                .boxed(),
            Err(error) => futures::future::ready(Err(error)).boxed(),
        }
    }

    /// Whether what is sent is not acknowledged at the moment.
    pub fn outage(&self) -> Option<Outage> {
        self.health.outage()
    }

    /// What is queued is still appended, what comes later is refused.
    pub fn close(&self) {
        self.queue.close();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}
