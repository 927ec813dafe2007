//! Grants whose time is over: a view of the grants that will expire, and the search in it.

use std::{collections::BTreeMap, sync::Arc};

use aihub_application::policies::expire_credits::{DueGrant, DueGrants};
use aihub_domain::{
    account::{Account, event::AccountEvent},
    money::Microcredits,
};
use chrono::{DateTime, Utc};
use futures::{FutureExt, future::BoxFuture};
use sqlx::{PgPool, PgTransaction};

use crate::event_store::{
    decode::{LogEntry, events_of},
    reader::RecordedEvent,
    subscription::EventHandler,
};

/// The most grants that one search finds.
const MAX_FOUND: i64 = 500;

/// Keeps `expiring_grants`: a row comes with a grant that expires and goes with the last of its expiry.
#[derive(Debug, Clone, Copy)]
pub struct ExpiringGrants;

impl EventHandler for ExpiringGrants {
    fn name(&self) -> &'static str {
        "expiring-grants"
    }

    fn concerns(&self, event: &RecordedEvent) -> bool {
        matches!(event.event_type.as_str(), "CreditsGranted" | "GrantVoided" | "CreditsExpired")
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
    // By account and grant: when it expires, or nothing where it has.
    let mut grants: BTreeMap<(&str, &str), Option<DateTime<Utc>>> = BTreeMap::new();
    for change in events_of::<Account>(events) {
        let (event, change) = change?;
        match change {
            AccountEvent::CreditsGranted { grant_id, expires_at: Some(expires_at), .. } => {
                grants.insert((&event.aggregate_id, grant_id), Some(*expires_at));
            }
            AccountEvent::GrantVoided { grant_id, .. }
            | AccountEvent::CreditsExpired { grant_id, still_held_microcredits: Microcredits::ZERO, .. } => {
                grants.insert((&event.aggregate_id, grant_id), None);
            }
            _ => {}
        }
    }
    for ((account, grant_id), expires_at) in grants {
        match expires_at {
            Some(expires_at) => {
                sqlx::query!(
                    "INSERT INTO expiring_grants VALUES ($1, $2, $3)
                     ON CONFLICT ON CONSTRAINT expiring_grants_pkey DO NOTHING",
                    account,
                    grant_id,
                    expires_at,
                )
                .execute(&mut **transaction)
                .await?;
            }
            None => {
                sqlx::query!("DELETE FROM expiring_grants WHERE account = $1 AND grant_id = $2", account, grant_id)
                    .execute(&mut **transaction)
                    .await?;
            }
        }
    }
    Ok(())
}

/// The search. It is as good as the view is up to date.
#[derive(Debug, Clone)]
pub struct PostgresDueGrants {
    pool: PgPool,
}

impl PostgresDueGrants {
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    async fn search(&self) -> anyhow::Result<Vec<DueGrant>> {
        let due = sqlx::query_as!(
            DueGrant,
            r#"SELECT account, grant_id, now() AS "found_at!" FROM expiring_grants WHERE expires_at <= now()
               ORDER BY expires_at, account, grant_id LIMIT $1"#,
            MAX_FOUND,
        );
        Ok(due.fetch_all(&self.pool).await?)
    }
}

impl DueGrants for PostgresDueGrants {
    fn find(&self) -> BoxFuture<'_, anyhow::Result<Vec<DueGrant>>> {
        self.search().boxed()
    }
}
