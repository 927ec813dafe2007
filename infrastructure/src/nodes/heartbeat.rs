//! How a node is heard of, and hears what time it is and who else lives.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use metrics::gauge;
use sqlx::{Connection, PgConnection, types::Json};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    NodeOptions,
    settings::{Settings, list},
};
use crate::{
    database::{Database, millis},
    database_clock::{Answer, DatabaseClock},
    notices::Notices,
};

/// How long one statement may take before it is tried on another connection.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(3);
const RECONNECT_AFTER: Duration = Duration::from_millis(500);
/// How many times in its timeout a node says that it is alive.
pub const BEATS: u32 = 5;

pub struct Heartbeat {
    pub database: Database,
    pub clock: Arc<DatabaseClock>,
    pub options: NodeOptions,
    notices: Notices,
    /// `None` while the next one is to be made.
    connection: Option<PgConnection>,
    /// What the others run with differently, by their names.
    known: BTreeMap<String, Vec<String>>,
}

impl Heartbeat {
    pub async fn connect(
        database: Database,
        clock: Arc<DatabaseClock>,
        options: NodeOptions,
        notices: Notices,
    ) -> Result<Self, sqlx::Error> {
        let connection = Some(connect(&database).await?);
        Ok(Self { database, clock, options, notices, connection, known: BTreeMap::new() })
    }

    /// The one that the node is heard of by.
    pub async fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        Ok(match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(connect(&self.database).await?),
        })
    }

    /// Until `ended`. Then the node is gone.
    pub async fn run(mut self, ended: CancellationToken) {
        let (database, node) = (self.database.clone(), self.options.node.clone());
        let beating = async {
            loop {
                if let Err(error) = self.beat_on().await {
                    tracing::warn!(error = %error, "this node cannot say that it is alive; trying again");
                }
                self.connection = None;
                sleep(RECONNECT_AFTER).await;
            }
        };
        ended.run_until_cancelled(beating).await;
        if let Err(error) = leave(&database, &node).await {
            tracing::warn!(error = %error, "this node could not say goodbye; it will be given up in a while");
        }
    }

    /// Until the connection fails.
    async fn beat_on(&mut self) -> Result<(), sqlx::Error> {
        let mut ticks = interval(self.options.timeout / BEATS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.beat().await?;
            self.look_around().await?;
            let said = self.notices.set("clock", self.clock.notice());
            if let Some(notice) = self.clock.notice().filter(|_| said) {
                tracing::warn!(clock.ahead_ms = self.clock.ahead().num_milliseconds(), "{notice}");
            }
        }
    }

    /// A node that was taken for dead while it was cut off comes back with this. Half a timeout without a beat is a gap.
    async fn beat(&mut self) -> Result<(), sqlx::Error> {
        let (node, secs) = (self.options.node.clone(), self.options.timeout.as_secs_f64());
        let sent = Instant::now();
        let beat = sqlx::query_scalar!(
            r#"UPDATE nodes SET heartbeat_at = now(), missed_at = now() + make_interval(secs => $2),
                   backend_pid = pg_backend_pid(),
                   beating_since = CASE WHEN heartbeat_at < now() - make_interval(secs => $2 / 2) THEN now()
                                        ELSE beating_since END
               WHERE node = $1 RETURNING clock_timestamp() AS "time!""#,
            node,
            secs,
        );
        let time = in_time(beat.fetch_optional(self.connection().await?)).await?;
        match time {
            Some(time) => self.clock.hear(Answer { sent, time, received: Instant::now() }),
            // Somebody has removed it, as one that was silent for a day.
            None => self.announce().await?,
        }
        Ok(())
    }

    /// Makes the node's row.
    pub async fn announce(&mut self) -> Result<(), sqlx::Error> {
        let NodeOptions { node, name, timeout: node_timeout, settings, .. } = self.options.clone();
        let announce = sqlx::query!(
            "INSERT INTO nodes (node, name, started_at, heartbeat_at, beating_since, missed_at, backend_pid, settings)
             VALUES ($1, $2, now(), now(), now(), now() + make_interval(secs => $3), pg_backend_pid(), $4)",
            node,
            name,
            node_timeout.as_secs_f64(),
            Json(settings) as _,
        );
        in_time(announce.execute(self.connection().await?)).await.map(drop)
    }

    /// Sees who else lives, and what those run with that were not here at the last look.
    async fn look_around(&mut self) -> Result<(), sqlx::Error> {
        let node = self.options.node.clone();
        let others = sqlx::query_scalar!("SELECT node FROM nodes WHERE node <> $1 AND missed_at > now()", node);
        let others = in_time(others.fetch_all(self.connection().await?)).await?;
        let others: BTreeSet<String> = others.into_iter().collect();
        self.known.retain(|other, _| others.contains(other));
        let new: Vec<String> = others.into_iter().filter(|other| !self.known.contains_key(other)).collect();
        if !new.is_empty() {
            let found = sqlx::query!(
                r#"SELECT node, settings AS "settings: Json<Settings>" FROM nodes WHERE node = ANY($1)"#,
                &new
            );
            for other in in_time(found.fetch_all(self.connection().await?)).await? {
                let differences = self.options.settings.differences(&other.settings.0);
                if !differences.is_empty() {
                    tracing::warn!(
                        node.other = other.node,
                        settings = list(&differences),
                        "nodes run with different settings"
                    );
                }
                self.known.insert(other.node, differences);
            }
        }
        self.tell();
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    fn tell(&self) {
        let differing = self.known.iter().filter(|(_, differences)| !differences.is_empty());
        let lines = differing
            .map(|(other, differences)| format!("{other} has other settings than this node: {}", list(differences)));
        self.notices.set("settings", lines);
        let count: usize = self.known.values().map(Vec::len).sum();
        gauge!("node_settings_that_differ").set(count as f64);
    }
}

async fn connect(database: &Database) -> Result<PgConnection, sqlx::Error> {
    in_time(database.dedicated("aihub-heartbeat", &[("statement_timeout", millis(STATEMENT_TIMEOUT))])).await
}

async fn leave(database: &Database, node: &str) -> Result<(), sqlx::Error> {
    let mut connection = connect(database).await?;
    in_time(sqlx::query!("DELETE FROM nodes WHERE node = $1", node).execute(&mut connection)).await?;
    connection.close().await
}

pub async fn in_time<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    timeout(STATEMENT_TIMEOUT, work).await.unwrap_or_else(|late| Err(sqlx::Error::Io(late.into())))
}
