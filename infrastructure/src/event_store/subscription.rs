//! Subscriptions: everything downstream of the log reads it by position, batch after batch. A node reads and decodes
//! the log's end once for all of its handlers.
//!
//! A handler has one runner at a time, on whichever node: it holds a session lock on the connection that it also
//! applies on, so a runner that lost its connection has lost its transaction too. The events of a batch and the move
//! of the checkpoint are one transaction: each event is applied exactly once. Nothing is ever skipped: a handler that
//! fails stops, and says at which position and why.

pub mod checkpoint;
mod head;
pub mod live;
mod runner;
mod session;
mod tail;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use sqlx::{PgExecutor, PgTransaction};
use thiserror::Error;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{live::Live, runner::Runner, tail::Tail};
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

    /// Applies the events, which are in log order and upcast. What it writes through `transaction` is committed
    /// together with the checkpoint, or not at all. An error or a panic stops the subscription, unless the error is a
    /// lost database connection or a [`TryAgain`].
    fn apply<'a>(
        &'a self,
        transaction: &'a mut PgTransaction<'_>,
        events: &'a [Arc<LogEntry>],
    ) -> BoxFuture<'a, anyhow::Result<()>>;
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
    shutdown: CancellationToken,
    head: watch::Receiver<u64>,
    tail: Arc<Tail>,
    /// How far the handlers have come that run here.
    progress: Mutex<HashMap<&'static str, watch::Receiver<u64>>>,
}

impl Subscriptions {
    /// Listens for the log's head. Everything ends after `shutdown`, between two batches.
    pub fn start(
        database: Database,
        upcasters: Arc<Upcasters>,
        tracker: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        let (sender, head) = watch::channel(0);
        tracker.spawn(head::follow(database.clone(), sender, shutdown.clone()));
        let tail = Arc::new(Tail::default());
        let follow = {
            let (tail, database, upcasters) = (tail.clone(), database.clone(), upcasters.clone());
            let (head, shutdown) = (head.clone(), shutdown.clone());
            async move { tail.follow(database, upcasters, head, shutdown).await }
        };
        tracker.spawn(follow);
        Self { database, upcasters, tracker, shutdown, head, tail, progress: Mutex::default() }
    }

    /// The last position that was announced to this node. It may lag behind the log by a second.
    pub fn head(&self) -> watch::Receiver<u64> {
        self.head.clone()
    }

    /// The log as it grows from now on, for what is not worth a checkpoint.
    pub fn live(&self) -> Live {
        Live::new(self.tail.clone())
    }

    /// Runs the handler until shutdown or until it fails, as soon as no other node does.
    pub fn run(&self, handler: Arc<dyn EventHandler>) {
        let (sender, progress) = watch::channel(0);
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).insert(handler.name(), progress);
        let runner = self.runner(handler, sender);
        let shutdown = self.shutdown.clone();
        self.tracker.spawn(async move { runner.run(&shutdown).await });
    }

    /// Runs the handler here and now until it has applied `position`. For rebuilds and tests.
    pub async fn run_until(&self, handler: Arc<dyn EventHandler>, position: u64) -> Result<(), SubscriptionError> {
        let (progress, _) = watch::channel(0);
        self.runner(handler, progress).run_until(position).await
    }

    /// How far the handler has come, while it runs here; `None` where it does not.
    pub fn progress(&self, name: &str) -> Option<watch::Receiver<u64>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn runner(&self, handler: Arc<dyn EventHandler>, progress: watch::Sender<u64>) -> Runner {
        let (database, upcasters) = (self.database.clone(), self.upcasters.clone());
        Runner { database, upcasters, handler, tail: self.tail.clone(), progress }
    }

    /// Waits until the handler has applied `position`, on whichever node it runs: a view read after that shows what
    /// was appended there.
    pub async fn wait_for(&self, name: &str, position: u64, patience: Duration) -> Result<(), SubscriptionError> {
        let progress = self.progress(name);
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

    /// Every subscription that ever ran on this log, by name.
    pub async fn statuses(&self) -> Result<Vec<Status>, sqlx::Error> {
        checkpoint::statuses(self.database.pool()).await
    }
}

/// Makes the subscription begin at the first event again. Whoever empties a view calls this in the same transaction;
/// a runner that is at work notices and starts over.
pub async fn reset(executor: impl PgExecutor<'_>, name: &str) -> Result<(), sqlx::Error> {
    checkpoint::put(executor, name, ChainHead::GENESIS).await
}
