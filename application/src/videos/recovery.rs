//! What is done about submissions whose answer was lost: whoever made them died, or the connection did.
//!
//! The provider is asked what it has. A job that is not there waits again, for a submission of its own. Jobs that asked for
//! the same cannot be told apart there, and need not be: what one of them gets is as good for another. So they are looked for
//! together, all that the log has. With as many of the provider's jobs as there are of ours, or fewer, each finds its place,
//! and the rest of ours was never taken. With more, some are somebody else's, and an operator decides. So does one where a job
//! is there that does not show what was asked for, which may be another account's; and where one of ours is in doubt that
//! asked for the same.

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
    new_video::VideoContent,
    queue::OpenVideo,
    submission::{NEVER_ARRIVED, call},
};
use crate::ports::{
    vault::VaultError,
    video_provider::{Recovery, VideoCall},
};

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
            if let Err(error) = self.doubt_one_if_late(&hand.video_id).await {
                tracing::warn!(video.id = %hand.video_id, error.message = format!("{error:#}"), "a video is left as it is");
            }
        }
    }

    async fn doubt_one_if_late(&self, video_id: &str) -> anyhow::Result<()> {
        match self.videos.jobs.load(video_id).await? {
            Some(mut known) => self.doubt_if_late(&mut known).await,
            None => Ok(()),
        }
    }

    /// A lost submission that could not be looked for, or made again, until its deadline is an operator's.
    pub(super) async fn doubt_if_late(&self, known: &mut Known) -> anyhow::Result<()> {
        let now = self.videos.jobs.clock.now();
        let is_late = known.job.submission().is_some_and(|last| last.deadline_at < now);
        if known.status() == VideoStatus::Submitting && is_late {
            self.doubt(known, Doubt::Unanswered).await?;
        }
        Ok(())
    }

    /// Leaves them for later, together. It is the latest of them that is waited for: others may come to their deadline.
    async fn put_off(&self, alike: &mut Alike, wait: Duration) -> anyhow::Result<()> {
        let ids: Vec<&str> = alike.iter().map(|(known, _)| known.video_id.as_str()).collect();
        self.pause_together(&ids, wait);
        for (known, _) in alike {
            self.doubt_if_late(known).await?;
        }
        Ok(())
    }

    async fn try_recover(self: &Arc<Self>, backend: &VideoBackend, hands: &[InHand]) -> anyhow::Result<()> {
        // Nobody on this node submits meanwhile.
        let lock = self.submitting(&backend.name);
        let _alone = lock.write().await;
        let open = self.videos.queue.unanswered(&backend.name).await?;
        let submitting: BTreeSet<&str> = submitting(&open).collect();
        let mut groups: BTreeMap<Likeness, Alike> = BTreeMap::new();
        for video_id in &submitting {
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
                    self.doubt_if_late(&mut known).await?;
                    continue;
                }
            };
            let call = call(&known, content)?;
            groups.entry(likeness(&call)).or_default().push((known, call));
        }
        let prompts: Vec<Arc<str>> = groups.keys().map(|(.., prompt, _)| prompt.clone()).collect();
        let in_hand: BTreeSet<&str> = hands.iter().map(|hand| hand.video_id.as_str()).collect();
        for mut alike in groups.into_values() {
            let here = alike.iter().filter(|(known, _)| in_hand.contains(known.video_id.as_str())).count();
            if here == alike.len() {
                self.recover_alike(backend, alike, &submitting, &prompts).await?;
            } else if here > 0 {
                // What the others may have would be taken for what these have.
                self.put_off(&mut alike, Duration::ZERO).await?;
            }
        }
        Ok(())
    }

    /// `all` are those of ours that were being submitted before the provider is looked through, alike or not, and `prompts` what
    /// they asked for.
    async fn recover_alike(
        &self,
        backend: &VideoBackend,
        mut alike: Alike,
        all: &BTreeSet<&str>,
        prompts: &[Arc<str>],
    ) -> anyhow::Result<()> {
        let started: Vec<DateTime<Utc>> =
            alike.iter().filter_map(|(known, _)| known.job.submission().map(|last| last.started_at)).collect();
        let (Some(since), Some(last)) = (started.iter().min(), started.iter().max()) else { return Ok(()) };
        if let Ok(wait) = (*last + self.videos.settings.recover_after - self.videos.jobs.clock.now()).to_std() {
            return self.put_off(&mut alike, wait).await;
        }
        if backend.provider.recovery() == Recovery::None {
            return self.doubt_all(&mut alike, Doubt::NoLookup).await;
        }
        let Some((_, call)) = alike.first() else { return Ok(()) };
        let wanted = likeness(call);
        let mut found = backend.provider.find(call, *since).await?;
        // What was found may be of one that another node has begun to submit since. In this order: that one is seen here
        // while it is submitted, and what was recorded of it before then is known below.
        let open = self.videos.queue.unanswered(&backend.name).await?;
        if submitting(&open).any(|video_id| !all.contains(video_id)) {
            return self.put_off(&mut alike, Duration::ZERO).await;
        }
        let job_ids: Vec<String> = found.iter().map(|found| found.provider_job_id.clone()).collect();
        let ours = self.videos.queue.known(&backend.name, &job_ids).await?;
        found.retain(|found| !ours.contains(&found.provider_job_id));
        tracing::info!(
            provider.name = %backend.name, submissions.lost = alike.len(), submissions.found = found.len(),
            "lost submissions were looked for",
        );
        let (certain, uncertain): (Vec<_>, Vec<_>) = found.into_iter().partition(|found| {
            // A beginning that others of ours have as well is a sign for none of them.
            let is_shared =
                |beginning: &String| prompts.iter().filter(|prompt| prompt.starts_with(&**beginning)).count() > 1;
            found.is_certain && !found.beginning.as_ref().is_some_and(is_shared)
        });
        if certain.len() > alike.len() || (!certain.is_empty() && self.is_in_doubt(&wanted, &open).await?) {
            return self.doubt_all(&mut alike, Doubt::Ambiguous).await;
        }
        let mut certain = certain.into_iter();
        for (known, _) in &mut alike {
            let Some(number) = known.job.submission().map(|last| last.number) else { continue };
            match certain.next() {
                Some(found) => self.taken(known, backend, number, found.provider_job_id).await?,
                None if uncertain.is_empty() => self.never_arrived(known, number).await?,
                None => self.doubt(known, Doubt::Ambiguous).await?,
            }
        }
        Ok(())
    }

    /// Whether one of ours is in doubt that asked for the same: what the provider has may be its, and its operator's to take.
    async fn is_in_doubt(&self, wanted: &Likeness, open: &[OpenVideo]) -> anyhow::Result<bool> {
        for open in open.iter().filter(|open| open.status == VideoStatus::InDoubt) {
            let Some(known) = self.videos.jobs.load(&open.video_id).await? else { continue };
            if known.status() != VideoStatus::InDoubt {
                continue;
            }
            let content = match self.videos.content(&known).await {
                Ok(content) => content,
                // What was erased is not made for anybody any more.
                Err(VaultError::Erased) => continue,
                // It may have asked for anything: what else is known of it has to do.
                Err(VaultError::Unreadable) => {
                    let (.., prompt, style) = wanted;
                    let style = style.as_deref().map(str::to_owned);
                    VideoContent { prompt: prompt.to_string(), style, webhook_url: None }
                }
                Err(error) => return Err(error.into()),
            };
            if likeness(&call(&known, content)?) == *wanted {
                return Ok(true);
            }
        }
        Ok(false)
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

fn likeness(call: &VideoCall) -> Likeness {
    let VideoCall { model, prompt, style, .. } = call;
    (model.clone(), call.seconds, call.resolution, call.aspect_ratio, prompt.clone(), style.clone())
}

fn submitting(open: &[OpenVideo]) -> impl Iterator<Item = &str> {
    open.iter().filter(|open| open.status == VideoStatus::Submitting).map(|open| open.video_id.as_str())
}
