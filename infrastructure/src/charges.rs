//! What accounts were charged, looked up in the log.

use aihub_application::ports::charges::{Charge, Charges, Note};
use aihub_domain::account::{Account, event::AccountEvent};
use anyhow::Context;
use cqrs_es::Aggregate;
use futures::{FutureExt, future::BoxFuture};
use sqlx::PgPool;

/// What is settled and what ends by it are one unit of the log, so they stand together: at most so far apart.
const UNIT_EVENTS: i64 = 16;

#[derive(Debug, Clone)]
pub struct PostgresCharges {
    pool: PgPool,
}

impl PostgresCharges {
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    async fn find_now(&self, account: &str, named: &str) -> anyhow::Result<Option<Charge>> {
        // By a position: that of the settlement itself, or of what ended by it.
        let position = named.parse::<i64>().unwrap_or_default();
        let found = sqlx::query_scalar::<_, String>(
            "SELECT settled.payload::text
             FROM (
                 SELECT position FROM events
                 WHERE aggregate_type IN ('request', 'video') AND aggregate_id = $2
                 UNION ALL
                 SELECT position FROM events WHERE position = $3
             ) AS ended
             JOIN events AS settled ON settled.position BETWEEN ended.position - $4 AND ended.position + $4
             WHERE settled.aggregate_type = 'account' AND settled.aggregate_id = $1
                 AND settled.event_type = 'CreditsSettled'
                 AND (
                     settled.position = $3
                     OR settled.payload -> 'CreditsSettled' ->> 'reservation_id' IN (
                         $2, (SELECT aggregate_id FROM events WHERE position = $3)
                     )
                 )
             LIMIT 1",
        )
        .bind(account)
        .bind(named)
        .bind(position)
        .bind(UNIT_EVENTS)
        .fetch_optional(&self.pool)
        .await?;
        let Some(payload) = found else { return Ok(None) };
        match serde_json::from_str(&payload).context("a settlement cannot be read")? {
            AccountEvent::CreditsSettled { reservation_id, charged_microcredits, settled_at, .. } => {
                Ok(Some(Charge { id: reservation_id, charged: charged_microcredits, settled_at }))
            }
            _ => Ok(None),
        }
    }

    async fn all_notes(&self, account: &str) -> anyhow::Result<Vec<Note>> {
        let payloads = sqlx::query_scalar::<_, String>(
            "SELECT payload::text FROM events
             WHERE aggregate_type = $1 AND aggregate_id = $2 AND event_type = 'CreditsAdjusted' ORDER BY sequence",
        )
        .bind(Account::TYPE)
        .bind(account)
        .fetch_all(&self.pool)
        .await?;
        let mut notes = Vec::with_capacity(payloads.len());
        for payload in payloads {
            if let AccountEvent::CreditsAdjusted { adjustment_id, kind, corrects, .. } =
                serde_json::from_str(&payload).context("a note cannot be read")?
            {
                notes.push(Note { adjustment_id, kind, corrects });
            }
        }
        Ok(notes)
    }
}

impl Charges for PostgresCharges {
    fn find<'a>(&'a self, account: &'a str, named: &'a str) -> BoxFuture<'a, anyhow::Result<Option<Charge>>> {
        self.find_now(account, named).boxed()
    }

    fn notes<'a>(&'a self, account: &'a str) -> BoxFuture<'a, anyhow::Result<Vec<Note>>> {
        self.all_notes(account).boxed()
    }
}
