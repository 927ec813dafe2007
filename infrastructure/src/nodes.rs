//! The processes that share the database. Each says every few seconds that it is alive, and when it is to be missed; one that is
//! heard of no more has left its requests without a driver, see [`crate::orphaned_requests`].
//!
//! | module | holds |
//! |---|---|
//! | `heartbeat` | how a node is heard of |
//! | `joining` | who may not take part beside those that live |
//! | [`settings`] | what nodes run with, compared without being told |

mod heartbeat;
mod joining;
pub mod settings;

use std::{sync::Arc, time::Duration};

use thiserror::Error;
use tokio::time::sleep;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{heartbeat::Heartbeat, settings::Settings};
use crate::{database::Database, database_clock::DatabaseClock, notices::Notices};

/// How often is looked for somebody to leave things to.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A node that takes part.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Of this process, see [`process_name`].
    pub node: String,
    /// As it is configured, if it is: then no other node that lives may have it.
    pub name: Option<String>,
    /// After so long without a sign of it, it is missed.
    pub timeout: Duration,
    pub settings: Settings,
    /// It may take part although others charge otherwise.
    pub allow_other_prices: bool,
}

/// Why a node may not take part.
#[derive(Debug, Error)]
pub enum JoinError {
    #[error("the database is unavailable: {0}")]
    Unavailable(#[from] sqlx::Error),
    #[error(
        "`server.node` is {name}, and so is that of {node}, which lives: give each node a name of its own, or none"
    )]
    NameTaken { name: String, node: String },
    #[error(
        "{node}, which lives, charges otherwise: {}. What a request costs must not depend on the node that it came to: a new \
         price gets an id of its own, and the day from which it is valid; where the difference is meant, start with \
         --allow-other-prices",
        settings.join(", ")
    )]
    OtherPrices { node: String, settings: Vec<String> },
}

/// Says that this node is about to end, so that nobody leaves anything to it; and waits until there is another one that lives
/// and stays, for whatever it leaves itself.
pub async fn leave_to_others(database: &Database, node: &str) {
    loop {
        match leave_and_look(database, node).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::warn!(error = %error, "whether another node lives is not known"),
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Two that leave at once do not leave things to each other: each says so before it looks.
async fn leave_and_look(database: &Database, node: &str) -> Result<bool, sqlx::Error> {
    let leave = sqlx::query!("UPDATE nodes SET leaving_at = coalesce(leaving_at, now()) WHERE node = $1", node);
    leave.execute(database.pool()).await?;
    let others = sqlx::query_scalar!(
        // One that has missed two beats may be dead.
        r#"SELECT EXISTS (SELECT FROM nodes WHERE node <> $1 AND leaving_at IS NULL
                          AND now() < heartbeat_at + (missed_at - heartbeat_at) / 2) AS "others!""#,
        node
    );
    others.fetch_one(database.pool()).await
}

/// A name for this process: `<name>-<8 hex digits>`. A process that is started again under the name of the one that
/// died would vouch for the requests that the dead one left behind, so each start takes a name of its own.
pub fn process_name(name: &str) -> String {
    format!("{name}-{:08x}", rand::random::<u32>())
}

/// Announces the node before it takes its first request, unless it may not take part, and says that it is alive until `ended`: that
/// is to be cancelled when its last request has ended, and then its row is removed. What the database says meanwhile goes to
/// `clock`, and what differs between the nodes to `notices`.
///
/// The connection is the heartbeat's own, so that it does not stop while the pool is busy.
pub async fn join(
    database: Database,
    clock: Arc<DatabaseClock>,
    options: NodeOptions,
    notices: Notices,
    tracker: &TaskTracker,
    ended: CancellationToken,
) -> Result<(), JoinError> {
    let mut heartbeat = Heartbeat::connect(database, clock, options, notices).await?;
    joining::join(&mut heartbeat).await?;
    tracker.spawn(heartbeat.run(ended));
    Ok(())
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
