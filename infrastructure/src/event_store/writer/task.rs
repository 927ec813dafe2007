//! The writer's task: batch after batch over one connection, and the same batch again when the connection fails.

use std::{sync::Arc, time::Duration};

use aihub_application::ports::event_log::AppendError;
use futures::future::join;
use metrics::{counter, histogram};
use sqlx::PgConnection;
use tokio::time::{Instant, sleep, timeout};

use super::{
    WriterOptions,
    call::{self, Answer},
    queue::{Outcome, Queue, Queued, QueuedBatch},
};
use crate::{database::Database, event_store::batch::Batch};

const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

type Told = (Queued, Outcome);

pub struct Task {
    database: Database,
    options: WriterOptions,
    queue: Arc<Queue>,
    /// None before the first call, and after one whose outcome is unknown.
    connection: Option<PgConnection>,
}

impl Task {
    pub fn new(database: Database, options: WriterOptions, queue: Arc<Queue>) -> Self {
        Self { database, options, queue, connection: None }
    }

    pub async fn run(mut self) {
        // The outcomes of the last batch are told while the server works on the next one, not before it has it.
        let mut untold = Vec::new();
        loop {
            let mut next = self.queue.try_take();
            if next.is_none() {
                tell(std::mem::take(&mut untold));
                next = self.queue.take().await;
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

    /// Sends the batch until it is answered, refused or out of time.
    async fn append(&mut self, mut batch: Batch, units: Vec<Queued>) -> Vec<Told> {
        let started = Instant::now();
        let give_up_at = units.first().map_or(started, |first| first.since) + self.options.give_up_after;
        let mut backoff = FIRST_BACKOFF;
        let mut is_retry = false;
        let error = loop {
            let error = match timeout(self.options.call_timeout, self.call(&batch)).await {
                Ok(Ok(answer)) => {
                    record(&batch, &answer, started);
                    let counts: Vec<usize> = units.iter().map(|queued| queued.unit.event_count()).collect();
                    return units.into_iter().zip(answer.outcomes(counts, is_retry)).collect();
                }
                Ok(Err(error)) => error,
                Err(_) => sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()),
            };
            if is_duplicate(&error) && !batch.one_by_one {
                batch.one_by_one = true;
                continue;
            }
            if is_refusal(&error) {
                break error;
            }
            // Whether the call was committed is not known. Sent again under the log's lock, the command ids tell.
            self.connection = None;
            is_retry = true;
            counter!("event_log_reconnects_total").increment(1);
            tracing::warn!(error = %error, events = batch.event_count(), "the event log did not answer");
            if Instant::now() + backoff > give_up_at {
                break error;
            }
            sleep(backoff).await;
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        };
        self.refuse(units, &error).await
    }

    async fn call(&mut self, batch: &Batch) -> Result<Answer, sqlx::Error> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(call::connect(&self.database, &self.options).await?),
        };
        call::append(connection, batch).await
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
