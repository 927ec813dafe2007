//! The jobs that have not ended, kept from the log, and what is asked about them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use aihub_application::videos::{
    housekeeping::{DueMedia, MediaHolders},
    places::AllPlaces,
    queue::{OpenVideo, Places, VideoQueue},
};
use aihub_domain::video::{
    VideoJob, VideoStatus,
    event::{ErasureReason, VideoEvent, VideoRequest},
};
use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;
use futures::{FutureExt, future::BoxFuture};
use serde::Serialize;
use sqlx::{PgPool, PgTransaction};
use tokio::time::{Instant, sleep};

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

/// The name of [`OpenVideos`], under which its checkpoint is kept.
pub(crate) const NAME: &str = "open-videos";
/// How long it is waited for the queue to have read the log.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same for the places of jobs. Those that it has read are told where it takes longer.
const PLACES_PATIENCE: Duration = Duration::from_secs(1);
/// How often it is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// The most that one search finds.
const MAX_FOUND: i64 = 100;

/// Keeps `open_videos`, `video_turns`, `video_submissions`, `kept_media` and `media_leftovers`.
#[derive(Debug, Clone, Copy)]
pub struct OpenVideos;

#[derive(Debug, Serialize)]
struct Row {
    video_id: String,
    account: String,
    user_id: String,
    status: String,
    provider: Option<String>,
    offers: Vec<String>,
    priority: i16,
    queued_until: DateTime<Utc>,
    requested_at_position: i64,
    position: i64,
}

impl Row {
    fn requested(video_id: &str, request: &VideoRequest, position: i64) -> Self {
        Self {
            video_id: video_id.to_owned(),
            account: request.account.clone(),
            user_id: request.user.clone(),
            status: VideoStatus::Queued.as_str().to_owned(),
            provider: None,
            offers: request.offers.iter().map(|offer| offer.provider.clone()).collect(),
            priority: request.priority as i16,
            queued_until: request.queued_until,
            requested_at_position: position,
            position,
        }
    }

    fn evolve(&mut self, event: &VideoEvent) {
        let (status, provider) = match event {
            VideoEvent::SubmissionStarted { provider, .. } => (VideoStatus::Submitting, Some(provider)),
            VideoEvent::SubmissionDoubted { provider, .. } => (VideoStatus::InDoubt, Some(provider)),
            VideoEvent::VideoSubmitted { provider, .. } => (VideoStatus::Rendering, Some(provider)),
            VideoEvent::SubmissionRefused { .. } | VideoEvent::SubmissionDenied { .. } => (VideoStatus::Queued, None),
            VideoEvent::VideoStored { .. } => (VideoStatus::Stored, self.provider.as_ref()),
            _ => return,
        };
        self.provider = provider.cloned();
        status.as_str().clone_into(&mut self.status);
    }
}

impl EventHandler for OpenVideos {
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

    /// Those who are in the queue now need their seats no longer.
    fn follow_up<'a>(
        &'a self,
        transaction: &'a mut PgTransaction<'_>,
        events: &'a [Arc<LogEntry>],
    ) -> BoxFuture<'a, anyhow::Result<()>> {
        let arrived = events.iter().filter(|event| event.event_type == "VideoRequested");
        let arrived = arrived.map(|event| event.aggregate_id.as_str()).collect();
        async move { Ok(seats::vacate(transaction, arrived).await?) }.boxed()
    }
}

async fn apply(transaction: &mut PgTransaction<'_>, events: &[Arc<LogEntry>]) -> anyhow::Result<()> {
    let changes = events_of::<VideoJob>(events).collect::<anyhow::Result<Vec<_>>>()?;
    if changes.is_empty() {
        return Ok(());
    }
    let touched: BTreeSet<&str> = changes.iter().map(|(event, _)| event.aggregate_id.as_str()).collect();
    let touched: Vec<&str> = touched.into_iter().collect();
    let known = sqlx::query_as!(Row, "SELECT * FROM open_videos WHERE video_id = ANY($1)", &touched as &[&str])
        .fetch_all(&mut **transaction)
        .await?;
    let mut rows: BTreeMap<String, Row> = known.into_iter().map(|row| (row.video_id.clone(), row)).collect();
    let (mut ended, mut leftovers) = (Vec::new(), Vec::new());
    let mut turns = BTreeMap::new();
    for (event, change) in changes {
        let (video_id, position) = (&event.aggregate_id, event.position.cast_signed());
        if let VideoEvent::VideoRequested(request) = change {
            rows.entry(video_id.clone()).or_insert_with(|| Row::requested(video_id, request, position));
        } else if let Some((_, ended_at)) = change.ended() {
            let was = rows.remove(video_id);
            if was.is_some_and(|was| was.status == VideoStatus::Rendering.as_str()) {
                leftovers.push((video_id.as_str(), ended_at));
            }
            ended.push(video_id.as_str());
        } else if let Some(row) = rows.get_mut(video_id)
            && row.position < position
        {
            row.evolve(change);
            row.position = position;
            if let VideoEvent::SubmissionStarted { .. } = change {
                turns.insert(row.account.clone(), position);
            }
        }
        remember(transaction, video_id, change).await?;
    }
    sqlx::query!("DELETE FROM open_videos WHERE video_id = ANY($1)", &ended as &[&str])
        .execute(&mut **transaction)
        .await?;
    let (left_by, ended_at): (Vec<&str>, Vec<DateTime<Utc>>) = leftovers.into_iter().unzip();
    sqlx::query!(
        "INSERT INTO media_leftovers SELECT * FROM unnest($1::text[], $2::timestamptz[])
         ON CONFLICT ON CONSTRAINT media_leftovers_pkey DO NOTHING",
        &left_by as &[&str],
        &ended_at
    )
    .execute(&mut **transaction)
    .await?;
    sqlx::query!(
        "INSERT INTO open_videos SELECT * FROM json_populate_recordset(NULL::open_videos, $1::text::json)
         ON CONFLICT ON CONSTRAINT open_videos_pkey DO UPDATE
             SET status = excluded.status, provider = excluded.provider, position = excluded.position",
        json_rows(&rows.into_values().collect::<Vec<_>>())?,
    )
    .execute(&mut **transaction)
    .await
    .context("the rows of the open videos")?;
    let (accounts, positions): (Vec<String>, Vec<i64>) = turns.into_iter().unzip();
    sqlx::query!(
        "INSERT INTO video_turns SELECT * FROM unnest($1::text[], $2::bigint[])
         ON CONFLICT ON CONSTRAINT video_turns_pkey
             DO UPDATE SET submitted_at_position = excluded.submitted_at_position",
        &accounts,
        &positions,
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// What is known of jobs beyond their end.
async fn remember(transaction: &mut PgTransaction<'_>, video_id: &str, event: &VideoEvent) -> Result<(), sqlx::Error> {
    match event {
        VideoEvent::VideoSubmitted { provider, provider_job_id, .. } => {
            sqlx::query!(
                "INSERT INTO video_submissions VALUES ($1, $2, $3)
                 ON CONFLICT ON CONSTRAINT video_submissions_pkey DO NOTHING",
                provider,
                provider_job_id,
                video_id
            )
            .execute(&mut **transaction)
            .await?;
        }
        VideoEvent::VideoCompleted { asked, completed_at, .. } => {
            sqlx::query!(
                "INSERT INTO kept_media VALUES ($1, $2, $3) ON CONFLICT ON CONSTRAINT kept_media_pkey DO NOTHING",
                video_id,
                asked.account,
                completed_at
            )
            .execute(&mut **transaction)
            .await?;
        }
        VideoEvent::MediaErased { .. } => {
            let delete = sqlx::query!("DELETE FROM kept_media WHERE video_id = $1", video_id);
            delete.execute(&mut **transaction).await?;
        }
        _ => {}
    }
    Ok(())
}

/// The questions. The answers are as good as [`OpenVideos`] is up to date.
#[derive(Debug, Clone)]
pub struct PostgresVideoQueue {
    database: Database,
}

impl PostgresVideoQueue {
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    fn pool(&self) -> &PgPool {
        self.database.pool()
    }

    async fn busy_now(&self) -> anyhow::Result<Vec<OpenVideo>> {
        let rows =
            sqlx::query_as!(Row, "SELECT * FROM open_videos WHERE status <> 'queued' ORDER BY requested_at_position");
        rows.fetch_all(self.pool()).await?.into_iter().map(open).collect()
    }

    async fn open_of(&self, account: &str, user: &str) -> anyhow::Result<Vec<String>> {
        let open = sqlx::query_scalar!(
            "SELECT video_id FROM open_videos WHERE account = $1 AND user_id = $2 ORDER BY requested_at_position",
            account,
            user
        );
        Ok(open.fetch_all(self.pool()).await?)
    }

    async fn overdue_now(&self) -> anyhow::Result<Vec<OpenVideo>> {
        let rows = sqlx::query_as!(
            Row,
            "SELECT * FROM open_videos WHERE status = 'queued' AND queued_until < now()
             ORDER BY queued_until LIMIT $1",
            MAX_FOUND
        );
        rows.fetch_all(self.pool()).await?.into_iter().map(open).collect()
    }

    async fn next(&self, limit: usize, full: &[String]) -> anyhow::Result<Vec<OpenVideo>> {
        let rows = sqlx::query!(
            r#"SELECT video_id AS "video_id!", account AS "account!", offers AS "offers!"
               FROM waiting_videos() WHERE offers[1] <> ALL($2) ORDER BY place LIMIT $1"#,
            i64::try_from(limit)?,
            full,
        );
        let rows = rows.fetch_all(self.pool()).await?.into_iter();
        Ok(rows
            .map(|row| OpenVideo {
                video_id: row.video_id,
                account: row.account,
                status: VideoStatus::Queued,
                provider: None,
                offers: row.offers,
            })
            .collect())
    }

    async fn places_now(&self) -> anyhow::Result<AllPlaces> {
        self.has_caught_up(PLACES_PATIENCE).await?;
        let waiting = sqlx::query!(
            r#"SELECT account AS "account!", video_id AS "video_id!", place AS "place!" FROM waiting_videos()"#
        );
        let mut places: HashMap<String, Places> = HashMap::new();
        for row in waiting.fetch_all(self.pool()).await? {
            places.entry(row.account).or_default().insert(row.video_id, row.place.cast_unsigned());
        }
        Ok(places.into_iter().map(|(account, places)| (account, Arc::new(places))).collect())
    }

    async fn unanswered_by(&self, provider: &str) -> anyhow::Result<Vec<OpenVideo>> {
        self.catch_up().await?;
        let rows = sqlx::query_as!(
            Row,
            "SELECT * FROM open_videos WHERE status IN ('submitting', 'in_doubt') AND provider = $1
             ORDER BY requested_at_position",
            provider
        );
        rows.fetch_all(self.pool()).await?.into_iter().map(open).collect()
    }

    async fn known_of(&self, provider: &str, job_ids: &[String]) -> anyhow::Result<Vec<String>> {
        self.catch_up().await?;
        let known = sqlx::query_scalar!(
            "SELECT provider_job_id FROM video_submissions WHERE provider = $1 AND provider_job_id = ANY($2)",
            provider,
            job_ids
        );
        Ok(known.fetch_all(self.pool()).await?)
    }

    /// For what may be decided only on everything that is in the log now.
    async fn catch_up(&self) -> anyhow::Result<()> {
        ensure!(self.has_caught_up(PATIENCE).await?, "{NAME} is behind the log by more than {} s", PATIENCE.as_secs());
        Ok(())
    }

    /// Waits until everything is read that is in the log now. `false` where that takes longer.
    async fn has_caught_up(&self, patience: Duration) -> Result<bool, sqlx::Error> {
        let head = sqlx::query_scalar!(r#"SELECT coalesce(max(position), 0) AS "head!" FROM events"#);
        let head = head.fetch_one(self.pool()).await?;
        let give_up_at = Instant::now() + patience;
        loop {
            let at = sqlx::query_scalar!("SELECT position FROM subscriptions WHERE name = $1", NAME);
            if at.fetch_optional(self.pool()).await?.unwrap_or(0) >= head {
                return Ok(true);
            }
            if Instant::now() >= give_up_at {
                return Ok(false);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn due_now(&self, kept_from: Option<DateTime<Utc>>) -> anyhow::Result<Vec<DueMedia>> {
        let rows = sqlx::query!(
            r#"SELECT m.video_id, s.erased_at IS NOT NULL AS "erased!"
               FROM kept_media m LEFT JOIN subjects s ON s.subject = m.account
               WHERE m.ended_at < $1 OR s.erased_at IS NOT NULL
               ORDER BY m.ended_at LIMIT $2"#,
            kept_from,
            MAX_FOUND
        );
        let rows = rows.fetch_all(self.pool()).await?.into_iter();
        Ok(rows
            .map(|row| DueMedia {
                video_id: row.video_id,
                reason: if row.erased { ErasureReason::SubjectErased } else { ErasureReason::Retention },
            })
            .collect())
    }
}

fn open(row: Row) -> anyhow::Result<OpenVideo> {
    let Row { video_id, account, status, provider, offers, .. } = row;
    let status = serde_json::from_value(status.into()).context("a status in `open_videos`")?;
    Ok(OpenVideo { video_id, account, status, provider, offers })
}

impl VideoQueue for PostgresVideoQueue {
    fn busy(&self) -> BoxFuture<'_, anyhow::Result<Vec<OpenVideo>>> {
        self.busy_now().boxed()
    }

    fn waiting<'a>(&'a self, limit: usize, full: &'a [String]) -> BoxFuture<'a, anyhow::Result<Vec<OpenVideo>>> {
        self.next(limit, full).boxed()
    }

    fn of_user<'a>(&'a self, account: &'a str, user: &'a str) -> BoxFuture<'a, anyhow::Result<Vec<String>>> {
        self.open_of(account, user).boxed()
    }

    fn overdue(&self) -> BoxFuture<'_, anyhow::Result<Vec<OpenVideo>>> {
        self.overdue_now().boxed()
    }

    fn places(&self) -> BoxFuture<'_, anyhow::Result<AllPlaces>> {
        self.places_now().boxed()
    }

    fn unanswered<'a>(&'a self, provider: &'a str) -> BoxFuture<'a, anyhow::Result<Vec<OpenVideo>>> {
        self.unanswered_by(provider).boxed()
    }

    fn known<'a>(&'a self, provider: &'a str, job_ids: &'a [String]) -> BoxFuture<'a, anyhow::Result<Vec<String>>> {
        self.known_of(provider, job_ids).boxed()
    }

    fn find<'a>(&'a self, provider: &'a str, job_id: &'a str) -> BoxFuture<'a, anyhow::Result<Option<String>>> {
        async move {
            let found = sqlx::query_scalar!(
                "SELECT video_id FROM video_submissions WHERE provider = $1 AND provider_job_id = $2",
                provider,
                job_id
            );
            Ok(found.fetch_optional(self.pool()).await?)
        }
        .boxed()
    }

    fn nudge<'a>(&'a self, video_id: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
        async move {
            let nudge = sqlx::query!(
                "INSERT INTO video_nudges VALUES ($1) ON CONFLICT ON CONSTRAINT video_nudges_video_id DO NOTHING",
                video_id
            );
            nudge.execute(self.pool()).await?;
            Ok(())
        }
        .boxed()
    }

    fn nudged(&self) -> BoxFuture<'_, anyhow::Result<Vec<String>>> {
        async move {
            let nudged = sqlx::query_scalar!("DELETE FROM video_nudges RETURNING video_id");
            Ok(nudged.fetch_all(self.pool()).await?)
        }
        .boxed()
    }
}

impl MediaHolders for PostgresVideoQueue {
    fn due(&self, kept_from: Option<DateTime<Utc>>) -> BoxFuture<'_, anyhow::Result<Vec<DueMedia>>> {
        self.due_now(kept_from).boxed()
    }

    fn leftovers(&self, ended_before: DateTime<Utc>) -> BoxFuture<'_, anyhow::Result<Vec<String>>> {
        async move {
            let left = sqlx::query_scalar!(
                "SELECT video_id FROM media_leftovers WHERE ended_at < $1 ORDER BY ended_at LIMIT $2",
                ended_before,
                MAX_FOUND
            );
            Ok(left.fetch_all(self.pool()).await?)
        }
        .boxed()
    }

    fn forget_leftovers<'a>(&'a self, video_id: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
        async move {
            let forget = sqlx::query!("DELETE FROM media_leftovers WHERE video_id = $1", video_id);
            forget.execute(self.pool()).await?;
            Ok(())
        }
        .boxed()
    }
}
