//! The one loop, on one node at a time, that has a task for each workflow that runs. A task does one step after another
//! until the workflow has ended.
//!
//! Being the only one saves work. It is not what keeps a step from being done twice: the log does, and the names of
//! requests and videos.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aihub_domain::workflow::{WorkflowStatus, event::Work};
use futures::FutureExt;
use tokio::{sync::Notify, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Workflows, runs::DRIVER};
use crate::ports::jobs::{JobKind, News, news_about};

/// How often it is looked for workflows without news.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two looks: news come in crowds.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(20);
/// How long a workflow is left alone that could not be looked after; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

type Hands = Arc<Mutex<HashMap<String, Arc<Notify>>>>;

/// A workflow in a task's hand, until this is dropped.
pub(super) struct Hand {
    hands: Hands,
    pub(super) workflow_id: String,
    /// Something has happened to it.
    pub(super) wake: Arc<Notify>,
}

/// What a look at a step came to.
pub(super) enum Next {
    /// Whatever the log says.
    Go,
    /// The same again, later.
    Pause(Duration),
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.hands.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.workflow_id);
    }
}

impl Workflows {
    /// Looks after all workflows until `stop`; each is left where it can be taken up again. To be run on one node at a time.
    pub async fn drive(self: Arc<Self>, stop: CancellationToken) {
        let (hands, tasks) = (Hands::default(), TaskTracker::new());
        let mut news = self.videos.news.subscribe();
        tracing::info!("this node looks after the workflows");
        while !stop.is_cancelled() {
            match self.list.running().await {
                Ok(running) => {
                    #[expect(clippy::cast_precision_loss, reason = "a number of workflows")]
                    metrics::gauge!("aihub_workflows").set(running.len() as f64);
                    for workflow_id in running {
                        if let Some(hand) = grasp(&hands, workflow_id) {
                            let (workflows, stop) = (self.clone(), stop.clone());
                            tasks.spawn(async move { stop.run_until_cancelled(workflows.run(&hand)).await });
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(error.message = format!("{error:#}"), "the workflows could not be looked after");
                }
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(LOOK_EVERY) => {}
                told = news_about(&mut news, is_of_workflow) => wake(&hands, &told),
            }
            while let Some(told) = news_about(&mut news, is_of_workflow).now_or_never() {
                wake(&hands, &told);
            }
            let _ = stop.run_until_cancelled(sleep(LOOK_AT_MOST_EVERY)).await;
        }
        tasks.close();
        tasks.wait().await;
    }

    /// Until the workflow has ended.
    async fn run(&self, hand: &Hand) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.advance(hand).await {
                Ok(None) => return,
                Ok(Some(Next::Go)) => pause = FIRST_PAUSE,
                Ok(Some(Next::Pause(wanted))) => self.pause(hand, wanted.min(LONGEST_PAUSE)).await,
                Err(error) => {
                    let workflow_id = &hand.workflow_id;
                    tracing::error!(workflow.id = %workflow_id, error.message = format!("{error:#}"), "a workflow is left for later");
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Waits, unless the workflow ends meanwhile. What else happens to it is our own doing.
    async fn pause(&self, hand: &Hand, wanted: Duration) {
        let over = sleep(wanted);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = over.as_mut() => return,
                () = hand.wake.notified() => {
                    let loaded = self.load(&hand.workflow_id).await;
                    if loaded.is_ok_and(|run| run.is_none_or(|run| run.workflow.status().is_end())) {
                        return;
                    }
                }
            }
        }
    }

    /// Does the step at which the workflow is; `None` when there is none.
    async fn advance(&self, hand: &Hand) -> anyhow::Result<Option<Next>> {
        let Some(mut run) = self.load(&hand.workflow_id).await? else { return Ok(None) };
        let Some((step, state)) = run.workflow.current().map(|(step, state)| (step.clone(), state.clone())) else {
            // Whoever cancelled it may have been too early to see what was asked for here.
            if run.workflow.status() == WorkflowStatus::Cancelled {
                self.call_off(&run, DRIVER).await;
            }
            return Ok(None);
        };
        match step.work {
            Work::Text { .. } => self.write(hand, &mut run, &step, &state).await.map(Some),
            Work::Make { .. } => self.make(hand, &mut run, &step, &state).await.map(Some),
        }
    }
}

/// `None` where a task has it.
fn grasp(hands: &Hands, workflow_id: String) -> Option<Hand> {
    let mut guard = hands.lock().unwrap_or_else(PoisonError::into_inner);
    if guard.contains_key(&workflow_id) {
        return None;
    }
    let wake = Arc::<Notify>::default();
    guard.insert(workflow_id.clone(), wake.clone());
    Some(Hand { hands: hands.clone(), workflow_id, wake })
}

fn is_of_workflow(news: &News) -> bool {
    matches!(news, News::Changed { kind: JobKind::Workflow, .. })
}

/// Has the one looked at that the news are about, or all of them where that is not known.
fn wake(hands: &Hands, news: &News) {
    let hands = hands.lock().unwrap_or_else(PoisonError::into_inner);
    match news {
        News::Changed { id, .. } => hands.get(id).into_iter().for_each(|wake| wake.notify_one()),
        News::Missed => hands.values().for_each(|wake| wake.notify_one()),
    }
}
