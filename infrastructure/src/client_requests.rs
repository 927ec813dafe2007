//! What clients asked for lately, kept from the log by [`OpenRequests`](crate::orphaned_requests::OpenRequests).

use std::time::Duration;

use aihub_application::ports::client_requests::ClientRequests;
use anyhow::ensure;
use futures::{FutureExt, future::BoxFuture};
use sqlx::PgPool;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::orphaned_requests;

/// How long it is waited for the handler to have read the log.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// More of one name are not told.
const MOST_FOUND: i64 = 16;

#[derive(Debug, Clone)]
pub struct PostgresClientRequests {
    pool: PgPool,
}

impl PostgresClientRequests {
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    async fn find_now(&self, key: Uuid, connection: Option<Uuid>) -> anyhow::Result<Vec<String>> {
        let found = sqlx::query_scalar!(
            "SELECT request_id FROM client_requests
             WHERE client_key = $1 AND (connection_id = $2 OR $2 IS NULL)
             ORDER BY accepted_at DESC LIMIT $3",
            key,
            connection,
            MOST_FOUND,
        );
        Ok(found.fetch_all(&self.pool).await?)
    }

    /// Waits until everything is read that is in the log now.
    async fn catch_up(&self) -> anyhow::Result<()> {
        let head = sqlx::query_scalar!(r#"SELECT coalesce(max(position), 0) AS "head!" FROM events"#);
        let head = head.fetch_one(&self.pool).await?;
        let give_up_at = Instant::now() + PATIENCE;
        let name = orphaned_requests::NAME;
        loop {
            let at = sqlx::query_scalar!("SELECT position FROM subscriptions WHERE name = $1", name);
            if at.fetch_optional(&self.pool).await?.unwrap_or(0) >= head {
                return Ok(());
            }
            ensure!(Instant::now() < give_up_at, "{name} is behind the log by more than {} s", PATIENCE.as_secs());
            sleep(LOOK_EVERY).await;
        }
    }

    async fn is_alive_now(&self, node: &str) -> anyhow::Result<bool> {
        let alive = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM nodes WHERE node = $1 AND missed_at > now()) AS "alive!""#,
            node
        );
        Ok(alive.fetch_one(&self.pool).await?)
    }

    /// Forgets what was accepted so long ago that it has ended and nobody comes back for it.
    pub async fn forget(&self, older_than: Duration) -> Result<(), sqlx::Error> {
        let forget = sqlx::query!(
            "DELETE FROM client_requests WHERE accepted_at < now() - make_interval(secs => $1)",
            older_than.as_secs_f64()
        );
        forget.execute(&self.pool).await.map(drop)
    }
}

impl ClientRequests for PostgresClientRequests {
    fn find(&self, key: Uuid, connection: Option<Uuid>) -> BoxFuture<'_, anyhow::Result<Vec<String>>> {
        async move {
            self.catch_up().await?;
            self.find_now(key, connection).await
        }
        .boxed()
    }

    fn is_alive<'a>(&'a self, node: &'a str) -> BoxFuture<'a, anyhow::Result<bool>> {
        self.is_alive_now(node).boxed()
    }
}
