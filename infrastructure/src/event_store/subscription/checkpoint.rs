//! The table of checkpoints.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};

use super::{Failure, Status};
use crate::event_store::chain::{ChainHead, GENESIS, Hash};

/// The checkpoint of `name`, made if this is its first run.
pub async fn load(connection: &mut PgConnection, name: &str) -> Result<ChainHead, sqlx::Error> {
    sqlx::query!(
        "INSERT INTO subscriptions (name, position, chain_hash, updated_at) VALUES ($1, 0, $2, now())
         ON CONFLICT ON CONSTRAINT subscriptions_name DO NOTHING",
        name,
        &GENESIS,
    )
    .execute(&mut *connection)
    .await?;
    let row =
        sqlx::query!(r#"SELECT position, chain_hash AS "chain_hash: Hash" FROM subscriptions WHERE name = $1"#, name)
            .fetch_one(connection)
            .await?;
    Ok(ChainHead { position: row.position.cast_unsigned(), chain_hash: row.chain_hash })
}

/// Moves the checkpoint; false if it is not where the runner left it.
pub async fn advance(
    executor: impl PgExecutor<'_>,
    name: &str,
    from: ChainHead,
    to: ChainHead,
) -> Result<bool, sqlx::Error> {
    let moved = sqlx::query!(
        "UPDATE subscriptions
         SET position = $4, chain_hash = $5, updated_at = now(), error = NULL, error_position = NULL, failed_at = NULL
         WHERE name = $1 AND position = $2 AND chain_hash = $3",
        name,
        from.position.cast_signed(),
        &from.chain_hash,
        to.position.cast_signed(),
        &to.chain_hash,
    )
    .execute(executor)
    .await?;
    Ok(moved.rows_affected() == 1)
}

/// Says what the subscription stopped at.
pub async fn fail(executor: impl PgExecutor<'_>, name: &str, position: u64, error: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE subscriptions SET error = $2, error_position = $3, failed_at = now() WHERE name = $1",
        name,
        error,
        position.cast_signed(),
    )
    .execute(executor)
    .await?;
    Ok(())
}

pub async fn reset(executor: impl PgExecutor<'_>, name: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE subscriptions
         SET position = 0, chain_hash = $2, updated_at = now(), error = NULL, error_position = NULL, failed_at = NULL
         WHERE name = $1",
        name,
        &GENESIS,
    )
    .execute(executor)
    .await?;
    Ok(())
}

pub async fn status(executor: impl PgExecutor<'_>, name: &str) -> Result<Option<Status>, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        "SELECT name, position, updated_at, error, error_position, failed_at FROM subscriptions WHERE name = $1",
        name
    )
    .fetch_optional(executor)
    .await?;
    Ok(row.map(Status::from))
}

pub async fn statuses(executor: impl PgExecutor<'_>) -> Result<Vec<Status>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT name, position, updated_at, error, error_position, failed_at FROM subscriptions ORDER BY name"
    )
    .fetch_all(executor)
    .await?;
    Ok(rows.into_iter().map(Status::from).collect())
}

struct Row {
    name: String,
    position: i64,
    updated_at: DateTime<Utc>,
    error: Option<String>,
    error_position: Option<i64>,
    failed_at: Option<DateTime<Utc>>,
}

impl From<Row> for Status {
    fn from(row: Row) -> Self {
        let failure = match (row.error, row.error_position, row.failed_at) {
            (Some(error), Some(position), Some(at)) => Some(Failure { position: position.cast_unsigned(), error, at }),
            _ => None,
        };
        Self { name: row.name, position: row.position.cast_unsigned(), updated_at: row.updated_at, failure }
    }
}
