//! Videos by whose they are, and those whose media have to go.

use std::{fmt, str::FromStr};

use aihub_domain::video::{VideoStatus, event::ErasureReason};
use chrono::{DateTime, Utc};
use sqlx::PgPool;
use thiserror::Error;

use super::{NAME, VideoRow};
use crate::{
    key_text::key_text,
    watermark::{AsOf, Snapshot},
};

/// Which videos. What is `None` does not matter.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub account: Option<String>,
    pub user: Option<String>,
    /// Any of these.
    pub statuses: Option<Vec<VideoStatus>>,
    pub session_id: Option<String>,
    pub workflow_id: Option<String>,
    /// Requested at this time or later.
    pub from: Option<DateTime<Utc>>,
    /// Requested before this time.
    pub to: Option<DateTime<Utc>>,
    /// Where the page before ended.
    pub before: Option<Cursor>,
    /// The most rows.
    pub limit: u32,
}

/// Of the last video of a page. What is requested meanwhile comes in front of all pages and moves none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    requested_at: DateTime<Utc>,
    video_id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("is not a cursor that a page ended with")]
pub struct InvalidCursor;

/// Media that are kept and should not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaDue {
    pub video_id: String,
    pub account: String,
    pub reason: ErasureReason,
    pub media_key: String,
    pub thumbnail_key: Option<String>,
}

/// Newest first. Where there are as many as were asked for, [`VideoRow::cursor`] of the last one leads on.
pub async fn list(pool: &PgPool, filter: &Filter) -> Result<AsOf<Vec<VideoRow>>, sqlx::Error> {
    let mut snapshot = Snapshot::of(pool, NAME).await?;
    let statuses: Option<Vec<&str>> =
        filter.statuses.as_ref().map(|statuses| statuses.iter().map(|status| status.as_str()).collect());
    let rows = sqlx::query_as!(
        VideoRow,
        "SELECT * FROM video_status_v1
         WHERE ($1::text IS NULL OR account = $1) AND ($2::text IS NULL OR user_id = $2)
             AND ($3::text[] IS NULL OR status = ANY($3)) AND ($4::text IS NULL OR session_id = $4)
             AND ($5::text IS NULL OR workflow_id = $5) AND ($6::timestamptz IS NULL OR requested_at >= $6)
             AND ($7::timestamptz IS NULL OR requested_at < $7)
             AND ($8::timestamptz IS NULL OR (requested_at, video_id) < ($8, $9))
         ORDER BY requested_at DESC, video_id DESC LIMIT $10",
        filter.account.as_deref().map(key_text),
        filter.user.as_deref().map(key_text),
        statuses.as_deref() as Option<&[&str]>,
        filter.session_id.as_deref().map(key_text),
        filter.workflow_id.as_deref().map(key_text),
        filter.from,
        filter.to,
        filter.before.as_ref().map(|before| before.requested_at),
        filter.before.as_ref().map(|before| before.video_id.as_str()),
        i64::from(filter.limit),
    )
    .fetch_all(snapshot.connection())
    .await?;
    snapshot.close(rows).await
}

/// The media of completed videos that ended before `ended_before`, and of all whose account's content was erased; the
/// oldest first, at most `limit`. The keys of erased accounts are in the same database. `ended_before` is `None` where
/// media are kept for ever; what is due for both reasons is due for its age.
pub async fn media_due(
    pool: &PgPool,
    ended_before: Option<DateTime<Utc>>,
    limit: u32,
) -> Result<Vec<MediaDue>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT video_id AS "video_id!", account AS "account!", media_key AS "media_key!", thumbnail_key,
                  is_of_erased AS "is_of_erased!"
           FROM ((SELECT video_id, account, media_key, thumbnail_key, ended_at, false AS is_of_erased
                  FROM video_status_v1
                  WHERE media_key IS NOT NULL AND media_erased_at IS NULL AND ended_at < $1
                  ORDER BY ended_at, video_id LIMIT $2)
                 UNION ALL
                 (SELECT video_id, account, media_key, thumbnail_key, ended_at, true
                  FROM subjects s JOIN video_status_v1 v ON v.account = s.subject
                  WHERE s.erased_at IS NOT NULL AND media_key IS NOT NULL AND media_erased_at IS NULL
                      AND ended_at IS NOT NULL AND (ended_at < $1) IS NOT TRUE
                  ORDER BY ended_at, video_id LIMIT $2)) due
           ORDER BY ended_at, video_id LIMIT $2"#,
        ended_before,
        i64::from(limit),
    )
    .fetch_all(pool)
    .await?;
    let due = rows.into_iter().map(|row| MediaDue {
        video_id: row.video_id,
        account: row.account,
        reason: if row.is_of_erased { ErasureReason::SubjectErased } else { ErasureReason::Retention },
        media_key: row.media_key,
        thumbnail_key: row.thumbnail_key,
    });
    Ok(due.collect())
}

impl VideoRow {
    pub fn cursor(&self) -> Cursor {
        Cursor { requested_at: self.requested_at, video_id: self.video_id.clone() }
    }
}

/// `1795370400000000_0199…`: microseconds since 1970, as exact as the database is.
impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.requested_at.timestamp_micros(), self.video_id)
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let (micros, video_id) = text.split_once('_').ok_or(InvalidCursor)?;
        let requested_at = micros.parse().ok().and_then(DateTime::from_timestamp_micros).ok_or(InvalidCursor)?;
        // No text of the database has one.
        if video_id.contains('\0') {
            return Err(InvalidCursor);
        }
        Ok(Self { requested_at, video_id: video_id.to_owned() })
    }
}
