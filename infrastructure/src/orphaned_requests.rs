//! Requests that have not ended though nobody drives them any more: a view of the open requests, and the search in it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aihub_application::policies::expire_requests::{OrphanedRequest, OrphanedRequests};
use aihub_domain::request::{
    Request,
    event::{Accepted, RequestEvent},
};
use chrono::{DateTime, Utc};
use futures::{FutureExt, future::BoxFuture};
use serde::Deserialize;
use sqlx::{PgPool, PgTransaction};
use uuid::Uuid;

use crate::{
    event_store::{
        decode::{LogEntry, events_of},
        subscription::EventHandler,
    },
    row,
};

/// The most requests that one search finds.
const MAX_FOUND: i64 = 500;

/// The name of [`OpenRequests`], under which its checkpoint is kept.
pub const NAME: &str = "orphaned-requests";

/// Keeps `open_requests`: a row comes with the acceptance and goes with the end; and `client_requests`, of which old ones are
/// forgotten.
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
        NAME
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
    let mut asked: BTreeMap<(Uuid, Uuid), (&str, DateTime<Utc>)> = BTreeMap::new();
    for change in events_of::<Request>(events) {
        let (event, change) = change?;
        let request_id = event.aggregate_id.as_str();
        match change {
            RequestEvent::RequestAccepted(accepted) => {
                let Accepted { account, node, deadline_at, .. } = &**accepted;
                let (deadline_at, accepted_at) = (*deadline_at, event.recorded_at);
                if let Some(name) = asked_as(&event.metadata) {
                    asked.insert(name, (request_id, accepted_at));
                }
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
             ON CONFLICT ON CONSTRAINT open_requests_pkey DO NOTHING",
            opened.into_values().collect::<Vec<_>>() as _,
        )
        .execute(&mut **transaction)
        .await?;
    }
    if !asked.is_empty() {
        let (keys, connections): (Vec<Uuid>, Vec<Uuid>) = asked.keys().copied().unzip();
        let (request_ids, accepted_at): (Vec<&str>, Vec<DateTime<Utc>>) = asked.into_values().unzip();
        // The latest one is meant.
        sqlx::query!(
            "INSERT INTO client_requests SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[])
             ON CONFLICT ON CONSTRAINT client_requests_pkey
                 DO UPDATE SET request_id = excluded.request_id, accepted_at = excluded.accepted_at",
            &keys,
            &connections,
            &request_ids as &[&str],
            &accepted_at,
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

/// The client's key for it and the connection, as the acceptance's metadata have them.
fn asked_as(metadata: &str) -> Option<(Uuid, Uuid)> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        client_key: Uuid,
        connection_id: Uuid,
    }
    let Metadata { client_key, connection_id } = serde_json::from_str(metadata).ok()?;
    Some((client_key, connection_id))
}

/// The search. It is as good as the view is up to date, and as the nodes' heartbeats are.
#[derive(Debug, Clone)]
pub struct PostgresOrphanedRequests {
    pool: PgPool,
    node: String,
    deadline_grace: Duration,
}

impl PostgresOrphanedRequests {
    /// A request is an orphan `deadline_grace` after its deadline, or when its node is missed, of which each node says itself
    /// when that is. The first only counts where the node is gone or has been heard of without a gap for `deadline_grace`: one
    /// that was cut off has its ends still to write. The second only counts while `node`, which searches, has itself been heard
    /// of for as long as the silence lasts that makes the other one missed, and the database has been up for longer: nobody who
    /// was cut off, or has just begun to hear, calls others dead. A node that said goodbye is missed like the most patient one.
    ///
    /// All times are the database's.
    pub fn new(pool: PgPool, node: String, deadline_grace: Duration) -> Self {
        Self { pool, node, deadline_grace }
    }

    async fn search(&self) -> anyhow::Result<Vec<OrphanedRequest>> {
        let found = sqlx::query_as!(
            OrphanedRequest,
            r#"SELECT r.request_id, r.account, now() AS "found_at!",
                      CASE WHEN r.deadline_at < overdue.at THEN 'its deadline has passed'
                           WHEN n.node IS NULL THEN 'its node ' || r.node || ' is gone'
                           ELSE 'its node ' || r.node || ' has not been heard of' END AS "reason!"
               FROM open_requests r
               LEFT JOIN nodes n ON n.node = r.node
               CROSS JOIN (SELECT now() - make_interval(secs => $1) AS at) overdue
               CROSS JOIN (SELECT max(missed_at - heartbeat_at) AS silence FROM nodes) most
               CROSS JOIN LATERAL (SELECT now() - coalesce(n.missed_at - n.heartbeat_at, most.silence) AS at) heard
               WHERE (r.deadline_at < overdue.at
                      AND (n.node IS NULL OR n.missed_at > now() AND n.beating_since < overdue.at))
                  OR (coalesce(n.missed_at <= now(), true) AND r.accepted_at < heard.at
                      AND pg_postmaster_start_time() < heard.at
                      AND EXISTS (SELECT FROM nodes me WHERE me.node = $2
                                  AND me.missed_at > now() AND me.beating_since < heard.at))
               ORDER BY r.accepted_at, r.request_id LIMIT $3"#,
            self.deadline_grace.as_secs_f64(),
            self.node,
            MAX_FOUND,
        );
        Ok(found.fetch_all(&self.pool).await?)
    }
}

impl OrphanedRequests for PostgresOrphanedRequests {
    fn find(&self) -> BoxFuture<'_, anyhow::Result<Vec<OrphanedRequest>>> {
        self.search().boxed()
    }
}
