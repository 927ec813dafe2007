//! One call of `append_events`, and what its answer means.

use std::time::Duration;

use aihub_application::ports::event_log::{AppendError, Appended};
use sqlx::PgConnection;

use super::{WriterOptions, queue::Outcome};
use crate::{
    database::{Database, KEPT_PLANS, millis},
    event_store::batch::Batch,
};

/// More than fits into what is left of pages that have been begun.
const PROBE_BYTES: i32 = 64 << 10;

/// What the server said of a batch.
#[derive(Debug)]
pub struct Answer {
    pub lock_wait: Duration,
    head_before: u64,
    /// One element a unit; none when every unit was appended.
    units: Option<Vec<UnitAnswer>>,
}

#[derive(Debug, Clone, Copy)]
enum UnitAnswer {
    Appended {
        position: u64,
    },
    /// The command id is in the log already, with the same first event or another one.
    Known {
        position: u64,
        same: bool,
    },
    Conflict {
        stream: usize,
    },
}

/// A connection for the writer alone.
pub async fn connect(database: &Database, options: &WriterOptions) -> Result<PgConnection, sqlx::Error> {
    let mut settings = vec![("statement_timeout", millis(options.statement_timeout))];
    settings.extend(KEPT_PLANS.map(|(name, value)| (name, value.to_owned())));
    database.dedicated("aihub-writer", &settings).await
}

/// Appends the batch and commits, in one round trip.
pub async fn append(connection: &mut PgConnection, batch: &Batch) -> Result<Answer, sqlx::Error> {
    let row = sqlx::query!(
        "CALL append_events($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, \
         $21, $22, NULL, NULL, NULL, NULL)",
        &batch.unit_parts,
        &batch.unit_bases,
        &batch.part_streams,
        &batch.part_expected,
        &batch.part_events,
        &batch.stream_types as _,
        &batch.stream_ids as _,
        &batch.stream_expected,
        batch.one_by_one,
        &batch.event_streams,
        &batch.sequences,
        &batch.event_types as _,
        &batch.event_versions as _,
        &batch.payloads as _,
        &batch.metadatas as _,
        &batch.command_ids as _,
        &batch.leaf_hashes as _,
        &batch.content_subjects as _,
        &batch.content_kinds as _,
        &batch.content_months,
        &batch.content_hashes as _,
        &batch.content_bytes as _,
    )
    .fetch_one(connection)
    .await?;
    let units = match (row.outcomes, row.details) {
        (Some(outcomes), Some(details)) => {
            Some(outcomes.into_iter().zip(details).map(|(outcome, detail)| UnitAnswer::of(outcome, detail)).collect())
        }
        _ => None,
    };
    Ok(Answer {
        lock_wait: Duration::from_micros(row.lock_wait_us.unwrap_or_default().max(0).cast_unsigned()),
        head_before: row.head_before.unwrap_or_default().cast_unsigned(),
        units,
    })
}

/// Appends nothing, with what else belongs to it: the right to call the function, a session that can write, the log's lock.
pub async fn probe(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    append(connection, &Batch::default()).await.map(drop)
}

/// Sees whether a file can be made and grow.
pub async fn probe_room(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT probe_room()").execute(connection).await.map(drop)
}

/// Appends as much as an event may have and takes it back: for where there was no room for more.
pub async fn try_append(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT probe_append($1)", PROBE_BYTES).execute(connection).await.map(drop)
}

impl Answer {
    /// The outcomes of the batch's units, of which the numbers of events are given. `is_retry` says that the batch was
    /// sent before and that its answer was lost: then what is known and says the same was appended by that call.
    pub fn outcomes(
        &self,
        event_counts: impl IntoIterator<Item = usize>,
        is_retry: bool,
    ) -> impl Iterator<Item = Outcome> {
        let mut next = self.head_before + 1;
        event_counts.into_iter().enumerate().map(move |(index, count)| {
            let position = next;
            next += count as u64;
            match self.units.as_ref().and_then(|units| units.get(index)) {
                None => Ok(Appended { position, repeated: false }),
                Some(&UnitAnswer::Appended { position }) => Ok(Appended { position, repeated: false }),
                Some(&UnitAnswer::Known { position, same }) => Ok(Appended { position, repeated: !(same && is_retry) }),
                Some(&UnitAnswer::Conflict { stream }) => Err(AppendError::Conflict { stream }),
            }
        })
    }
}

impl UnitAnswer {
    fn of(outcome: i32, detail: i64) -> Self {
        let detail = detail.cast_unsigned();
        match outcome {
            0 => Self::Appended { position: detail },
            1 => Self::Known { position: detail, same: true },
            2 => Self::Known { position: detail, same: false },
            _ => Self::Conflict { stream: usize::try_from(detail).unwrap_or_default() },
        }
    }
}
