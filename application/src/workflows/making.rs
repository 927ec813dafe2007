//! A step that makes videos: one, or one for each entry of a list that a step before has made. They are jobs like any
//! other; the step waits for the last of them, and fails if one did. What was made stays.

use std::{collections::BTreeSet, time::Duration};

use aihub_domain::{
    money::Microcredits,
    video::VideoStatus,
    workflow::{
        StepState, StepStatus,
        command::{StepName, WorkflowCommand},
        event::{Step, Work},
    },
};
use serde_json::Value;
use tokio::{sync::broadcast::Receiver, time::sleep};

use super::{
    Workflows,
    driver::{Hand, Next},
    runs::Run,
    steps::Failed,
    templates::{Names, render},
};
use crate::{
    admission::keyed_id,
    error::GatewayError,
    ports::jobs::{JobKind, News, news_about},
    videos::{
        jobs::Known,
        new_video::{MAX_PROMPT_CHARS, NewVideo, VideoContent},
    },
};

/// How often the videos are looked at without news of them.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const VIDEO_FAILED: &str = "VIDEO_FAILED";

/// What became of one of the videos.
enum Shot {
    Made(Box<Known>),
    Failed(String),
}

impl Workflows {
    pub(super) async fn make(
        &self,
        hand: &Hand,
        run: &mut Run,
        step: &Step,
        state: &StepState,
    ) -> anyhow::Result<Next> {
        let is_running = state.status == StepStatus::Running;
        let attempt = if is_running { state.attempt } else { state.attempt + 1 };
        let at = StepName { step: step.name.clone(), attempt };
        if !is_running && !self.begin(run, &at, None).await? {
            return Ok(Next::Go);
        }
        // Heard from before the first video is asked for, so that no end falls between.
        let mut news = self.videos.news.subscribe();
        let videos = match self.wanted(run, step).await? {
            Ok(videos) => videos,
            Err(failed) => return self.fail(run, at, failed).await,
        };
        let principal = self.principal(&run.workflow)?;
        let (count, mut refusal) = (videos.len(), None);
        let mut asked = state.videos.clone();
        for (shot, video) in videos.into_iter().enumerate().skip(state.videos.len()) {
            // The same key is the same video, also for whoever takes this up again.
            let key = shot_key(&run.workflow_id, &step.name, shot);
            match self.videos.request(&principal, video, Some(&key), Some(&run.workflow_id)).await {
                Ok(known) => {
                    let video_id = known.video_id;
                    if !self.record_shot(run, &at, shot, &video_id).await? {
                        return Ok(Next::Go);
                    }
                    asked.push(video_id);
                }
                Err(error) if is_for_later(&error) => return self.refused(run, at, &error).await,
                // Those that were asked for are made all the same.
                Err(error) => {
                    refusal = Some((shot, error));
                    break;
                }
            }
        }
        let Some(shots) = self.wait(hand, run, &mut news, &asked).await? else { return Ok(Next::Go) };
        self.finish(run, at, (count, &asked), &shots, refusal).await
    }

    /// The video that a shot is, or would be.
    pub(super) fn shot_id(&self, run: &Run, step: &str, shot: usize) -> Option<String> {
        let principal = self.principal(&run.workflow).ok()?;
        Some(keyed_id(JobKind::Video, &principal, &shot_key(&run.workflow_id, step, shot)))
    }

    /// The videos, each like the one that the client asked for, with a prompt of its own.
    async fn wanted(&self, run: &Run, step: &Step) -> anyhow::Result<Result<Vec<NewVideo>, Failed>> {
        let Work::Make { template, shots } = &step.work else { anyhow::bail!("step {} makes nothing", step.name) };
        let (names, content) = match (self.names(run).await?, self.content(run).await) {
            (Ok(names), Ok(content)) => (names, content.video),
            (Err(failed), _) => return Ok(Err(failed)),
            (_, Err(error)) => return Err(error.into()),
        };
        let list = shots.as_ref().map(|(step, field)| names.steps.get(step).map(|made| made[field].clone()));
        let entries = match list {
            None => vec![Value::Null],
            Some(Some(Value::Array(entries))) => entries,
            Some(_) => return Ok(Err(Failed::of_template("its list of shots is not there"))),
        };
        let parameters = &run.request()?.video;
        let mut videos = Vec::new();
        for shot in entries {
            let prompt = match render(template, &Names { shot, ..names.clone() }) {
                Ok(prompt) => prompt,
                Err(reason) => return Ok(Err(Failed::of_template(&reason))),
            };
            if prompt.trim().is_empty() || prompt.chars().count() > MAX_PROMPT_CHARS {
                let reason = format!("a video's prompt must have 1 to {MAX_PROMPT_CHARS} characters");
                return Ok(Err(Failed::new("VALIDATION_ERROR", reason)));
            }
            let parameters = parameters.clone();
            videos.push(NewVideo {
                provider: parameters.provider,
                model: parameters.model,
                seconds: parameters.seconds,
                resolution: parameters.resolution,
                aspect_ratio: parameters.aspect_ratio,
                priority: parameters.priority,
                fallback: parameters.fallback,
                session_id: parameters.session_id,
                content: VideoContent { prompt, ..content.clone() },
            });
        }
        Ok(Ok(videos))
    }

    async fn record_shot(&self, run: &mut Run, at: &StepName, shot: usize, video_id: &str) -> anyhow::Result<bool> {
        let (at, shot, video_id) = (at.clone(), u32::try_from(shot)?, video_id.to_owned());
        let recorded_at = self.videos.jobs.clock.now();
        Ok(self.record(run, WorkflowCommand::RecordShot { at, shot, video_id, recorded_at }).await?)
    }

    /// What became of each of the videos, once all have ended; `None` when the workflow ended before.
    async fn wait(
        &self,
        hand: &Hand,
        run: &mut Run,
        news: &mut Receiver<News>,
        video_ids: &[String],
    ) -> anyhow::Result<Option<Vec<Shot>>> {
        let mut open: BTreeSet<&str> = video_ids.iter().map(String::as_str).collect();
        let mut ended: Vec<(&str, Shot)> = Vec::new();
        let mut look: Vec<&str> = open.iter().copied().collect();
        loop {
            for video_id in look {
                if let Some(shot) = self.ended(video_id).await? {
                    open.remove(video_id);
                    ended.push((video_id, shot));
                }
            }
            if open.is_empty() {
                ended.sort_by_key(|(ended, _)| video_ids.iter().position(|video_id| video_id == ended));
                return Ok(Some(ended.into_iter().map(|(_, shot)| shot).collect()));
            }
            let changed = tokio::select! {
                told = news_about(news, |told| changed(told).is_some_and(|id| open.contains(id))) => changed(&told).map(str::to_owned),
                () = sleep(LOOK_EVERY) => None,
                () = hand.wake.notified() => {
                    self.catch_up(run).await?;
                    if run.workflow.status().is_end() {
                        return Ok(None);
                    }
                    None
                }
            };
            look = open.iter().copied().filter(|video_id| changed.as_ref().is_none_or(|one| one == video_id)).collect();
        }
    }

    /// `None` while it is being made.
    async fn ended(&self, video_id: &str) -> anyhow::Result<Option<Shot>> {
        let Some(known) = self.videos.jobs.load(video_id).await? else {
            return Ok(Some(Shot::Failed("it is not in the log".to_owned())));
        };
        let status = known.status();
        Ok(match status {
            VideoStatus::Completed => Some(Shot::Made(Box::new(known))),
            _ if status.is_end() => {
                let reason = known.job.end_reason().unwrap_or_default();
                Some(Shot::Failed(format!("{}: {reason}", status.as_str())))
            }
            _ => None,
        })
    }

    async fn finish(
        &self,
        run: &mut Run,
        at: StepName,
        (count, video_ids): (usize, &[String]),
        shots: &[Shot],
        refusal: Option<(usize, GatewayError)>,
    ) -> anyhow::Result<Next> {
        let (mut charged, mut failures) = (Microcredits::ZERO, Vec::new());
        for (index, (shot, video_id)) in shots.iter().zip(video_ids).enumerate() {
            match shot {
                Shot::Made(known) => {
                    let made = known.job.outcome().map_or(Microcredits::ZERO, |outcome| outcome.charge.amount);
                    charged = charged.plus(made);
                }
                Shot::Failed(reason) => failures.push(format!("video {} of {count} ({video_id}) {reason}", index + 1)),
            }
        }
        let code = match &refusal {
            Some((shot, error)) => {
                failures.push(format!("video {} of {count} was refused: {error}", shot + 1));
                error.code()
            }
            None => VIDEO_FAILED,
        };
        if !failures.is_empty() {
            let failed = Failed { charged, ..Failed::new(code, failures.join("; ")) };
            return self.fail(run, at, failed).await;
        }
        let completed_at = self.videos.jobs.clock.now();
        self.record(run, WorkflowCommand::CompleteStep { at, output: None, charged, completed_at }).await?;
        Ok(Next::Go)
    }
}

fn shot_key(workflow_id: &str, step: &str, shot: usize) -> String {
    format!("workflow:{workflow_id}:{step}:{shot}")
}

/// There is no room now.
fn is_for_later(error: &GatewayError) -> bool {
    use GatewayError as E;
    matches!(error, E::RateLimitExceeded { .. } | E::QueueFull { .. } | E::ShuttingDown | E::Internal { .. })
}

/// The video that something happened to.
fn changed(news: &News) -> Option<&str> {
    match news {
        News::Changed { kind: JobKind::Video, id, .. } => Some(id),
        _ => None,
    }
}
