//! Nodes with a writer, and short ways to make units.

use std::sync::Arc;

use aihub_application::ports::event_log::{AppendError, Appended, EventLog, NewEvent, Piece, StreamAppend, Unit};
use aihub_infrastructure::{
    database::Database,
    event_store::{
        PostgresEventLog,
        chain::{self, ChainHead},
        reader::{self, ReadLimit, RecordedEvent},
        upcast::Upcasters,
        writer::WriterOptions,
    },
};
use sqlx::PgPool;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub const AGGREGATE: &str = "Account";

/// A node: a log with its writer.
pub struct Node {
    pub log: Arc<PostgresEventLog>,
    pub tracker: TaskTracker,
}

impl Node {
    pub fn start(database: &Database) -> Self {
        Self::start_with(database, WriterOptions::default())
    }

    pub fn start_with(database: &Database, options: WriterOptions) -> Self {
        let tracker = TaskTracker::new();
        let log = PostgresEventLog::start(database.clone(), options, Arc::new(Upcasters::default()), &tracker);
        Self { log: Arc::new(log), tracker }
    }

    pub async fn append(&self, unit: Unit) -> Result<Appended, AppendError> {
        self.log.append(unit).await
    }

    /// Keeps pieces of content, as it keeps those of any event.
    pub async fn keep(&self, pieces: Vec<Piece>) {
        self.append(unit([stream(&Uuid::now_v7().to_string(), 0, 1).with(pieces)])).await.unwrap();
    }

    /// Closes the log and waits for what was queued.
    pub async fn stop(self) {
        self.log.close();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

pub fn unit(streams: impl IntoIterator<Item = StreamAppend>) -> Unit {
    let metadata = [("actor", "tester".to_owned()), ("correlationId", Uuid::now_v7().to_string())];
    Unit {
        command_id: Uuid::now_v7(),
        streams: streams.into_iter().collect(),
        metadata: Arc::new(metadata.into_iter().collect()),
        basis: None,
    }
}

/// `count` events for the stream `id`, decided on its event `expected_sequence`.
pub fn stream(id: &str, expected_sequence: u64, count: usize) -> StreamAppend {
    let event = |nth| NewEvent {
        event_type: "CreditsGranted".to_owned(),
        event_version: "1".to_owned(),
        payload: format!(r#"{{ "nth": {nth}, "note": "ü€ \" " }}"#),
    };
    StreamAppend {
        aggregate_type: AGGREGATE,
        aggregate_id: id.to_owned(),
        expected_sequence,
        events: (0..count).map(event).collect(),
        contents: vec![],
    }
}

/// A unit of one event for a stream that nothing else writes to.
pub fn lone_unit() -> Unit {
    unit([stream(&Uuid::now_v7().to_string(), 0, 1)])
}

/// Everything in the log, after its chain was verified from the first event on.
pub async fn verified(pool: &PgPool) -> Vec<RecordedEvent> {
    let mut events: Vec<RecordedEvent> = Vec::new();
    let mut head = ChainHead::GENESIS;
    loop {
        let batch = reader::events_from(pool, head.position + 1, ReadLimit::default()).await.unwrap();
        if batch.is_empty() {
            break;
        }
        head = chain::verify(head, &batch).unwrap();
        events.extend(batch);
    }
    assert_eq!(head, reader::head(pool).await.unwrap());
    events
}

/// The stream's sequences in log order: without a hole they are `1..=n`.
pub fn sequences(events: &[RecordedEvent], id: &str) -> Vec<u64> {
    events.iter().filter(|event| event.aggregate_id == id).map(|event| event.sequence).collect()
}
