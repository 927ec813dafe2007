//! A video job: requested once, with its price frozen and held; submitted to a provider once; ended once.
//!
//! A submission is written down before the provider is called. Whatever dies after that, the next one to look at the job
//! sees that it may be submitted, and asks before it does so again.

pub mod command;
pub mod event;
pub mod format;
pub mod price;
#[cfg(test)]
mod tests;

use chrono::{DateTime, Utc};
use cqrs_es::{Aggregate, event_sink::EventSink};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{money::MicrocreditsPerUsd, price::Charge};
use command::VideoCommand;
use event::{Asked, Doubt, ErasureReason, Media, Offer, Outcome, VideoEvent, VideoRequest};
use price::billed_seconds;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VideoJob {
    status: VideoStatus,
    /// From its request on.
    request: Option<Box<VideoRequest>>,
    /// The last one.
    submission: Option<Submission>,
    /// Providers that did not take it, and why, in their order.
    refusals: Vec<Refusal>,
    percent: u8,
    media: Option<Box<Media>>,
    /// What was charged for, where it was completed.
    outcome: Option<Box<Outcome>>,
    /// Why it ended otherwise.
    end_reason: Option<String>,
    ended_at: Option<DateTime<Utc>>,
    media_erased: Option<ErasureReason>,
    changed_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VideoStatus {
    /// Not requested yet.
    #[default]
    New,
    /// Waits for a provider.
    Queued,
    /// A provider is being called, or was when its caller died.
    Submitting,
    /// A provider may have it, and nobody knows: an operator decides.
    InDoubt,
    /// A provider has it.
    Rendering,
    /// We have the file.
    Stored,
    Completed,
    Failed,
    Cancelled,
    Expired,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    /// Counts from 1.
    pub number: u32,
    pub provider: String,
    pub model: String,
    pub started_at: DateTime<Utc>,
    pub deadline_at: DateTime<Utc>,
    /// Once the provider has it.
    pub provider_job_id: Option<String>,
    pub doubt: Option<Doubt>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub provider: String,
    pub failure: String,
    pub status: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum VideoError {
    #[error("the video was requested before")]
    AlreadyRequested,
    #[error("the video was never requested")]
    NotRequested,
    #[error("the video has ended already: {0:?}")]
    AlreadyEnded(VideoStatus),
    #[error("the video is {0:?}, in which this cannot be done")]
    WrongStatus(VideoStatus),
    #[error("the video has no offer {0}")]
    NoSuchOffer(usize),
    #[error("another submission has taken the place of this one")]
    OtherSubmission,
    #[error("the video has not ended")]
    NotEnded,
}

impl VideoStatus {
    pub fn is_end(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled | Self::Expired)
    }

    /// `queued`, `submitting`, `in_doubt`, …
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Queued => "queued",
            Self::Submitting => "submitting",
            Self::InDoubt => "in_doubt",
            Self::Rendering => "rendering",
            Self::Stored => "stored",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

impl VideoJob {
    pub fn status(&self) -> VideoStatus {
        self.status
    }

    pub fn request(&self) -> Option<&VideoRequest> {
        self.request.as_deref()
    }

    /// The last one; of a job that waits again, the one that was refused.
    pub fn submission(&self) -> Option<&Submission> {
        self.submission.as_ref()
    }

    pub fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }

    pub fn percent(&self) -> u8 {
        self.percent
    }

    /// As it was stored; it may have been erased since.
    pub fn media(&self) -> Option<&Media> {
        self.media.as_deref()
    }

    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_deref()
    }

    pub fn end_reason(&self) -> Option<&str> {
        self.end_reason.as_deref()
    }

    pub fn ended_at(&self) -> Option<DateTime<Utc>> {
        self.ended_at
    }

    pub fn media_erased(&self) -> Option<ErasureReason> {
        self.media_erased
    }

    pub fn changed_at(&self) -> Option<DateTime<Utc>> {
        self.changed_at
    }

    /// The offer that the last submission was of.
    pub fn tried(&self) -> Option<&Offer> {
        let Submission { provider, model, .. } = self.submission.as_ref()?;
        self.request.as_ref()?.offers.iter().find(|offer| offer.provider == *provider && offer.upstream_model == *model)
    }

    pub fn decide(&self, command: VideoCommand) -> Result<Vec<VideoEvent>, VideoError> {
        use VideoCommand as C;
        use VideoStatus as S;
        let (request, command) = match (&self.request, command) {
            (None, C::RequestVideo(request)) => return Ok(vec![VideoEvent::VideoRequested(request)]),
            (Some(_), C::RequestVideo(_)) => return Err(VideoError::AlreadyRequested),
            (None, _) => return Err(VideoError::NotRequested),
            (Some(request), command) => (request, command),
        };
        if let C::EraseMedia { reason, actor, erased_at } = command {
            return self.decide_erasure(reason, actor, erased_at);
        }
        if self.status.is_end() {
            return Err(VideoError::AlreadyEnded(self.status));
        }
        let wrong = Err(VideoError::WrongStatus(self.status));
        let asked = || request.asked(self.tried());
        Ok(vec![match (self.status, command) {
            (S::Queued, C::StartSubmission { offer, node, deadline_at, started_at }) => {
                let chosen = request.offers.get(offer).ok_or(VideoError::NoSuchOffer(offer))?;
                VideoEvent::SubmissionStarted {
                    submission: self.submission.as_ref().map_or(0, |last| last.number) + 1,
                    provider: chosen.provider.clone(),
                    model: chosen.upstream_model.clone(),
                    node,
                    deadline_at,
                    started_at,
                }
            }
            (S::Submitting, C::RefuseSubmission { submission, failure, status, refused_at }) => {
                let provider = self.current(submission)?.provider.clone();
                VideoEvent::SubmissionRefused { submission, provider, failure, status, refused_at }
            }
            (S::Submitting, C::DoubtSubmission { submission, doubt, doubted_at }) => {
                let provider = self.current(submission)?.provider.clone();
                VideoEvent::SubmissionDoubted { submission, provider, doubt, doubted_at }
            }
            (S::InDoubt, C::DenySubmission { submission, actor, denied_at }) => {
                self.current(submission)?;
                VideoEvent::SubmissionDenied { submission, actor, denied_at }
            }
            (S::Submitting | S::InDoubt, C::RecordSubmission { submission, provider_job_id, actor, submitted_at }) => {
                let provider = self.current(submission)?.provider.clone();
                VideoEvent::VideoSubmitted { submission, provider, provider_job_id, actor, submitted_at }
            }
            (S::Rendering, C::RecordProgress { percent, progressed_at }) => {
                let percent = percent.min(100);
                if percent <= self.percent {
                    return Ok(vec![]);
                }
                VideoEvent::VideoProgressed { percent, progressed_at }
            }
            (S::Rendering, C::StoreVideo { media, stored_at }) => VideoEvent::VideoStored { media, stored_at },
            (S::Stored, C::CompleteVideo { rate, completed_at }) => {
                let outcome = Box::new(self.charged(rate).ok_or(VideoError::WrongStatus(self.status))?);
                VideoEvent::VideoCompleted { asked: asked(), outcome, completed_at }
            }
            // What a provider may have, or we have, is not simply failed.
            (S::Queued | S::Submitting | S::InDoubt | S::Rendering, C::FailVideo { code, failed_at }) => {
                VideoEvent::VideoFailed { asked: asked(), code, failed_at }
            }
            (S::Queued | S::Submitting | S::InDoubt | S::Rendering, C::CancelVideo { actor, cancelled_at }) => {
                VideoEvent::VideoCancelled { asked: asked(), actor, cancelled_at }
            }
            (S::Queued | S::Submitting | S::Rendering, C::ExpireVideo { reason, expired_at }) => {
                VideoEvent::VideoExpired { asked: asked(), reason, expired_at }
            }
            _ => return wrong,
        }])
    }

    pub fn evolve(&mut self, event: &VideoEvent) {
        self.changed_at = Some(event.at());
        match event {
            VideoEvent::VideoRequested(request) => {
                self.request = Some(request.clone());
                self.status = VideoStatus::Queued;
            }
            VideoEvent::SubmissionStarted { submission, provider, model, deadline_at, started_at, .. } => {
                self.submission = Some(Submission {
                    number: *submission,
                    provider: provider.clone(),
                    model: model.clone(),
                    started_at: *started_at,
                    deadline_at: *deadline_at,
                    provider_job_id: None,
                    doubt: None,
                });
                self.status = VideoStatus::Submitting;
            }
            VideoEvent::SubmissionRefused { provider, failure, status, .. } => {
                let (provider, failure) = (provider.clone(), failure.clone());
                self.refusals.push(Refusal { provider, failure, status: *status });
                self.status = VideoStatus::Queued;
            }
            VideoEvent::SubmissionDoubted { doubt, .. } => {
                if let Some(submission) = &mut self.submission {
                    submission.doubt = Some(*doubt);
                }
                self.status = VideoStatus::InDoubt;
            }
            VideoEvent::SubmissionDenied { .. } => self.status = VideoStatus::Queued,
            VideoEvent::VideoSubmitted { provider_job_id, actor, submitted_at, .. } => {
                if let Some(submission) = &mut self.submission {
                    submission.provider_job_id = Some(provider_job_id.clone());
                    // Whoever adopts a job does so long after it was submitted: its time begins anew.
                    if actor.is_some() {
                        submission.deadline_at = *submitted_at + (submission.deadline_at - submission.started_at);
                    }
                }
                self.status = VideoStatus::Rendering;
            }
            VideoEvent::VideoProgressed { percent, .. } => self.percent = *percent,
            VideoEvent::VideoStored { media, .. } => {
                self.media = Some(media.clone());
                self.percent = 100;
                self.status = VideoStatus::Stored;
            }
            VideoEvent::VideoCompleted { outcome, completed_at, .. } => {
                self.outcome = Some(outcome.clone());
                self.end(VideoStatus::Completed, None, *completed_at);
            }
            VideoEvent::VideoFailed { code, failed_at, .. } => self.end(VideoStatus::Failed, Some(code), *failed_at),
            VideoEvent::VideoCancelled { cancelled_at, .. } => self.end(VideoStatus::Cancelled, None, *cancelled_at),
            VideoEvent::VideoExpired { reason, expired_at, .. } => {
                self.end(VideoStatus::Expired, Some(reason), *expired_at);
            }
            VideoEvent::MediaErased { reason, .. } => self.media_erased = Some(*reason),
        }
    }

    fn end(&mut self, status: VideoStatus, reason: Option<&String>, at: DateTime<Utc>) {
        self.status = status;
        self.end_reason = reason.cloned();
        self.ended_at = Some(at);
    }

    /// The submission that is under way, if it is this one: a late word on an earlier one changes nothing.
    fn current(&self, number: u32) -> Result<&Submission, VideoError> {
        self.submission.as_ref().filter(|last| last.number == number).ok_or(VideoError::OtherSubmission)
    }

    /// What is charged: the seconds that came, at the price that was agreed on.
    fn charged(&self, rate: MicrocreditsPerUsd) -> Option<Outcome> {
        let (request, offer) = (self.request.as_ref()?, self.tried()?);
        let seconds = billed_seconds(self.media.as_ref()?.video.duration_ms?, offer.seconds(request.seconds));
        let cost = offer.price.cost(request.resolution, seconds)?;
        let list = rate.charge(cost);
        // No more than what was held: that was calculated with the rate of its day.
        let amount = list.min(request.reserved_microcredits);
        let charge = Charge { price_id: Some(offer.price.id.clone()), cost, list, amount };
        Some(Outcome { provider: offer.provider.clone(), model: offer.model.clone(), seconds, charge })
    }

    fn decide_erasure(
        &self,
        reason: ErasureReason,
        actor: String,
        erased_at: DateTime<Utc>,
    ) -> Result<Vec<VideoEvent>, VideoError> {
        if !self.status.is_end() {
            return Err(VideoError::NotEnded);
        }
        if self.media.is_none() || self.media_erased.is_some() {
            return Ok(vec![]);
        }
        Ok(vec![VideoEvent::MediaErased { reason, actor, erased_at }])
    }

    /// Whose it is, and what it asked for.
    pub fn asked(&self) -> Option<Asked> {
        Some(self.request.as_ref()?.asked(self.tried()))
    }
}

impl Aggregate for VideoJob {
    const TYPE: &'static str = "video";
    type Command = VideoCommand;
    type Event = VideoEvent;
    type Error = VideoError;
    type Services = ();

    async fn handle(&mut self, command: VideoCommand, (): &(), sink: &EventSink<Self>) -> Result<(), VideoError> {
        for event in self.decide(command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: VideoEvent) {
        self.evolve(&event);
    }
}
