//! Work that one node at a time does, whichever that is.

use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{database::Database, leases::Lease};

/// How often a node that does not lead asks whether it may: one statement on the pool.
const TRY_EVERY: Duration = Duration::from_millis(500);
/// How often the one who leads says that it still does. The second time that this fails it has time to stop before the lease
/// is over ([`LEASE`](crate::leases::LEASE)).
const KEEP_EVERY: Duration = Duration::from_secs(1);
const KEEP_TIMEOUT: Duration = Duration::from_secs(1);

/// Does `work` whenever this node leads in what `name` names, until `shutdown`. The work is told to end when it is over or
/// the lease is lost, and is waited for: another node may have begun by then, so nothing may rest on being alone but order.
pub async fn lead<W: Future<Output = ()>>(
    database: Database,
    name: &'static str,
    shutdown: CancellationToken,
    work: impl Fn(CancellationToken) -> W,
) {
    let lease = Lease::new(format!("lead {name}"));
    while !shutdown.is_cancelled() {
        match shutdown.run_until_cancelled(acquire(&database, &lease)).await {
            None => return,
            Some(Ok(Some(connection))) => {
                let stop = shutdown.child_token();
                let guard = stop.clone().drop_guard();
                tokio::join!(work(stop.clone()), keep(&database, connection, &lease, name, stop));
                drop(guard);
            }
            Some(Ok(None)) => {}
            Some(Err(error)) => tracing::warn!(leadership = name, error = %error, "whether to lead cannot be asked"),
        }
        let _ = shutdown.run_until_cancelled(sleep(TRY_EVERY)).await;
    }
}

async fn acquire(database: &Database, lease: &Lease) -> Result<Option<PgConnection>, sqlx::Error> {
    if !lease.is_free(database.pool()).await? {
        return Ok(None);
    }
    let mut connection = connect(database).await?;
    Ok(lease.take(&mut connection).await?.then_some(connection))
}

async fn connect(database: &Database) -> Result<PgConnection, sqlx::Error> {
    database.dedicated("aihub-leader", &[("statement_timeout", "5s".to_owned())]).await
}

/// Until `stop`, or the lease is lost, which stops the work.
async fn keep(database: &Database, connection: PgConnection, lease: &Lease, name: &str, stop: CancellationToken) {
    let mut connection = Some(connection);
    let mut has_failed = false;
    while stop.run_until_cancelled(sleep(KEEP_EVERY)).await.is_some() {
        let kept = match timeout(KEEP_TIMEOUT, keep_on(database, &mut connection, lease)).await {
            Ok(Ok(kept)) => kept,
            // A connection that was lost may be made again in time.
            _ if !has_failed => {
                (connection, has_failed) = (None, true);
                continue;
            }
            _ => false,
        };
        if !kept {
            tracing::warn!(leadership = name, "the database was lost: another node may lead");
            stop.cancel();
            return;
        }
        has_failed = false;
    }
    // It would be free when the connection is gone; a goodbye makes that now.
    let _ = timeout(KEEP_TIMEOUT, give_back(connection, lease)).await;
}

async fn keep_on(
    database: &Database,
    connection: &mut Option<PgConnection>,
    lease: &Lease,
) -> Result<bool, sqlx::Error> {
    if let Some(connection) = connection {
        return lease.keep(connection).await;
    }
    let mut again = connect(database).await?;
    let is_ours = lease.take(&mut again).await?;
    *connection = Some(again);
    Ok(is_ours)
}

async fn give_back(connection: Option<PgConnection>, lease: &Lease) -> Result<(), sqlx::Error> {
    if let Some(mut connection) = connection {
        lease.give_back(&mut connection).await?;
        connection.close().await?;
    }
    Ok(())
}
