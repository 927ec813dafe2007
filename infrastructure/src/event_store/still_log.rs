//! The log at a standstill: nobody appends while something is decided on all of it.
//!
//! For the rare decision that has to be the very next event after what it was decided on, as the close of a month is.
//! It is appended by an insert that the log's trigger puts in place, as those of other programs are.

use aihub_application::ports::event_log::{Metadata, NewEvent};
use anyhow::Context;
use sqlx::{Connection, PgConnection, PgTransaction};
use uuid::Uuid;

use super::{
    chain::ChainHead,
    reader::{self, ReadLimit, RecordedEvent},
};
use crate::database::Database;

/// Everybody waits meanwhile: the server ends it, should we be slower, or sit idle for as long as `lock_log` allows.
const SETTINGS: [(&str, &str); 2] = [("statement_timeout", "5s"), ("lock_timeout", "5s")];

/// A connection that can stop the log.
pub struct LogStopper(PgConnection);

/// While this lives, nobody appends. Dropped, it has changed nothing.
pub struct StillLog<'c> {
    transaction: PgTransaction<'c>,
    /// The last event there is.
    pub head: ChainHead,
}

impl LogStopper {
    pub async fn connect(database: &Database) -> Result<Self, sqlx::Error> {
        let settings = SETTINGS.map(|(name, value)| (name, value.to_owned()));
        Ok(Self(database.dedicated("aihub-still-log", &settings).await?))
    }

    /// Waits for its turn among those who append.
    pub async fn stop(&mut self) -> anyhow::Result<StillLog<'_>> {
        let mut transaction = self.0.begin().await?;
        // A statement of its own: what comes after sees everything that was committed before the lock was ours.
        sqlx::query("SELECT lock_log()").execute(&mut *transaction).await?;
        let head = reader::head(&mut *transaction).await?;
        Ok(StillLog { transaction, head })
    }
}

impl StillLog<'_> {
    /// What was recorded after a position, if it is not more than `limit` allows; `None` if it is.
    pub async fn since(&mut self, position: u64, limit: ReadLimit) -> anyhow::Result<Option<Vec<RecordedEvent>>> {
        let events = reader::events_from(&mut *self.transaction, position + 1, limit).await?;
        let last = events.last().map_or(position, |event| event.position);
        Ok((last == self.head.position).then_some(events))
    }

    /// Makes `event` the next one, first of its stream, and lets the others go on. Returns its position.
    pub async fn append_first(
        mut self,
        aggregate_type: &str,
        aggregate_id: &str,
        event: &NewEvent,
        metadata: &Metadata,
    ) -> anyhow::Result<u64> {
        let metadata = serde_json::to_string(metadata)?;
        sqlx::query("SELECT append_first($1, $2, $3, $4, $5::text::json, $6::text::json, $7)")
            .bind(aggregate_type)
            .bind(aggregate_id)
            .bind(&event.event_type)
            .bind(&event.event_version)
            .bind(&event.payload)
            .bind(metadata)
            .bind(Uuid::now_v7())
            .execute(&mut *self.transaction)
            .await
            .with_context(|| format!("the first event of {aggregate_type} {aggregate_id}"))?;
        self.transaction.commit().await?;
        Ok(self.head.position + 1)
    }
}
