//! The credits are held and the job is written down, both in one commit, before any provider hears of it.

use std::time::Duration;

use aihub_domain::{
    account::{AccountError, command::AccountCommand},
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
    error::GatewayError,
    ports::{
        event_log::AppendError,
        jobs::JobKind,
        seats::{Applicant, Depth, Seats, Taken},
        vault::VaultError,
    },
    principal::Principal,
};

/// Makes video ids out of idempotency keys.
const VIDEO_NAMESPACE: Uuid = Uuid::from_u128(0x0d3e_4a1c_92b7_4f0e_8a6d_2f51_c7b0_33de);
/// When a full queue is worth another try.
const QUEUE_RETRY: Duration = Duration::from_secs(30);

impl Videos {
    /// Checks `video`, holds its price and puts it into the queue. The same `idempotency_key` of the same user with the same
    /// request is the same job. What is refused here has changed nothing.
    pub async fn request(
        &self,
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
        &self,
        principal: &Principal,
        video: NewVideo,
        idempotency_key: Option<&str>,
        workflow_id: Option<&str>,
    ) -> Result<Known, GatewayError> {
        if self.gateway.draining.is_cancelled() {
            return Err(GatewayError::ShuttingDown);
        }
        let video_id = match idempotency_key {
            Some(key) => keyed_id(principal, key),
            None => Uuid::now_v7().to_string(),
        };
        if idempotency_key.is_some()
            && let Some(known) = self.jobs.load(&video_id).await.map_err(|error| GatewayError::internal(&error))?
        {
            return self.repeated(known, &video).await;
        }
        let now = self.gateway.clock.now();
        let offers = self.catalog.offers(&video, principal, now)?;
        let _running = self.gateway.limits.admit(principal, 0)?;
        let costs = offers.iter().filter_map(|offer| offer.price.cost(video.resolution, video.seconds));
        let dearest = costs.max().unwrap_or(PicoUsd(0));
        // A video that costs nothing still holds something, so that every job has its reservation.
        let reserved = self.gateway.settings.rate.charge(dearest).max(Microcredits(1));
        let content = serde_json::to_vec(&video.content).map_err(|error| GatewayError::internal(&error))?;
        let content =
            self.gateway.vault.seal(&principal.account, &video_id, &content).await.map_err(|error| match error {
                VaultError::Erased => GatewayError::Erased { account: principal.account.clone() },
                error => GatewayError::internal(&error),
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
        let mut known = Known { video_id, job: VideoJob::default(), sequence: 0 };
        let applicant = Applicant { kind: JobKind::Video, id: &known.video_id, account: &principal.account };
        let seat = take_seat(&*self.seats, applicant, self.settings.max_queued).await?;
        match self.open(&mut known, request, principal).await {
            Ok(()) => Ok(known),
            Err(Opening::Unknown(error)) => Err(error),
            Err(Opening::Refused(error)) => {
                give_back(&*self.seats, seat).await;
                Err(error)
            }
            // The same key came in meanwhile, here or on another node.
            Err(Opening::Known) => {
                give_back(&*self.seats, seat).await;
                let known = self.jobs.load(&known.video_id).await.map_err(|error| GatewayError::internal(&error))?;
                let known = known.ok_or_else(|| GatewayError::internal("a video is there and cannot be loaded"))?;
                self.repeated(known, &video).await
            }
        }
    }

    async fn open(&self, known: &mut Known, request: VideoRequest, principal: &Principal) -> Result<(), Opening> {
        let (reserved, now) = (request.reserved_microcredits, request.requested_at);
        let command = VideoCommand::RequestVideo(Box::new(request));
        let events = known.job.decide(command).map_err(|_| Opening::Known)?;
        let append = known.append(&events).map_err(|error| GatewayError::internal(&error))?;
        let companions = |_: &[_]| Ok(vec![append.clone()]);
        let reserve = AccountCommand::ReserveCredits {
            reservation_id: known.video_id.clone(),
            amount: reserved,
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
                Ok(())
            }
            Err(ExecuteError::CompanionConflict | ExecuteError::Refused(AccountError::ReservationExists(_))) => {
                Err(Opening::Known)
            }
            Err(ExecuteError::Refused(refused)) => {
                Err(GatewayError::from_account(refused, &principal.account, now).into())
            }
            Err(ExecuteError::Append(AppendError::Overloaded) | ExecuteError::Contended) => {
                Err(GatewayError::QueueFull { running: 0, waiting: 0, retry_after: Duration::from_secs(1) }.into())
            }
            Err(error) => Err(Opening::Unknown(GatewayError::internal(&error))),
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
            Err(error) => Err(GatewayError::internal(&error)),
        }
    }
}

enum Opening {
    /// There is a job of this name.
    Known,
    /// There is none.
    Refused(GatewayError),
    /// It may have been committed. If it was, it is a job like any other, which has its seat, and the same key finds it.
    Unknown(GatewayError),
}

impl From<GatewayError> for Opening {
    fn from(error: GatewayError) -> Self {
        Self::Refused(error)
    }
}

pub(crate) async fn take_seat(seats: &dyn Seats, applicant: Applicant<'_>, most: Depth) -> Result<Uuid, GatewayError> {
    match seats.take(applicant, most).await {
        Ok(Taken::Seat(seat)) => Ok(seat),
        Ok(Taken::Full(Depth { all, of_account })) => {
            let waiting = if all < most.all { of_account } else { all };
            let waiting = usize::try_from(waiting).unwrap_or(usize::MAX);
            Err(GatewayError::QueueFull { running: 0, waiting, retry_after: QUEUE_RETRY })
        }
        Err(error) => Err(GatewayError::internal(&format!("{error:#}"))),
    }
}

pub(crate) async fn give_back(seats: &dyn Seats, seat: Uuid) {
    if let Err(error) = seats.give_back(seat).await {
        tracing::warn!(
            error.message = format!("{error:#}"),
            "a seat in a queue was not given back; it is free in a minute"
        );
    }
}

fn keyed_id(principal: &Principal, key: &str) -> String {
    // The lengths keep two different pairs of names from spelling the same text.
    let (account, user) = (&principal.account, &principal.user);
    let name = format!("{}:{account}{}:{user}{key}", account.len(), user.len());
    Uuid::new_v5(&VIDEO_NAMESPACE, name.as_bytes()).to_string()
}
