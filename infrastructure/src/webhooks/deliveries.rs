//! What has to be told to clients: a row for each end of a job that asked for it. What became of each can be looked up, and
//! it can be told again.

use std::{fmt, sync::Arc};

use aihub_application::ports::jobs::JobKind;
use aihub_domain::{
    video::{VideoJob, event::VideoEvent},
    workflow::{Workflow, event::WorkflowEvent},
};
use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;
use futures::{FutureExt, future::BoxFuture};
use serde::Serialize;
use sqlx::{PgExecutor, PgTransaction};
use uuid::Uuid;

use crate::{
    event_store::{
        decode::{LogEntry, events_of},
        reader::RecordedEvent,
        subscription::EventHandler,
    },
    json_rows::json_rows,
};

/// Keeps `awaited_webhooks`, and turns its rows into those of `webhook_deliveries` when their jobs end.
#[derive(Debug, Clone, Copy)]
pub struct WebhookDeliveries;

#[derive(Serialize)]
struct Ended<'a> {
    delivery_id: String,
    job_id: &'a str,
    job_kind: &'static str,
    account: &'a str,
    user_id: &'a str,
    event_type: &'static str,
    occurred_at: DateTime<Utc>,
}

/// What an event means to who tells of ends.
enum Meaning<'a> {
    /// The end is to be told, when it comes.
    Awaited,
    Ended {
        event_type: &'static str,
        account: &'a str,
        user_id: &'a str,
        occurred_at: DateTime<Utc>,
    },
}

impl EventHandler for WebhookDeliveries {
    fn name(&self) -> &'static str {
        "webhook-deliveries"
    }

    fn concerns(&self, event: &RecordedEvent) -> bool {
        [VideoJob::TYPE, Workflow::TYPE].contains(&event.aggregate_type.as_str())
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
    let (mut awaited, mut ended) = (Vec::new(), Vec::new());
    let videos = events_of::<VideoJob>(events)
        .map(|change| change.map(|(event, change)| (event, JobKind::Video, meaning_of_video(change))));
    let workflows = events_of::<Workflow>(events)
        .map(|change| change.map(|(event, change)| (event, JobKind::Workflow, meaning_of_workflow(change))));
    for change in videos.chain(workflows) {
        let (event, kind, meaning) = change?;
        let (job_id, job_kind) = (event.aggregate_id.as_str(), kind.as_str());
        match meaning {
            Some(Meaning::Awaited) => awaited.push(job_id),
            Some(Meaning::Ended { event_type, account, user_id, occurred_at }) => {
                let delivery_id = delivery_id(kind, job_id, event.sequence);
                ended.push(Ended { delivery_id, job_id, job_kind, account, user_id, event_type, occurred_at });
            }
            None => {}
        }
    }
    if !awaited.is_empty() {
        sqlx::query!(
            "INSERT INTO awaited_webhooks SELECT unnest($1::text[])
             ON CONFLICT ON CONSTRAINT awaited_webhooks_pkey DO NOTHING",
            &awaited as &[&str],
        )
        .execute(&mut **transaction)
        .await?;
    }
    if !ended.is_empty() {
        // What ended long ago is not told: then this reads the log from its beginning.
        sqlx::query!(
            "WITH ended AS (SELECT * FROM json_populate_recordset(NULL::webhook_deliveries, $1::text::json)),
             awaited AS (DELETE FROM awaited_webhooks a USING ended WHERE a.job_id = ended.job_id RETURNING a.job_id)
             INSERT INTO webhook_deliveries (delivery_id, job_id, job_kind, account, user_id, event_type, occurred_at,
                                             state, attempts, next_attempt_at, give_up_at, changed_at)
             SELECT delivery_id, job_id, job_kind, account, user_id, event_type, occurred_at, 'pending', 0,
                    now(), now() + interval '1 day', now()
             FROM ended JOIN awaited USING (job_id) WHERE occurred_at > now() - interval '30 days'
             ON CONFLICT ON CONSTRAINT webhook_deliveries_delivery_id DO NOTHING",
            json_rows(&ended)?,
        )
        .execute(&mut **transaction)
        .await?;
    }
    Ok(())
}

fn meaning_of_video(event: &VideoEvent) -> Option<Meaning<'_>> {
    let event_type = match event {
        VideoEvent::VideoRequested(request) => return request.has_webhook.then_some(Meaning::Awaited),
        VideoEvent::VideoCompleted { .. } => "video.completed",
        VideoEvent::VideoFailed { .. } => "video.failed",
        VideoEvent::VideoCancelled { .. } => "video.cancelled",
        VideoEvent::VideoExpired { .. } => "video.expired",
        _ => return None,
    };
    event.ended().map(|(asked, occurred_at)| Meaning::Ended {
        event_type,
        account: &asked.account,
        user_id: &asked.user,
        occurred_at,
    })
}

fn meaning_of_workflow(event: &WorkflowEvent) -> Option<Meaning<'_>> {
    let event_type = match event {
        WorkflowEvent::WorkflowStarted(request) => return request.has_webhook.then_some(Meaning::Awaited),
        WorkflowEvent::WorkflowCompleted { .. } => "workflow.completed",
        WorkflowEvent::WorkflowFailed { .. } => "workflow.failed",
        WorkflowEvent::WorkflowCancelled { .. } => "workflow.cancelled",
        _ => return None,
    };
    event.ended().map(|(asked, occurred_at)| Meaning::Ended {
        event_type,
        account: &asked.account,
        user_id: &asked.user,
        occurred_at,
    })
}

/// The same whenever the event is read, and no other's: a receiver knows a repetition by it.
fn delivery_id(kind: JobKind, job_id: &str, sequence: u64) -> String {
    let name = format!("aihub {kind} {job_id}:{sequence}");
    format!("msg_{}", Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).simple())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// To be attempted, for the first time or again.
    Pending,
    Delivered,
    /// A day was too short, or there is no use in trying.
    GivenUp,
}

impl DeliveryState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::GivenUp => "given_up",
        }
    }
}

impl fmt::Display for DeliveryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What became of a delivery so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Delivery {
    /// The `webhook-id` of every attempt.
    pub delivery_id: String,
    pub job_id: String,
    /// `video` or `workflow`
    pub job_kind: String,
    pub account: String,
    pub user_id: String,
    /// `video.completed`, `video.failed`, `video.cancelled`, `video.expired`, `workflow.completed`, …
    pub event_type: String,
    pub occurred_at: DateTime<Utc>,
    /// As [`DeliveryState::as_str`] has it.
    pub state: String,
    /// Those that were begun.
    pub attempts: i32,
    pub next_attempt_at: DateTime<Utc>,
    /// When it became what it is.
    pub changed_at: DateTime<Utc>,
    /// What the receiver answered last, where it did.
    pub last_status: Option<i32>,
    /// What was wrong last: `status`, `timeout`, `connection`, `private_address`, `refused_url`, `erased`, `unreadable`,
    /// `unavailable` (ours to blame).
    pub last_error: Option<String>,
}

/// Which deliveries are to be listed; everything that is said has to be so.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeliveryFilter<'a> {
    pub job_id: Option<&'a str>,
    pub account: Option<&'a str>,
    pub user_id: Option<&'a str>,
    pub state: Option<DeliveryState>,
}

/// The latest first, at most `limit`.
pub async fn list(
    executor: impl PgExecutor<'_>,
    filter: DeliveryFilter<'_>,
    limit: u32,
) -> Result<Vec<Delivery>, sqlx::Error> {
    sqlx::query_as!(
        Delivery,
        "SELECT delivery_id, job_id, job_kind, account, user_id, event_type, occurred_at, state, attempts,
                next_attempt_at, changed_at, last_status, last_error
         FROM webhook_deliveries
         WHERE ($1::text IS NULL OR job_id = $1) AND ($2::text IS NULL OR account = $2)
           AND ($3::text IS NULL OR user_id = $3) AND ($4::text IS NULL OR state = $4)
         ORDER BY occurred_at DESC, delivery_id LIMIT $5",
        filter.job_id,
        filter.account,
        filter.user_id,
        filter.state.map(DeliveryState::as_str),
        i64::from(limit),
    )
    .fetch_all(executor)
    .await
}

/// Has a job's end told again, also where it was taken or given up, for another day. Returns whether there is one to be
/// told: those that were over a month ago are forgotten.
pub async fn redeliver(executor: impl PgExecutor<'_>, job_id: &str) -> Result<bool, sqlx::Error> {
    let again = sqlx::query!(
        "UPDATE webhook_deliveries SET state = 'pending', attempts = 0, next_attempt_at = now(),
                give_up_at = now() + interval '1 day', changed_at = now(), last_status = NULL, last_error = NULL
         WHERE job_id = $1",
        job_id,
    );
    Ok(again.execute(executor).await?.rows_affected() > 0)
}
