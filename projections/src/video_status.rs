//! How each video stands, without its content.

mod change;
pub mod list;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aihub_domain::video::{VideoJob, event::VideoEvent};
use aihub_infrastructure::{
    event_store::{
        decode::{LogEntry, events_of},
        reader::RecordedEvent,
        subscription::EventHandler,
    },
    json_rows::json_rows,
};
use anyhow::Context;
use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;
use futures::{FutureExt, future::BoxFuture};
use serde::Serialize;
use serde_json::Value;
use sqlx::{PgPool, PgTransaction};

pub use self::list::{Cursor, Filter, InvalidCursor, MediaDue, list, media_due};
use crate::{
    rebuild,
    watermark::{AsOf, Snapshot},
};

pub const NAME: &str = "video_status_v1";

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VideoRow {
    pub video_id: String,
    pub account: String,
    pub user_id: String,
    /// As [`aihub_domain::video::VideoStatus::as_str`] says it, except `new`.
    pub status: String,
    /// As the client asked: `auto` or a provider's name.
    pub requested_provider: String,
    pub requested_model: Option<String>,
    /// Who could make it, best first: a list of `{"provider", "model", "upstreamModel", "priceId"}`.
    pub offers: Value,
    /// Who was asked last; `None` where nobody was.
    pub provider: Option<String>,
    /// As clients name it.
    pub model: Option<String>,
    /// As the provider names the job, once it has it.
    pub provider_job_id: Option<String>,
    /// That were asked for.
    pub seconds: i32,
    /// `720p | 1080p | 4K`
    pub resolution: String,
    /// `16:9 | 9:16 | …`
    pub aspect_ratio: String,
    /// `high | standard | low`
    pub priority: String,
    pub percent: i32,
    /// How often it was submitted to a provider.
    pub submissions: i32,
    pub reserved_microcredits: i64,
    pub charged_microcredits: i64,
    /// That were charged for.
    pub billed_seconds: Option<i32>,
    /// The provider's cost, in 10⁻¹² US dollars.
    pub cost_picousd: i64,
    pub price_id: Option<String>,
    /// Of the video's file, as the next ones; there once it is stored.
    pub bytes: Option<i64>,
    pub sha256: Option<String>,
    pub width: Option<i32>,
    pub height: Option<i32>,
    pub duration_ms: Option<i64>,
    pub codec: Option<String>,
    /// Under which the file is kept, or was.
    pub media_key: Option<String>,
    pub thumbnail_key: Option<String>,
    pub session_id: Option<String>,
    pub workflow_id: Option<String>,
    /// Why it failed, by the error's code, or expired.
    pub end_reason: Option<String>,
    pub requested_at: DateTime<Utc>,
    /// When the provider had it.
    pub submitted_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    pub media_erased_at: Option<DateTime<Utc>>,
    /// When its last event happened.
    pub changed_at: DateTime<Utc>,
    /// Where its last event stands in the log.
    pub position: i64,
}

/// `None` for a video that was never requested, or not up to the position.
pub async fn find(pool: &PgPool, video_id: &str) -> Result<AsOf<Option<VideoRow>>, sqlx::Error> {
    let mut snapshot = Snapshot::of(pool, NAME).await?;
    let found = sqlx::query_as!(VideoRow, "SELECT * FROM video_status_v1 WHERE video_id = $1", video_id)
        .fetch_optional(snapshot.connection())
        .await?;
    snapshot.close(found).await
}

#[derive(Debug, Clone, Copy)]
pub struct View;

impl rebuild::View for View {
    fn tables(&self) -> &'static [&'static str] {
        &[NAME]
    }

    fn event_types(&self) -> &'static [&'static str] {
        &[
            "VideoRequested",
            "SubmissionStarted",
            "SubmissionRefused",
            "SubmissionDoubted",
            "SubmissionDenied",
            "VideoSubmitted",
            "VideoProgressed",
            "VideoStored",
            "VideoCompleted",
            "VideoFailed",
            "VideoCancelled",
            "VideoExpired",
            "MediaErased",
        ]
    }
}

impl EventHandler for View {
    fn name(&self) -> &'static str {
        NAME
    }

    fn concerns(&self, event: &RecordedEvent) -> bool {
        event.aggregate_type == VideoJob::TYPE
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
    let changes = events_of::<VideoJob>(events).collect::<anyhow::Result<Vec<_>>>()?;
    let videos: BTreeSet<&str> = changes.iter().map(|(event, _)| event.aggregate_id.as_str()).collect();
    if videos.is_empty() {
        return Ok(());
    }
    let known = sqlx::query_as!(
        VideoRow,
        "SELECT * FROM video_status_v1 WHERE video_id = ANY($1)",
        &videos.into_iter().collect::<Vec<_>>() as &[&str]
    )
    .fetch_all(&mut **transaction)
    .await?;
    let mut rows: BTreeMap<String, VideoRow> = known.into_iter().map(|row| (row.video_id.clone(), row)).collect();
    for (event, change) in changes {
        let (video_id, position) = (&event.aggregate_id, event.position.cast_signed());
        match (rows.get_mut(video_id), change) {
            (Some(row), _) if position <= row.position => {}
            (Some(row), change) => row.change(change, position)?,
            (None, VideoEvent::VideoRequested(request)) => {
                rows.insert(video_id.clone(), VideoRow::requested(video_id, request, position)?);
            }
            (None, _) => anyhow::bail!("video {video_id} changes at position {position} and was never requested"),
        }
    }
    write(transaction, rows.into_values().collect()).await
}

async fn write(transaction: &mut PgTransaction<'_>, rows: Vec<VideoRow>) -> anyhow::Result<()> {
    sqlx::query!(
        "INSERT INTO video_status_v1
             SELECT * FROM json_populate_recordset(NULL::video_status_v1, $1::text::json)
         ON CONFLICT (video_id) DO UPDATE SET
             status = excluded.status, provider = excluded.provider, model = excluded.model,
             provider_job_id = excluded.provider_job_id, percent = excluded.percent,
             submissions = excluded.submissions, charged_microcredits = excluded.charged_microcredits,
             billed_seconds = excluded.billed_seconds, cost_picousd = excluded.cost_picousd,
             price_id = excluded.price_id, bytes = excluded.bytes, sha256 = excluded.sha256, width = excluded.width,
             height = excluded.height, duration_ms = excluded.duration_ms, codec = excluded.codec,
             media_key = excluded.media_key, thumbnail_key = excluded.thumbnail_key,
             end_reason = excluded.end_reason, submitted_at = excluded.submitted_at, ended_at = excluded.ended_at,
             media_erased_at = excluded.media_erased_at, changed_at = excluded.changed_at,
             position = excluded.position",
        json_rows(&rows)?,
    )
    .execute(&mut **transaction)
    .await
    .context("the rows of the videos")?;
    Ok(())
}
