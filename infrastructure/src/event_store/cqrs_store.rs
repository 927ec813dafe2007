//! cqrs-es's event store on the log, so that `CqrsFramework` works on it.
//!
//! The library's own, in the modes with snapshots, applies every event twice: once when it is decided and once when
//! the snapshot is made. Here events are applied once, and a snapshot is a cache that is not believed without the
//! event that it says it ends with.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use aihub_application::ports::event_log::{AppendError, NewEvent};
use cqrs_es::{Aggregate, AggregateContext, AggregateError, EventEnvelope, EventStore};
use uuid::Uuid;

use super::{
    PostgresEventLog,
    batch::{Addition, PreparedUnit, appended_by},
    reader::{self, RecordedEvent},
    snapshots,
};

pub struct CqrsStore {
    log: Arc<PostgresEventLog>,
    snapshot_every: u64,
}

/// An aggregate and the sequence of the last event that made it.
pub struct LoadedAggregate<A> {
    aggregate_id: String,
    aggregate: A,
    sequence: u64,
}

impl CqrsStore {
    /// Keeps a snapshot of an aggregate whenever its events pass a multiple of `snapshot_every`.
    pub fn new(log: Arc<PostgresEventLog>, snapshot_every: std::num::NonZeroU64) -> Self {
        Self { log, snapshot_every: snapshot_every.get() }
    }

    /// The aggregate from its snapshot and the events after it; none if there is no snapshot that holds.
    async fn load_from_snapshot<A: Aggregate>(
        &self,
        aggregate_id: &str,
    ) -> Result<Option<LoadedAggregate<A>>, AggregateError<A::Error>> {
        let pool = self.log.database.pool();
        let snapshot = snapshots::load(pool, A::TYPE, aggregate_id).await.map_err(unavailable)?;
        let Some((sequence, aggregate)) = snapshot
            // One of a former shape of the aggregate does not decode.
            .and_then(|row| Some((row.last_sequence, serde_json::from_value::<A>(row.payload).ok()?)))
        else {
            return Ok(None);
        };
        let mut events = reader::stream_from(pool, A::TYPE, aggregate_id, sequence).await.map_err(unavailable)?;
        if events.first().is_none_or(|event| event.sequence != sequence) {
            tracing::warn!(aggregate.kind = A::TYPE, sequence, "a snapshot says more than the log and is not used");
            return Ok(None);
        }
        events.remove(0);
        let mut loaded = LoadedAggregate { aggregate_id: aggregate_id.to_owned(), aggregate, sequence };
        loaded.apply(self.envelopes::<A>(events)?);
        Ok(Some(loaded))
    }

    fn envelopes<A: Aggregate>(
        &self,
        events: Vec<RecordedEvent>,
    ) -> Result<Vec<EventEnvelope<A>>, AggregateError<A::Error>> {
        let events =
            self.log.upcasters.apply(events).map_err(|error| AggregateError::DeserializationError(Box::new(error)))?;
        events
            .into_iter()
            .map(|event| {
                Ok(EventEnvelope {
                    payload: event.decode()?,
                    metadata: serde_json::from_str(&event.metadata)?,
                    sequence: usize::try_from(event.sequence).unwrap_or(usize::MAX),
                    aggregate_id: event.aggregate_id,
                })
            })
            .collect()
    }

    async fn keep_snapshot<A: Aggregate>(&self, loaded: &LoadedAggregate<A>) {
        let kept = match serde_json::to_value(&loaded.aggregate) {
            Ok(state) => {
                let (id, sequence) = (&loaded.aggregate_id, loaded.sequence);
                snapshots::save(self.log.database.pool(), A::TYPE, id, sequence, &state).await.map_err(Into::into)
            }
            Err(error) => Err(anyhow::Error::from(error)),
        };
        if let Err(error) = kept {
            // The events are committed, and they are the truth.
            tracing::warn!(aggregate.kind = A::TYPE, error = %error, "a snapshot could not be kept");
        }
    }
}

impl<A: Aggregate> EventStore<A> for CqrsStore {
    type AC = LoadedAggregate<A>;

    async fn load_events(&self, aggregate_id: &str) -> Result<Vec<EventEnvelope<A>>, AggregateError<A::Error>> {
        let events =
            reader::stream_from(self.log.database.pool(), A::TYPE, aggregate_id, 0).await.map_err(unavailable)?;
        self.envelopes(events)
    }

    async fn load_aggregate(&self, aggregate_id: &str) -> Result<LoadedAggregate<A>, AggregateError<A::Error>> {
        if let Some(loaded) = self.load_from_snapshot(aggregate_id).await? {
            return Ok(loaded);
        }
        let mut loaded =
            LoadedAggregate { aggregate_id: aggregate_id.to_owned(), aggregate: A::default(), sequence: 0 };
        loaded.apply(self.load_events(aggregate_id).await?);
        Ok(loaded)
    }

    async fn commit(
        &self,
        events: Vec<A::Event>,
        context: LoadedAggregate<A>,
        metadata: HashMap<String, String>,
    ) -> Result<Vec<EventEnvelope<A>>, AggregateError<A::Error>> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        // Sorted, so that the same metadata has the same text.
        let sorted = serde_json::to_string(&metadata.iter().collect::<BTreeMap<_, _>>())?;
        let sorted = appended_by(&sorted, self.log.database.login()).map_err(refused)?;
        let addition = Addition {
            aggregate_type: A::TYPE,
            aggregate_id: context.aggregate_id.clone(),
            expected_sequence: context.sequence,
            events: events
                .iter()
                .map(|event| Ok((NewEvent::of(event)?, sorted.clone())))
                .collect::<Result<_, serde_json::Error>>()?,
            contents: vec![],
        };
        let unit = PreparedUnit::of(Uuid::now_v7(), None, [addition]).map_err(refused)?;
        self.log.writer.append(unit).await.map_err(refused)?;

        let before = context.sequence;
        // `handle` applied the events to the aggregate as it decided them.
        let committed = LoadedAggregate { sequence: before + events.len() as u64, ..context };
        if before / self.snapshot_every != committed.sequence / self.snapshot_every {
            self.keep_snapshot(&committed).await;
        }
        let first = usize::try_from(before).unwrap_or(usize::MAX) + 1;
        Ok((first..)
            .zip(events)
            .map(|(sequence, payload)| EventEnvelope {
                aggregate_id: committed.aggregate_id.clone(),
                sequence,
                payload,
                metadata: metadata.clone(),
            })
            .collect())
    }
}

impl<A: Aggregate> LoadedAggregate<A> {
    fn apply(&mut self, events: Vec<EventEnvelope<A>>) {
        for event in events {
            self.sequence = event.sequence as u64;
            self.aggregate.apply(event.payload);
        }
    }
}

impl<A: Aggregate> AggregateContext<A> for LoadedAggregate<A> {
    fn aggregate(&mut self) -> &mut A {
        &mut self.aggregate
    }
}

fn unavailable<E: std::error::Error>(error: sqlx::Error) -> AggregateError<E> {
    AggregateError::DatabaseConnectionError(Box::new(error))
}

fn refused<E: std::error::Error>(error: AppendError) -> AggregateError<E> {
    match error {
        AppendError::Conflict { .. } => AggregateError::AggregateConflict,
        AppendError::Overloaded | AppendError::Unavailable(_) => {
            AggregateError::DatabaseConnectionError(Box::new(error))
        }
        AppendError::Malformed(_) | AppendError::TooLarge { .. } => AggregateError::UnexpectedError(Box::new(error)),
    }
}
