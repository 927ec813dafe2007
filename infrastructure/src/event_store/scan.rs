//! Reading long stretches of the log fast, for rebuilds: only the events that are wanted, and of these only what a
//! handler looks at.

use std::sync::Arc;

use anyhow::Context;
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use sqlx::PgConnection;

use super::{
    chain::{ChainHead, GENESIS, Hash},
    decode::{LogEntry, entries},
    reader::RecordedEvent,
    upcast::Upcasters,
};

/// Positions that are looked through at once, at most.
const POSITIONS: u64 = 1 << 16;
/// Wanted events that are read at once, at most.
const EVENTS: i64 = 1 << 14;
/// Of payloads; one more event may go beyond it.
const BYTES: usize = 16 << 20;

/// Which events are wanted.
#[derive(Debug, Clone)]
pub struct Scan {
    event_types: Vec<String>,
    upcasters: Arc<Upcasters>,
}

/// The wanted events of a stretch of the log. Their metadata and hashes are left empty, and they have no command id.
#[derive(Debug)]
pub struct Stretch {
    pub entries: Vec<Arc<LogEntry>>,
    /// Where the stretch ends: the last position that was looked at, wanted or not.
    pub to: ChainHead,
}

impl Scan {
    /// `event_types` are today's; whatever may be upcast is read along.
    pub fn new(event_types: &[&str], upcasters: Arc<Upcasters>) -> Self {
        let event_types = event_types.iter().map(|name| (*name).to_owned());
        let event_types = event_types.chain(upcasters.event_types().map(str::to_owned)).collect();
        Self { event_types, upcasters }
    }

    /// The stretch behind `after`, as far as `up_to` or the limits of one read. `up_to` is in the log and behind `after`.
    pub async fn read(&self, connection: &mut PgConnection, after: u64, up_to: u64) -> anyhow::Result<Stretch> {
        let window = up_to.min(after + POSITIONS);
        let mut events = Vec::new();
        let mut bytes = 0;
        {
            let mut rows = sqlx::query_as!(
                Row,
                r#"SELECT position, recorded_at, aggregate_type, aggregate_id, sequence, event_type, event_version,
                          payload::text AS "payload!"
                   FROM events WHERE position > $1 AND position <= $2 AND event_type = ANY($3)
                   ORDER BY position LIMIT $4"#,
                after.cast_signed(),
                window.cast_signed(),
                &self.event_types,
                EVENTS,
            )
            .fetch(&mut *connection);
            while bytes < BYTES
                && let Some(row) = rows.try_next().await?
            {
                bytes += row.payload.len();
                events.push(row.into());
            }
        }
        let is_cut = bytes >= BYTES || events.len() == usize::try_from(EVENTS)?;
        let last = events.last().map(|event: &RecordedEvent| event.position).filter(|_| is_cut);
        let to = head_at(connection, last.unwrap_or(window)).await?;
        Ok(Stretch { entries: entries(self.upcasters.apply(events)?), to })
    }
}

/// The log up to a position, which is in it.
pub async fn head_at(connection: &mut PgConnection, position: u64) -> anyhow::Result<ChainHead> {
    if position == 0 {
        return Ok(ChainHead::GENESIS);
    }
    let chain_hash = sqlx::query_scalar!(
        r#"SELECT chain_hash AS "chain_hash: Hash" FROM events WHERE position = $1"#,
        position.cast_signed()
    );
    let chain_hash = chain_hash.fetch_optional(connection).await?;
    Ok(ChainHead { position, chain_hash: chain_hash.with_context(|| format!("the log has no position {position}"))? })
}

struct Row {
    position: i64,
    recorded_at: DateTime<Utc>,
    aggregate_type: String,
    aggregate_id: String,
    sequence: i64,
    event_type: String,
    event_version: String,
    payload: String,
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
            metadata: String::new(),
            command_id: None,
            leaf_hash: GENESIS,
            chain_hash: GENESIS,
        }
    }
}
