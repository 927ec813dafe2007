//! The credits are held and the job is written down, both in one commit, before any provider hears of it.

use std::sync::Arc;

use aihub_domain::{
    account::{AccountError, command::AccountCommand},
    content::ContentKind,
    money::{Microcredits, PicoUsd},
    video::{VideoJob, command::VideoCommand, event::VideoRequest},
};
use uuid::Uuid;

use super::{
    Videos,
    jobs::Known,
    new_video::{NewVideo, VideoContent},
};
use crate::{
    accounts::ExecuteError,
    admission::{NotAdmitted, Queue, keyed_id, overloaded},
    error::GatewayError,
    ports::{
        event_log::{AppendError, Piece},
        jobs::JobKind,
        vault::{Sealed, VaultError, seal_needed},
    },
    principal::Principal,
};

impl Videos {
    /// Checks `video`, holds its price and puts it into the queue. The same `idempotency_key` of the same user with the same
    /// request is the same job. What is refused here has changed nothing.
    pub async fn request(
        self: &Arc<Self>,
        principal: &Principal,
        video: NewVideo,
        idempotency_key: Option<&str>,
        workflow_id: Option<&str>,
    ) -> Result<Known, GatewayError> {
        let admitted = self.admit(principal, video, idempotency_key, workflow_id).await;
        admitted.inspect_err(|error| {
            // A workflow tells itself what it was refused, and asks again.
            if workflow_id.is_none() {
                self.gateway.note(principal, error);
            }
        })
    }

    async fn admit(
        self: &Arc<Self>,
        principal: &Principal,
        video: NewVideo,
        idempotency_key: Option<&str>,
        workflow_id: Option<&str>,
    ) -> Result<Known, GatewayError> {
        self.gateway.require_open()?;
        let video_id = match idempotency_key {
            Some(key) => keyed_id(JobKind::Video, principal, key),
            None => Uuid::now_v7().to_string(),
        };
        if idempotency_key.is_some()
            && let Some(known) = self.jobs.load(&video_id).await.map_err(|error| GatewayError::outside(&error))?
        {
            return self.repeated(known, &video).await;
        }
        let now = self.gateway.clock.now();
        let offers = self.catalog.offers(&video, principal, now)?;
        let running = self.gateway.limits.admit(principal, 0)?;
        let costs = offers.iter().filter_map(|offer| offer.cost(video.resolution, video.seconds));
        let dearest = costs.max().unwrap_or(PicoUsd(0));
        // A video that costs nothing still holds something, so that every job has its reservation.
        let reserved = self.gateway.settings.rate.charge(dearest).max(Microcredits(1));
        let content = serde_json::to_vec(&video.content).map_err(|error| GatewayError::internal(&error))?;
        let sealed = seal_needed(&*self.gateway.vault, &principal.account, ContentKind::Video, &content).await;
        let Sealed { content, pieces } = sealed.map_err(|error| match error {
            VaultError::Erased => GatewayError::Erased { account: principal.account.clone() },
            error => GatewayError::outside(&error),
        })?;
        let request = VideoRequest {
            account: principal.account.clone(),
            user: principal.user.clone(),
            provider: video.provider.clone(),
            model: video.model.clone(),
            seconds: video.seconds,
            resolution: video.resolution,
            aspect_ratio: video.aspect_ratio,
            priority: video.priority,
            offers,
            reserved_microcredits: reserved,
            queued_until: now + self.settings.max_wait,
            session_id: video.session_id.clone(),
            workflow_id: workflow_id.map(str::to_owned),
            has_webhook: video.content.webhook_url.is_some(),
            content,
            requested_at: now,
        };
        let queue = Queue {
            kind: JobKind::Video,
            most: self.settings.max_queued,
            seats: self.seats.clone(),
            tasks: self.gateway.tasks.clone(),
        };
        let open = {
            let (videos, principal, video_id) = (self.clone(), principal.clone(), video_id.clone());
            async move {
                let _running = running;
                videos.open(video_id, request, pieces, &principal).await
            }
        };
        match queue.admit(video_id.clone(), principal.account.clone(), open).await {
            Ok(known) => Ok(known),
            Err(NotAdmitted::Unknown(error) | NotAdmitted::Refused(error)) => Err(error),
            // The same key came in meanwhile, here or on another node.
            Err(NotAdmitted::Known) => {
                let known = self.jobs.load(&video_id).await.map_err(|error| GatewayError::outside(&error))?;
                let known = known.ok_or_else(|| GatewayError::internal("a video is there and cannot be loaded"))?;
                self.repeated(known, &video).await
            }
        }
    }

    async fn open(
        &self,
        video_id: String,
        request: VideoRequest,
        contents: Vec<Piece>,
        principal: &Principal,
    ) -> Result<Known, NotAdmitted> {
        let mut known = Known { video_id, job: VideoJob::default(), sequence: 0 };
        let (reserved, now) = (request.reserved_microcredits, request.requested_at);
        let command = VideoCommand::RequestVideo(Box::new(request));
        let events = known.job.decide(command).map_err(|_| NotAdmitted::Known)?;
        let append = known.append(&events).map_err(|error| GatewayError::internal(&error))?.with(contents);
        let companions = |_: &[_]| Ok(vec![append.clone()]);
        let reserve = AccountCommand::ReserveCredits {
            reservation_id: known.video_id.clone(),
            amount: reserved,
            at_least: reserved,
            reserved_at: now,
        };
        let metadata = self.jobs.metadata(&known.video_id, &principal.user);
        let accounts = &self.gateway.accounts;
        let mut executed = accounts.execute(&principal.account, &reserve, &companions, &metadata).await;
        if let Err(ExecuteError::Refused(AccountError::NotOpen)) = executed {
            // In development, asking opens it.
            self.gateway.available(principal).await?;
            executed = accounts.execute(&principal.account, &reserve, &companions, &metadata).await;
        }
        match executed {
            Ok(_) => {
                known.evolve(&events);
                metrics::counter!("aihub_videos_requested_total").increment(1);
                Ok(known)
            }
            Err(ExecuteError::CompanionConflict | ExecuteError::Refused(AccountError::ReservationExists(_))) => {
                Err(NotAdmitted::Known)
            }
            Err(ExecuteError::Refused(refused)) => {
                let top_up = self.gateway.settings.top_up.as_ref();
                Err(GatewayError::from_account(refused, &principal.account, top_up, now).into())
            }
            Err(ExecuteError::Append(AppendError::Overloaded) | ExecuteError::Contended) => Err(overloaded().into()),
            Err(error) => Err(NotAdmitted::Unknown(GatewayError::outside(&error))),
        }
    }

    /// The job that this key made, if it was asked for the same.
    async fn repeated(&self, known: Known, video: &NewVideo) -> Result<Known, GatewayError> {
        let same = match known.job.request() {
            Some(request) => {
                request.provider == video.provider
                    && request.model == video.model
                    && (request.seconds, request.resolution) == (video.seconds, video.resolution)
                    && (request.aspect_ratio, request.priority) == (video.aspect_ratio, video.priority)
                    && request.session_id == video.session_id
                    && self.is_content(&known, &video.content).await?
            }
            None => false,
        };
        if same {
            return Ok(known);
        }
        let reason = "this Idempotency-Key was used for a different video";
        Err(GatewayError::DuplicateRequest { request_id: Some(known.video_id), reason })
    }

    async fn is_content(&self, known: &Known, content: &VideoContent) -> Result<bool, GatewayError> {
        match self.content(known).await {
            Ok(written) => Ok(written == *content),
            // What it was cannot be told any more; the key has its job all the same.
            Err(VaultError::Erased) => Ok(true),
            Err(error) => Err(GatewayError::outside(&error)),
        }
    }
}
