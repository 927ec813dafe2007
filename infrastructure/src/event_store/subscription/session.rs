//! A runner's turn: one connection that has the handler's turn, reads the log and applies what it reads.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use futures::FutureExt;
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;
use uuid::Uuid;

use super::{EventHandler, TryAgain, checkpoint, tail::Tail};
use crate::{
    database::{Database, KEPT_PLANS, is_transient, millis},
    event_store::{
        chain::ChainHead,
        decode::{LogEntry, entries},
        reader::{self, ReadError, ReadLimit, RecordedEvent},
        upcast::Upcasters,
    },
};

/// How long a checkpoint stays where it was moved to before it is moved on over nothing but events that do not concern the
/// handler: to most of them most of the log is nothing.
const REST: Duration = Duration::from_millis(20);

const MOVED: &str = "another one has the turn, or the checkpoint was moved meanwhile, or the handler paused";

pub struct Session {
    connection: PgConnection,
    handler: Arc<dyn EventHandler>,
    upcasters: Arc<Upcasters>,
    tail: Arc<Tail>,
    /// Whose turn it is.
    runner: Uuid,
    checkpoint: ChainHead,
    /// When the checkpoint may be moved on over what does not concern the handler.
    rested_at: Instant,
    /// Up to here events are applied one by one, because a batch that reaches so far failed: so everything in front
    /// of the one at fault is applied, and its position is known.
    careful_until: u64,
}

/// What one step came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// As much as is read at once; there may be more.
    Applied,
    /// All that was there.
    CaughtUp,
    /// Up to here nothing concerns the handler, and its checkpoint rests until then.
    Rests { up_to: u64, until: Instant },
}

#[derive(Debug)]
pub enum StepError {
    /// Another session may succeed.
    Lost(anyhow::Error),
    /// The handler cannot go on.
    Stopped { position: u64, error: anyhow::Error },
}

impl From<sqlx::Error> for StepError {
    fn from(error: sqlx::Error) -> Self {
        Self::Lost(error.into())
    }
}

impl Session {
    pub async fn connect(
        database: &Database,
        handler: Arc<dyn EventHandler>,
        upcasters: Arc<Upcasters>,
        tail: Arc<Tail>,
        runner: Uuid,
    ) -> Result<Self, sqlx::Error> {
        // A runner that froze in the midst of a batch keeps the turn: so long, and not longer.
        let patience = millis(handler.patience());
        let settings = [
            ("idle_in_transaction_session_timeout", patience.as_str()),
            ("statement_timeout", "60s"),
            // A crash of the server may take the last batches back, and their checkpoints with them: they are applied
            // again. So nobody has to wait for the disk, least of all the log's writer for the same disk.
            ("synchronous_commit", "off"),
        ];
        let settings = settings.into_iter().chain(KEPT_PLANS).map(|(name, value)| (name, value.to_owned()));
        let connection = database.dedicated("aihub-subscription", &settings.collect::<Vec<_>>()).await?;
        let (checkpoint, rested_at) = (ChainHead::GENESIS, Instant::now());
        Ok(Self { connection, handler, upcasters, tail, runner, checkpoint, rested_at, careful_until: 0 })
    }

    /// Takes the handler's turn, unless another runner has it or it is paused.
    pub async fn begin(&mut self) -> Result<bool, sqlx::Error> {
        let turn = checkpoint::take_turn(&mut self.connection, self.handler.name(), self.runner).await?;
        if let Some(at) = turn {
            self.checkpoint = at;
        }
        Ok(turn.is_some())
    }

    /// The last position that is applied.
    pub fn position(&self) -> u64 {
        self.checkpoint.position
    }

    /// Takes what follows the checkpoint, from the node's tail or else from the log, and applies it.
    pub async fn step(&mut self) -> Result<Step, StepError> {
        let mut limit = ReadLimit::default();
        if self.checkpoint.position < self.careful_until {
            limit.events = 1;
        }
        let events = match self.tail.after(self.checkpoint, limit) {
            Some(events) => events,
            None => self.read(limit).await?,
        };
        let Some(last) = events.last() else {
            return Ok(Step::CaughtUp);
        };
        let (count, first, to) = (events.len(), self.checkpoint.position + 1, last.head());
        let is_concerned = events.iter().any(|event| self.handler.concerns(event));
        let is_all = u32::try_from(count).is_ok_and(|count| count < limit.events);
        if !is_concerned && is_all && Instant::now() < self.rested_at {
            return Ok(Step::Rests { up_to: to.position, until: self.rested_at });
        }
        let applied = if is_concerned { self.apply(&events, to).await } else { self.pass_over(to).await };
        match applied {
            Ok(()) => Ok(Step::Applied),
            Err(error) if may_pass(&error) => Err(StepError::Lost(error)),
            Err(_) if count > 1 => {
                self.careful_until = to.position;
                Ok(Step::Applied)
            }
            Err(error) => Err(StepError::Stopped { position: first, error }),
        }
    }

    /// The events after the checkpoint, if that is still in the log.
    async fn read(&mut self, limit: ReadLimit) -> Result<Vec<Arc<LogEntry>>, StepError> {
        match reader::events_after(&mut self.connection, self.checkpoint, limit).await {
            Ok(events) => self.upcast(events),
            Err(ReadError::Database(error)) => Err(error.into()),
            Err(error) => Err(StepError::Stopped { position: self.checkpoint.position, error: error.into() }),
        }
    }

    fn upcast(&self, events: Vec<RecordedEvent>) -> Result<Vec<Arc<LogEntry>>, StepError> {
        let mut current = Vec::with_capacity(events.len());
        for event in events {
            let position = event.position;
            match self.upcasters.apply(vec![event]) {
                Ok(events) => current.extend(entries(events)),
                // What is in front of the one at fault comes first.
                Err(_) if !current.is_empty() => break,
                Err(error) => return Err(StepError::Stopped { position, error: error.into() }),
            }
        }
        Ok(current)
    }

    /// One statement, and no transaction around it.
    async fn pass_over(&mut self, to: ChainHead) -> anyhow::Result<()> {
        let moved = checkpoint::advance(&mut self.connection, self.handler.name(), self.checkpoint, to).await?;
        self.moved(moved, to)
    }

    async fn apply(&mut self, events: &[Arc<LogEntry>], to: ChainHead) -> anyhow::Result<()> {
        let mut transaction = self.connection.begin().await?;
        // First the checkpoint: its row is the handler's lock, and nobody applies these events beside us.
        let moved = checkpoint::advance(&mut *transaction, self.handler.name(), self.checkpoint, to).await?;
        if !moved {
            transaction.rollback().await?;
            return self.moved(false, to);
        }
        let applied = async {
            self.handler.apply(&mut transaction, events).await?;
            self.handler.follow_up(&mut transaction, events).await
        };
        AssertUnwindSafe(applied).catch_unwind().await.unwrap_or_else(|_| Err(anyhow!("the handler panicked")))?;
        transaction.commit().await?;
        self.moved(true, to)
    }

    fn moved(&mut self, moved: bool, to: ChainHead) -> anyhow::Result<()> {
        if !moved {
            return Err(TryAgain(MOVED.to_owned()).into());
        }
        self.checkpoint = to;
        self.rested_at = Instant::now() + REST;
        Ok(())
    }

    /// Keeps the turn where there is nothing to apply, and sees that the checkpoint is where it was left, and may be moved on.
    pub async fn look(&mut self) -> Result<(), StepError> {
        let (name, position) = (self.handler.name(), self.checkpoint.position);
        if checkpoint::keep_turn(&mut self.connection, name, self.runner, position).await? {
            return Ok(());
        }
        Err(StepError::Lost(TryAgain(MOVED.to_owned()).into()))
    }

    /// Gives the turn to whoever wants it. Where that cannot be said, it is free when the connection is gone.
    pub async fn leave(mut self) {
        let _ = checkpoint::leave(&mut self.connection, self.handler.name(), self.runner).await;
        let _ = self.connection.close().await;
    }

    /// Keeps what the handler stopped at, where readiness sees it.
    pub async fn fail(mut self, position: u64, error: &anyhow::Error) -> anyhow::Result<()> {
        checkpoint::fail(&mut self.connection, self.handler.name(), position, &format!("{error:#}"))
            .await
            .context("what the subscription stopped at could not be kept")?;
        self.leave().await;
        Ok(())
    }
}

/// Whether the batch may succeed when it is applied again as it is.
fn may_pass(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<sqlx::Error>().is_some_and(is_transient) || cause.downcast_ref::<TryAgain>().is_some()
    })
}
