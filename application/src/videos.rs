//! Video jobs, from the request to the file, with the money on both ends.
//!
//! | module | holds |
//! |---|---|
//! | [`new_video`] | what a client asks for |
//! | [`catalog`] | who can make it, at which price |
//! | [`opening`] | the hold and the job, in one commit, before any provider hears of it |
//! | [`queue`] | the jobs that have not ended, as they are read from the log |
//! | [`places`] | where waiting jobs stand |
//! | [`driver`] | the one loop, on one node at a time, that gives waiting jobs to providers |
//! | [`jobs`] | a job's steps and its end, each decided on what the log says |
//! | [`submission`] | a job goes to a provider, once |
//! | [`recovery`] | what is done about a submission whose answer was lost |
//! | [`rendering`] | a job at its provider: watched, fetched, stored |
//! | [`housekeeping`] | media that is too old, whose content was erased, or that nobody knows of |
//!
//! Every step is an event, decided on the job as the log has it: whoever comes second, be it another node, a late answer
//! or a repeated webhook, is refused by the log, looks again, and finds nothing left to do.

pub mod catalog;
mod driver;
pub mod housekeeping;
pub mod jobs;
pub mod new_video;
mod opening;
pub mod operator;
pub mod places;
pub mod queue;
mod recovery;
mod rendering;
mod submission;

use std::{sync::Arc, time::Duration};

use aihub_domain::video::VideoStatus;
use tokio::sync::broadcast;

use crate::{
    gateway::Gateway,
    ports::{
        event_log::LoadError,
        jobs::News,
        media_store::MediaStore,
        seats::{Depth, Seats},
        vault::VaultError,
    },
};
use catalog::VideoCatalog;
use jobs::{Jobs, Known};
use new_video::VideoContent;
use places::QueuePlaces;
use queue::VideoQueue;

#[derive(Debug, Clone)]
pub struct VideoSettings {
    /// Beyond it: `QUEUE_FULL`.
    pub max_queued: Depth,
    /// A job that nobody has taken for so long is ended.
    pub max_wait: Duration,
    /// From a job's submission to its provider's being done.
    pub deadline: Duration,
    /// After the deadline, for a file that is there and does not come.
    pub storing: Duration,
    /// How long a file that is none, or is half of one, is fetched again before it is unusable.
    pub whole_within: Duration,
    /// How often a provider is asked that does not say itself.
    pub poll_every: Duration,
    /// How long after a submission whose answer was lost the provider is asked about it: whoever made it must have given
    /// up, and the provider have written it down.
    pub recover_after: Duration,
}

/// A job and its place in the queue.
#[derive(Debug, Clone)]
pub struct Placed {
    pub known: Known,
    /// From 1; there while it waits.
    pub place: Option<u64>,
}

/// Video jobs. The gateway lends its vault, its limits and its welcome.
pub struct Videos {
    pub settings: VideoSettings,
    pub jobs: Jobs,
    pub gateway: Arc<Gateway>,
    pub catalog: VideoCatalog,
    pub media: Arc<dyn MediaStore>,
    pub queue: Arc<dyn VideoQueue>,
    pub places: QueuePlaces,
    pub seats: Arc<dyn Seats>,
    /// Of videos and workflows.
    pub news: broadcast::Sender<News>,
}

impl Videos {
    /// Where the job stands, as it is now if it has been taken from the queue meanwhile. A place that cannot be looked at
    /// is left out: that the job was accepted is worth more.
    pub async fn placed(&self, mut known: Known) -> Result<Placed, LoadError> {
        while let Some(request) = known.job.request().filter(|_| known.status() == VideoStatus::Queued) {
            let place = self.places.of(&request.account, &known.video_id).await.unwrap_or_else(|error| {
                tracing::warn!(error.message = format!("{error:#}"), "places in the queue could not be looked at");
                None
            });
            let now = if place.is_none() { self.jobs.load(&known.video_id).await? } else { None };
            match now.filter(|now| now.version() != known.version()) {
                Some(now) => known = now,
                None => return Ok(Placed { known, place }),
            }
        }
        Ok(Placed { known, place: None })
    }

    /// What the client wrote.
    async fn content(&self, known: &Known) -> Result<VideoContent, VaultError> {
        let Some(request) = known.job.request() else { return Err(VaultError::Unreadable) };
        let opened = self.gateway.vault.open(&request.content).await?;
        serde_json::from_slice(&opened).map_err(|_| VaultError::Unreadable)
    }
}
