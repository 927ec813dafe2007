//! What can be asked of a video job. Times and ids come in with the command.

use chrono::{DateTime, Utc};

use super::event::{Doubt, ErasureReason, Media, VideoRequest};
use crate::money::MicrocreditsPerUsd;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VideoCommand {
    RequestVideo(Box<VideoRequest>),
    /// Before the provider is called.
    StartSubmission {
        /// Of the offers, by its index.
        offer: usize,
        node: String,
        deadline_at: DateTime<Utc>,
        started_at: DateTime<Utc>,
    },
    /// The provider certainly has no job of it.
    RefuseSubmission {
        submission: u32,
        failure: String,
        status: Option<u16>,
        refused_at: DateTime<Utc>,
    },
    /// Whether the provider has a job of it cannot be known.
    DoubtSubmission {
        submission: u32,
        doubt: Doubt,
        doubted_at: DateTime<Utc>,
    },
    /// An operator says that the provider has no job of it.
    DenySubmission {
        submission: u32,
        actor: String,
        denied_at: DateTime<Utc>,
    },
    /// The provider has a job of it. `actor`: an operator who found it.
    RecordSubmission {
        submission: u32,
        provider_job_id: String,
        actor: Option<String>,
        submitted_at: DateTime<Utc>,
    },
    /// What goes back, or has been said, does nothing.
    RecordProgress {
        percent: u8,
        progressed_at: DateTime<Utc>,
    },
    StoreVideo {
        media: Box<Media>,
        stored_at: DateTime<Utc>,
    },
    /// Charges for what came.
    CompleteVideo {
        rate: MicrocreditsPerUsd,
        completed_at: DateTime<Utc>,
    },
    FailVideo {
        code: String,
        failed_at: DateTime<Utc>,
    },
    CancelVideo {
        actor: String,
        cancelled_at: DateTime<Utc>,
    },
    ExpireVideo {
        reason: String,
        expired_at: DateTime<Utc>,
    },
    /// Does nothing where there is none, or no more.
    EraseMedia {
        reason: ErasureReason,
        actor: String,
        erased_at: DateTime<Utc>,
    },
}
