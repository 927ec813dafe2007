//! What is done about submissions whose answer was lost: whoever made them died, or the connection did.
//!
//! The provider is asked what it has. A job that is not there waits again, for a submission of its own. Jobs that asked for
//! the same cannot be told apart there, and need not be: what one of them gets is as good for another. So they are looked for
//! together, all that the log has. With as many of the provider's jobs as there are of ours, or fewer, each finds its place,
//! and the rest of ours was never taken. With more, some are somebody else's, and an operator decides.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use aihub_domain::video::{
    VideoStatus,
    command::VideoCommand,
    event::Doubt,
    format::{AspectRatio, Resolution},
};
use anyhow::anyhow;
use chrono::{DateTime, Utc};

use super::{
    catalog::VideoBackend,
    driver::{Driver, InHand},
    jobs::{ChangeError, DRIVER, Known},
    submission::{NEVER_ARRIVED, call},
};
use crate::ports::video_provider::{Recovery, VideoCall};

/// What a provider's jobs are told apart by.
type Likeness = (String, u32, Resolution, AspectRatio, Arc<str>, Option<Arc<str>>);

/// Submissions that cannot be told apart.
type Alike = Vec<(Known, VideoCall)>;

impl Driver {
    pub(super) async fn recover(self: &Arc<Self>, provider: &str, hands: Vec<InHand>) {
        let recovered = match self.videos.catalog.backends.get(provider) {
            Some(backend) => self.try_recover(backend, &hands).await,
            None => Err(anyhow!("the provider is not configured any more")),
        };
        let Err(error) = recovered else { return };
        tracing::warn!(
            provider.name = provider,
            error.message = format!("{error:#}"),
            "lost submissions are looked for later",
        );
        for hand in &hands {
            self.pause(&hand.video_id);
            if let Err(error) = self.doubt_if_late(&hand.video_id).await {
                tracing::warn!(video.id = %hand.video_id, error.message = format!("{error:#}"), "a video is left as it is");
            }
        }
    }

    /// A lost submission that could not be looked for until its deadline is an operator's.
    async fn doubt_if_late(&self, video_id: &str) -> anyhow::Result<()> {
        let jobs = &self.videos.jobs;
        let Some(mut known) = jobs.load(video_id).await? else { return Ok(()) };
        let is_late = known.job.submission().is_some_and(|last| last.deadline_at < jobs.clock.now());
        if known.status() == VideoStatus::Submitting && is_late {
            self.doubt(&mut known, Doubt::Unanswered).await?;
        }
        Ok(())
    }

    async fn try_recover(self: &Arc<Self>, backend: &VideoBackend, hands: &[InHand]) -> anyhow::Result<()> {
        // Nobody on this node submits meanwhile.
        let lock = self.submitting(&backend.name);
        let _alone = lock.write().await;
        let lost = self.videos.queue.submitting(&backend.name).await?;
        let mut groups: BTreeMap<Likeness, Alike> = BTreeMap::new();
        for video_id in &lost {
            let Some(mut known) = self.videos.jobs.load(video_id).await? else { continue };
            if known.status() != VideoStatus::Submitting {
                continue;
            }
            let content = match self.content(&mut known).await {
                Ok(Some(content)) => content,
                Ok(None) => continue,
                // One that cannot be read does not keep the others waiting.
                Err(error) => {
                    tracing::error!(video.id = %known.video_id, error.message = format!("{error:#}"), "a video is left for later");
                    self.pause(&known.video_id);
                    continue;
                }
            };
            let call = call(&known, content)?;
            let likeness = (
                call.model.clone(),
                call.seconds,
                call.resolution,
                call.aspect_ratio,
                call.prompt.clone(),
                call.style.clone(),
            );
            groups.entry(likeness).or_default().push((known, call));
        }
        let in_hand: BTreeSet<&str> = hands.iter().map(|hand| hand.video_id.as_str()).collect();
        for alike in groups.into_values() {
            let here = alike.iter().filter(|(known, _)| in_hand.contains(known.video_id.as_str())).count();
            if here == alike.len() {
                self.recover_alike(backend, alike, &lost).await?;
            } else if here > 0 {
                // What the others may have would be taken for what these have.
                self.pause_together(&ids(&alike), Duration::ZERO);
            }
        }
        Ok(())
    }

    /// `all` are those of ours that may be among what the provider has, alike or not.
    async fn recover_alike(&self, backend: &VideoBackend, mut alike: Alike, all: &[String]) -> anyhow::Result<()> {
        let started: Vec<DateTime<Utc>> =
            alike.iter().filter_map(|(known, _)| known.job.submission().map(|last| last.started_at)).collect();
        let (Some(since), Some(last)) = (started.iter().min(), started.iter().max()) else { return Ok(()) };
        if let Ok(wait) = (*last + self.videos.settings.recover_after - self.videos.jobs.clock.now()).to_std() {
            self.pause_together(&ids(&alike), wait);
            return Ok(());
        }
        if backend.provider.recovery() == Recovery::None {
            return self.doubt_all(&mut alike, Doubt::NoLookup).await;
        }
        let Some((_, call)) = alike.first() else { return Ok(()) };
        let mut found = backend.provider.find(call, *since).await?;
        let ours = self.videos.queue.known(&backend.name, &found).await?;
        found.retain(|job_id| !ours.contains(job_id));
        // One that another node has begun to submit since: what was found may be its.
        let is_new = |video_id: &String| !all.contains(video_id);
        if self.videos.queue.submitting(&backend.name).await?.iter().any(is_new) {
            self.pause_together(&ids(&alike), Duration::ZERO);
            return Ok(());
        }
        tracing::info!(
            provider.name = %backend.name, submissions.lost = alike.len(), submissions.found = found.len(),
            "lost submissions were looked for",
        );
        if found.len() > alike.len() {
            return self.doubt_all(&mut alike, Doubt::Ambiguous).await;
        }
        let mut found = found.into_iter();
        for (known, _) in &mut alike {
            let Some(number) = known.job.submission().map(|last| last.number) else { continue };
            match found.next() {
                Some(provider_job_id) => self.taken(known, backend, number, provider_job_id).await?,
                None => self.never_arrived(known, number).await?,
            }
        }
        Ok(())
    }

    async fn never_arrived(&self, known: &mut Known, submission: u32) -> anyhow::Result<()> {
        let jobs = &self.videos.jobs;
        let (failure, refused_at) = (NEVER_ARRIVED.to_owned(), jobs.clock.now());
        let refuse = VideoCommand::RefuseSubmission { submission, failure, status: None, refused_at };
        match jobs.change(known, refuse, DRIVER).await {
            Ok(_) | Err(ChangeError::Refused(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn doubt_all(&self, alike: &mut Alike, doubt: Doubt) -> anyhow::Result<()> {
        for (known, _) in alike {
            self.doubt(known, doubt).await?;
        }
        Ok(())
    }
}

fn ids(alike: &Alike) -> Vec<&str> {
    alike.iter().map(|(known, _)| known.video_id.as_str()).collect()
}
