//! Who looked at what is not theirs, over HTTP or on the command line: each use by its position.

use std::{collections::BTreeMap, sync::Arc};

use aihub_domain::access::{Access, AccessEvent};
use aihub_infrastructure::{
    event_store::{
        decode::{LogEntry, events_of},
        reader::RecordedEvent,
        subscription::EventHandler,
    },
    json_rows::json_rows,
};
use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;
use futures::{FutureExt, future::BoxFuture};
use serde::Serialize;
use sqlx::PgTransaction;

use crate::rebuild;

pub const NAME: &str = "access_log_v1";

#[derive(Serialize)]
struct Row<'a> {
    position: i64,
    accessed_at: DateTime<Utc>,
    user_id: &'a str,
    account: &'a str,
    action: &'a str,
    parameters: &'a BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy)]
pub struct View;

impl rebuild::View for View {
    fn tables(&self) -> &'static [&'static str] {
        &[NAME]
    }

    fn event_types(&self) -> &'static [&'static str] {
        &["AccessRecorded"]
    }
}

impl EventHandler for View {
    fn name(&self) -> &'static str {
        NAME
    }

    fn concerns(&self, event: &RecordedEvent) -> bool {
        event.aggregate_type == Access::TYPE
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
    let rows = events_of::<Access>(events)
        .map(|change| {
            let (event, AccessEvent::AccessRecorded(record)) = change?;
            Ok(Row {
                position: event.position.cast_signed(),
                accessed_at: record.accessed_at,
                user_id: &record.user,
                account: &record.account,
                action: &record.action,
                parameters: &record.parameters,
            })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO access_log_v1 SELECT * FROM json_populate_recordset(NULL::access_log_v1, $1::text::json)
         ON CONFLICT (position) DO NOTHING",
        json_rows(&rows)?,
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}
