//! A job at its provider: watched until that is done, fetched, stored, charged for.

use std::{sync::Arc, time::Duration};

use aihub_domain::video::{
    VideoStatus,
    command::VideoCommand,
    event::{Media, StoredMedia},
};
use chrono::{DateTime, Utc};
use tokio::time::{Instant, sleep, timeout};

use super::{
    catalog::VideoBackend,
    driver::{Driver, InHand},
    jobs::{ChangeError, DRIVER, FIRST_RETRY, Known, SLOWEST_RETRY},
};
use crate::ports::{
    media_store::{MediaError, MediaKind},
    provider::FailureKind,
    video_provider::{JobState, JobStatus, Variant},
};

/// Progress is written down in steps of so many percent.
const PROGRESS_STEP: u8 = 10;
/// However often a provider wants to be asked.
const MOST_OFTEN: Duration = Duration::from_millis(100);
const MOST_SELDOM: Duration = Duration::from_mins(1);
/// How long after a submission its provider may not know it.
const UNSEEN_FOR: Duration = Duration::from_secs(15);
/// A thumbnail is not worth more.
const THUMBNAIL_TRIES: usize = 2;
const THUMBNAIL_TIME: Duration = Duration::from_secs(30);

impl Driver {
    /// Takes up a job that a provider has, or whose file is here.
    pub(super) async fn finish(self: &Arc<Self>, hand: &InHand) -> anyhow::Result<()> {
        match self.videos.jobs.load(&hand.video_id).await? {
            Some(known) => self.see_through(hand, known).await,
            None => Ok(()),
        }
    }

    /// From wherever the job is to its end, unless it has to wait for somebody.
    pub(super) async fn see_through(self: &Arc<Self>, hand: &InHand, mut known: Known) -> anyhow::Result<()> {
        if known.status() == VideoStatus::Rendering {
            self.render(hand, &mut known).await?;
        }
        if known.status() == VideoStatus::Stored {
            self.videos.jobs.complete(&mut known).await?;
        }
        Ok(())
    }

    async fn render(&self, hand: &InHand, known: &mut Known) -> anyhow::Result<()> {
        let jobs = &self.videos.jobs;
        let Some(submission) = known.job.submission().cloned() else { return Ok(()) };
        let Some(provider_job_id) = submission.provider_job_id else { return Ok(()) };
        let backend = self.videos.catalog.backends.get(&submission.provider).cloned();
        // What was said last: that it is being made, a word that nobody knows, or that our key is refused.
        let (mut is_running, mut unclear, mut is_refused) = (false, None, false);
        loop {
            // Somebody may have ended it.
            jobs.catch_up(known).await?;
            self.end_with_workflow(known).await?;
            let (Some(backend), VideoStatus::Rendering) = (&backend, known.status()) else { break };
            let mut poll_after = None;
            let rest = self.rest_of(&backend.name);
            if !rest.is_zero() {
                let left = (submission.deadline_at - jobs.clock.now()).to_std().ok().filter(|left| !left.is_zero());
                let Some(left) = left else { break };
                tokio::select! {
                    () = sleep(rest.min(left)) => {}
                    () = hand.wake.notified() => {}
                    () = self.stop.cancelled() => return Ok(()),
                }
                if !self.rest_of(&backend.name).is_zero() {
                    continue;
                }
            }
            is_running = false;
            match backend.provider.status(&provider_job_id).await {
                Ok(JobStatus { state: JobState::Completed, .. }) => {
                    return self.store(hand, known, backend, &provider_job_id, submission.deadline_at).await;
                }
                Ok(JobStatus { state: JobState::Failed { code }, .. }) => {
                    return Ok(jobs.fail(known, &code).await?);
                }
                // What a provider has just taken it may not show yet.
                Ok(JobStatus { state: JobState::Gone, .. })
                    if jobs.clock.now() < submission.started_at + UNSEEN_FOR => {}
                Ok(JobStatus { state: JobState::Gone, .. }) => {
                    return Ok(jobs.fail(known, "lost_by_provider").await?);
                }
                Ok(JobStatus { state: JobState::Running { progress }, poll_after: asked }) => {
                    poll_after = asked;
                    (is_running, unclear, is_refused) = (true, None, false);
                    self.progress(known, progress).await?;
                }
                Ok(JobStatus { state: JobState::Unclear { word }, poll_after: asked }) => {
                    poll_after = asked;
                    is_refused = false;
                    if unclear.as_ref() != Some(&word) {
                        tracing::warn!(
                            video.id = %known.video_id, provider.name = %backend.name, status = word,
                            "a provider has a word for how a video stands that is not known",
                        );
                    }
                    unclear = Some(word);
                }
                Err(error) => {
                    is_refused = matches!(error.kind, FailureKind::Unauthorized | FailureKind::QuotaExceeded);
                    self.rest_after(&backend.name, &error);
                    tracing::warn!(
                        video.id = %known.video_id, provider.name = %backend.name, error.kind = ?error.kind,
                        "a provider does not say how a video stands; asking again",
                    );
                }
            }
            // Only now: it may have been done while nobody looked.
            let left = (submission.deadline_at - jobs.clock.now()).to_std().ok().filter(|left| !left.is_zero());
            let Some(left) = left else { break };
            let wait = poll_after.unwrap_or(self.videos.settings.poll_every).clamp(MOST_OFTEN, MOST_SELDOM).min(left);
            tokio::select! {
                () = sleep(wait) => {}
                () = hand.wake.notified() => {}
                () = self.stop.cancelled() => return Ok(()),
            }
        }
        // Whoever has no word for it that we know may have made it all the same.
        if let (Some(backend), Some(_), VideoStatus::Rendering) = (&backend, &unclear, known.status()) {
            let give_up_at = jobs.clock.now() + self.videos.settings.storing;
            let fetch =
                timeout(self.videos.settings.storing, self.fetch(known, backend, &provider_job_id, Variant::Video));
            let Some(fetched) = self.stop.run_until_cancelled(fetch).await else { return Ok(()) };
            if let Ok(Ok(Some(video))) = fetched
                && video.duration_ms.is_some()
            {
                return self.keep(known, backend, &provider_job_id, video, give_up_at).await;
            }
        }
        if known.status() == VideoStatus::Rendering {
            let reason = match (&unclear, is_refused) {
                _ if backend.is_none() => "its provider is not configured any more",
                (_, true) => "its provider refuses our key",
                (Some(_), _) => "its provider did not say in known words how it stands",
                (None, false) => "its provider was not done in time",
            };
            jobs.expire(known, reason).await?;
        }
        // What may be finished and was not fetched is not deleted, but where its owner says so.
        let may_be_finished = !is_running && known.status() == VideoStatus::Expired;
        if let (Some(backend), VideoStatus::Cancelled | VideoStatus::Expired) = (&backend, known.status())
            && !may_be_finished
        {
            self.call_off(known, backend, &provider_job_id).await;
        }
        Ok(())
    }

    async fn progress(&self, known: &mut Known, percent: Option<u8>) -> anyhow::Result<()> {
        let Some(percent) = percent.filter(|percent| *percent >= known.job.percent().saturating_add(PROGRESS_STEP))
        else {
            return Ok(());
        };
        let record = VideoCommand::RecordProgress { percent, progressed_at: self.videos.jobs.clock.now() };
        match self.videos.jobs.change(known, record, DRIVER).await {
            Ok(_) | Err(ChangeError::Refused(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn store(
        &self,
        hand: &InHand,
        known: &mut Known,
        backend: &VideoBackend,
        provider_job_id: &str,
        deadline_at: DateTime<Utc>,
    ) -> anyhow::Result<()> {
        let jobs = &self.videos.jobs;
        let give_up_at = deadline_at.max(jobs.clock.now()) + self.videos.settings.storing;
        let mut retry = FIRST_RETRY;
        // A file may be there before it is whole.
        let whole_by = Instant::now() + self.videos.settings.whole_within;
        let video = loop {
            let rest = self.rest_of(&backend.name);
            if !rest.is_zero() {
                let left = (give_up_at - jobs.clock.now()).to_std().unwrap_or_default();
                tokio::select! {
                    () = sleep(rest.min(left)) => {}
                    () = hand.wake.notified() => {}
                    () = self.stop.cancelled() => return Ok(()),
                }
                jobs.catch_up(known).await?;
                if known.status() != VideoStatus::Rendering {
                    return Ok(());
                }
            }
            let left = (give_up_at - jobs.clock.now()).to_std().unwrap_or_default();
            let fetch = timeout(left, self.fetch(known, backend, provider_job_id, Variant::Video));
            let Some(fetched) = self.stop.run_until_cancelled(fetch).await else { return Ok(()) };
            let Ok(fetched) = fetched else {
                return Ok(jobs.expire(known, "its file could not be fetched in time").await?);
            };
            match fetched {
                Ok(Some(video)) if video.duration_ms.is_some() => break video,
                Ok(Some(_) | None) | Err(MediaError::Unusable(_)) if Instant::now() < whole_by => {
                    tracing::info!(video.id = %known.video_id, provider.name = %backend.name, "a file is not whole yet");
                }
                // Without its length it could never be charged for.
                Ok(Some(_)) => return Ok(jobs.fail(known, "unusable_video").await?),
                Ok(None) => return Ok(jobs.fail(known, "no_video").await?),
                Err(MediaError::Unusable(reason)) => {
                    tracing::warn!(video.id = %known.video_id, provider.name = %backend.name, reason, "an unusable file");
                    return Ok(jobs.fail(known, "unusable_video").await?);
                }
                Err(MediaError::TooLarge { .. }) => return Ok(jobs.fail(known, "video_too_large").await?),
                Err(error) => {
                    if let MediaError::Source(error) = &error {
                        self.rest_after(&backend.name, error);
                    }
                    tracing::warn!(
                        video.id = %known.video_id, provider.name = %backend.name, error.message = %error,
                        "a video is not here yet; fetching again",
                    );
                }
            }
            if self.stop.run_until_cancelled(sleep(retry)).await.is_none() {
                return Ok(());
            }
            retry = (retry * 2).min(SLOWEST_RETRY);
            jobs.catch_up(known).await?;
            if known.status() != VideoStatus::Rendering {
                return Ok(());
            }
        };
        self.keep(known, backend, provider_job_id, video, give_up_at).await
    }

    /// Writes down that its file is here, with its thumbnail if there is one.
    async fn keep(
        &self,
        known: &mut Known,
        backend: &VideoBackend,
        provider_job_id: &str,
        video: StoredMedia,
        give_up_at: DateTime<Utc>,
    ) -> anyhow::Result<()> {
        let jobs = &self.videos.jobs;
        let thumbnail = self.thumbnail(known, backend, provider_job_id, give_up_at);
        // Whoever takes it up stores the same under the same name.
        let Some(thumbnail) = self.stop.run_until_cancelled(thumbnail).await else { return Ok(()) };
        let media = Box::new(Media { video, thumbnail });
        let store = VideoCommand::StoreVideo { media, stored_at: jobs.clock.now() };
        match jobs.change(known, store, DRIVER).await {
            Ok(_) => Ok(()),
            // It was cancelled meanwhile, or somebody else has stored the same under the same name.
            Err(ChangeError::Refused(_)) => {
                if known.job.media().is_none() || known.job.media_erased().is_some() {
                    self.videos.delete_files(&known.video_id).await?;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn thumbnail(
        &self,
        known: &Known,
        backend: &VideoBackend,
        provider_job_id: &str,
        give_up_at: DateTime<Utc>,
    ) -> Option<StoredMedia> {
        for _ in 0..THUMBNAIL_TRIES {
            let left = (give_up_at - self.videos.jobs.clock.now()).to_std().unwrap_or_default();
            match timeout(THUMBNAIL_TIME.min(left), self.fetch(known, backend, provider_job_id, Variant::Thumbnail))
                .await
            {
                Ok(Ok(thumbnail)) => return thumbnail,
                Err(_) => return None,
                Ok(Err(error)) => {
                    tracing::info!(video.id = %known.video_id, error.message = %error, "a thumbnail did not come");
                }
            }
        }
        None
    }

    async fn fetch(
        &self,
        known: &Known,
        backend: &VideoBackend,
        provider_job_id: &str,
        variant: Variant,
    ) -> Result<Option<StoredMedia>, MediaError> {
        let Some(file) = backend.provider.download(provider_job_id, variant).await? else { return Ok(None) };
        let kind = match variant {
            Variant::Video => MediaKind::Video,
            Variant::Thumbnail => MediaKind::Image,
        };
        self.videos.media.store(&media_key(&known.video_id, variant), kind, file).await.map(Some)
    }
}

/// The same for whoever fetches it again: it takes the place of what somebody left behind who died.
fn media_key(video_id: &str, variant: Variant) -> String {
    let name = match variant {
        Variant::Video => "video.mp4",
        Variant::Thumbnail => "thumbnail.jpg",
    };
    format!("{video_id}/{name}")
}

/// All files that there may be of a video. The log may not know of each: one may have come too late for it.
pub(super) fn files_of(video_id: &str) -> [String; 2] {
    [Variant::Video, Variant::Thumbnail].map(|variant| media_key(video_id, variant))
}
