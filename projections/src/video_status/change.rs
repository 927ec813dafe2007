//! What an event does to a video's row.

use aihub_domain::video::{
    VideoStatus,
    event::{Media, Outcome, VideoEvent, VideoRequest},
};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::VideoRow;
use crate::key_text::key_text;

impl VideoRow {
    pub(super) fn requested(video_id: &str, request: &VideoRequest, position: i64) -> anyhow::Result<Self> {
        let offers = request.offers.iter().map(|offer| {
            json!({
                "provider": offer.provider,
                "model": offer.model,
                "upstreamModel": offer.upstream_model,
                "priceId": offer.price.id,
            })
        });
        Ok(Self {
            video_id: video_id.to_owned(),
            account: key_text(&request.account),
            user_id: key_text(&request.user),
            status: VideoStatus::Queued.as_str().to_owned(),
            requested_provider: request.provider.clone(),
            requested_model: request.model.clone(),
            offers: offers.collect(),
            provider: None,
            model: None,
            provider_job_id: None,
            seconds: request.seconds.try_into()?,
            resolution: request.resolution.to_string(),
            aspect_ratio: request.aspect_ratio.to_string(),
            priority: request.priority.as_str().to_owned(),
            percent: 0,
            submissions: 0,
            reserved_microcredits: request.reserved_microcredits.0,
            charged_microcredits: 0,
            billed_seconds: None,
            cost_picousd: 0,
            price_id: None,
            bytes: None,
            sha256: None,
            width: None,
            height: None,
            duration_ms: None,
            codec: None,
            media_key: None,
            thumbnail_key: None,
            session_id: request.session_id.as_deref().map(key_text),
            workflow_id: request.workflow_id.as_deref().map(key_text),
            end_reason: None,
            requested_at: request.requested_at,
            submitted_at: None,
            ended_at: None,
            media_erased_at: None,
            changed_at: request.requested_at,
            position,
        })
    }

    pub(super) fn change(&mut self, event: &VideoEvent, position: i64) -> anyhow::Result<()> {
        (self.changed_at, self.position) = (event.at(), position);
        match event {
            // It comes once, and makes the row.
            VideoEvent::VideoRequested(_) => {}
            VideoEvent::SubmissionStarted { submission, provider, model, .. } => {
                self.stand(VideoStatus::Submitting);
                self.submissions = (*submission).try_into()?;
                self.model = Some(self.offered(provider, model).unwrap_or(model).to_owned());
                self.provider = Some(provider.clone());
            }
            VideoEvent::SubmissionRefused { .. } | VideoEvent::SubmissionDenied { .. } => {
                self.stand(VideoStatus::Queued);
            }
            VideoEvent::SubmissionDoubted { .. } => self.stand(VideoStatus::InDoubt),
            VideoEvent::VideoSubmitted { provider_job_id, submitted_at, .. } => {
                self.stand(VideoStatus::Rendering);
                self.provider_job_id = Some(provider_job_id.clone());
                self.submitted_at = Some(*submitted_at);
            }
            VideoEvent::VideoProgressed { percent, .. } => self.percent = (*percent).into(),
            VideoEvent::VideoStored { media, .. } => self.store(media)?,
            VideoEvent::VideoCompleted { outcome, completed_at, .. } => {
                self.complete(outcome)?;
                self.end(VideoStatus::Completed, None, *completed_at);
            }
            VideoEvent::VideoFailed { code, failed_at, .. } => self.end(VideoStatus::Failed, Some(code), *failed_at),
            VideoEvent::VideoCancelled { cancelled_at, .. } => self.end(VideoStatus::Cancelled, None, *cancelled_at),
            VideoEvent::VideoExpired { reason, expired_at, .. } => {
                self.end(VideoStatus::Expired, Some(reason), *expired_at);
            }
            VideoEvent::MediaErased { erased_at, .. } => self.media_erased_at = Some(*erased_at),
        }
        Ok(())
    }

    /// What clients call the provider's model.
    fn offered(&self, provider: &str, upstream_model: &str) -> Option<&str> {
        let is_it = |offer: &&Value| offer["provider"] == provider && offer["upstreamModel"] == upstream_model;
        self.offers.as_array()?.iter().find(is_it)?["model"].as_str()
    }

    fn stand(&mut self, status: VideoStatus) {
        status.as_str().clone_into(&mut self.status);
    }

    fn store(&mut self, Media { video, thumbnail }: &Media) -> anyhow::Result<()> {
        self.stand(VideoStatus::Stored);
        self.percent = 100;
        self.bytes = Some(video.bytes.try_into()?);
        self.sha256 = Some(video.sha256.clone());
        self.width = Some(video.width.try_into()?);
        self.height = Some(video.height.try_into()?);
        self.duration_ms = video.duration_ms.map(i64::try_from).transpose()?;
        self.codec.clone_from(&video.codec);
        self.media_key = Some(video.key.clone());
        self.thumbnail_key = thumbnail.as_ref().map(|thumbnail| thumbnail.key.clone());
        Ok(())
    }

    fn complete(&mut self, outcome: &Outcome) -> anyhow::Result<()> {
        self.provider = Some(outcome.provider.clone());
        self.model = Some(outcome.model.clone());
        self.billed_seconds = Some(outcome.seconds.try_into()?);
        self.charged_microcredits = outcome.charge.amount.0;
        self.cost_picousd = outcome.charge.cost.0;
        self.price_id.clone_from(&outcome.charge.price_id);
        Ok(())
    }

    fn end(&mut self, status: VideoStatus, reason: Option<&String>, at: DateTime<Utc>) {
        self.stand(status);
        self.end_reason = reason.cloned();
        self.ended_at = Some(at);
    }
}
