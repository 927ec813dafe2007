//! What can be turned about videos alone.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest video that can be asked for, in seconds.
pub const MAX_VIDEO_SECONDS: u32 = 60;

const DEFAULT_TIME: Duration = Duration::from_millis(1_100);

/// One layer, as [`Knobs`](super::Knobs). They apply to the call that creates a video, and then to that video.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VideoKnobs {
    /// From the creation to the end, be that success or failure.
    pub time: Option<Duration>,
    /// The file is so much shorter than was asked for, but has at least a second. Its status does not tell.
    pub short_s: Option<u32>,
    pub idempotency: Option<Idempotency>,
    pub content: Option<Content>,
    /// How fast the content comes; `None` sends as fast as the socket takes it.
    pub content_bytes_per_second: Option<u32>,
    pub webhook: Option<WebhookSending>,
    pub prompt: Option<PromptTelling>,
}

/// Whether the header `Idempotency-Key` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Idempotency {
    On,
    /// Each call creates a video.
    Off,
}

/// What is delivered as the video.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    #[default]
    Normal,
    /// Something that is no MP4.
    Garbage,
    /// The first half of the file, as if that were all.
    Truncated,
    /// The length of the whole file, half of it, and the connection is cut.
    Torn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookSending {
    Once,
    /// With the same `webhook-id`.
    Twice,
}

/// Whether a video is told of with its prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptTelling {
    Shown,
    /// As some servers of this API do.
    Hidden,
}

impl VideoKnobs {
    pub(super) fn over(self, below: Self) -> Self {
        Self {
            time: self.time.or(below.time),
            short_s: self.short_s.or(below.short_s),
            idempotency: self.idempotency.or(below.idempotency),
            content: self.content.or(below.content),
            content_bytes_per_second: self.content_bytes_per_second.or(below.content_bytes_per_second),
            webhook: self.webhook.or(below.webhook),
            prompt: self.prompt.or(below.prompt),
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.short_s.is_some_and(|short| short >= MAX_VIDEO_SECONDS) {
            return Err(format!("a video is short by less than {MAX_VIDEO_SECONDS} s"));
        }
        if self.content_bytes_per_second == Some(0) {
            return Err("content comes with at least one byte a second".to_owned());
        }
        Ok(())
    }

    pub(in super::super) fn time(&self) -> Duration {
        self.time.unwrap_or(DEFAULT_TIME)
    }
}
