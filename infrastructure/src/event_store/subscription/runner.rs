//! A handler's runner: session after session, step after step.

use std::{sync::Arc, time::Duration};

use metrics::{counter, gauge};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    EventHandler, Status, SubscriptionError, checkpoint,
    session::{Session, Step, StepError},
    tail::Tail,
};
use crate::{database::Database, event_store::upcast::Upcasters};

/// How often a runner looks at the log without having been called, and for the lock that another one holds.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

pub struct Runner {
    pub database: Database,
    pub upcasters: Arc<Upcasters>,
    pub handler: Arc<dyn EventHandler>,
    pub tail: Arc<Tail>,
    pub progress: watch::Sender<u64>,
}

impl Runner {
    /// Until shutdown. A handler that stopped tries again when somebody has resumed it.
    pub async fn run(mut self, shutdown: &CancellationToken) {
        while self.run_while(|_| true, shutdown).await.is_err() {
            gauge!("subscription_stopped", "name" => self.handler.name()).set(1.0);
            if shutdown.run_until_cancelled(self.resumed()).await.is_none() {
                return;
            }
        }
    }

    async fn resumed(&self) {
        loop {
            sleep(LOOK_EVERY).await;
            let status = checkpoint::status(self.database.pool(), self.handler.name()).await;
            if matches!(status, Ok(Some(Status { failure: None, .. }))) {
                return;
            }
        }
    }

    /// Until `position` is applied.
    pub async fn run_until(mut self, position: u64) -> Result<(), SubscriptionError> {
        self.run_while(|applied| applied < position, &CancellationToken::new()).await
    }

    async fn run_while(
        &mut self,
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
        let mut session =
            Session::connect(&self.database, self.handler.clone(), self.upcasters.clone(), self.tail.clone()).await?;
        while !session.begin().await? {
            // Another runner is at work, or the handler is paused.
            if shutdown.run_until_cancelled(sleep(LOOK_EVERY)).await.is_none() {
                return Ok(());
            }
        }
        let mut tail = self.tail.position();
        let mut before = Step::Applied;
        loop {
            self.progress.send_replace(session.position());
            if shutdown.is_cancelled() || !goes_on(session.position()) {
                return Ok(());
            }
            let wait = match before {
                Step::Applied => None,
                Step::CaughtUp => Some((session.position(), Instant::now() + LOOK_EVERY)),
                Step::Rests { up_to, until } => Some((up_to, until)),
            };
            if let Some((known, until)) = wait {
                let more = timeout_at(until, tail.wait_for(|tail| *tail > known));
                let more = async { more.await.is_ok() };
                let heard = shutdown.run_until_cancelled(more).await;
                if heard == Some(false) && before == Step::CaughtUp {
                    // Nothing was heard: whether it is still our turn is only learned by asking.
                    session.look().await?;
                }
            }
            match session.step().await {
                Ok(step) => {
                    *backoff = FIRST_BACKOFF;
                    self.record(&session);
                    before = step;
                }
                Err(StepError::Stopped { position, error }) => {
                    session.fail(position, &error).await.map_err(StepError::Lost)?;
                    return Err(StepError::Stopped { position, error });
                }
                Err(lost) => return Err(lost),
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    fn record(&self, session: &Session) {
        let behind = self.tail.position().borrow().saturating_sub(session.position());
        gauge!("subscription_behind_events", "name" => self.handler.name()).set(behind as f64);
        gauge!("subscription_stopped", "name" => self.handler.name()).set(0.0);
    }
}
