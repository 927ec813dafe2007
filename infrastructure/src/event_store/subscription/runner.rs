//! A handler's runner: session after session, step after step.

use std::{future::pending, sync::Arc, time::Duration};

use metrics::{counter, gauge};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    EventHandler, SubscriptionError,
    session::{Session, Step, StepError},
};
use crate::{database::Database, event_store::upcast::Upcasters};

/// How often a runner looks at the log without having been called, and for the lock that another one holds.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long after a step that left nothing over the next one begins at the earliest. What a step costs hardly depends
/// on how many events it applies, so a busy log is applied in batches, and a quiet one without delay.
const BATCH_FOR: Duration = Duration::from_millis(50);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

pub struct Runner {
    pub database: Database,
    pub upcasters: Arc<Upcasters>,
    pub handler: Arc<dyn EventHandler>,
    pub head: watch::Receiver<u64>,
    pub progress: watch::Sender<u64>,
}

impl Runner {
    /// Until shutdown, or until the handler stops.
    pub async fn run(self, shutdown: &CancellationToken) {
        // What the handler stopped at is logged and kept: nothing else can be done about it here.
        let _ = self.run_while(|_| true, shutdown).await;
    }

    /// Until `position` is applied.
    pub async fn run_until(self, position: u64) -> Result<(), SubscriptionError> {
        self.run_while(|applied| applied < position, &CancellationToken::new()).await
    }

    async fn run_while(
        mut self,
        goes_on: impl Fn(u64) -> bool,
        shutdown: &CancellationToken,
    ) -> Result<(), SubscriptionError> {
        let name = self.handler.name();
        let mut backoff = FIRST_BACKOFF;
        loop {
            match self.turn(&goes_on, shutdown, &mut backoff).await {
                Ok(()) => return Ok(()),
                Err(StepError::Stopped { position, error }) => {
                    let error = format!("{error:#}");
                    tracing::error!(subscription = name, position, error, "the subscription stopped");
                    counter!("subscription_stops_total", "name" => name).increment(1);
                    return Err(SubscriptionError::Stopped { name: name.to_owned(), position, error });
                }
                Err(StepError::Lost(error)) => {
                    tracing::warn!(subscription = name, error = format!("{error:#}"), "the subscription begins again");
                    if shutdown.run_until_cancelled(sleep(backoff)).await.is_none() {
                        return Ok(());
                    }
                    backoff = (backoff * 2).min(LONGEST_BACKOFF);
                }
            }
        }
    }

    /// A session from beginning to end, which is at shutdown or when it need not go on.
    async fn turn(
        &mut self,
        goes_on: &impl Fn(u64) -> bool,
        shutdown: &CancellationToken,
        backoff: &mut Duration,
    ) -> Result<(), StepError> {
        let mut session = Session::connect(&self.database, self.handler.clone(), self.upcasters.clone()).await?;
        while !session.begin().await? {
            // Another runner is at work.
            if shutdown.run_until_cancelled(sleep(LOOK_EVERY)).await.is_none() {
                return Ok(());
            }
        }
        let mut caught_up = None;
        loop {
            self.progress.send_replace(session.position());
            if shutdown.is_cancelled() || !goes_on(session.position()) {
                return Ok(());
            }
            if let Some(since) = caught_up.take() {
                self.wait(session.position(), since + BATCH_FOR, shutdown).await;
                continue;
            }
            let began = Instant::now();
            match session.step().await {
                Ok(step) => {
                    *backoff = FIRST_BACKOFF;
                    self.record(&session);
                    caught_up = (step == Step::CaughtUp).then_some(began);
                }
                Err(StepError::Stopped { position, error }) => {
                    session.fail(position, &error).await.map_err(StepError::Lost)?;
                    return Err(StepError::Stopped { position, error });
                }
                Err(lost) => return Err(lost),
            }
        }
    }

    /// Until there is more to apply, as far as this node has heard, or for a second, and not before `earliest`.
    async fn wait(&mut self, position: u64, earliest: Instant, shutdown: &CancellationToken) {
        let more = async {
            if self.head.wait_for(|head| *head > position).await.is_err() {
                // Nobody announces any more: only looking is left.
                pending::<()>().await;
            }
        };
        let next = async {
            // Called or not, it is time to look.
            let _ = timeout(LOOK_EVERY, more).await;
            sleep_until(earliest).await;
        };
        shutdown.run_until_cancelled(next).await;
    }

    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    fn record(&self, session: &Session) {
        let behind = self.head.borrow().saturating_sub(session.position());
        gauge!("subscription_behind_events", "name" => self.handler.name()).set(behind as f64);
    }
}
