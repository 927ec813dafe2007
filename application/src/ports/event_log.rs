//! The event log: units of events are appended whole, in the order of the calls, or not at all.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aihub_domain::content::{ContentHash, ContentKey};
use bytes::Bytes;
use cqrs_es::Aggregate;
use futures::future::BoxFuture;
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use uuid::Uuid;

/// Who caused an event and in which context: `actor`, `correlationId`, `node`; with an acceptance `clientKey`, see
/// [`client_key`](crate::lost_answers::client_key), and `connectionId`; the log adds `databaseRole`, the login that appended it. Never content.
pub type Metadata = BTreeMap<&'static str, String>;

/// One event as it goes into the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    pub event_type: String,
    pub event_version: String,
    /// JSON text. The log keeps it to the byte, because it is hashed.
    pub payload: String,
}

/// One sealed piece of a text, as it is kept beside the log: once for each key and hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub key: Arc<ContentKey>,
    /// SHA-256 over `bytes`.
    pub hash: ContentHash,
    pub bytes: Bytes,
    /// What the vault knows the text by, to tell that it is kept already when it comes again. It says nothing to anybody
    /// else. `None` where that is not to be expected.
    pub fingerprint: Option<[u8; 32]>,
}

/// The events that a unit adds to one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamAppend {
    pub aggregate_type: &'static str,
    pub aggregate_id: String,
    /// The sequence of the stream's last event that the decision was made on; 0 for a new stream.
    pub expected_sequence: u64,
    pub events: Vec<NewEvent>,
    /// What the events name, where it is not kept yet. It is committed with them.
    pub contents: Vec<Piece>,
}

/// What a decision was made on, where that is not all in the log yet: the state in memory that earlier units, still on
/// their way, will have made.
///
/// Sequences alone do not tell whether they did make it. Where an earlier unit is refused because another writer was
/// first, that writer's event has the number that the later unit expects, and it would be appended to a state that
/// never was. So when a unit is refused, its basis breaks, and no unit that has the same one is appended after it.
#[derive(Debug, Clone, Default)]
pub struct Basis(Arc<AtomicBool>);

impl Basis {
    pub fn break_off(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it is the same one.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub fn is_broken(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What is committed whole or not at all, under one command id.
#[derive(Debug, Clone)]
pub struct Unit {
    /// A command id that was committed before is not committed again.
    pub command_id: Uuid,
    /// At least one stream; no stream twice.
    pub streams: Vec<StreamAppend>,
    pub metadata: Arc<Metadata>,
    /// That of the units before it whose outcome it takes for granted. `None`: it was decided on what is in the log.
    pub basis: Option<Basis>,
}

/// Where a unit stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The position of the unit's first event.
    pub position: u64,
    /// The command id had been committed before; this is that unit's position and nothing was added.
    pub repeated: bool,
}

#[derive(Debug, Error)]
pub enum AppendError {
    /// Another writer was first. `stream` is the index, in the unit, of the first stream that had moved on.
    #[error("another writer was first on stream {stream} of the unit")]
    Conflict { stream: usize },
    /// The writer's queue is full: nothing was queued.
    #[error("the event log's queue is full")]
    Overloaded,
    /// The unit cannot stand in the log, however often it is tried: no event, a stream twice, not JSON, a zero byte in
    /// a text, an id too long for the index. Nothing was appended.
    #[error("the unit cannot stand in the log: {0}")]
    Malformed(String),
    /// The unit, or one of its events.
    #[error("what is to be appended takes {bytes} bytes, and may take {limit}")]
    TooLarge { bytes: usize, limit: usize },
    /// The outcome could not be learned in the time there was. The unit may be in the log: append it again under
    /// the same command id to find out.
    #[error("the event log is unavailable: {0}")]
    Unavailable(String),
}

#[derive(Debug, Error)]
pub enum LoadError {
    #[error("the event log is unavailable: {0}")]
    Unavailable(#[source] anyhow::Error),
    #[error("event {sequence} of {aggregate_type} {aggregate_id} does not load: {source}")]
    Malformed { aggregate_type: &'static str, aggregate_id: String, sequence: u64, source: serde_json::Error },
}

/// An event read back, upcast to the current version.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEvent {
    pub sequence: u64,
    pub event_type: String,
    pub payload: serde_json::Value,
}

/// A cached state of an aggregate. Droppable: the events are the truth.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    pub sequence: u64,
    pub state: serde_json::Value,
}

/// That what is appended is not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    /// Until now.
    pub lasts: Duration,
    /// Why, as far as that is known, for anybody to read.
    pub reason: &'static str,
}

pub type Append = BoxFuture<'static, Result<Appended, AppendError>>;

pub trait EventLog: Send + Sync {
    /// Queues `unit` at once, so that calls made one after another are appended in that order. The returned future
    /// tells the outcome; dropping it does not take the unit back.
    fn append(&self, unit: Unit) -> Append;

    /// Whether nothing is acknowledged at the moment. New work is not taken then: it could not be written down.
    fn outage(&self) -> Option<Outage> {
        None
    }

    /// The events of a stream after `after_sequence`, oldest first.
    fn load<'a>(
        &'a self,
        aggregate_type: &'static str,
        aggregate_id: &'a str,
        after_sequence: u64,
    ) -> BoxFuture<'a, Result<Vec<StoredEvent>, LoadError>>;

    fn load_snapshot<'a>(
        &'a self,
        aggregate_type: &'static str,
        aggregate_id: &'a str,
    ) -> BoxFuture<'a, Result<Option<Snapshot>, LoadError>>;

    /// Keeps `snapshot` unless a later one is there already.
    fn save_snapshot<'a>(
        &'a self,
        aggregate_type: &'static str,
        aggregate_id: &'a str,
        snapshot: Snapshot,
    ) -> BoxFuture<'a, Result<(), LoadError>>;
}

impl StreamAppend {
    /// Without any content.
    pub fn of<A: Aggregate>(
        aggregate_id: &str,
        expected_sequence: u64,
        events: &[A::Event],
    ) -> Result<Self, serde_json::Error> {
        Ok(Self {
            aggregate_type: A::TYPE,
            aggregate_id: aggregate_id.to_owned(),
            expected_sequence,
            events: events.iter().map(NewEvent::of).collect::<Result<_, _>>()?,
            contents: vec![],
        })
    }

    #[must_use]
    pub fn with(self, contents: Vec<Piece>) -> Self {
        Self { contents, ..self }
    }
}

impl NewEvent {
    pub fn of<E: cqrs_es::DomainEvent + Serialize>(event: &E) -> Result<Self, serde_json::Error> {
        Ok(Self {
            event_type: event.event_type(),
            event_version: event.event_version(),
            payload: serde_json::to_string(event)?,
        })
    }
}

impl StoredEvent {
    pub fn decode<E: DeserializeOwned>(self, aggregate_type: &'static str, aggregate_id: &str) -> Result<E, LoadError> {
        let sequence = self.sequence;
        serde_json::from_value(self.payload).map_err(|source| LoadError::Malformed {
            aggregate_type,
            aggregate_id: aggregate_id.to_owned(),
            sequence,
            source,
        })
    }
}
