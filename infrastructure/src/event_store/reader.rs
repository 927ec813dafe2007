//! Reading the log: by position, for everything downstream, and by stream, for aggregates.

use chrono::{DateTime, Utc};
use futures::{TryStreamExt, stream::BoxStream};
use serde::de::DeserializeOwned;
use sqlx::{PgConnection, PgExecutor};
use thiserror::Error;
use uuid::Uuid;

use super::chain::{ChainHead, Hash, Leaf};

/// An event as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedEvent {
    pub position: u64,
    /// Never before that of the position in front.
    pub recorded_at: DateTime<Utc>,
    pub aggregate_type: String,
    pub aggregate_id: String,
    /// Within the stream, from 1.
    pub sequence: u64,
    pub event_type: String,
    pub event_version: String,
    /// JSON text, to the byte as it was appended.
    pub payload: String,
    /// JSON text: an object of strings, see `application::ports::event_log::Metadata`.
    pub metadata: String,
    /// On the first event of a unit only.
    pub command_id: Option<Uuid>,
    pub leaf_hash: Hash,
    pub chain_hash: Hash,
}

/// The log is not what it was when somebody stood at a place in it.
#[derive(Debug, Error)]
pub enum ReadError {
    #[error("the log has another history: position {0} is not the event that was there")]
    OtherHistory(u64),
    #[error("the log has another history: position {0}, which was there, is gone")]
    Gone(u64),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// How much is read at once. At least one event is, however large.
#[derive(Debug, Clone, Copy)]
pub struct ReadLimit {
    pub events: u32,
    /// Of payloads and metadata.
    pub bytes: usize,
}

impl Default for ReadLimit {
    fn default() -> Self {
        Self { events: 1_024, bytes: 4 << 20 }
    }
}

impl RecordedEvent {
    pub fn leaf(&self) -> Leaf<'_> {
        Leaf {
            aggregate_type: &self.aggregate_type,
            aggregate_id: &self.aggregate_id,
            sequence: self.sequence,
            event_type: &self.event_type,
            event_version: &self.event_version,
            payload: &self.payload,
            metadata: &self.metadata,
            command_id: self.command_id,
        }
    }

    /// The log up to and including this event.
    pub fn head(&self) -> ChainHead {
        ChainHead { position: self.position, chain_hash: self.chain_hash }
    }

    pub fn decode<E: DeserializeOwned>(&self) -> Result<E, serde_json::Error> {
        serde_json::from_str(&self.payload)
    }
}

/// The last position of the log and its chain hash.
pub async fn head(executor: impl PgExecutor<'_>) -> Result<ChainHead, sqlx::Error> {
    let head =
        sqlx::query!(r#"SELECT position, chain_hash AS "chain_hash: Hash" FROM events ORDER BY position DESC LIMIT 1"#)
            .fetch_optional(executor)
            .await?;
    Ok(head.map_or(ChainHead::GENESIS, |head| ChainHead {
        position: head.position.cast_unsigned(),
        chain_hash: head.chain_hash,
    }))
}

/// Whether the log is here and goes on from where it was seen last: not in a database whose views are fed from elsewhere, nor
/// in an empty one, nor where a handler or a signed checkpoint has seen what is not there any more, or is another event now.
pub async fn can_go_on(executor: impl PgExecutor<'_>) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM events)
              AND NOT EXISTS (SELECT FROM subscriptions s LEFT JOIN events e ON e.position = s.position
                              WHERE s.position > 0 AND e.chain_hash IS DISTINCT FROM s.chain_hash)
              AND NOT EXISTS (SELECT FROM (SELECT max(position) AS position FROM checkpoints) c
                              WHERE c.position > (SELECT max(position) FROM events)) AS "can_go_on!""#
    )
    .fetch_one(executor)
    .await
}

/// When a position was recorded; `None` where the log does not reach so far.
pub async fn recorded_at(executor: impl PgExecutor<'_>, position: u64) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    sqlx::query_scalar!("SELECT recorded_at FROM events WHERE position = $1", position.cast_signed())
        .fetch_optional(executor)
        .await
}

/// The events behind `from`, which is still what it was: the first of them is chained to it. At least one where there is any,
/// however large it is.
pub async fn events_after(
    connection: &mut PgConnection,
    from: ChainHead,
    limit: ReadLimit,
) -> Result<Vec<RecordedEvent>, ReadError> {
    let events = events_from(&mut *connection, from.position + 1, limit).await?;
    let is_same = match events.first() {
        Some(first) => {
            first.position == from.position + 1
                && first.chain_hash == from.next_hash(first.recorded_at, &first.leaf_hash)
        }
        None if from.position == 0 => true,
        None => {
            let hash = sqlx::query_scalar!(
                r#"SELECT chain_hash AS "hash: Hash" FROM events WHERE position = $1"#,
                from.position.cast_signed()
            );
            let hash = hash.fetch_optional(connection).await?.ok_or(ReadError::Gone(from.position))?;
            hash == from.chain_hash
        }
    };
    if is_same { Ok(events) } else { Err(ReadError::OtherHistory(from.position)) }
}

/// The events from position `first` on, in order and as they are stored: not upcast, so that they verify.
pub async fn events_from(
    executor: impl PgExecutor<'_>,
    first: u64,
    limit: ReadLimit,
) -> Result<Vec<RecordedEvent>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT position, recorded_at, aggregate_type, aggregate_id, sequence, event_type, event_version,
                  payload::text AS "payload!", metadata::text AS "metadata!", command_id,
                  leaf_hash AS "leaf_hash: Hash", chain_hash AS "chain_hash: Hash"
           FROM events WHERE position >= $1 ORDER BY position LIMIT $2"#,
        first.cast_signed(),
        i64::from(limit.events),
    )
    .fetch(executor);
    up_to(limit, rows).await
}

/// The events at these positions, in order and as they are stored.
pub async fn events_at(executor: impl PgExecutor<'_>, positions: &[i64]) -> Result<Vec<RecordedEvent>, sqlx::Error> {
    sqlx::query_as!(
        Row,
        r#"SELECT position, recorded_at, aggregate_type, aggregate_id, sequence, event_type, event_version,
                  payload::text AS "payload!", metadata::text AS "metadata!", command_id,
                  leaf_hash AS "leaf_hash: Hash", chain_hash AS "chain_hash: Hash"
           FROM events WHERE position = ANY($1) ORDER BY position"#,
        positions,
    )
    .fetch(executor)
    .map_ok(RecordedEvent::from)
    .try_collect()
    .await
}

/// The last position that was recorded by `time`; 0 if that is before the first. Times never run back in the log, so it is
/// found in a few steps.
pub async fn position_at(connection: &mut PgConnection, time: DateTime<Utc>) -> Result<u64, sqlx::Error> {
    let (mut before, mut after) = (0, head(&mut *connection).await?.position + 1);
    while before + 1 < after {
        let middle = u64::midpoint(before, after);
        let recorded_at =
            sqlx::query_scalar!("SELECT recorded_at FROM events WHERE position = $1", middle.cast_signed())
                .fetch_one(&mut *connection)
                .await?;
        if recorded_at <= time { before = middle } else { after = middle }
    }
    Ok(before)
}

/// The events of a stream from `first_sequence` on, oldest first, as they are stored.
pub async fn stream_from(
    executor: impl PgExecutor<'_>,
    aggregate_type: &str,
    aggregate_id: &str,
    first_sequence: u64,
) -> Result<Vec<RecordedEvent>, sqlx::Error> {
    sqlx::query_as!(
        Row,
        r#"SELECT position, recorded_at, aggregate_type, aggregate_id, sequence, event_type, event_version,
                  payload::text AS "payload!", metadata::text AS "metadata!", command_id,
                  leaf_hash AS "leaf_hash: Hash", chain_hash AS "chain_hash: Hash"
           FROM events WHERE aggregate_type = $1 AND aggregate_id = $2 AND sequence >= $3 ORDER BY sequence"#,
        aggregate_type,
        aggregate_id,
        first_sequence.cast_signed(),
    )
    .fetch(executor)
    .map_ok(RecordedEvent::from)
    .try_collect()
    .await
}

/// The events of a type after a position, in log order and as they are stored.
pub async fn type_after(
    executor: impl PgExecutor<'_>,
    aggregate_type: &str,
    position: u64,
    limit: ReadLimit,
) -> Result<Vec<RecordedEvent>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT position, recorded_at, aggregate_type, aggregate_id, sequence, event_type, event_version,
                  payload::text AS "payload!", metadata::text AS "metadata!", command_id,
                  leaf_hash AS "leaf_hash: Hash", chain_hash AS "chain_hash: Hash"
           FROM events WHERE aggregate_type = $1 AND position > $2 ORDER BY position LIMIT $3"#,
        aggregate_type,
        position.cast_signed(),
        i64::from(limit.events),
    )
    .fetch(executor);
    up_to(limit, rows).await
}

/// A row, with numbers as the database has them.
struct Row {
    position: i64,
    recorded_at: DateTime<Utc>,
    aggregate_type: String,
    aggregate_id: String,
    sequence: i64,
    event_type: String,
    event_version: String,
    payload: String,
    metadata: String,
    command_id: Option<Uuid>,
    leaf_hash: Hash,
    chain_hash: Hash,
}

async fn up_to(
    limit: ReadLimit,
    mut rows: BoxStream<'_, Result<Row, sqlx::Error>>,
) -> Result<Vec<RecordedEvent>, sqlx::Error> {
    let mut events = Vec::new();
    let mut bytes = 0;
    while bytes < limit.bytes
        && let Some(row) = rows.try_next().await?
    {
        bytes += row.payload.len() + row.metadata.len();
        events.push(row.into());
    }
    Ok(events)
}

impl From<Row> for RecordedEvent {
    fn from(row: Row) -> Self {
        Self {
            position: row.position.cast_unsigned(),
            recorded_at: row.recorded_at,
            aggregate_type: row.aggregate_type,
            aggregate_id: row.aggregate_id,
            sequence: row.sequence.cast_unsigned(),
            event_type: row.event_type,
            event_version: row.event_version,
            payload: row.payload,
            metadata: row.metadata,
            command_id: row.command_id,
            leaf_hash: row.leaf_hash,
            chain_hash: row.chain_hash,
        }
    }
}
