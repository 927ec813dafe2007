//! The queue of video jobs, as it is read from the log. What it says may be behind: a job itself has the last word.

use std::collections::BTreeMap;

use aihub_domain::video::VideoStatus;
use futures::future::BoxFuture;

use super::places::AllPlaces;

/// Where jobs stand in the queue, from 1.
pub type Places = BTreeMap<String, u64>;

/// A job that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenVideo {
    pub video_id: String,
    pub account: String,
    pub status: VideoStatus,
    /// Who has it, or may have it; `None` while it waits.
    pub provider: Option<String>,
    /// Who could have it, best first.
    pub offers: Vec<String>,
}

pub trait VideoQueue: Send + Sync {
    /// Those that somebody has, or may have.
    fn busy(&self) -> BoxFuture<'_, anyhow::Result<Vec<OpenVideo>>>;

    /// The next `limit` of those that wait and have not one of the `full` providers for their first choice, in the order in
    /// which they are due: account by account, so that none waits for all the jobs of another one (by how many of its
    /// account's come before it or are busy, then by whose last turn was longest ago); an account's own by priority, then
    /// oldest first.
    fn waiting<'a>(&'a self, limit: usize, full: &'a [String]) -> BoxFuture<'a, anyhow::Result<Vec<OpenVideo>>>;

    /// A user's jobs that have not ended, oldest first.
    fn of_user<'a>(&'a self, account: &'a str, user: &'a str) -> BoxFuture<'a, anyhow::Result<Vec<String>>>;

    /// Some of those that wait whose time to do so is over.
    fn overdue(&self) -> BoxFuture<'_, anyhow::Result<Vec<OpenVideo>>>;

    /// Where each job that waits stands, those in the log now included unless they take long to be read. That sorts the
    /// whole queue: ask [`QueuePlaces`](super::places::QueuePlaces) instead.
    fn places(&self) -> BoxFuture<'_, anyhow::Result<AllPlaces>>;

    /// The jobs that the provider may have under a name that we do not know, once everything that is in the log now is known:
    /// those that it is being called for, or was when the caller died, and those in doubt.
    fn unanswered<'a>(&'a self, provider: &'a str) -> BoxFuture<'a, anyhow::Result<Vec<OpenVideo>>>;

    /// Those of the provider's jobs that are known to be one of ours, once everything that is in the log now is known.
    fn known<'a>(&'a self, provider: &'a str, job_ids: &'a [String]) -> BoxFuture<'a, anyhow::Result<Vec<String>>>;

    /// Which of our jobs a provider's job is.
    fn find<'a>(&'a self, provider: &'a str, job_id: &'a str) -> BoxFuture<'a, anyhow::Result<Option<String>>>;

    /// Has whoever drives the job look at it soon, on whichever node.
    fn nudge<'a>(&'a self, video_id: &'a str) -> BoxFuture<'a, anyhow::Result<()>>;

    /// For whoever drives the jobs: those that somebody wanted looked at since this was last asked.
    fn nudged(&self) -> BoxFuture<'_, anyhow::Result<Vec<String>>>;
}
