//! A handler's runner: session after session, step after step.

use std::{sync::Arc, time::Duration};

use metrics::counter;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    EventHandler, Status, SubscriptionError, checkpoint,
    session::{Session, Step, StepError},
    tail::Tail,
};
use crate::{
    database::{Database, is_read_only},
    event_store::upcast::Upcasters,
};

/// How often a runner that has nothing to do says that it is there, and one that has no turn asks whether that is free: with one
/// statement on the pool, for only who has the turn has a connection.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

pub struct Runner {
    pub database: Database,
    pub upcasters: Arc<Upcasters>,
    pub handler: Arc<dyn EventHandler>,
    pub tail: Arc<Tail>,
    /// Whose turn it is while this one runs.
    pub id: Uuid,
    pub progress: watch::Sender<u64>,
}

impl Runner {
    /// Until shutdown. A handler that stopped tries again when somebody has resumed it.
    pub async fn run(mut self, shutdown: &CancellationToken) {
        while self.run_while(|_| true, shutdown).await.is_err() {
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
                    if error.chain().filter_map(|cause| cause.downcast_ref()).any(is_read_only) {
                        self.database.distrust();
                    }
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
        let Some(mut session) = self.begin(shutdown).await? else { return Ok(()) };
        let mut tail = self.tail.position();
        let mut before = Step::Applied;
        loop {
            self.progress.send_replace(session.position());
            if shutdown.is_cancelled() || !goes_on(session.position()) {
                session.leave().await;
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

    /// A session with the turn, once no other runner has it and the handler is not paused; `None` at shutdown.
    async fn begin(&self, shutdown: &CancellationToken) -> Result<Option<Session>, StepError> {
        // The first time nobody is asked: a node that starts has other things to do with its pool.
        let mut may_be_free = true;
        loop {
            if may_be_free {
                let (handler, upcasters, tail) = (self.handler.clone(), self.upcasters.clone(), self.tail.clone());
                let mut session = Session::connect(&self.database, handler, upcasters, tail, self.id).await?;
                if session.begin().await? {
                    return Ok(Some(session));
                }
            }
            if shutdown.run_until_cancelled(sleep(LOOK_EVERY)).await.is_none() {
                return Ok(None);
            }
            may_be_free = checkpoint::is_free(self.database.pool(), self.handler.name()).await?;
        }
    }
}
