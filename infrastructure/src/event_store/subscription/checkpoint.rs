//! The table of checkpoints: where each handler stands, whose turn it is to move it on, what it stopped at, and whether it may go on.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use super::{Failure, Status};
use crate::event_store::chain::{ChainHead, GENESIS, Hash};

/// How long a turn is somebody's who does not say anything.
const TURN_S: f64 = 5.0;

/// The checkpoint of `name`, made if this is its first run.
pub async fn load(connection: &mut PgConnection, name: &str) -> Result<ChainHead, sqlx::Error> {
    make(&mut *connection, name).await?;
    let row =
        sqlx::query!(r#"SELECT position, chain_hash AS "chain_hash: Hash" FROM subscriptions WHERE name = $1"#, name)
            .fetch_one(connection)
            .await?;
    Ok(ChainHead { position: row.position.cast_unsigned(), chain_hash: row.chain_hash })
}

async fn make(executor: impl PgExecutor<'_>, name: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO subscriptions (name, position, chain_hash, updated_at) VALUES ($1, 0, $2, now())
         ON CONFLICT ON CONSTRAINT subscriptions_name DO NOTHING",
        name,
        &GENESIS,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Whether nobody has the handler's turn and it is not paused, so that it is worth a connection to ask for it.
pub async fn is_free(executor: impl PgExecutor<'_>, name: &str) -> Result<bool, sqlx::Error> {
    let free = sqlx::query_scalar!(
        r#"SELECT paused_at IS NULL AND has_left(runner_pid, runner_until) AS "is_free!" FROM subscriptions WHERE name = $1"#,
        name
    );
    Ok(free.fetch_optional(executor).await?.unwrap_or(true))
}

/// Takes the turn for the session of `connection`, and where the handler stands; `None` where somebody else has it, or it is
/// paused. It is given back with [`leave`], and lost when the session ends, or says nothing for some seconds.
pub async fn take_turn(
    connection: &mut PgConnection,
    name: &str,
    runner: Uuid,
) -> Result<Option<ChainHead>, sqlx::Error> {
    make(&mut *connection, name).await?;
    // Whoever applies has locked the row.
    let row = sqlx::query!(
        r#"WITH free AS (
               SELECT name FROM subscriptions
               WHERE name = $1 AND paused_at IS NULL AND (runner = $2 OR has_left(runner_pid, runner_until))
               FOR UPDATE SKIP LOCKED
           )
           UPDATE subscriptions s
           SET runner = $2, runner_pid = pg_backend_pid(), runner_until = now() + make_interval(secs => $3)
           FROM free WHERE s.name = free.name
           RETURNING s.position, s.chain_hash AS "chain_hash: Hash""#,
        name,
        runner,
        TURN_S,
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| ChainHead { position: row.position.cast_unsigned(), chain_hash: row.chain_hash }))
}

/// Keeps the turn of a handler that stands at `position` and has nothing to do; `false` where it is not the runner's any more,
/// or the handler was moved or paused.
pub async fn keep_turn(
    executor: impl PgExecutor<'_>,
    name: &str,
    runner: Uuid,
    position: u64,
) -> Result<bool, sqlx::Error> {
    let kept = sqlx::query!(
        "UPDATE subscriptions SET runner_until = now() + make_interval(secs => $4)
         WHERE name = $1 AND runner = $2 AND position = $3 AND paused_at IS NULL",
        name,
        runner,
        position.cast_signed(),
        TURN_S,
    )
    .execute(executor)
    .await?;
    Ok(kept.rows_affected() == 1)
}

/// Gives the turn back.
pub async fn leave(executor: impl PgExecutor<'_>, name: &str, runner: Uuid) -> Result<(), sqlx::Error> {
    let leave = sqlx::query!(
        "UPDATE subscriptions SET runner = NULL, runner_pid = NULL, runner_until = NULL WHERE name = $1 AND runner = $2",
        name,
        runner
    );
    leave.execute(executor).await.map(drop)
}

/// Moves the checkpoint; false if it is not where the runner left it, or paused. From then on until the transaction ends
/// nobody else moves it, so this comes before what is applied. Whoever has the turn has it for longer.
pub async fn advance(
    executor: impl PgExecutor<'_>,
    name: &str,
    from: ChainHead,
    to: ChainHead,
) -> Result<bool, sqlx::Error> {
    let moved = sqlx::query!(
        "UPDATE subscriptions
         SET position = $4, chain_hash = $5, updated_at = now(), error = NULL, error_position = NULL, failed_at = NULL,
             runner_until = now() + make_interval(secs => $6)
         WHERE name = $1 AND position = $2 AND chain_hash = $3 AND paused_at IS NULL",
        name,
        from.position.cast_signed(),
        &from.chain_hash,
        to.position.cast_signed(),
        &to.chain_hash,
        TURN_S,
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
