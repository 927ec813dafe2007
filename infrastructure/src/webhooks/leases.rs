//! Who attempts a delivery: one node at a time, for as long as its lease lasts. All by the clock of the database.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::call::{Outcome, Then};

/// Much longer than an attempt may take. A node that dies leaves its deliveries to the others after that.
pub(super) const LEASE: Duration = Duration::from_mins(1);

/// A delivery that is this node's to attempt.
#[derive(Debug, Clone)]
pub(super) struct Leased {
    pub(super) delivery_id: String,
    pub(super) job_id: String,
    pub(super) job_kind: String,
    pub(super) account: String,
    pub(super) event_type: String,
    pub(super) occurred_at: DateTime<Utc>,
    /// With this one.
    pub(super) attempts: i32,
    /// Tells this lease from later ones.
    until: DateTime<Utc>,
}

/// Up to `count` that are due, of every account one before the second of any: who has many keeps nobody waiting.
pub(super) async fn lease(pool: &PgPool, count: usize) -> Result<Vec<Leased>, sqlx::Error> {
    sqlx::query_as!(
        Leased,
        r#"WITH due AS MATERIALIZED (
               SELECT delivery_id FROM (
                   SELECT delivery_id, next_attempt_at,
                          row_number() OVER (PARTITION BY account ORDER BY next_attempt_at) AS nth
                   FROM webhook_deliveries WHERE state = 'pending' AND next_attempt_at <= now()
               ) ranked
               ORDER BY nth, next_attempt_at LIMIT $1
           ), free AS (
               SELECT d.delivery_id FROM webhook_deliveries d JOIN due USING (delivery_id)
               WHERE d.state = 'pending' AND d.next_attempt_at <= now() FOR UPDATE OF d SKIP LOCKED
           )
           UPDATE webhook_deliveries d
           SET next_attempt_at = now() + make_interval(secs => $2), attempts = d.attempts + 1
           FROM free WHERE d.delivery_id = free.delivery_id
           RETURNING d.delivery_id, d.job_id, d.job_kind, d.account, d.event_type, d.occurred_at, d.attempts,
                     d.next_attempt_at AS until"#,
        i64::try_from(count).unwrap_or(i64::MAX),
        LEASE.as_secs_f64(),
    )
    .fetch_all(pool)
    .await
}

/// Writes down what came of it. Returns the state that it is in then; `None` where the lease was over.
pub(super) async fn finish(pool: &PgPool, leased: &Leased, outcome: &Outcome) -> Result<Option<String>, sqlx::Error> {
    let (is_delivered, wait) = match outcome.then {
        Then::Delivered => (true, None),
        Then::GiveUp => (false, None),
        Then::Again(wait) => (false, Some(wait.as_secs_f64())),
    };
    sqlx::query_scalar!(
        "UPDATE webhook_deliveries
         SET state = CASE WHEN $3 THEN 'delivered'
                          WHEN $4::float8 IS NULL OR now() + make_interval(secs => $4) > give_up_at THEN 'given_up'
                          ELSE 'pending' END,
             next_attempt_at = now() + make_interval(secs => coalesce($4, 0)),
             changed_at = now(), last_status = $5, last_error = $6
         WHERE delivery_id = $1 AND next_attempt_at = $2 AND state = 'pending'
         RETURNING state",
        leased.delivery_id,
        leased.until,
        is_delivered,
        wait,
        outcome.status.map(i32::from),
        outcome.error,
    )
    .fetch_optional(pool)
    .await
}

/// What was over a month ago.
pub(super) async fn forget(pool: &PgPool) -> Result<(), sqlx::Error> {
    let forget = sqlx::query!(
        "DELETE FROM webhook_deliveries WHERE state <> 'pending' AND changed_at < now() - interval '30 days'"
    );
    forget.execute(pool).await.map(drop)
}
