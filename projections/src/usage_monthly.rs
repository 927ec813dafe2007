//! Requests, tokens, seconds of video and money an accounting month, by account, user, provider and model.

use std::sync::Arc;

use aihub_infrastructure::event_store::{decode::LogEntry, subscription::EventHandler};
use futures::{FutureExt, future::BoxFuture};
use sqlx::PgTransaction;

use crate::{
    booking::State,
    rebuild,
    usage::{Additions, EVENT_TYPES},
    usage_ledger::UsageEntry,
};

pub const NAME: &str = "usage_monthly_v1";
const STATE: &str = "usage_monthly_state_v1";

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
        if state.takes(entry)? {
            for end in UsageEntry::of(entry, state.closed)? {
                additions.add(end.accounting_month, end);
            }
        }
    }
    additions.write(transaction, NAME, "month").await?;
    Ok(())
}
