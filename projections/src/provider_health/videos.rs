//! Submissions of videos. Each is one call to a provider, and over when that has refused it, an operator says that it never
//! came there, or the video has ended. Who cancels a video says nothing about its provider.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aihub_domain::video::{VideoJob, event::VideoEvent};
use aihub_infrastructure::{
    event_store::decode::{LogEntry, events_of},
    json_rows::json_rows,
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;

/// Its table.
pub const NAME: &str = "provider_health_open_v1";

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Submission {
    video_id: String,
    provider: String,
    started_at: DateTime<Utc>,
}

/// The submissions that are not over, of the videos that some events are about.
#[derive(Debug, Default)]
pub struct OpenSubmissions {
    open: BTreeMap<String, Submission>,
    /// Whose rows are to be written.
    videos: BTreeSet<String>,
}

/// A submission that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub provider: String,
    /// `None` where the video came.
    pub failure: Option<String>,
    pub duration_ms: u64,
    pub ended_at: DateTime<Utc>,
}

impl OpenSubmissions {
    pub async fn of(connection: &mut PgConnection, events: &[Arc<LogEntry>]) -> anyhow::Result<Self> {
        let videos = events_of::<VideoJob>(events).map(|event| Ok(event?.0.aggregate_id.clone()));
        let videos = videos.collect::<anyhow::Result<BTreeSet<_>>>()?;
        if videos.is_empty() {
            return Ok(Self::default());
        }
        let rows = sqlx::query_as!(
            Submission,
            "SELECT * FROM provider_health_open_v1 WHERE video_id = ANY($1)",
            &videos.iter().cloned().collect::<Vec<_>>()
        )
        .fetch_all(connection)
        .await?;
        Ok(Self { open: rows.into_iter().map(|row| (row.video_id.clone(), row)).collect(), videos })
    }

    /// The call that the event ends, if it ends one.
    pub fn advance(&mut self, video_id: &str, event: &VideoEvent) -> Option<Call> {
        let failure = match event {
            VideoEvent::SubmissionStarted { provider, started_at, .. } => {
                let (provider, started_at) = (provider.clone(), *started_at);
                let video_id = video_id.to_owned();
                self.open.insert(video_id.clone(), Submission { video_id, provider, started_at });
                return None;
            }
            VideoEvent::SubmissionRefused { failure, .. } => Some(failure.clone()),
            VideoEvent::SubmissionDenied { .. } => Some("in_doubt".to_owned()),
            VideoEvent::VideoCompleted { .. } => None,
            VideoEvent::VideoFailed { code, .. } => Some(code.clone()),
            VideoEvent::VideoExpired { .. } => Some("expired".to_owned()),
            VideoEvent::VideoCancelled { .. } => {
                self.open.remove(video_id);
                return None;
            }
            _ => return None,
        };
        let Submission { provider, started_at, .. } = self.open.remove(video_id)?;
        let ended_at = event.at();
        // Another node's clock may be behind.
        let duration_ms = (ended_at - started_at).num_milliseconds().max(0).cast_unsigned();
        Some(Call { provider, failure, duration_ms, ended_at })
    }

    pub async fn write(self, connection: &mut PgConnection) -> anyhow::Result<()> {
        if self.videos.is_empty() {
            return Ok(());
        }
        let videos: Vec<String> = self.videos.into_iter().collect();
        sqlx::query!("DELETE FROM provider_health_open_v1 WHERE video_id = ANY($1)", &videos)
            .execute(&mut *connection)
            .await?;
        sqlx::query!(
            "INSERT INTO provider_health_open_v1
                 SELECT * FROM json_populate_recordset(NULL::provider_health_open_v1, $1::text::json)",
            json_rows(&self.open.into_values().collect::<Vec<_>>())?,
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}
