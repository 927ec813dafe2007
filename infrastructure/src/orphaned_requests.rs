//! Requests that have not ended though nobody drives them any more: a view of the open requests, and the search in it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aihub_application::policies::expire_requests::{OrphanedRequest, OrphanedRequests};
use aihub_domain::request::{
    Request,
    event::{Accepted, RequestEvent},
};
use chrono::{DateTime, Utc};
use futures::{FutureExt, future::BoxFuture};
use sqlx::{PgPool, PgTransaction};

use crate::{
    event_store::{
        decode::{LogEntry, events_of},
        subscription::EventHandler,
    },
    row,
};

/// The most requests that one search finds.
const MAX_FOUND: i64 = 500;

/// Keeps `open_requests`: a row comes with the acceptance and goes with the end.
#[derive(Debug, Clone, Copy)]
pub struct OpenRequests;

#[derive(Debug)]
pub struct OpenRequest<'a> {
    request_id: &'a str,
    account: &'a str,
    node: &'a str,
    deadline_at: DateTime<Utc>,
    accepted_at: DateTime<Utc>,
}

row!(OpenRequest<'_>, "open_requests", request_id, account, node, deadline_at, accepted_at);

impl EventHandler for OpenRequests {
    fn name(&self) -> &'static str {
        "orphaned-requests"
    }

    fn apply<'a>(
        &'a self,
        transaction: &'a mut PgTransaction<'_>,
        events: &'a [Arc<LogEntry>],
    ) -> BoxFuture<'a, anyhow::Result<()>> {
        apply(transaction, events).boxed()
    }
}

async fn apply(transaction: &mut PgTransaction<'_>, events: &[Arc<LogEntry>]) -> anyhow::Result<()> {
    let mut opened: BTreeMap<&str, OpenRequest<'_>> = BTreeMap::new();
    let mut ended: Vec<&str> = Vec::new();
    for change in events_of::<Request>(events) {
        let (event, change) = change?;
        let request_id = event.aggregate_id.as_str();
        match change {
            RequestEvent::RequestAccepted(accepted) => {
                let Accepted { account, node, deadline_at, .. } = &**accepted;
                let (deadline_at, accepted_at) = (*deadline_at, event.recorded_at);
                opened.insert(request_id, OpenRequest { request_id, account, node, deadline_at, accepted_at });
            }
            RequestEvent::RequestCompleted { .. }
            | RequestEvent::RequestFailed { .. }
            | RequestEvent::RequestCancelled { .. }
            | RequestEvent::RequestAbandoned { .. } => {
                opened.remove(request_id);
                ended.push(request_id);
            }
        }
    }
    if !opened.is_empty() {
        sqlx::query!(
            "INSERT INTO open_requests SELECT * FROM unnest($1::rows.open_requests[])
             ON CONFLICT ON CONSTRAINT open_requests_request_id DO NOTHING",
            opened.into_values().collect::<Vec<_>>() as _,
        )
        .execute(&mut **transaction)
        .await?;
    }
    if !ended.is_empty() {
        sqlx::query!("DELETE FROM open_requests WHERE request_id = ANY($1)", &ended as &[&str])
            .execute(&mut **transaction)
            .await?;
    }
    Ok(())
}

/// The search. It is as good as the view is up to date, and as the nodes' heartbeats are.
#[derive(Debug, Clone)]
pub struct PostgresOrphanedRequests {
    pool: PgPool,
    node: String,
    deadline_grace: Duration,
    node_timeout: Duration,
}

impl PostgresOrphanedRequests {
    /// A request is an orphan `deadline_grace` after its deadline, or when its node has not been heard of for
    /// `node_timeout`. The first only counts where the node is gone or has been heard of without a gap for
    /// `deadline_grace`: one that was cut off has its ends still to write. The second only counts while `node`, which
    /// searches, has itself been heard of all that time, and the database has been up for longer: nobody who was cut
    /// off, or has just begun to hear, calls others dead.
    pub fn new(pool: PgPool, node: String, deadline_grace: Duration, node_timeout: Duration) -> Self {
        Self { pool, node, deadline_grace, node_timeout }
    }

    async fn search(&self, now: DateTime<Utc>) -> anyhow::Result<Vec<OrphanedRequest>> {
        let found = sqlx::query!(
            r#"SELECT r.request_id, r.account,
                      CASE WHEN r.deadline_at < $1 THEN 'its deadline has passed'
                           WHEN n.node IS NULL THEN 'its node ' || r.node || ' is gone'
                           ELSE 'its node ' || r.node || ' has not been heard of' END AS "reason!"
               FROM open_requests r
               LEFT JOIN nodes n ON n.node = r.node
               CROSS JOIN (SELECT now() - make_interval(secs => $2) AS at) horizon
               WHERE (r.deadline_at < $1 AND (n.node IS NULL OR n.heartbeat_at >= horizon.at AND n.beating_since < $1))
                  OR (r.accepted_at < horizon.at AND coalesce(n.heartbeat_at < horizon.at, true)
                      AND pg_postmaster_start_time() < horizon.at
                      AND EXISTS (SELECT FROM nodes me WHERE me.node = $3
                                  AND me.heartbeat_at > horizon.at AND me.beating_since < horizon.at))
               ORDER BY r.accepted_at, r.request_id LIMIT $4"#,
            now - self.deadline_grace,
            self.node_timeout.as_secs_f64(),
            self.node,
            MAX_FOUND,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(found
            .into_iter()
            .map(|row| OrphanedRequest { request_id: row.request_id, account: row.account, reason: row.reason })
            .collect())
    }
}

impl OrphanedRequests for PostgresOrphanedRequests {
    fn find(&self, now: DateTime<Utc>) -> BoxFuture<'_, anyhow::Result<Vec<OrphanedRequest>>> {
        self.search(now).boxed()
    }
}
