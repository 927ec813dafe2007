//! A runner's turn: one connection that holds the handler's lock, reads the log and applies what it reads.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use futures::FutureExt;
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

use super::{EventHandler, TryAgain, checkpoint, tail::Tail};
use crate::{
    database::{Database, KEPT_PLANS, is_transient},
    event_store::{
        chain::ChainHead,
        decode::{LogEntry, entries},
        reader::{self, ReadLimit, RecordedEvent},
        upcast::Upcasters,
    },
};

/// The class of the handlers' session locks: the ASCII text "aihu".
const LOCK_CLASS: i32 = 0x6169_6875;

/// How long a checkpoint stays where it was moved to before it is moved on over nothing but events that do not concern the
/// handler: to most of them most of the log is nothing.
const REST: Duration = Duration::from_millis(20);

const MOVED: &str = "the checkpoint was moved meanwhile, or the handler paused";

pub struct Session {
    connection: PgConnection,
    handler: Arc<dyn EventHandler>,
    upcasters: Arc<Upcasters>,
    tail: Arc<Tail>,
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
    ) -> Result<Self, sqlx::Error> {
        // A runner is heard of every second: the server takes one for frozen that was not for so long, and its lock
        // goes to another.
        let settings = [
            ("idle_session_timeout", "5s"),
            ("idle_in_transaction_session_timeout", "60s"),
            ("statement_timeout", "60s"),
            // A crash of the server may take the last batches back, and their checkpoints with them: they are applied
            // again. So nobody has to wait for the disk, least of all the log's writer for the same disk.
            ("synchronous_commit", "off"),
        ];
        let settings = settings.into_iter().chain(KEPT_PLANS).map(|(name, value)| (name, value.to_owned()));
        let connection = database.dedicated("aihub-subscription", &settings.collect::<Vec<_>>()).await?;
        let (checkpoint, rested_at) = (ChainHead::GENESIS, Instant::now());
        Ok(Self { connection, handler, upcasters, tail, checkpoint, rested_at, careful_until: 0 })
    }

    /// Takes the handler's turn, unless another runner has it or it is paused.
    pub async fn begin(&mut self) -> Result<bool, sqlx::Error> {
        let is_ours = sqlx::query_scalar!(
            r#"SELECT pg_try_advisory_lock($1, hashtext($2)) AS "locked!""#,
            LOCK_CLASS,
            self.handler.name()
        )
        .fetch_one(&mut self.connection)
        .await?;
        if is_ours {
            self.checkpoint = checkpoint::load(&mut self.connection, self.handler.name()).await?;
        }
        Ok(is_ours && !self.is_paused().await?)
    }

    async fn is_paused(&mut self) -> Result<bool, sqlx::Error> {
        let status = checkpoint::status(&mut self.connection, self.handler.name()).await?;
        Ok(status.is_some_and(|status| status.paused_at.is_some()))
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

    /// The events after the checkpoint. The one at the checkpoint is read along, to see that it is still the same.
    async fn read(&mut self, limit: ReadLimit) -> Result<Vec<Arc<LogEntry>>, StepError> {
        let ChainHead { position, chain_hash } = self.checkpoint;
        let stopped = |error| StepError::Stopped { position, error };
        if position == 0 {
            let events = reader::events_from(&mut self.connection, 1, limit).await?;
            return self.upcast(events);
        }
        let limit = ReadLimit { events: limit.events + 1, ..limit };
        let mut events = reader::events_from(&mut self.connection, position, limit).await?;
        match events.first() {
            Some(event) if event.position == position && event.chain_hash == chain_hash => {
                events.remove(0);
                self.upcast(events)
            }
            Some(event) if event.position == position => Err(stopped(anyhow!(
                "the log has another history: position {position} is not the event that was applied as {position}"
            ))),
            _ => Err(stopped(anyhow!("the log has another history: position {position}, which was applied, is gone"))),
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
        AssertUnwindSafe(self.handler.apply(&mut transaction, events))
            .catch_unwind()
            .await
            .unwrap_or_else(|_| Err(anyhow!("the handler panicked")))?;
        let moved = checkpoint::advance(&mut *transaction, self.handler.name(), self.checkpoint, to).await?;
        if moved {
            transaction.commit().await?;
        } else {
            transaction.rollback().await?;
        }
        self.moved(moved, to)
    }

    fn moved(&mut self, moved: bool, to: ChainHead) -> anyhow::Result<()> {
        if !moved {
            return Err(TryAgain(MOVED.to_owned()).into());
        }
        self.checkpoint = to;
        self.rested_at = Instant::now() + REST;
        Ok(())
    }

    /// Sees that the checkpoint is where it was left, and may be moved on.
    pub async fn look(&mut self) -> Result<(), StepError> {
        let status = checkpoint::status(&mut self.connection, self.handler.name()).await?;
        if status.is_some_and(|status| status.position == self.checkpoint.position && status.paused_at.is_none()) {
            return Ok(());
        }
        Err(StepError::Lost(TryAgain(MOVED.to_owned()).into()))
    }

    /// Keeps what the handler stopped at, where readiness sees it.
    pub async fn fail(mut self, position: u64, error: &anyhow::Error) -> anyhow::Result<()> {
        checkpoint::fail(&mut self.connection, self.handler.name(), position, &format!("{error:#}"))
            .await
            .context("what the subscription stopped at could not be kept")
    }
}

/// Whether the batch may succeed when it is applied again as it is.
fn may_pass(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<sqlx::Error>().is_some_and(is_transient) || cause.downcast_ref::<TryAgain>().is_some()
    })
}
