//! The log of a file into an empty database, with the positions and hashes that it had.
//!
//! All of it or nothing: it is one transaction, under the log's lock. The content that the file has comes along, and stays
//! sealed: the subjects' keys are not in the log, and without them (`subject_keys` and the master key) prompts and answers
//! cannot be read.

use std::io::BufRead;

use sqlx::{Connection, PgConnection};

use super::{AuditError, contents::KeptPiece, file::LogFile};
use crate::{
    database::Database,
    event_store::{
        chain::ChainHead,
        reader::{self, RecordedEvent},
    },
};

const BATCH: usize = 1_000;
const BATCH_BYTES: usize = 8 << 20;

/// Fills the log, verifying each event; its head. `progress` hears of positions.
pub async fn restore(
    database: &Database,
    mut file: LogFile<impl BufRead + Send>,
    mut progress: impl FnMut(u64) + Send,
) -> Result<ChainHead, AuditError> {
    if file.header.from != 1 {
        let from = file.header.from;
        return Err(AuditError::Incomplete(format!("the file begins at position {from}, and a log begins at 1")));
    }
    let mut connection = super::scan::connect(database).await?;
    let mut transaction = connection.begin().await?;
    // The log's lock, see `migrations/0001_event_log.sql`. It is the owner who restores.
    sqlx::query!("LOCK TABLE log_lock IN SHARE UPDATE EXCLUSIVE MODE").execute(&mut *transaction).await?;
    let there = reader::head(&mut *transaction).await?.position;
    if there > 0 {
        return Err(AuditError::Malformed(format!("the database has a log already, of {there} events")));
    }
    let (mut batch, mut bytes) = (Vec::with_capacity(BATCH), 0);
    while let Some(event) = file.next_event()? {
        keep(&mut transaction, file.take_pieces()).await?;
        bytes += event.payload.len() + event.metadata.len();
        batch.push(event);
        if batch.len() == BATCH || bytes > BATCH_BYTES {
            insert(&mut transaction, &batch).await?;
            progress(batch.last().map_or(0, |event| event.position));
            batch.clear();
            bytes = 0;
        }
    }
    insert(&mut transaction, &batch).await?;
    keep(&mut transaction, file.take_pieces()).await?;
    let (head, _) = file.finish()?;
    transaction.commit().await?;
    Ok(head)
}

async fn keep(connection: &mut PgConnection, pieces: Vec<KeptPiece>) -> Result<(), sqlx::Error> {
    for KeptPiece { key, hash, bytes } in pieces {
        sqlx::query!(
            "INSERT INTO contents (subject, kind, month, hash, bytes) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT ON CONSTRAINT contents_key_hash DO NOTHING",
            key.subject,
            key.kind.as_str(),
            key.month,
            &hash.0[..],
            bytes,
        )
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Rows that bring their positions along keep them.
async fn insert(connection: &mut PgConnection, events: &[RecordedEvent]) -> Result<(), sqlx::Error> {
    fn column<'e, T>(events: &'e [RecordedEvent], value: impl Fn(&'e RecordedEvent) -> T) -> Vec<T> {
        events.iter().map(value).collect()
    }
    sqlx::query!(
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata,
                             position, recorded_at, command_id, leaf_hash, chain_hash)
         SELECT e.aggregate_type, e.aggregate_id, e.sequence, e.event_type, e.event_version, e.payload::json,
                e.metadata::json, e.position, e.recorded_at, e.command_id, e.leaf_hash, e.chain_hash
         FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[],
                     $8::bigint[], $9::timestamptz[], $10::uuid[], $11::bytea[], $12::bytea[])
              AS e (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata, position,
                    recorded_at, command_id, leaf_hash, chain_hash)",
        &column(events, |event| event.aggregate_type.as_str()) as &[&str],
        &column(events, |event| event.aggregate_id.as_str()) as &[&str],
        &column(events, |event| event.sequence.cast_signed()),
        &column(events, |event| event.event_type.as_str()) as &[&str],
        &column(events, |event| event.event_version.as_str()) as &[&str],
        &column(events, |event| event.payload.as_str()) as &[&str],
        &column(events, |event| event.metadata.as_str()) as &[&str],
        &column(events, |event| event.position.cast_signed()),
        &column(events, |event| event.recorded_at),
        &column(events, |event| event.command_id) as &[Option<uuid::Uuid>],
        &column(events, |event| event.leaf_hash.as_slice()) as &[&[u8]],
        &column(events, |event| event.chain_hash.as_slice()) as &[&[u8]],
    )
    .execute(connection)
    .await?;
    Ok(())
}
