//! The log from end to end, as the database copies it out: rows in PostgreSQL's binary form, as fast as it can send them.
//! While we look at some, the next are on their way. Nothing but the row that is being read is in memory.

use bytes::{Buf, Bytes, BytesMut};
use chrono::{DateTime, Utc};
use futures::{TryStreamExt, stream::BoxStream};
use sqlx::{Connection, Executor, PgConnection, PgTransaction};
use uuid::Uuid;

use super::{AuditError, Fault};
use crate::{
    database::Database,
    event_store::{chain::Hash, reader::RecordedEvent},
};

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// Of PostgreSQL's timestamps, which count microseconds from 2000-01-01, in Unix time.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// A connection on which long reads may take their time.
pub async fn connect(database: &Database) -> Result<PgConnection, sqlx::Error> {
    database.dedicated("aihub-audit", &[("statement_timeout", "0".to_owned())]).await
}

/// Everything that is read through it was true at one instant.
pub async fn snapshot(connection: &mut PgConnection) -> Result<PgTransaction<'_>, sqlx::Error> {
    connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await
}

/// Events in the order of their positions.
pub struct Scan<'c> {
    rows: BoxStream<'c, Result<Bytes, sqlx::Error>>,
    buffer: BytesMut,
    begun: bool,
    /// The last position that was read.
    position: u64,
}

/// The events from position `from` to `to`, both included; without an end, all that there are. From 1 on these are also
/// rows with positions that no event has.
pub async fn events(connection: &mut PgConnection, from: u64, to: Option<u64>) -> Result<Scan<'_>, sqlx::Error> {
    let mut limits = Vec::new();
    limits.extend((from > 1).then(|| format!("position >= {from}")));
    limits.extend(to.map(|to| format!("position <= {to}")));
    let filter = if limits.is_empty() { String::new() } else { format!("WHERE {}", limits.join(" AND ")) };
    let copy = format!(
        "COPY (SELECT position, recorded_at, aggregate_type, aggregate_id, sequence, event_type, event_version,
                      payload, metadata, command_id, leaf_hash, chain_hash
               FROM events {filter} ORDER BY position) TO STDOUT (FORMAT binary)"
    );
    // Such rows as are in the index are in the order that they are wanted in.
    connection.execute("SET LOCAL enable_sort = off").await?;
    let rows = connection.copy_out_raw(&copy).await?;
    Ok(Scan { rows, buffer: BytesMut::new(), begun: false, position: from.saturating_sub(1) })
}

impl Scan<'_> {
    /// `None` after the last one. A row that cannot be an event is a fault.
    pub async fn next(&mut self) -> Result<Option<RecordedEvent>, AuditError> {
        loop {
            if let Some(row) = self.take_row()? {
                let event = row.event().ok_or_else(|| {
                    AuditError::Tampered(Fault {
                        position: self.position + 1,
                        what: "the row cannot be an event".to_owned(),
                        expected: "a position, texts and two hashes".to_owned(),
                        found: "something else".to_owned(),
                    })
                })?;
                self.position = event.position;
                return Ok(Some(event));
            }
            let Some(more) = self.rows.try_next().await? else { return Ok(None) };
            self.buffer.extend_from_slice(&more);
        }
    }

    /// A whole row, if there is one in the buffer. The end of the copy is not one.
    fn take_row(&mut self) -> Result<Option<Row>, AuditError> {
        if !self.begun {
            let Some(header) = self.buffer.get(..SIGNATURE.len() + 8) else { return Ok(None) };
            if !header.starts_with(SIGNATURE) {
                return Err(AuditError::Malformed("the database does not copy in its binary form".to_owned()));
            }
            self.buffer.advance(SIGNATURE.len() + 8);
            self.begun = true;
        }
        let Some(mut end) = self.buffer.get(..2).map(|count| (u16::from_be_bytes([count[0], count[1]]), 2)) else {
            return Ok(None);
        };
        if end.0 == u16::MAX {
            return Ok(None);
        }
        for _ in 0..end.0 {
            let Some(length) = self.buffer.get(end.1..).and_then(|rest| rest.first_chunk::<4>()) else {
                return Ok(None);
            };
            end.1 += 4 + usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        }
        if self.buffer.len() < end.1 {
            return Ok(None);
        }
        let mut row = self.buffer.split_to(end.1).freeze();
        row.advance(2);
        Ok(Some(Row(row)))
    }
}

/// The fields that are still to be read: each its length and its bytes.
struct Row(Bytes);

impl Row {
    fn event(mut self) -> Option<RecordedEvent> {
        Some(RecordedEvent {
            position: self.count()?,
            recorded_at: self.time()?,
            aggregate_type: self.text()?,
            aggregate_id: self.text()?,
            sequence: self.count()?,
            event_type: self.text()?,
            event_version: self.text()?,
            payload: self.text()?,
            metadata: self.text()?,
            command_id: if self.skip_null() { None } else { Some(Uuid::from_slice(&self.field()?).ok()?) },
            leaf_hash: self.hash()?,
            chain_hash: self.hash()?,
        })
    }

    /// The next field; `None` is a null.
    fn field(&mut self) -> Option<Bytes> {
        let length = usize::try_from(self.0.try_get_i32().ok()?).ok()?;
        Some(self.0.split_to(length))
    }

    /// Whether the next field is a null, which is then behind us.
    fn skip_null(&mut self) -> bool {
        let is_null = self.0.starts_with(&(-1_i32).to_be_bytes());
        if is_null {
            self.0.advance(4);
        }
        is_null
    }

    fn integer(&mut self) -> Option<i64> {
        Some(i64::from_be_bytes(self.field()?.as_ref().try_into().ok()?))
    }

    fn count(&mut self) -> Option<u64> {
        self.integer()?.try_into().ok()
    }

    fn time(&mut self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_micros(self.integer()?.checked_add(EPOCH_MICROS)?)
    }

    fn text(&mut self) -> Option<String> {
        Some(str::from_utf8(&self.field()?).ok()?.to_owned())
    }

    fn hash(&mut self) -> Option<Hash> {
        self.field()?.as_ref().try_into().ok()
    }
}
