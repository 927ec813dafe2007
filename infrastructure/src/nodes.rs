//! Which processes are alive. Each says so every few seconds; one that is heard of no more has left its requests
//! without a driver, see [`crate::orphaned_requests`].

use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::database::{Database, millis};

/// How long one statement may take before it is tried on another connection.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(3);
const RECONNECT_AFTER: Duration = Duration::from_millis(500);

/// How many times in a node timeout a node says that it is alive.
const BEATS: u32 = 5;

/// A name for this process: `<name>-<8 hex digits>`. A process that is started again under the name of the one that
/// died would vouch for the requests that the dead one left behind, so each start takes a name of its own.
pub fn process_name(name: &str) -> String {
    format!("{name}-{:08x}", rand::random::<u32>())
}

/// Announces `node` before it takes its first request, and says five times in a `node_timeout` that it is alive, until
/// `ended`: that is to be cancelled when its last request has ended, and then its row is removed. The timeout has to
/// be the same on all nodes.
///
/// The connection is the heartbeat's own, so that it does not stop while the pool is busy.
pub async fn start(
    database: Database,
    node: String,
    node_timeout: Duration,
    tracker: &TaskTracker,
    ended: CancellationToken,
) -> Result<(), sqlx::Error> {
    let mut connection = connect(&database).await?;
    beat(&mut connection, &node, node_timeout).await?;
    forget_old(&mut connection).await?;
    tracker.spawn(async move {
        let mut connection = Some(connection);
        let beating = async {
            loop {
                if let Err(error) = beat_on(&database, connection.take(), &node, node_timeout).await {
                    tracing::warn!(error = %error, "this node cannot say that it is alive; trying again");
                }
                sleep(RECONNECT_AFTER).await;
            }
        };
        ended.run_until_cancelled(beating).await;
        if let Err(error) = leave(&database, &node).await {
            tracing::warn!(error = %error, "this node could not say goodbye; it will be given up in a while");
        }
    });
    Ok(())
}

/// Until the connection fails.
async fn beat_on(
    database: &Database,
    connection: Option<PgConnection>,
    node: &str,
    node_timeout: Duration,
) -> Result<(), sqlx::Error> {
    let mut connection = match connection {
        Some(connection) => connection,
        None => connect(database).await?,
    };
    let mut ticks = interval(node_timeout / BEATS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        beat(&mut connection, node, node_timeout).await?;
    }
}

async fn connect(database: &Database) -> Result<PgConnection, sqlx::Error> {
    in_time(database.dedicated("aihub-heartbeat", &[("statement_timeout", millis(STATEMENT_TIMEOUT))])).await
}

/// A node that was taken for dead while it was cut off comes back with this. Half a timeout without a beat is a gap.
async fn beat(connection: &mut PgConnection, node: &str, node_timeout: Duration) -> Result<(), sqlx::Error> {
    let beat = sqlx::query!(
        "INSERT INTO nodes AS n (node, heartbeat_at, started_at, beating_since) VALUES ($1, now(), now(), now())
         ON CONFLICT ON CONSTRAINT nodes_node DO UPDATE SET heartbeat_at = now(), beating_since =
             CASE WHEN n.heartbeat_at < now() - make_interval(secs => $2) THEN now() ELSE n.beating_since END",
        node,
        node_timeout.as_secs_f64() / 2.0,
    );
    in_time(beat.execute(connection)).await.map(drop)
}

/// What died without a goodbye. Its requests were ended long ago, and would be found without its row as well.
async fn forget_old(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let forget = sqlx::query!("DELETE FROM nodes WHERE heartbeat_at < now() - interval '1 day'");
    in_time(forget.execute(connection)).await.map(drop)
}

async fn leave(database: &Database, node: &str) -> Result<(), sqlx::Error> {
    let mut connection = connect(database).await?;
    in_time(sqlx::query!("DELETE FROM nodes WHERE node = $1", node).execute(&mut connection)).await?;
    connection.close().await
}

async fn in_time<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    timeout(STATEMENT_TIMEOUT, work).await.unwrap_or_else(|late| Err(sqlx::Error::Io(late.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_started_again_has_another_name() {
        let (first, second) = (process_name("node-1"), process_name("node-1"));
        assert_ne!(first, second);
        assert_eq!(first.len(), "node-1-".len() + 8);
    }
}
