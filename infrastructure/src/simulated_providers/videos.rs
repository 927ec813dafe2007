//! The videos that were created, what became of them, and what a knob has in store for them. Their state follows from the
//! clock alone: nothing runs for a video but the sending of its [webhook](super::webhooks).

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    SimulatedProvider,
    films::{Film, Size},
    knobs::{Knobs, Trouble, video::VideoKnobs},
    models::Model,
};

pub(super) mod content;
pub(super) mod store;

/// A video waits so long, if its whole time is no shorter, before it is in progress.
const QUEUED: Duration = Duration::from_millis(100);
/// For so long after its end, content can be fetched.
const EXPIRES_AFTER: Duration = Duration::from_hours(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VideoStatus {
    Queued,
    InProgress,
    Completed,
    Failed,
}

/// A video as the simulator knows it, for audits. The JSON of `GET /admin/videos`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedVideo {
    pub id: String,
    /// The call that created it, as in [`ServedCall`](super::served::ServedCall).
    pub call: u64,
    pub created_at: DateTime<Utc>,
    /// The header `Idempotency-Key` of that call.
    pub idempotency_key: Option<String>,
    /// The header `x-client-request-id` of that call.
    pub client_request_id: Option<String>,
    pub prompt: String,
    /// Without knobs.
    pub model: String,
    /// As asked for; a `short` knob makes the file shorter.
    pub seconds: u32,
    /// `1280x720`.
    pub size: String,
    pub status: VideoStatus,
    pub deleted: bool,
    /// How many calls asked for this video: 1, and one for each repeat of its idempotency key.
    pub submissions: u32,
    /// How many times its video was sent or begun to be sent. Thumbnails do not count.
    pub downloads: u32,
}

/// What a call asks for. A repeat of an idempotency key asks for the same.
#[derive(PartialEq)]
pub(super) struct Order {
    pub prompt: String,
    pub model: &'static Model,
    /// Those in the model's name.
    pub knobs: Knobs,
    pub seconds: u32,
    pub size: Size,
}

pub(super) struct Video {
    pub call: u64,
    pub order: Order,
    pub created_at: DateTime<Utc>,
    created: Instant,
    idempotency_key: Option<Box<str>>,
    client_request_id: Option<Box<str>>,
    /// All that apply to it, those of the rules as well.
    pub knobs: VideoKnobs,
    pub trouble: Option<Trouble>,
    submissions: AtomicU32,
    downloads: AtomicU32,
    deleted: AtomicBool,
}

impl Video {
    /// What its provider calls it.
    pub fn id(&self) -> String {
        match self.order.model.provider {
            SimulatedProvider::Gemini => format!("models/{}/operations/sim{:012x}", self.order.model.name, self.call),
            _ => format!("video_sim{:045x}", self.call),
        }
    }

    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Relaxed)
    }

    pub fn count_download(&self) {
        self.downloads.fetch_add(1, Relaxed);
    }

    /// How far it is now, and its progress in percent.
    pub fn standing(&self) -> (VideoStatus, u8) {
        let (time, elapsed) = (self.knobs.time(), self.created.elapsed());
        let queued = QUEUED.min(time);
        if elapsed < queued {
            return (VideoStatus::Queued, 0);
        }
        let in_progress = |time: Duration| time.saturating_sub(queued).as_millis();
        let percent = in_progress(elapsed) * 100 / in_progress(time).max(1);
        let progress = u8::try_from(percent).unwrap_or(u8::MAX).min(99);
        match self.trouble {
            Some(Trouble::HangLate) => (VideoStatus::InProgress, progress),
            _ if elapsed < time => (VideoStatus::InProgress, progress),
            Some(Trouble::FailLate) => (VideoStatus::Failed, 99),
            _ => (VideoStatus::Completed, 100),
        }
    }

    /// When it ends, or has ended; `None`: never.
    pub fn ends(&self) -> Option<Instant> {
        (self.trouble != Some(Trouble::HangLate)).then(|| self.created + self.knobs.time())
    }

    /// Until it ends, the longest of all where it never does; `None` once it has.
    pub fn time_left(&self) -> Option<Duration> {
        let Some(ends) = self.ends() else { return Some(Duration::MAX) };
        Some(ends.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    /// How it ends.
    pub fn end(&self) -> VideoStatus {
        if self.trouble == Some(Trouble::FailLate) { VideoStatus::Failed } else { VideoStatus::Completed }
    }

    pub fn ended_at(&self) -> DateTime<Utc> {
        self.created_at + self.knobs.time()
    }

    pub fn expires_at(&self) -> DateTime<Utc> {
        self.ended_at() + EXPIRES_AFTER
    }

    pub fn has_expired(&self) -> bool {
        self.created.elapsed() >= self.knobs.time() + EXPIRES_AFTER
    }

    pub fn film(&self) -> Film {
        let seconds = self.order.seconds.saturating_sub(self.knobs.short_s.unwrap_or_default()).max(1);
        Film { size: self.order.size, seconds }
    }

    fn read(&self) -> CreatedVideo {
        CreatedVideo {
            id: self.id(),
            call: self.call,
            created_at: self.created_at,
            idempotency_key: self.idempotency_key.as_deref().map(str::to_owned),
            client_request_id: self.client_request_id.as_deref().map(str::to_owned),
            prompt: self.order.prompt.clone(),
            model: self.order.model.name.to_owned(),
            seconds: self.order.seconds,
            size: self.order.size.to_string(),
            status: self.standing().0,
            deleted: self.is_deleted(),
            submissions: self.submissions.load(Relaxed),
            downloads: self.downloads.load(Relaxed),
        }
    }
}
