//! Cached states of aggregates: the newest one of each. Droppable.

use serde_json::Value;
use sqlx::PgExecutor;

/// A row of `snapshots`.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotRow {
    pub last_sequence: u64,
    /// How many were taken of this aggregate. Only postgres-es needs it.
    pub current_snapshot: u64,
    pub payload: Value,
}

pub async fn load(
    executor: impl PgExecutor<'_>,
    aggregate_type: &str,
    aggregate_id: &str,
) -> Result<Option<SnapshotRow>, sqlx::Error> {
    let row = sqlx::query!(
        "SELECT last_sequence, current_snapshot, payload FROM snapshots
         WHERE aggregate_type = $1 AND aggregate_id = $2 ORDER BY last_sequence DESC LIMIT 1",
        aggregate_type,
        aggregate_id,
    )
    .fetch_optional(executor)
    .await?;
    Ok(row.map(|row| SnapshotRow {
        last_sequence: row.last_sequence.cast_unsigned(),
        current_snapshot: row.current_snapshot.cast_unsigned(),
        payload: row.payload,
    }))
}

/// Keeps the state unless a later one is there already, and drops earlier ones.
pub async fn save(
    executor: impl PgExecutor<'_>,
    aggregate_type: &str,
    aggregate_id: &str,
    last_sequence: u64,
    payload: &Value,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "WITH earlier AS (
             DELETE FROM snapshots WHERE aggregate_type = $1 AND aggregate_id = $2 AND last_sequence < $3
             RETURNING current_snapshot
         )
         INSERT INTO snapshots (aggregate_type, aggregate_id, last_sequence, current_snapshot, payload)
         SELECT $1, $2, $3, coalesce((SELECT max(current_snapshot) FROM earlier), 0) + 1, $4
         WHERE NOT EXISTS (
             SELECT FROM snapshots WHERE aggregate_type = $1 AND aggregate_id = $2 AND last_sequence >= $3)
         ON CONFLICT DO NOTHING",
        aggregate_type,
        aggregate_id,
        last_sequence.cast_signed(),
        payload,
    )
    .execute(executor)
    .await?;
    Ok(())
}
