//! What happened to a video job. What the client wrote is sealed; everything else is in clear.

use chrono::{DateTime, Utc};
use cqrs_es::DomainEvent;
use serde::{Deserialize, Serialize};

use super::{
    format::{AspectRatio, Resolution},
    price::VideoPrice,
};
use crate::{
    content::ContentRef,
    money::{Microcredits, PicoUsd},
    price::Charge,
};

/// Each end says again whose the job was and what it asked for, so that no reader has to keep that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VideoEvent {
    VideoRequested(Box<VideoRequest>),
    /// A provider is about to be called. What follows tells whether it has taken the job; while nothing does, it may have.
    SubmissionStarted {
        /// Counts from 1.
        submission: u32,
        provider: String,
        /// As the provider names it.
        model: String,
        node: String,
        /// When the job will be ended if it is not done.
        deadline_at: DateTime<Utc>,
        started_at: DateTime<Utc>,
    },
    /// The provider has not taken it. It waits again.
    SubmissionRefused {
        submission: u32,
        provider: String,
        failure: String,
        status: Option<u16>,
        refused_at: DateTime<Utc>,
    },
    /// Whether the provider has taken it cannot be known: it is left to an operator.
    SubmissionDoubted {
        submission: u32,
        provider: String,
        doubt: Doubt,
        doubted_at: DateTime<Utc>,
    },
    /// An operator says that it has not. It waits again.
    SubmissionDenied {
        submission: u32,
        actor: String,
        denied_at: DateTime<Utc>,
    },
    VideoSubmitted {
        submission: u32,
        provider: String,
        provider_job_id: String,
        /// The operator who found it; `None` where the provider said so itself.
        actor: Option<String>,
        submitted_at: DateTime<Utc>,
    },
    VideoProgressed {
        percent: u8,
        progressed_at: DateTime<Utc>,
    },
    VideoStored {
        media: Box<Media>,
        stored_at: DateTime<Utc>,
    },
    VideoCompleted {
        asked: Asked,
        outcome: Box<Outcome>,
        completed_at: DateTime<Utc>,
    },
    /// Nothing is charged, as for the next two. `code` is a provider's or one of ours.
    VideoFailed {
        asked: Asked,
        code: String,
        failed_at: DateTime<Utc>,
    },
    VideoCancelled {
        asked: Asked,
        actor: String,
        cancelled_at: DateTime<Utc>,
    },
    VideoExpired {
        asked: Asked,
        reason: String,
        expired_at: DateTime<Utc>,
    },
    MediaErased {
        reason: ErasureReason,
        actor: String,
        erased_at: DateTime<Utc>,
    },
}

/// Everything that was asked for and agreed on; it never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VideoRequest {
    pub account: String,
    pub user: String,
    /// As the client asked: `auto` or a provider's name.
    pub provider: String,
    pub model: Option<String>,
    pub seconds: u32,
    pub resolution: Resolution,
    pub aspect_ratio: AspectRatio,
    pub priority: Priority,
    /// Who can make it, best first; never empty.
    pub offers: Vec<Offer>,
    /// The dearest offer's price.
    pub reserved_microcredits: Microcredits,
    /// If nobody has taken it by then, it is ended.
    pub queued_until: DateTime<Utc>,
    /// The client's own name for what it belongs to.
    pub session_id: Option<String>,
    /// The workflow that it is a part of.
    pub workflow_id: Option<String>,
    /// The client wants to be told over HTTP. Where is in the content.
    pub has_webhook: bool,
    /// `{"prompt", "style", "webhookUrl"}`
    pub content: ContentRef,
    pub requested_at: DateTime<Utc>,
}

/// One way to make it, at a price that is frozen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    pub provider: String,
    /// As clients name it.
    pub model: String,
    /// As the provider names it.
    pub upstream_model: String,
    /// The length that it makes, where that is not the one that was asked for: the next one that it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u32>,
    pub price: VideoPrice,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Before all others.
    High,
    #[default]
    Standard,
    Low,
}

/// Why it cannot be known whether a provider has a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doubt {
    /// The provider has neither idempotency tokens nor a list.
    NoLookup,
    /// Several of the provider's jobs may be it.
    Ambiguous,
    /// The provider could not be asked until the deadline.
    Unanswered,
    /// The provider has taken it, and gave it no name that it can be asked for by.
    Unnamed,
    /// The provider gave it the name of another job of ours.
    NamedTwice,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErasureReason {
    /// The client said so.
    Deleted,
    /// It was kept for as long as the policy says.
    Retention,
    /// All content of its subject was erased.
    SubjectErased,
}

/// The files of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Media {
    pub video: StoredMedia,
    pub thumbnail: Option<StoredMedia>,
}

/// A file as it was read, not as anybody said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredMedia {
    /// Under which it is kept.
    pub key: String,
    pub content_type: String,
    pub bytes: u64,
    /// In hexadecimal.
    pub sha256: String,
    /// In pixels.
    pub width: u32,
    pub height: u32,
    /// Of a video, as the next one.
    pub duration_ms: Option<u64>,
    /// As its file names it: `avc1`, `hvc1`, `av01`, …
    pub codec: Option<String>,
}

/// Whose a job is, and what it asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    pub account: String,
    pub user: String,
    /// Who was asked last; as the client asked where nobody was.
    pub provider: String,
    /// As clients name it; of the first offer where nobody was asked.
    pub model: String,
    /// That are made for it.
    pub seconds: u32,
    pub resolution: Resolution,
}

/// What came, and what that cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub provider: String,
    /// As clients name it.
    pub model: String,
    /// What is charged for.
    pub seconds: u32,
    pub charge: Charge,
}

impl VideoRequest {
    /// With the offer that was tried, if one was.
    pub fn asked(&self, tried: Option<&Offer>) -> Asked {
        let model = tried.or(self.offers.first()).map(|offer| offer.model.clone());
        Asked {
            account: self.account.clone(),
            user: self.user.clone(),
            provider: tried.map_or(&self.provider, |offer| &offer.provider).clone(),
            model: model.or_else(|| self.model.clone()).unwrap_or_default(),
            seconds: tried.or(self.offers.first()).map_or(self.seconds, |offer| offer.seconds(self.seconds)),
            resolution: self.resolution,
        }
    }
}

impl Offer {
    /// How long it makes what was asked for with this length.
    pub fn seconds(&self, asked: u32) -> u32 {
        self.seconds.unwrap_or(asked)
    }

    /// What it costs; `None` where it has no price for that.
    pub fn cost(&self, resolution: Resolution, asked_seconds: u32) -> Option<PicoUsd> {
        self.price.cost(resolution, self.seconds(asked_seconds))
    }
}

impl Priority {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Standard => "standard",
            Self::Low => "low",
        }
    }
}

impl VideoEvent {
    /// When it happened.
    pub fn at(&self) -> DateTime<Utc> {
        match self {
            Self::VideoRequested(request) => request.requested_at,
            Self::SubmissionStarted { started_at: at, .. }
            | Self::SubmissionRefused { refused_at: at, .. }
            | Self::SubmissionDoubted { doubted_at: at, .. }
            | Self::SubmissionDenied { denied_at: at, .. }
            | Self::VideoSubmitted { submitted_at: at, .. }
            | Self::VideoProgressed { progressed_at: at, .. }
            | Self::VideoStored { stored_at: at, .. }
            | Self::VideoCompleted { completed_at: at, .. }
            | Self::VideoFailed { failed_at: at, .. }
            | Self::VideoCancelled { cancelled_at: at, .. }
            | Self::VideoExpired { expired_at: at, .. }
            | Self::MediaErased { erased_at: at, .. } => *at,
        }
    }

    /// Whose the job was that this ends, and when; `None` on everything else.
    pub fn ended(&self) -> Option<(&Asked, DateTime<Utc>)> {
        match self {
            Self::VideoCompleted { asked, completed_at: at, .. }
            | Self::VideoFailed { asked, failed_at: at, .. }
            | Self::VideoCancelled { asked, cancelled_at: at, .. }
            | Self::VideoExpired { asked, expired_at: at, .. } => Some((asked, *at)),
            _ => None,
        }
    }
}

impl DomainEvent for VideoEvent {
    fn event_type(&self) -> String {
        match self {
            Self::VideoRequested(_) => "VideoRequested",
            Self::SubmissionStarted { .. } => "SubmissionStarted",
            Self::SubmissionRefused { .. } => "SubmissionRefused",
            Self::SubmissionDoubted { .. } => "SubmissionDoubted",
            Self::SubmissionDenied { .. } => "SubmissionDenied",
            Self::VideoSubmitted { .. } => "VideoSubmitted",
            Self::VideoProgressed { .. } => "VideoProgressed",
            Self::VideoStored { .. } => "VideoStored",
            Self::VideoCompleted { .. } => "VideoCompleted",
            Self::VideoFailed { .. } => "VideoFailed",
            Self::VideoCancelled { .. } => "VideoCancelled",
            Self::VideoExpired { .. } => "VideoExpired",
            Self::MediaErased { .. } => "MediaErased",
        }
        .to_owned()
    }

    fn event_version(&self) -> String {
        "1.0".to_owned()
    }
}
