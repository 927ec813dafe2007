//! What an operator, or a job's owner, decides.

use std::slice;

use aihub_domain::video::command::VideoCommand;

use super::{
    Videos,
    jobs::{ChangeError, Jobs, Known},
    queue::VideoQueue,
};
use crate::ports::video_provider::is_job_id;
use aihub_domain::video::{VideoError, VideoStatus};

/// What became of a submission that is in doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The provider has no job of it: it waits again, and is submitted once more.
    Resubmit,
    /// The provider has it under this name, which is none of ours yet.
    Adopt { provider_job_id: String },
    /// It is given up, and its hold released. What the provider may have made of it is not fetched.
    Fail,
}

impl Jobs {
    /// Ends the doubt about a job. A job that is not in doubt is refused.
    pub async fn decide(
        &self,
        queue: &dyn VideoQueue,
        video_id: &str,
        decision: Decision,
        actor: &str,
    ) -> Result<Known, ChangeError> {
        let mut known = self.load(video_id).await?.ok_or(ChangeError::Unknown)?;
        let in_doubt = known.status() == VideoStatus::InDoubt;
        let Some(last) = known.job.submission().filter(|_| in_doubt) else {
            return Err(VideoError::WrongStatus(known.status()).into());
        };
        let submission = last.number;
        let (actor, now) = (actor.to_owned(), self.clock.now());
        match decision {
            Decision::Resubmit => {
                let deny = VideoCommand::DenySubmission { submission, actor: actor.clone(), denied_at: now };
                self.change(&mut known, deny, &actor).await?;
            }
            Decision::Adopt { provider_job_id } => {
                if !is_job_id(&provider_job_id) {
                    return Err(ChangeError::NoName(provider_job_id));
                }
                let names = slice::from_ref(&provider_job_id);
                if !queue.known(&last.provider, names).await.map_err(ChangeError::Queue)?.is_empty() {
                    return Err(ChangeError::Taken(provider_job_id));
                }
                let by = Some(actor.clone());
                let record =
                    VideoCommand::RecordSubmission { submission, provider_job_id, actor: by, submitted_at: now };
                self.change(&mut known, record, &actor).await?;
            }
            Decision::Fail => {
                let fail = VideoCommand::FailVideo { code: "given_up".to_owned(), failed_at: now };
                self.end(&mut known, &fail, &actor).await?;
            }
        }
        Ok(known)
    }
}

impl Videos {
    /// Ends the job as its owner wants. One that has ended, or whose file is here already, stays as it is; the job then
    /// tells so. Whoever drives it calls it off at the provider.
    pub async fn cancel(&self, video_id: &str, actor: &str) -> Result<Known, ChangeError> {
        let mut known = self.jobs.load(video_id).await?.ok_or(ChangeError::Unknown)?;
        let command = VideoCommand::CancelVideo { actor: actor.to_owned(), cancelled_at: self.jobs.clock.now() };
        self.jobs.end(&mut known, &command, actor).await?;
        if known.status() == VideoStatus::Cancelled
            && let Err(error) = self.queue.nudge(video_id).await
        {
            tracing::debug!(video.id = %video_id, error.message = format!("{error:#}"), "its driver will see it by itself");
        }
        Ok(known)
    }
}
