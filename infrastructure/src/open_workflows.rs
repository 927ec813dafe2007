//! The workflows, kept from the log: which have not ended, and whose they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use aihub_application::workflows::list::{Listed, WorkflowList};
use aihub_domain::workflow::{Workflow, event::WorkflowEvent};
use anyhow::Context;
use futures::{FutureExt, future::BoxFuture};
use serde::Serialize;
use sqlx::PgTransaction;
use tokio::{sync::broadcast, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    database::Database,
    event_store::{
        decode::{LogEntry, events_of},
        subscription::EventHandler,
    },
    json_rows::json_rows,
    seats,
};

/// The channel on which nodes hear of workflows: the id of each to which something happened.
const CHANNEL: &str = "workflows";
/// News that are kept for a node's listeners; one that is further behind looks at everything anyway.
const KEPT_NEWS: usize = 1_024;
const RECONNECT_AFTER: Duration = Duration::from_secs(1);

/// Keeps `workflows`.
#[derive(Debug, Clone, Copy)]
pub struct OpenWorkflows;

#[derive(Debug, Serialize)]
struct Row<'a> {
    workflow_id: &'a str,
    account: &'a str,
    user_id: &'a str,
    running: bool,
    position: i64,
}

impl EventHandler for OpenWorkflows {
    fn name(&self) -> &'static str {
        "open-workflows"
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
    let mut started: BTreeMap<&str, Row<'_>> = BTreeMap::new();
    let (mut ended, mut changed) = (Vec::new(), BTreeSet::new());
    for change in events_of::<Workflow>(events) {
        let (event, change) = change?;
        let (workflow_id, position) = (event.aggregate_id.as_str(), event.position.cast_signed());
        changed.insert(workflow_id);
        if let WorkflowEvent::WorkflowStarted(request) = change {
            let (account, user_id) = (&*request.account, &*request.user);
            started.insert(workflow_id, Row { workflow_id, account, user_id, running: true, position });
        } else if change.ended().is_some() {
            ended.push(workflow_id);
        }
    }
    if !started.is_empty() {
        seats::vacate(transaction, &started.keys().copied().collect::<Vec<_>>()).await?;
        sqlx::query!(
            "INSERT INTO workflows SELECT * FROM json_populate_recordset(NULL::workflows, $1::text::json)
             ON CONFLICT ON CONSTRAINT workflows_workflow_id DO NOTHING",
            json_rows(&started.into_values().collect::<Vec<_>>())?,
        )
        .execute(&mut **transaction)
        .await
        .context("the rows of the workflows")?;
    }
    if !ended.is_empty() {
        sqlx::query!("UPDATE workflows SET running = false WHERE workflow_id = ANY($1)", &ended as &[&str])
            .execute(&mut **transaction)
            .await?;
    }
    if !changed.is_empty() {
        let changed: Vec<&str> = changed.into_iter().collect();
        sqlx::query!("SELECT pg_notify($1, id) FROM unnest($2::text[]) id", CHANNEL, &changed as &[&str])
            .fetch_all(&mut **transaction)
            .await?;
    }
    Ok(())
}

/// The questions. The answers are as good as [`OpenWorkflows`] is up to date.
#[derive(Debug, Clone)]
pub struct PostgresWorkflows {
    database: Database,
    news: broadcast::Sender<Option<String>>,
}

impl PostgresWorkflows {
    pub fn new(database: Database) -> Self {
        Self { database, news: broadcast::Sender::new(KEPT_NEWS) }
    }

    /// Hears of workflows, for whoever waits for [`news`](WorkflowList::news), until `stop`.
    pub async fn follow(self, stop: CancellationToken) {
        let listening = async {
            loop {
                if let Err(error) = self.listen().await {
                    tracing::warn!(error = %error, "news of the workflows are not heard; listening again");
                }
                sleep(RECONNECT_AFTER).await;
            }
        };
        stop.run_until_cancelled(listening).await;
    }

    async fn listen(&self) -> Result<(), sqlx::Error> {
        let mut listener = self.database.listener().await?;
        listener.listen(CHANNEL).await?;
        loop {
            // A connection that was lost and made again may have missed some.
            let told = listener.try_recv().await?.map(|told| told.payload().to_owned());
            // Nobody may be waiting.
            let _ = self.news.send(told);
        }
    }

    async fn running_now(&self) -> anyhow::Result<Vec<String>> {
        let ids = sqlx::query_scalar!("SELECT workflow_id FROM workflows WHERE running ORDER BY position");
        Ok(ids.fetch_all(self.database.pool()).await?)
    }

    async fn page(&self, account: &str, user: &str, before: Option<u64>, limit: usize) -> anyhow::Result<Vec<Listed>> {
        let rows = sqlx::query!(
            "SELECT workflow_id, position FROM workflows WHERE account = $1 AND user_id = $2 AND position < $3
             ORDER BY position DESC LIMIT $4",
            account,
            user,
            before.map_or(Ok(i64::MAX), i64::try_from)?,
            i64::try_from(limit)?
        );
        let rows = rows.fetch_all(self.database.pool()).await?.into_iter();
        Ok(rows.map(|row| Listed { workflow_id: row.workflow_id, position: row.position.cast_unsigned() }).collect())
    }
}

impl WorkflowList for PostgresWorkflows {
    fn running(&self) -> BoxFuture<'_, anyhow::Result<Vec<String>>> {
        self.running_now().boxed()
    }

    fn of_user<'a>(
        &'a self,
        account: &'a str,
        user: &'a str,
        before: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'a, anyhow::Result<Vec<Listed>>> {
        self.page(account, user, before, limit).boxed()
    }

    fn news(&self) -> broadcast::Receiver<Option<String>> {
        self.news.subscribe()
    }
}
