//! Subscriptions: everything downstream of the log reads it by position, batch after batch. A node reads and decodes
//! the log's end once for all of its handlers.
//!
//! A handler has one runner at a time, on whichever node: the checkpoint says whose turn it is, and a runner that lost the
//! connection that it applies on has lost its transaction and its turn. The move of the checkpoint and the events of a batch are
//! one transaction, in this order, so that whoever is late applies nothing: each event is applied exactly once. Nothing is
//! ever skipped: a handler that fails stops, and says at which position and why.
//!
//! No notification is waited for. Whoever can connect could send them, and hold up everybody else's at the commit; a node looks
//! at the log's end 40 times a second while something happens, and at once after an append of its own.

pub mod checkpoint;
pub mod live;
mod runner;
mod session;
mod tail;
pub mod watchdog;

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures::{
    FutureExt,
    future::{BoxFuture, ready},
};
use sqlx::{PgExecutor, PgTransaction};
use thiserror::Error;
use tokio::{
    runtime::{self, Handle},
    sync::watch,
    task::AbortHandle,
    time::{sleep, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use uuid::Uuid;

use self::{
    live::Live,
    runner::Runner,
    tail::Tail,
    watchdog::{Seen, Watchdog},
};
use super::{chain::ChainHead, decode::LogEntry, reader::RecordedEvent, upcast::Upcasters};
use crate::database::Database;

/// What follows the log.
pub trait EventHandler: Send + Sync {
    /// Under which the checkpoint is kept: never changed, and of this handler alone.
    fn name(&self) -> &'static str;

    /// Whether it does something about the event. A batch in which it does not about any is not applied, only passed over,
    /// which costs a third.
    fn concerns(&self, _event: &RecordedEvent) -> bool {
        true
    }

    /// How long it may be busy with something else than the database while it applies a batch. A node that froze in the midst of
    /// one keeps the others from it for so long.
    fn patience(&self) -> Duration {
        Duration::from_secs(5)
    }

    /// Applies the events, which are in log order and upcast. What it writes through `transaction` is committed
    /// together with the checkpoint, or not at all. An error or a panic stops the subscription, unless the error is a
    /// lost database connection or a [`TryAgain`].
    fn apply<'a>(
        &'a self,
        transaction: &'a mut PgTransaction<'_>,
        events: &'a [Arc<LogEntry>],
    ) -> BoxFuture<'a, anyhow::Result<()>>;

    /// What else is done about the events in the same transaction, with what is not made from the log: so it is not done again
    /// where the handler's tables are filled anew.
    fn follow_up<'a>(
        &'a self,
        _transaction: &'a mut PgTransaction<'_>,
        _events: &'a [Arc<LogEntry>],
    ) -> BoxFuture<'a, anyhow::Result<()>> {
        ready(Ok(())).boxed()
    }
}

/// What a handler answers when something it needs is away: the batch is applied again later, for as long as it takes.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct TryAgain(pub String);

/// Why a subscription cannot go on.
#[derive(Debug, Error)]
pub enum SubscriptionError {
    #[error("{name} stopped at position {position}: {error}")]
    Stopped { name: String, position: u64, error: String },
    #[error("{name} has not reached position {position} in {waited_ms} ms")]
    Behind { name: String, position: u64, waited_ms: u128 },
    #[error("the database is unavailable: {0}")]
    Unavailable(#[from] sqlx::Error),
}

/// How far a subscription has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub name: String,
    /// The last position that is applied.
    pub position: u64,
    pub updated_at: DateTime<Utc>,
    /// None while it runs.
    pub failure: Option<Failure>,
    /// Since when it is not to apply anything.
    pub paused_at: Option<DateTime<Utc>>,
}

/// What a subscription stopped at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub position: u64,
    pub error: String,
    pub at: DateTime<Utc>,
}

/// The node's subscriptions.
pub struct Subscriptions {
    database: Database,
    upcasters: Arc<Upcasters>,
    tracker: TaskTracker,
    /// Where everything runs but for the watchdog.
    runtime: Handle,
    shutdown: CancellationToken,
    tail: Arc<Tail>,
    following: Mutex<AbortHandle>,
    running: Handlers,
    seen: watch::Sender<Option<Seen>>,
    /// Shut down, or not there any more.
    ended: CancellationToken,
    _ends: DropGuard,
}

/// What runs here, by name.
type Handlers = Arc<Mutex<HashMap<&'static str, Running>>>;

/// Who waits for handlers, on whichever node they run.
#[derive(Clone)]
pub struct Waiter {
    database: Database,
    running: Handlers,
}

/// A handler that runs here, whenever it has the turn.
struct Running {
    handler: Arc<dyn EventHandler>,
    /// How far it has come.
    progress: watch::Sender<u64>,
    /// Ends it where it is.
    task: AbortHandle,
    /// Ends it between two batches.
    stop: CancellationToken,
}

impl Subscriptions {
    /// Looks at the log's end. Everything ends after `shutdown`, between two batches.
    pub fn start(
        database: Database,
        upcasters: Arc<Upcasters>,
        tracker: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        let tail = Arc::new(Tail::default());
        let following = tracker.spawn(tail.clone().follow(database.clone(), upcasters.clone(), shutdown.clone()));
        let (following, running, seen) =
            (Mutex::new(following.abort_handle()), Handlers::default(), watch::Sender::default());
        let (runtime, ended) = (Handle::current(), shutdown.child_token());
        Self {
            database,
            upcasters,
            tracker,
            runtime,
            shutdown,
            tail,
            following,
            running,
            seen,
            _ends: ended.clone().drop_guard(),
            ended,
        }
    }

    /// Sees to it, until shutdown, that nothing that runs here stands still for longer than `after` unnoticed. It has a thread
    /// of its own: whatever takes the others for itself is to be noticed as well.
    pub fn watch(self: &Arc<Self>, after: Duration) -> io::Result<()> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (watchdog, ended) = (Watchdog::new(self.database.clone(), Arc::downgrade(self), after), self.ended.clone());
        self.tracker.spawn_blocking(move || runtime.block_on(ended.run_until_cancelled(watchdog.watch())));
        Ok(())
    }

    /// How the handlers stand that run here, as it was seen within the last second or so; `None` while nobody has looked.
    pub fn seen(&self) -> Option<Seen> {
        self.seen.borrow().clone()
    }

    /// Has the log's end looked at as soon as this node has appended something, which `appended` tells the position of.
    pub fn hear(&self, mut appended: watch::Receiver<u64>) {
        let (tail, shutdown) = (self.tail.clone(), self.shutdown.clone());
        let hearing = async move {
            while appended.changed().await.is_ok() {
                let position = *appended.borrow_and_update();
                tail.is_at_least(position);
            }
        };
        self.tracker.spawn(async move { shutdown.run_until_cancelled(hearing).await });
    }

    /// The last position that this node has seen. It may lag behind the log by a tenth of a second.
    pub fn head(&self) -> watch::Receiver<u64> {
        self.tail.position()
    }

    /// The log as it grows from now on, for what is not worth a checkpoint.
    pub fn live(&self) -> Live {
        Live::new(self.tail.clone())
    }

    /// Runs the handler until shutdown or until it fails, as soon as no other node does.
    pub fn run(&self, handler: Arc<dyn EventHandler>) {
        self.spawn(handler, watch::Sender::new(0));
    }

    /// Leaves the handlers that run here to other nodes, each between two batches. Nothing runs here any more after that.
    pub fn hand_over(&self) {
        for running in self.running().values() {
            running.stop.cancel();
        }
    }

    fn spawn(&self, handler: Arc<dyn EventHandler>, progress: watch::Sender<u64>) {
        let (name, stop) = (handler.name(), self.shutdown.child_token());
        let runner = self.runner(handler.clone(), progress.clone());
        let stopped = stop.clone();
        let task = self.tracker.spawn_on(async move { runner.run(&stopped).await }, &self.runtime).abort_handle();
        self.running().insert(name, Running { handler, progress, task, stop });
    }

    /// Ends what runs under this name, where it is, and starts it again. Its transaction goes with its connection.
    fn run_anew(&self, name: &str) {
        let Some(running) = self.running().remove(name) else { return };
        running.task.abort();
        if !running.stop.is_cancelled() {
            self.spawn(running.handler, running.progress);
        }
    }

    /// The same with what reads the end of the log for all of them. Until it has read again, each reads for itself.
    fn follow_anew(&self) {
        let mut following = self.following.lock().unwrap_or_else(PoisonError::into_inner);
        following.abort();
        self.tail.forget();
        let follow = self.tail.clone().follow(self.database.clone(), self.upcasters.clone(), self.shutdown.clone());
        *following = self.tracker.spawn_on(follow, &self.runtime).abort_handle();
    }

    /// What is to run here, if it was not handed over.
    fn names(&self) -> Vec<&'static str> {
        self.running().iter().filter(|(_, running)| !running.stop.is_cancelled()).map(|(name, _)| *name).collect()
    }

    /// How far the end of the log was read for all of them.
    fn read_up_to(&self) -> u64 {
        *self.tail.position().borrow()
    }

    fn show(&self, seen: Seen) {
        self.seen.send_replace(Some(seen));
    }

    fn running(&self) -> MutexGuard<'_, HashMap<&'static str, Running>> {
        locked(&self.running)
    }

    /// Runs the handler here and now until it has applied `position`. For rebuilds and tests.
    pub async fn run_until(&self, handler: Arc<dyn EventHandler>, position: u64) -> Result<(), SubscriptionError> {
        let (progress, _) = watch::channel(0);
        self.runner(handler, progress).run_until(position).await
    }

    /// How far the handler has come, while it runs here; `None` where it does not.
    pub fn progress(&self, name: &str) -> Option<watch::Receiver<u64>> {
        self.running().get(name).map(|running| running.progress.subscribe())
    }

    fn runner(&self, handler: Arc<dyn EventHandler>, progress: watch::Sender<u64>) -> Runner {
        let (database, upcasters) = (self.database.clone(), self.upcasters.clone());
        Runner { database, upcasters, handler, tail: self.tail.clone(), id: Uuid::now_v7(), progress }
    }

    /// Waits until the handler has applied `position`, on whichever node it runs: a view read after that shows what
    /// was appended there.
    pub async fn wait_for(&self, name: &str, position: u64, patience: Duration) -> Result<(), SubscriptionError> {
        self.waiter().wait_for(name, position, patience).await
    }

    /// For whoever waits for the handlers that run here, or elsewhere.
    pub fn waiter(&self) -> Waiter {
        Waiter { database: self.database.clone(), running: self.running.clone() }
    }

    /// Every subscription that ever ran on this log, by name.
    pub async fn statuses(&self) -> Result<Vec<Status>, sqlx::Error> {
        checkpoint::statuses(self.database.pool()).await
    }
}

impl Waiter {
    /// Waits until the handler has applied `position`, on whichever node it runs: a view read after that shows what
    /// was appended there.
    pub async fn wait_for(&self, name: &str, position: u64, patience: Duration) -> Result<(), SubscriptionError> {
        let progress = locked(&self.running).get(name).map(|running| running.progress.subscribe());
        let reached = async {
            match progress {
                Some(mut progress) => tokio::select! {
                    Ok(_) = progress.wait_for(|reached| *reached >= position) => Ok(()),
                    outcome = self.poll_until(name, position) => outcome,
                },
                None => self.poll_until(name, position).await,
            }
        };
        timeout(patience, reached).await.unwrap_or_else(|_| {
            Err(SubscriptionError::Behind { name: name.to_owned(), position, waited_ms: patience.as_millis() })
        })
    }

    async fn poll_until(&self, name: &str, position: u64) -> Result<(), SubscriptionError> {
        loop {
            match checkpoint::status(self.database.pool(), name).await? {
                Some(status) if status.position >= position => return Ok(()),
                Some(Status { failure: Some(failure), name, .. }) => {
                    let Failure { position, error, .. } = failure;
                    return Err(SubscriptionError::Stopped { name, position, error });
                }
                _ => sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

fn locked(handlers: &Handlers) -> MutexGuard<'_, HashMap<&'static str, Running>> {
    handlers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the subscription begin at the first event again. Whoever empties a view calls this first in the same transaction, for
/// that is the order of a runner, which notices and starts over.
pub async fn reset(executor: impl PgExecutor<'_>, name: &str) -> Result<(), sqlx::Error> {
    checkpoint::put(executor, name, ChainHead::GENESIS).await
}
