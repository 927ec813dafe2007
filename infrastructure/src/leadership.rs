//! Work that one node at a time does, whichever that is.

use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::database::Database;

/// The class of these locks: the ASCII text "lead".
const LOCK_CLASS: i32 = 0x6c65_6164;
const TRY_EVERY: Duration = Duration::from_millis(500);
/// How often the server hears of the one who leads. One that was not heard of for several times as long has lost the lock.
const BEAT_EVERY: Duration = Duration::from_secs(1);
const BEAT_TIMEOUT: Duration = Duration::from_secs(2);
const IDLE_TIMEOUT: &str = "5s";

/// Does `work` whenever this node leads in what `name` names, until `shutdown`. The work is told to end when it is over or
/// the lock is lost, and is waited for: another node may have begun by then, so nothing may rest on being alone but order.
pub async fn lead<W: Future<Output = ()>>(
    database: Database,
    name: &'static str,
    shutdown: CancellationToken,
    work: impl Fn(CancellationToken) -> W,
) {
    while !shutdown.is_cancelled() {
        match shutdown.run_until_cancelled(acquire(&database, name)).await {
            None => return,
            Some(Ok(Some(connection))) => {
                let stop = shutdown.child_token();
                let guard = stop.clone().drop_guard();
                let ((), ()) = tokio::join!(work(stop.clone()), keep(connection, name, stop));
                drop(guard);
            }
            Some(Ok(None)) => {}
            Some(Err(error)) => tracing::warn!(leadership = name, error = %error, "whether to lead cannot be asked"),
        }
        let _ = shutdown.run_until_cancelled(sleep(TRY_EVERY)).await;
    }
}

async fn acquire(database: &Database, name: &str) -> Result<Option<PgConnection>, sqlx::Error> {
    let settings = [("idle_session_timeout", IDLE_TIMEOUT.to_owned()), ("statement_timeout", IDLE_TIMEOUT.to_owned())];
    let mut connection = database.dedicated("aihub-leader", &settings).await?;
    let is_ours =
        sqlx::query_scalar!(r#"SELECT pg_try_advisory_lock($1, hashtext($2)) AS "locked!""#, LOCK_CLASS, name)
            .fetch_one(&mut connection)
            .await?;
    Ok(is_ours.then_some(connection))
}

/// Until `stop`, or the connection is lost, which stops the work.
async fn keep(mut connection: PgConnection, name: &str, stop: CancellationToken) {
    while stop.run_until_cancelled(sleep(BEAT_EVERY)).await.is_some() {
        if !matches!(timeout(BEAT_TIMEOUT, connection.ping()).await, Ok(Ok(()))) {
            tracing::warn!(leadership = name, "the database was lost: another node may lead");
            stop.cancel();
            return;
        }
    }
    // The lock goes with the connection; a goodbye makes that now.
    let _ = timeout(BEAT_TIMEOUT, connection.close()).await;
}
