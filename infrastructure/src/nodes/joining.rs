//! Who may not take part beside those that live. Nodes join one after another, so that of two that contradict each other one is here
//! first.
//!
//! A process that died has left its row, and whoever is started in its place must not be kept out by it. The server knows better than
//! the row: the connection that a process was heard of by ends with it. Where that connection is still there, the next beat tells.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, types::Json};
use tokio::time::{Instant, sleep};

use super::{
    JoinError, NodeOptions,
    heartbeat::{BEATS, Heartbeat, in_time},
    settings::Settings,
};

/// How often it is looked whether one that is in the way is heard of.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// One that was heard of within its time.
struct Present {
    node: String,
    name: Option<String>,
    settings: Json<Settings>,
    heartbeat_at: DateTime<Utc>,
    /// The time without a sign after which it is missed.
    timeout_s: f64,
    /// The connection that it is heard of by is there.
    is_connected: bool,
}

/// One that is in the way, when it was first seen.
struct Seen {
    heartbeat_at: DateTime<Utc>,
    first_seen: Instant,
}

/// Makes the node's row, once nobody is in the way who lives.
pub async fn join(heartbeat: &mut Heartbeat) -> Result<(), JoinError> {
    forget_old(heartbeat.connection().await?).await?;
    let mut seen = HashMap::new();
    while !try_to(heartbeat, &mut seen).await? {
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// `false` where it is not known yet whether one that is in the way lives.
async fn try_to(heartbeat: &mut Heartbeat, seen: &mut HashMap<String, Seen>) -> Result<bool, JoinError> {
    let options = heartbeat.options.clone();
    let connection = heartbeat.connection().await?;
    // Held until the row is there. Those who only say that they are alive wait as long.
    in_time(sqlx::raw_sql("BEGIN; LOCK TABLE nodes IN SHARE ROW EXCLUSIVE MODE").execute(&mut *connection)).await?;
    let present = in_time(present(connection)).await?;
    let mut is_known = true;
    for other in present {
        let Some(refusal) = refusal(&options, &other) else { continue };
        match lives(&other, seen) {
            Some(true) => {
                in_time(sqlx::raw_sql("ROLLBACK").execute(connection)).await?;
                return Err(refusal);
            }
            Some(false) => {}
            None => is_known = false,
        }
    }
    if is_known {
        heartbeat.announce().await?;
    }
    in_time(sqlx::raw_sql("COMMIT").execute(heartbeat.connection().await?)).await?;
    Ok(is_known)
}

async fn present(connection: &mut PgConnection) -> Result<Vec<Present>, sqlx::Error> {
    sqlx::query_as!(
        Present,
        r#"SELECT n.node, n.name, n.settings AS "settings: Json<Settings>", n.heartbeat_at,
                  extract(epoch FROM n.missed_at - n.heartbeat_at)::float8 AS "timeout_s!",
                  EXISTS (SELECT FROM pg_stat_activity a
                          WHERE a.pid = n.backend_pid AND a.datname = current_database()) AS "is_connected!"
           FROM nodes n WHERE n.missed_at > now()"#
    )
    .fetch_all(connection)
    .await
}

/// Why the two cannot be there at the same time.
fn refusal(options: &NodeOptions, other: &Present) -> Option<JoinError> {
    if let Some(name) = options.name.clone().filter(|name| Some(name) == other.name.as_ref()) {
        return Some(JoinError::NameTaken { name, node: other.node.clone() });
    }
    let settings = options.settings.contradictions(&other.settings.0);
    (!settings.is_empty() && !options.allow_other_prices)
        .then(|| JoinError::OtherPrices { node: other.node.clone(), settings })
}

/// `None` while it cannot be told: it is connected, and its next beat is still to come.
fn lives(other: &Present, seen: &mut HashMap<String, Seen>) -> Option<bool> {
    if !other.is_connected {
        return Some(false);
    }
    let first = seen
        .entry(other.node.clone())
        .or_insert_with(|| Seen { heartbeat_at: other.heartbeat_at, first_seen: Instant::now() });
    if other.heartbeat_at > first.heartbeat_at {
        return Some(true);
    }
    // Two beats and a half.
    let silent_for = Duration::try_from_secs_f64(other.timeout_s / f64::from(BEATS) * 2.5).unwrap_or_default();
    (first.first_seen.elapsed() > silent_for).then_some(false)
}

/// What died without a goodbye. Its requests were ended long ago, and would be found without its row as well.
async fn forget_old(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let forget = sqlx::query!("DELETE FROM nodes WHERE heartbeat_at < now() - interval '1 day'");
    in_time(forget.execute(connection)).await.map(drop)
}
