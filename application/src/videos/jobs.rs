//! A job's steps and its end, each decided on what the log says. The end and the account's settlement are one commit:
//! whatever dies, neither is without the other.

use std::{sync::Arc, time::Duration};

use aihub_domain::{
    account::{AccountError, command::AccountCommand},
    money::MicrocreditsPerUsd,
    video::{
        VideoError, VideoJob, VideoStatus,
        command::VideoCommand,
        event::{VideoEvent, VideoRequest},
    },
};
use cqrs_es::Aggregate;
use thiserror::Error;
use tokio::time::sleep;
use uuid::Uuid;

use crate::{
    accounts::{Accounts, ExecuteError},
    ports::{
        clock::Clock,
        event_log::{AppendError, EventLog, LoadError, Metadata, StreamAppend, Unit},
    },
};

/// Who acts where nobody asked.
pub(super) const DRIVER: &str = "videos";
pub(super) const FIRST_RETRY: Duration = Duration::from_millis(50);
pub(super) const SLOWEST_RETRY: Duration = Duration::from_secs(5);

/// What a job's steps need. An operator's command has no more.
#[derive(Clone)]
pub struct Jobs {
    pub log: Arc<dyn EventLog>,
    pub accounts: Arc<Accounts>,
    pub clock: Arc<dyn Clock>,
    pub rate: MicrocreditsPerUsd,
    /// This node's name, in the metadata of its events.
    pub node: String,
}

/// A job as the log has it.
#[derive(Debug, Clone)]
pub struct Known {
    pub video_id: String,
    pub job: VideoJob,
    pub(super) sequence: u64,
}

/// Why a job was not changed.
#[derive(Debug, Error)]
pub enum ChangeError {
    #[error("there is no such video")]
    Unknown,
    #[error(transparent)]
    Refused(#[from] VideoError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error("an event does not serialise: {0}")]
    Serialise(#[from] serde_json::Error),
    #[error("the account does not follow: {0}")]
    Account(#[from] ExecuteError),
    #[error("{0:?} cannot be the name of a provider's job")]
    NoName(String),
    #[error("the provider's job {0} is one of our videos already")]
    Taken(String),
    #[error("what is known of the provider's jobs cannot be looked at: {0:#}")]
    Queue(anyhow::Error),
}

impl Known {
    pub fn status(&self) -> VideoStatus {
        self.job.status()
    }

    /// Counts the job's events.
    pub fn version(&self) -> u64 {
        self.sequence
    }

    /// Of a job that was requested, which every known one was.
    pub fn request(&self) -> Result<&VideoRequest, VideoError> {
        self.job.request().ok_or(VideoError::NotRequested)
    }

    pub(super) fn evolve(&mut self, events: &[VideoEvent]) {
        for event in events {
            self.job.evolve(event);
        }
        self.sequence += events.len() as u64;
    }

    pub(super) fn append(&self, events: &[VideoEvent]) -> Result<StreamAppend, serde_json::Error> {
        StreamAppend::of::<VideoJob>(&self.video_id, self.sequence, events)
    }
}

impl ChangeError {
    /// The log, or the database, is away: the same may do later.
    pub(super) fn is_outage(&self) -> bool {
        use ExecuteError as E;
        matches!(
            self,
            Self::Append(AppendError::Unavailable(_) | AppendError::Overloaded | AppendError::Conflict { .. })
                | Self::Load(LoadError::Unavailable(_))
                | Self::Account(
                    E::Append(AppendError::Unavailable(_) | AppendError::Overloaded)
                        | E::Load(LoadError::Unavailable(_))
                        | E::Contended
                        | E::CompanionConflict
                )
        )
    }
}

impl Jobs {
    /// A job as the log has it; `None` where there is none of this name.
    pub async fn load(&self, video_id: &str) -> Result<Option<Known>, LoadError> {
        let mut known = Known { video_id: video_id.to_owned(), job: VideoJob::default(), sequence: 0 };
        self.catch_up(&mut known).await?;
        Ok((known.status() != VideoStatus::New).then_some(known))
    }

    pub(super) async fn catch_up(&self, known: &mut Known) -> Result<(), LoadError> {
        for event in self.log.load(VideoJob::TYPE, &known.video_id, known.sequence).await? {
            known.sequence = event.sequence;
            let event: VideoEvent = event.decode(VideoJob::TYPE, &known.video_id)?;
            known.job.evolve(&event);
        }
        Ok(())
    }

    /// Decides `command` on the job and commits what follows, as often as it takes: while the log is away, and on the job
    /// as it is by then where somebody else was first. Returns whether anything followed.
    pub(super) async fn change(
        &self,
        known: &mut Known,
        command: VideoCommand,
        actor: &str,
    ) -> Result<bool, ChangeError> {
        let mut retry = FIRST_RETRY;
        loop {
            match self.try_change(known, command.clone(), actor).await {
                Err(error) if error.is_outage() => {
                    tracing::warn!(video.id = %known.video_id, error.message = %error, "a video's step is not durable yet");
                }
                done => return done,
            }
            sleep(retry).await;
            retry = (retry * 2).min(SLOWEST_RETRY);
        }
    }

    async fn try_change(&self, known: &mut Known, command: VideoCommand, actor: &str) -> Result<bool, ChangeError> {
        loop {
            let events = known.job.decide(command.clone())?;
            if events.is_empty() {
                return Ok(false);
            }
            let unit = Unit {
                command_id: Uuid::now_v7(),
                streams: vec![known.append(&events)?],
                metadata: self.metadata(&known.video_id, actor),
                basis: None,
            };
            match self.log.append(unit).await {
                Ok(_) => {
                    known.evolve(&events);
                    return Ok(true);
                }
                Err(AppendError::Conflict { .. }) => self.catch_up(known).await?,
                // It may be in the log: what is decided next is decided on what is there.
                Err(error) => {
                    self.catch_up(known).await?;
                    return Err(error.into());
                }
            }
        }
    }

    pub(super) fn metadata(&self, video_id: &str, actor: &str) -> Arc<Metadata> {
        Arc::new(Metadata::from([
            ("actor", actor.to_owned()),
            ("correlationId", video_id.to_owned()),
            ("node", self.node.clone()),
        ]))
    }

    /// Ends the job with `command`, as often as it takes. `false` when it has ended already, or is somewhere else by now.
    pub(super) async fn end(
        &self,
        known: &mut Known,
        command: &VideoCommand,
        actor: &str,
    ) -> Result<bool, ChangeError> {
        let mut retry = FIRST_RETRY;
        loop {
            match self.try_end(known, command.clone(), actor).await {
                Ok(()) => return Ok(true),
                Err(ChangeError::Refused(VideoError::AlreadyEnded(_) | VideoError::WrongStatus(_))) => {
                    return Ok(false);
                }
                Err(error) if error.is_outage() => {
                    tracing::warn!(video.id = %known.video_id, error.message = %error, "a video's end is not durable yet");
                }
                Err(error) => return Err(error),
            }
            sleep(retry).await;
            retry = (retry * 2).min(SLOWEST_RETRY);
            // Somebody else may have been first, or a commit's reply was lost.
            if let Err(error) = self.catch_up(known).await {
                tracing::warn!(video.id = %known.video_id, error.message = %error, "a video cannot be looked at");
            }
        }
    }

    async fn try_end(&self, known: &mut Known, command: VideoCommand, actor: &str) -> Result<(), ChangeError> {
        let events = known.job.decide(command)?;
        let request = known.request()?;
        let account = request.account.clone();
        // The same instant: what was used and what was spent for it are booked in the same month.
        let ended_at =
            events.iter().find_map(VideoEvent::ended).map_or_else(|| self.clock.now(), |(_, ended_at)| ended_at);
        let reservation_id = known.video_id.clone();
        let settlement = events.iter().find_map(|event| match event {
            VideoEvent::VideoCompleted { outcome, .. } => Some(AccountCommand::SettleReservation {
                reservation_id: reservation_id.clone(),
                charge: outcome.charge.clone(),
                settled_at: ended_at,
            }),
            _ => None,
        });
        let settlement =
            settlement.unwrap_or(AccountCommand::ReleaseReservation { reservation_id, released_at: ended_at });
        let append = known.append(&events)?;
        let companions = |_: &[_]| Ok(vec![append.clone()]);
        let metadata = self.metadata(&known.video_id, actor);
        match self.accounts.execute(&account, &settlement, &companions, &metadata).await {
            Ok(_) => {}
            // The hold has gone with an end that this one did not see.
            Err(ExecuteError::Refused(AccountError::NoSuchReservation(_))) => {
                self.catch_up(known).await?;
                let status = known.status();
                return Err(if status.is_end() {
                    VideoError::AlreadyEnded(status).into()
                } else {
                    ChangeError::Account(AccountError::NoSuchReservation(known.video_id.clone()).into())
                });
            }
            Err(error) => return Err(error.into()),
        }
        known.evolve(&events);
        let status = known.status();
        metrics::counter!("aihub_videos_ended_total", "status" => status.as_str()).increment(1);
        tracing::debug!(video.id = %known.video_id, video.status = status.as_str(), "a video has ended");
        Ok(())
    }

    pub(super) async fn fail(&self, known: &mut Known, code: &str) -> Result<(), ChangeError> {
        let command = VideoCommand::FailVideo { code: code.to_owned(), failed_at: self.clock.now() };
        self.end(known, &command, DRIVER).await.map(|_| ())
    }

    pub(super) async fn expire(&self, known: &mut Known, reason: &str) -> Result<(), ChangeError> {
        let command = VideoCommand::ExpireVideo { reason: reason.to_owned(), expired_at: self.clock.now() };
        self.end(known, &command, DRIVER).await.map(|_| ())
    }

    /// What is stored is charged for, and then it is done.
    pub(super) async fn complete(&self, known: &mut Known) -> Result<(), ChangeError> {
        let rate = self.rate;
        let command = VideoCommand::CompleteVideo { rate, completed_at: self.clock.now() };
        self.end(known, &command, DRIVER).await.map(|_| ())
    }
}
