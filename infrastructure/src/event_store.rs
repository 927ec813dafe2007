//! The event store: the log that everything is rebuilt from.
//!
//! | module | holds |
//! |---|---|
//! | [`batch`] | units made ready for the log, and the arrays of a call |
//! | [`chain`] | what the hashes are computed over, and the verifier |
//! | [`cqrs_store`] | cqrs-es's `EventStore` on the log: for `CqrsFramework` |
//! | [`decode`] | recorded events as the domain's |
//! | [`reader`] | reading by position and by stream |
//! | [`repository`] | cqrs-es's `PersistedEventRepository` on the log |
//! | [`scan`] | reading long stretches fast |
//! | [`snapshots`] | cached states of aggregates |
//! | [`still_log`] | the log while nobody appends |
//! | [`subscription`] | handlers that follow the log, each event applied exactly once |
//! | [`upcast`] | events of former versions, read as today's |
//! | [`writer`] | the node's one writer |
//!
//! The rules that keep the log in order are in `migrations/0001_event_log.sql`.

pub mod batch;
pub mod chain;
pub mod cqrs_store;
pub mod decode;
pub mod reader;
pub mod repository;
pub mod scan;
pub mod snapshots;
pub mod still_log;
pub mod subscription;
pub mod upcast;
pub mod writer;

use std::{sync::Arc, time::Duration};

use aihub_application::ports::event_log::{Append, EventLog, LoadError, Outage, Snapshot, StoredEvent, Unit};
use futures::{FutureExt, future::BoxFuture};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use self::{
    batch::PreparedUnit,
    upcast::Upcasters,
    writer::{Writer, WriterOptions},
};
use crate::{contents::known::KnownPieces, database::Database};

/// The longest that one read may take, a connection from the pool included. A peer that is gone without a word says
/// nothing for far longer.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The log in PostgreSQL, as the application sees it.
#[derive(Debug)]
pub struct PostgresEventLog {
    database: Database,
    writer: Writer,
    upcasters: Arc<Upcasters>,
}

impl PostgresEventLog {
    /// Starts the node's writer on `tracker`. It ends when the log is closed or dropped, and what was queued has its
    /// outcome.
    pub fn start(database: Database, options: WriterOptions, upcasters: Arc<Upcasters>, tracker: &TaskTracker) -> Self {
        let writer = Writer::start(database.clone(), options, tracker);
        Self { database, writer, upcasters }
    }

    /// The pieces of content that it has seen committed.
    pub fn known_pieces(&self) -> Arc<KnownPieces> {
        self.writer.known.clone()
    }

    /// The last position that this node has appended to, as far as it was told.
    pub fn appended(&self) -> watch::Receiver<u64> {
        self.writer.appended()
    }

    /// The same, once there is a connection.
    pub async fn connect(
        database: Database,
        options: WriterOptions,
        upcasters: Arc<Upcasters>,
        tracker: &TaskTracker,
    ) -> Result<Self, sqlx::Error> {
        let writer = Writer::connect(database.clone(), options, tracker).await?;
        Ok(Self { database, writer, upcasters })
    }

    /// What is queued is still appended, what comes later is refused.
    pub fn close(&self) {
        self.writer.close();
    }

    async fn load_stream(
        &self,
        aggregate_type: &'static str,
        aggregate_id: &str,
        after_sequence: u64,
    ) -> Result<Vec<StoredEvent>, LoadError> {
        let events = reader::stream_from(self.database.pool(), aggregate_type, aggregate_id, after_sequence + 1)
            .await
            .map_err(unavailable)?;
        let events = self.upcasters.apply(events).map_err(unavailable)?;
        events
            .into_iter()
            .map(|event| {
                let payload = event.decode().map_err(|source| LoadError::Malformed {
                    aggregate_type,
                    aggregate_id: aggregate_id.to_owned(),
                    sequence: event.sequence,
                    source,
                })?;
                Ok(StoredEvent { sequence: event.sequence, event_type: event.event_type, payload })
            })
            .collect()
    }
}

impl EventLog for PostgresEventLog {
    fn append(&self, unit: Unit) -> Append {
        let basis = unit.basis.clone();
        match PreparedUnit::new(unit, self.database.login()) {
            Ok(unit) => self.writer.append(unit),
            Err(error) => {
                if let Some(basis) = basis {
                    basis.break_off();
                }
                futures::future::ready(Err(error)).boxed()
            }
        }
    }

    fn outage(&self) -> Option<Outage> {
        self.writer.outage()
    }

    fn load<'a>(
        &'a self,
        aggregate_type: &'static str,
        aggregate_id: &'a str,
        after_sequence: u64,
    ) -> BoxFuture<'a, Result<Vec<StoredEvent>, LoadError>> {
        in_time(self.load_stream(aggregate_type, aggregate_id, after_sequence)).boxed()
    }

    fn load_snapshot<'a>(
        &'a self,
        aggregate_type: &'static str,
        aggregate_id: &'a str,
    ) -> BoxFuture<'a, Result<Option<Snapshot>, LoadError>> {
        in_time(async move {
            let row = snapshots::load(self.database.pool(), aggregate_type, aggregate_id).await.map_err(unavailable)?;
            Ok(row.map(|row| Snapshot { sequence: row.last_sequence, state: row.payload }))
        })
        .boxed()
    }

    fn save_snapshot<'a>(
        &'a self,
        aggregate_type: &'static str,
        aggregate_id: &'a str,
        snapshot: Snapshot,
    ) -> BoxFuture<'a, Result<(), LoadError>> {
        in_time(async move {
            let Snapshot { sequence, state } = snapshot;
            snapshots::save(self.database.pool(), aggregate_type, aggregate_id, sequence, &state)
                .await
                .map_err(unavailable)
        })
        .boxed()
    }
}

async fn in_time<T>(reading: impl Future<Output = Result<T, LoadError>>) -> Result<T, LoadError> {
    tokio::time::timeout(READ_TIMEOUT, reading).await.unwrap_or_else(|late| Err(unavailable(late)))
}

fn unavailable(error: impl Into<anyhow::Error>) -> LoadError {
    LoadError::Unavailable(error.into())
}
