//! The workflows, kept from the log: which have not ended, and whose they are.

use std::{collections::BTreeMap, sync::Arc};

use aihub_application::workflows::list::{Listed, WorkflowList};
use aihub_domain::workflow::{Workflow, event::WorkflowEvent};
use anyhow::Context;
use cqrs_es::Aggregate;
use futures::{FutureExt, future::BoxFuture};
use serde::Serialize;
use sqlx::PgTransaction;

use crate::{
    database::Database,
    event_store::{
        decode::{LogEntry, events_of},
        reader::RecordedEvent,
        subscription::EventHandler,
    },
    json_rows::json_rows,
    seats,
};

/// The name of [`OpenWorkflows`], under which its checkpoint is kept.
pub(crate) const NAME: &str = "open-workflows";

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
        NAME
    }

    fn concerns(&self, event: &RecordedEvent) -> bool {
        event.aggregate_type == Workflow::TYPE
    }

    fn apply<'a>(
        &'a self,
        transaction: &'a mut PgTransaction<'_>,
        events: &'a [Arc<LogEntry>],
    ) -> BoxFuture<'a, anyhow::Result<()>> {
        apply(transaction, events).boxed()
    }

    /// Those who are in the queue now need their seats no longer.
    fn follow_up<'a>(
        &'a self,
        transaction: &'a mut PgTransaction<'_>,
        events: &'a [Arc<LogEntry>],
    ) -> BoxFuture<'a, anyhow::Result<()>> {
        let arrived = events.iter().filter(|event| event.event_type == "WorkflowStarted");
        let arrived = arrived.map(|event| event.aggregate_id.as_str()).collect();
        async move { Ok(seats::vacate(transaction, arrived).await?) }.boxed()
    }
}

async fn apply(transaction: &mut PgTransaction<'_>, events: &[Arc<LogEntry>]) -> anyhow::Result<()> {
    let mut started: BTreeMap<&str, Row<'_>> = BTreeMap::new();
    let mut ended = Vec::new();
    for change in events_of::<Workflow>(events) {
        let (event, change) = change?;
        let (workflow_id, position) = (event.aggregate_id.as_str(), event.position.cast_signed());
        if let WorkflowEvent::WorkflowStarted(request) = change {
            let (account, user_id) = (&*request.account, &*request.user);
            started.insert(workflow_id, Row { workflow_id, account, user_id, running: true, position });
        } else if change.ended().is_some() {
            ended.push(workflow_id);
        }
    }
    if !started.is_empty() {
        sqlx::query!(
            "INSERT INTO workflows SELECT * FROM json_populate_recordset(NULL::workflows, $1::text::json)
             ON CONFLICT ON CONSTRAINT workflows_pkey DO NOTHING",
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
    Ok(())
}

/// The questions. The answers are as good as [`OpenWorkflows`] is up to date.
#[derive(Debug, Clone)]
pub struct PostgresWorkflows {
    database: Database,
}

impl PostgresWorkflows {
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    async fn running_now(&self) -> anyhow::Result<Vec<String>> {
        let ids = sqlx::query_scalar!("SELECT workflow_id FROM workflows WHERE running ORDER BY position");
        Ok(ids.fetch_all(self.database.pool()).await?)
    }

    async fn running_now_of(&self, account: &str, user: &str) -> anyhow::Result<Vec<String>> {
        let ids = sqlx::query_scalar!(
            "SELECT workflow_id FROM workflows WHERE account = $1 AND user_id = $2 AND running ORDER BY position",
            account,
            user
        );
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

    fn running_of<'a>(&'a self, account: &'a str, user: &'a str) -> BoxFuture<'a, anyhow::Result<Vec<String>>> {
        self.running_now_of(account, user).boxed()
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
}
