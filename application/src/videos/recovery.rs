//! What is done about submissions whose answer was lost: whoever made them died, or the connection did.
//!
//! The provider is asked what it has. Jobs that asked for the same cannot be told apart there, and need not be: what one
//! of them gets is as good for another. So with as many of the provider's jobs as there are of ours, or fewer, each finds
//! its place, and the rest of ours was never taken. With more, some are somebody else's, and an operator decides.

use std::{collections::BTreeMap, sync::Arc};

use aihub_domain::video::{
    VideoStatus,
    command::VideoCommand,
    event::Doubt,
    format::{AspectRatio, Resolution},
};
use chrono::{DateTime, Utc};

use super::{
    catalog::VideoBackend,
    driver::{Driver, InHand},
    jobs::{ChangeError, DRIVER, Known},
    submission::call,
};
use crate::ports::video_provider::{Recovery, VideoCall};

/// What a provider's jobs are told apart by.
type Likeness = (String, u32, Resolution, AspectRatio, Arc<str>, Option<Arc<str>>);

/// Submissions that cannot be told apart.
type Alike = Vec<(Known, VideoCall)>;

impl Driver {
    pub(super) async fn recover(self: &Arc<Self>, provider: &str, hands: Vec<InHand>) {
        let Some(backend) = self.videos.catalog.backends.get(provider) else {
            tracing::error!(provider.name = provider, "videos may be with a provider that is not configured any more");
            return self.pause_all(&hands);
        };
        if let Err(error) = self.try_recover(backend, &hands).await {
            tracing::warn!(
                provider.name = provider,
                error.message = format!("{error:#}"),
                "lost submissions are looked for later",
            );
            self.pause_all(&hands);
        }
    }

    fn pause_all(&self, hands: &[InHand]) {
        for hand in hands {
            self.pause(&hand.video_id);
        }
    }

    async fn try_recover(self: &Arc<Self>, backend: &VideoBackend, hands: &[InHand]) -> anyhow::Result<()> {
        // Nobody submits meanwhile: what is found and not known is lost.
        let lock = self.submitting(&backend.name);
        let _alone = lock.write().await;
        let mut groups: BTreeMap<Likeness, Alike> = BTreeMap::new();
        for hand in hands {
            let Some(mut known) = self.videos.jobs.load(&hand.video_id).await? else { continue };
            if known.status() != VideoStatus::Submitting {
                continue;
            }
            let Some(content) = self.content(&mut known).await? else { continue };
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
        for alike in groups.into_values() {
            self.recover_alike(backend, alike).await?;
        }
        Ok(())
    }

    async fn recover_alike(&self, backend: &VideoBackend, mut alike: Alike) -> anyhow::Result<()> {
        let started: Vec<DateTime<Utc>> =
            alike.iter().filter_map(|(known, _)| known.job.submission().map(|last| last.started_at)).collect();
        let (Some(since), Some(last)) = (started.iter().min(), started.iter().max()) else { return Ok(()) };
        if let Ok(wait) = (*last + self.videos.settings.recover_after - self.videos.jobs.clock.now()).to_std() {
            for (known, _) in &alike {
                self.pause_for(&known.video_id, wait);
            }
            return Ok(());
        }
        if backend.provider.recovery() == Recovery::None {
            return self.doubt(&mut alike, Doubt::NoLookup).await;
        }
        let Some((_, call)) = alike.first() else { return Ok(()) };
        let mut found = backend.provider.find(call, *since).await?;
        let ours = self.videos.queue.known(&backend.name, &found).await?;
        found.retain(|job_id| !ours.contains(job_id));
        tracing::info!(
            provider.name = %backend.name, submissions.lost = alike.len(), submissions.found = found.len(),
            "lost submissions were looked for",
        );
        if found.len() > alike.len() {
            return self.doubt(&mut alike, Doubt::Ambiguous).await;
        }
        let mut found = found.into_iter();
        for (known, call) in &mut alike {
            let Some(number) = known.job.submission().map(|last| last.number) else { continue };
            match found.next() {
                Some(provider_job_id) => self.taken(known, backend, number, provider_job_id).await?,
                None => self.call(known, backend, call, None).await?,
            }
        }
        Ok(())
    }

    async fn doubt(&self, alike: &mut Alike, doubt: Doubt) -> anyhow::Result<()> {
        let jobs = &self.videos.jobs;
        for (known, _) in alike {
            let Some(submission) = known.job.submission().map(|last| last.number) else { continue };
            let command = VideoCommand::DoubtSubmission { submission, doubt, doubted_at: jobs.clock.now() };
            match jobs.change(known, command, DRIVER).await {
                Ok(_) => {
                    tracing::error!(
                        video.id = %known.video_id, submission.doubt = ?doubt,
                        "whether a provider has this video cannot be known: decide with `aihub videos`",
                    );
                }
                Err(ChangeError::Refused(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
