//! The writer's task: batch after batch over one connection, and the same batch again when the connection fails.

use std::{sync::Arc, time::Duration};

use aihub_application::ports::event_log::AppendError;
use futures::future::join;
use metrics::{counter, histogram};
use sqlx::PgConnection;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    WriterOptions,
    call::{self, Answer},
    health::Health,
    queue::{Outcome, Queue, Queued, QueuedBatch},
};
use crate::{
    contents::known::KnownPieces,
    database::{Database, is_read_only},
    event_store::batch::Batch,
};

const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);
/// Every so many probes see whether there is room on the disk as well, which costs more.
const ROOM_EVERY: u32 = 4;

type Told = (Queued, Outcome);

pub struct Task {
    database: Database,
    options: WriterOptions,
    queue: Arc<Queue>,
    beside: Beside,
    probes: u32,
    /// None before the first call, and after one whose outcome is unknown.
    connection: Option<PgConnection>,
}

/// What is told as calls are answered or not.
pub struct Beside {
    pub known: Arc<KnownPieces>,
    pub health: Arc<Health>,
    /// The last position that a call's answer named.
    pub appended: watch::Sender<u64>,
}

impl Task {
    pub fn new(
        connection: Option<PgConnection>,
        database: Database,
        options: WriterOptions,
        queue: Arc<Queue>,
        beside: Beside,
    ) -> Self {
        Self { database, options, queue, beside, probes: 0, connection }
    }

    pub async fn run(mut self) {
        let health = self.beside.health.clone();
        tokio::select! {
            () = self.work() => {}
            () = health.count() => {}
        }
    }

    async fn work(&mut self) {
        // The outcomes of the last batch are told while the server works on the next one, not before it has it.
        let mut untold = Vec::new();
        loop {
            let mut next = self.queue.try_take();
            if next.is_none() {
                tell(std::mem::take(&mut untold));
                next = self.next().await;
            }
            let Some(QueuedBatch { mut batch, mut units }) = next else {
                return;
            };
            // Only now is it known which bases the batches before have broken.
            if units.iter().any(|queued| queued.unit.is_broken()) {
                let broken = units.extract_if(.., |queued| queued.unit.is_broken());
                untold.extend(broken.map(|queued| (queued, Err(AppendError::Conflict { stream: 0 }))));
                batch = Batch::default();
                for queued in &units {
                    batch.push(&queued.unit);
                }
                if units.is_empty() {
                    continue;
                }
            }
            (untold, ()) = join(self.append(batch, units), async { tell(untold) }).await;
            for (queued, outcome) in &untold {
                if outcome.is_err() {
                    queued.unit.break_off();
                }
            }
        }
    }

    /// The next batch. While there is none, it is tried now and then whether one could be appended.
    async fn next(&mut self) -> Option<QueuedBatch> {
        let Some(after) = self.options.probe_after else { return self.queue.take().await };
        loop {
            match timeout(after, self.queue.take()).await {
                Ok(next) => return next,
                Err(_) => self.probe().await,
            }
        }
    }

    /// Does what an append does, but for the events.
    async fn probe(&mut self) {
        self.beside.health.called();
        let has_no_room = self.beside.health.has_no_room();
        self.probes += 1;
        let looks_for_room = self.probes.is_multiple_of(ROOM_EVERY);
        let call_timeout = self.options.call_timeout;
        let probe = async {
            let connection = self.connected().await?;
            if has_no_room {
                return call::try_append(connection).await;
            }
            if looks_for_room {
                call::probe_room(connection).await?;
            }
            call::probe(connection).await
        };
        match timeout(call_timeout, probe).await {
            Ok(Ok(())) => self.beside.health.answered(),
            Ok(Err(error)) => self.lost(&error),
            Err(_) => self.lost(&sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
        }
    }

    fn lost(&mut self, error: &sqlx::Error) {
        self.connection = None;
        let is_new = self.beside.health.failed(error);
        counter!("event_log_reconnects_total").increment(1);
        if is_new {
            tracing::warn!(error = %error, "the event log did not answer");
        } else {
            tracing::debug!(error = %error, "the event log did not answer again");
        }
    }

    /// Sends the batch until it is answered, refused or out of time.
    async fn append(&mut self, mut batch: Batch, units: Vec<Queued>) -> Vec<Told> {
        let started = Instant::now();
        let give_up_at = units.first().map_or(started, |first| first.since) + self.options.give_up_after;
        let mut backoff = FIRST_BACKOFF;
        let mut is_retry = false;
        let error = loop {
            self.beside.health.called();
            let error = match timeout(self.options.call_timeout, self.call(&batch)).await {
                Ok(Ok(answer)) => {
                    self.beside.health.answered();
                    record(&batch, &answer, started);
                    self.beside.known.add(units.iter().flat_map(|queued| queued.unit.contents()));
                    let counts: Vec<usize> = units.iter().map(|queued| queued.unit.event_count()).collect();
                    let told: Vec<Told> = units.into_iter().zip(answer.outcomes(counts, is_retry)).collect();
                    let last = told.iter().filter_map(|(_, outcome)| Some(outcome.as_ref().ok()?.position)).max();
                    self.beside.appended.send_if_modified(|appended| {
                        let before = std::mem::replace(appended, last.unwrap_or(0).max(*appended));
                        before < *appended
                    });
                    return told;
                }
                Ok(Err(error)) => error,
                Err(_) => sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()),
            };
            if is_duplicate(&error) && !batch.one_by_one {
                batch.one_by_one = true;
                continue;
            }
            if is_refusal(&error) {
                self.beside.health.answered();
                break error;
            }
            if is_denied(&error) {
                self.lost(&error);
                break error;
            }
            if is_read_only(&error) {
                self.database.distrust();
            }
            // Whether the call was committed is not known. Sent again under the log's lock, the command ids tell.
            self.beside.known.forget();
            self.lost(&error);
            is_retry = true;
            if Instant::now() + backoff > give_up_at {
                break error;
            }
            sleep(backoff).await;
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        };
        self.refuse(units, &error).await
    }

    async fn call(&mut self, batch: &Batch) -> Result<Answer, sqlx::Error> {
        call::append(self.connected().await?, batch).await
    }

    async fn connected(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        Ok(match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(call::connect(&self.database, &self.options).await?),
        })
    }

    /// The whole batch has no outcome. Where that is one unit's fault, the others do not suffer for it.
    async fn refuse(&mut self, units: Vec<Queued>, error: &sqlx::Error) -> Vec<Told> {
        let mut outcomes = Vec::with_capacity(units.len());
        let is_alone = units.len() == 1;
        for unit in units {
            if !is_refusal(error) {
                outcomes.push((unit, Err(AppendError::Unavailable(error.to_string()))));
            } else if is_alone {
                outcomes.push((unit, Err(AppendError::Malformed(error.to_string()))));
            } else {
                outcomes.extend(Box::pin(self.append(Batch::of(&unit.unit), vec![unit])).await);
            }
        }
        outcomes
    }
}

/// A stream that should be new is there already, of which `append_events` says no more than that.
fn is_duplicate(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if error.is_unique_violation())
}

/// The server says that what was sent cannot stand in the log, whenever it is sent: not JSON, a zero byte in a text,
/// a key too long for the index. Nothing was appended.
fn is_refusal(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)))
        }
        sqlx::Error::Encode(_) => true,
        _ => false,
    }
}

/// The login may not append, and will not while it waits.
fn is_denied(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.code().is_some_and(|code| code == "42501"))
}

fn tell(outcomes: Vec<Told>) {
    for (queued, outcome) in outcomes {
        if matches!(outcome, Err(AppendError::Conflict { .. })) {
            counter!("event_log_conflicts_total").increment(1);
        }
        // A caller that no longer waits has its unit in the log all the same.
        let _ = queued.outcome.send(outcome);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a histogram")]
fn record(batch: &Batch, answer: &Answer, started: Instant) {
    histogram!("event_log_batch_events").record(batch.event_count() as f64);
    histogram!("event_log_append_seconds").record(started.elapsed());
    histogram!("event_log_lock_wait_seconds").record(answer.lock_wait);
}
