//! The table of checkpoints: where each handler stands, what it stopped at, and whether it may go on.

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

/// Moves the checkpoint; false if it is not where the runner left it, or paused.
pub async fn advance(
    executor: impl PgExecutor<'_>,
    name: &str,
    from: ChainHead,
    to: ChainHead,
) -> Result<bool, sqlx::Error> {
    let moved = sqlx::query!(
        "UPDATE subscriptions
         SET position = $4, chain_hash = $5, updated_at = now(), error = NULL, error_position = NULL, failed_at = NULL
         WHERE name = $1 AND position = $2 AND chain_hash = $3 AND paused_at IS NULL",
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

/// Puts the checkpoint where a view is that was filled otherwise. What it stopped at is forgotten.
pub async fn put(executor: impl PgExecutor<'_>, name: &str, at: ChainHead) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE subscriptions
         SET position = $2, chain_hash = $3, updated_at = now(), error = NULL, error_position = NULL, failed_at = NULL
         WHERE name = $1",
        name,
        at.position.cast_signed(),
        &at.chain_hash,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// The checkpoint, which nobody else moves until the transaction ends; `None` if it never ran.
pub async fn lock(connection: &mut PgConnection, name: &str) -> Result<Option<ChainHead>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT position, chain_hash AS "chain_hash: Hash" FROM subscriptions WHERE name = $1 FOR UPDATE"#,
        name
    );
    let row = row.fetch_optional(connection).await?;
    Ok(row.map(|row| ChainHead { position: row.position.cast_unsigned(), chain_hash: row.chain_hash }))
}

/// Forgets that the handler ever ran.
pub async fn remove(executor: impl PgExecutor<'_>, name: &str) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM subscriptions WHERE name = $1", name).execute(executor).await?;
    Ok(())
}

/// Makes the handler apply nothing until it is resumed. `false` if none of that name ever ran.
pub async fn pause(executor: impl PgExecutor<'_>, name: &str) -> Result<bool, sqlx::Error> {
    let pause = sqlx::query!("UPDATE subscriptions SET paused_at = coalesce(paused_at, now()) WHERE name = $1", name);
    Ok(pause.execute(executor).await?.rows_affected() == 1)
}

/// Makes a handler that is paused, or that has failed, try again. `false` if none of that name ever ran.
pub async fn resume(executor: impl PgExecutor<'_>, name: &str) -> Result<bool, sqlx::Error> {
    let resume = sqlx::query!(
        "UPDATE subscriptions SET paused_at = NULL, error = NULL, error_position = NULL, failed_at = NULL
         WHERE name = $1",
        name,
    );
    Ok(resume.execute(executor).await?.rows_affected() == 1)
}

pub async fn status(executor: impl PgExecutor<'_>, name: &str) -> Result<Option<Status>, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        "SELECT name, position, updated_at, error, error_position, failed_at, paused_at FROM subscriptions WHERE name = $1",
        name
    )
    .fetch_optional(executor)
    .await?;
    Ok(row.map(Status::from))
}

pub async fn statuses(executor: impl PgExecutor<'_>) -> Result<Vec<Status>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT name, position, updated_at, error, error_position, failed_at, paused_at FROM subscriptions ORDER BY name"
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
    paused_at: Option<DateTime<Utc>>,
}

impl From<Row> for Status {
    fn from(row: Row) -> Self {
        let failure = match (row.error, row.error_position, row.failed_at) {
            (Some(error), Some(position), Some(at)) => Some(Failure { position: position.cast_unsigned(), error, at }),
            _ => None,
        };
        let (position, paused_at) = (row.position.cast_unsigned(), row.paused_at);
        Self { name: row.name, position, updated_at: row.updated_at, failure, paused_at }
    }
}
