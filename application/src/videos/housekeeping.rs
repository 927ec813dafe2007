//! Media that is deleted: the files go first, then the log says so, so that what it says is true. Records stay.

use std::time::Duration;

use aihub_domain::video::{VideoError, command::VideoCommand, event::ErasureReason};
use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use thiserror::Error;

use super::{
    Videos,
    jobs::{ChangeError, DRIVER, Known},
    rendering::files_of,
};
use crate::ports::media_store::MediaError;

/// What the clocks of nodes differ by, and what a store may still be doing for somebody who gave up.
const SLACK: Duration = Duration::from_mins(1);

/// Media whose time is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueMedia {
    pub video_id: String,
    pub reason: ErasureReason,
}

/// Where such media is found. What it says may be behind the log.
pub trait MediaHolders: Send + Sync {
    /// Some of it: that of jobs which ended before `kept_from`, and that of subjects whose content was erased.
    fn due(&self, kept_from: Option<DateTime<Utc>>) -> BoxFuture<'_, anyhow::Result<Vec<DueMedia>>>;

    /// Some of the jobs that ended before `ended_before` while their files were fetched, so that there may be some.
    fn leftovers(&self, ended_before: DateTime<Utc>) -> BoxFuture<'_, anyhow::Result<Vec<String>>>;

    /// There are none any more.
    fn forget_leftovers<'a>(&'a self, video_id: &'a str) -> BoxFuture<'a, anyhow::Result<()>>;
}

#[derive(Debug, Error)]
pub enum EraseError {
    #[error(transparent)]
    Job(#[from] ChangeError),
    #[error(transparent)]
    Media(#[from] MediaError),
}

impl From<VideoError> for EraseError {
    fn from(error: VideoError) -> Self {
        Self::Job(error.into())
    }
}

impl Videos {
    /// Deletes the files of a job that has ended. One without files, or without them any more, stays as it is.
    pub async fn erase_media(&self, video_id: &str, reason: ErasureReason, actor: &str) -> Result<Known, EraseError> {
        let mut known = self.jobs.load(video_id).await.map_err(ChangeError::from)?.ok_or(ChangeError::Unknown)?;
        let erase = VideoCommand::EraseMedia { reason, actor: actor.to_owned(), erased_at: self.jobs.clock.now() };
        if known.job.decide(erase.clone())?.is_empty() {
            return Ok(known);
        }
        self.delete_files(video_id).await?;
        self.jobs.change(&mut known, erase, actor).await?;
        Ok(known)
    }

    /// Whatever there is of them.
    pub(super) async fn delete_files(&self, video_id: &str) -> Result<(), MediaError> {
        for key in files_of(video_id) {
            self.media.delete(&key).await?;
        }
        Ok(())
    }

    /// Deletes what is due. Returns of how many jobs.
    pub async fn erase_due_media(
        &self,
        holders: &dyn MediaHolders,
        kept_from: Option<DateTime<Utc>>,
    ) -> anyhow::Result<usize> {
        let mut erased = 0;
        for DueMedia { video_id, reason } in holders.due(kept_from).await? {
            match self.erase_media(&video_id, reason, DRIVER).await {
                Ok(_) => erased += 1,
                // One that cannot be deleted does not keep the others from it.
                Err(error) => {
                    tracing::error!(video.id = %video_id, error.message = %error, "media cannot be deleted");
                }
            }
        }
        Ok(erased)
    }

    /// Deletes what is left of jobs that ended while their files were fetched: who stored one and finds the job ended deletes
    /// it, but may have died before. Returns of how many jobs, whether there was anything or not.
    pub async fn delete_leftovers(
        &self,
        holders: &dyn MediaHolders,
        ended_before: DateTime<Utc>,
    ) -> anyhow::Result<usize> {
        let mut deleted = 0;
        for video_id in holders.leftovers(ended_before).await? {
            let done = async {
                self.delete_files(&video_id).await?;
                holders.forget_leftovers(&video_id).await
            };
            match done.await {
                Ok(()) => deleted += 1,
                Err(error) => {
                    tracing::error!(video.id = %video_id, error.message = format!("{error:#}"), "files that are left cannot be deleted");
                }
            }
        }
        Ok(deleted)
    }

    /// Of jobs that ended before that, nobody stores anything any more: whoever fetches one has a deadline.
    pub fn nothing_comes_before(&self) -> DateTime<Utc> {
        self.jobs.clock.now() - (self.settings.deadline + self.settings.storing + SLACK)
    }
}
