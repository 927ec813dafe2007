//! cqrs-es's repository on the log: what postgres-es's does, but in the log's order and through the node's writer.

use std::sync::Arc;

use aihub_application::ports::event_log::{AppendError, NewEvent};
use cqrs_es::{
    Aggregate,
    persist::{
        PersistedEventRepository, PersistenceError, ReplayFeed, ReplayStream, SerializedEvent, SerializedSnapshot,
    },
};
use serde_json::Value;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::{
    PostgresEventLog,
    batch::{Addition, PreparedUnit, appended_by},
    reader::{self, ReadLimit, RecordedEvent},
    snapshots,
};

/// How many events of a replay are read ahead.
const REPLAY_QUEUE: usize = 256;

/// Works with `PersistedEventStore` in its event mode. In its other modes cqrs-es 0.5 applies every event twice; use
/// [`super::cqrs_store::CqrsStore`] where snapshots are wanted.
#[derive(Clone)]
pub struct EventRepository {
    log: Arc<PostgresEventLog>,
    tracker: TaskTracker,
}

impl EventRepository {
    /// Replays run on `tracker`.
    pub fn new(log: Arc<PostgresEventLog>, tracker: TaskTracker) -> Self {
        Self { log, tracker }
    }

    async fn stream_from<A: Aggregate>(
        &self,
        aggregate_id: &str,
        sequence: usize,
    ) -> Result<Vec<SerializedEvent>, PersistenceError> {
        let events = reader::stream_from(self.log.database.pool(), A::TYPE, aggregate_id, sequence as u64)
            .await
            .map_err(unavailable)?;
        serialized(&self.log, events)
    }
}

impl PersistedEventRepository for EventRepository {
    async fn get_events<A: Aggregate>(&self, aggregate_id: &str) -> Result<Vec<SerializedEvent>, PersistenceError> {
        self.stream_from::<A>(aggregate_id, 0).await
    }

    async fn get_last_events<A: Aggregate>(
        &self,
        aggregate_id: &str,
        last_sequence: usize,
    ) -> Result<Vec<SerializedEvent>, PersistenceError> {
        self.stream_from::<A>(aggregate_id, last_sequence + 1).await
    }

    async fn get_snapshot<A: Aggregate>(
        &self,
        aggregate_id: &str,
    ) -> Result<Option<SerializedSnapshot>, PersistenceError> {
        let row = snapshots::load(self.log.database.pool(), A::TYPE, aggregate_id).await.map_err(unavailable)?;
        Ok(row.map(|row| SerializedSnapshot {
            aggregate_id: aggregate_id.to_owned(),
            aggregate: row.payload,
            current_sequence: index(row.last_sequence),
            current_snapshot: index(row.current_snapshot),
        }))
    }

    async fn persist<A: Aggregate>(
        &self,
        events: &[SerializedEvent],
        snapshot_update: Option<(String, Value, usize)>,
    ) -> Result<(), PersistenceError> {
        if !events.is_empty() {
            let unit = unit_of(A::TYPE, events, self.log.database.login())?;
            self.log.writer.append(unit).await.map_err(refused)?;
        }
        if let Some((aggregate_id, state, _)) = snapshot_update {
            let sequence = events.last().map_or(0, |event| event.sequence as u64);
            snapshots::save(self.log.database.pool(), A::TYPE, &aggregate_id, sequence, &state)
                .await
                .map_err(unavailable)?;
        }
        Ok(())
    }

    async fn stream_events<A: Aggregate>(&self, aggregate_id: &str) -> Result<ReplayStream, PersistenceError> {
        let events = self.get_events::<A>(aggregate_id).await?;
        let (mut feed, stream) = ReplayStream::new(REPLAY_QUEUE);
        self.tracker.spawn(async move {
            for event in events {
                if feed.push(Ok(event)).await.is_err() {
                    // Nobody reads on.
                    return;
                }
            }
        });
        Ok(stream)
    }

    /// In log order. What the database refuses arrives as the stream's last item.
    async fn stream_all_events<A: Aggregate>(&self) -> Result<ReplayStream, PersistenceError> {
        let (mut feed, stream) = ReplayStream::new(REPLAY_QUEUE);
        let log = self.log.clone();
        self.tracker.spawn(async move {
            if let Err(error) = replay(&log, A::TYPE, &mut feed).await {
                // If nobody reads on, nobody has to know.
                let _ = feed.push(Err(error)).await;
            }
        });
        Ok(stream)
    }
}

async fn replay(
    log: &PostgresEventLog,
    aggregate_type: &'static str,
    feed: &mut ReplayFeed,
) -> Result<(), PersistenceError> {
    let mut position = 0;
    loop {
        let events = reader::type_after(log.database.pool(), aggregate_type, position, ReadLimit::default())
            .await
            .map_err(unavailable)?;
        let Some(last) = events.last() else {
            return Ok(());
        };
        position = last.position;
        for event in serialized(log, events)? {
            feed.push(Ok(event)).await?;
        }
    }
}

/// One unit of everything, as the callers of `persist` expect.
fn unit_of(
    aggregate_type: &'static str,
    events: &[SerializedEvent],
    login: &str,
) -> Result<PreparedUnit, PersistenceError> {
    let mut additions: Vec<Addition> = Vec::new();
    for event in events {
        let sequence = event.sequence as u64;
        let new = NewEvent {
            event_type: event.event_type.clone(),
            event_version: event.event_version.clone(),
            payload: event.payload.to_string(),
        };
        let metadata = appended_by(&event.metadata.to_string(), login).map_err(refused)?;
        match additions.iter_mut().find(|addition| addition.aggregate_id == event.aggregate_id) {
            Some(addition) if sequence == addition.expected_sequence + addition.events.len() as u64 + 1 => {
                addition.events.push((new, metadata));
            }
            // Sequence 0 or a sequence out of order can never follow what is there.
            Some(_) => return Err(PersistenceError::OptimisticLockError),
            None => additions.push(Addition {
                aggregate_type,
                aggregate_id: event.aggregate_id.clone(),
                expected_sequence: sequence.checked_sub(1).ok_or(PersistenceError::OptimisticLockError)?,
                events: vec![(new, metadata)],
                contents: vec![],
            }),
        }
    }
    PreparedUnit::of(Uuid::now_v7(), None, additions).map_err(refused)
}

fn serialized(log: &PostgresEventLog, events: Vec<RecordedEvent>) -> Result<Vec<SerializedEvent>, PersistenceError> {
    let events =
        log.upcasters.apply(events).map_err(|error| PersistenceError::DeserializationError(Box::new(error)))?;
    events
        .into_iter()
        .map(|event| {
            Ok(SerializedEvent {
                payload: event.decode()?,
                metadata: serde_json::from_str(&event.metadata)?,
                aggregate_id: event.aggregate_id,
                sequence: index(event.sequence),
                aggregate_type: event.aggregate_type,
                event_type: event.event_type,
                event_version: event.event_version,
            })
        })
        .collect()
}

fn unavailable(error: sqlx::Error) -> PersistenceError {
    PersistenceError::ConnectionError(Box::new(error))
}

fn refused(error: AppendError) -> PersistenceError {
    match error {
        AppendError::Conflict { .. } => PersistenceError::OptimisticLockError,
        AppendError::Overloaded | AppendError::Unavailable(_) => PersistenceError::ConnectionError(Box::new(error)),
        AppendError::Malformed(_) | AppendError::TooLarge { .. } => PersistenceError::UnknownError(Box::new(error)),
    }
}

/// cqrs-es counts in `usize`, which has 64 bits wherever this runs.
fn index(sequence: u64) -> usize {
    usize::try_from(sequence).unwrap_or(usize::MAX)
}
