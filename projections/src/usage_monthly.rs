//! Requests, tokens, seconds of video and money an accounting month, by account, user, provider and model.

use std::sync::Arc;

use aihub_domain::period::Month;
use aihub_infrastructure::event_store::{decode::LogEntry, subscription::EventHandler};
use futures::{FutureExt, future::BoxFuture};
use sqlx::{PgConnection, PgTransaction};

use crate::{
    booking::State,
    rebuild,
    usage::{Additions, EVENT_TYPES, Usage},
    usage_ledger::UsageEntry,
};

pub const NAME: &str = "usage_monthly_v1";
const STATE: &str = "usage_monthly_state_v1";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonthlyUsage {
    pub month: Month,
    pub account: String,
    pub user_id: String,
    /// Who answered; what was asked for where nobody did, so possibly `auto`.
    pub provider: String,
    pub model: String,
    pub usage: Usage,
}

/// The rows of the months from the first to the last, both included, in the order of their fields.
pub async fn between(
    connection: &mut PgConnection,
    first: Month,
    last: Month,
) -> Result<Vec<MonthlyUsage>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT month, account, user_id, provider, model, requests, failed, estimated, input_tokens,
                  cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, video_seconds,
                  list_microcredits, charged_microcredits, cost_picousd::text AS "cost_picousd!"
           FROM usage_monthly_v1 WHERE month BETWEEN $1 AND $2 ORDER BY month, account, user_id, provider, model"#,
        first.first_day(),
        last.first_day(),
    )
    .fetch_all(connection)
    .await?;
    let rows = rows.into_iter().map(|row| {
        let usage = Usage {
            requests: row.requests,
            failed: row.failed,
            estimated: row.estimated,
            input_tokens: row.input_tokens,
            cached_input_tokens: row.cached_input_tokens,
            cache_write_tokens: row.cache_write_tokens,
            output_tokens: row.output_tokens,
            reasoning_tokens: row.reasoning_tokens,
            video_seconds: row.video_seconds,
            list_microcredits: row.list_microcredits,
            charged_microcredits: row.charged_microcredits,
            cost_picousd: row.cost_picousd.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
        };
        let (account, user_id, provider, model) = (row.account, row.user_id, row.provider, row.model);
        Ok(MonthlyUsage { month: Month::of_day(row.month), account, user_id, provider, model, usage })
    });
    rows.collect()
}

#[derive(Debug, Clone, Copy)]
pub struct View;

impl rebuild::View for View {
    fn tables(&self) -> &'static [&'static str] {
        &[STATE, NAME]
    }

    fn event_types(&self) -> &'static [&'static str] {
        EVENT_TYPES
    }
}

impl EventHandler for View {
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
    let Some(mut state) = State::advance(transaction, STATE, EVENT_TYPES, events).await? else { return Ok(()) };
    let mut additions = Additions::default();
    for entry in events {
        if state.takes(entry)?
            && let Some(end) = UsageEntry::of(entry, state.closed)?
        {
            additions.add(end.accounting_month, end);
        }
    }
    additions.write(transaction, NAME, "month").await?;
    Ok(())
}
