//! Who looks at what is not theirs is in the log: over HTTP and on the command line.

use std::sync::Arc;

use aihub_domain::access::{Access, AccessCommand, AccessError, AccessRecord};
use cqrs_es::Aggregate;
use thiserror::Error;
use uuid::Uuid;

use crate::ports::event_log::{AppendError, EventLog, Metadata, NewEvent, StreamAppend, Unit};

#[derive(Debug, Error)]
pub enum RecordError {
    #[error(transparent)]
    Refused(#[from] AccessError),
    #[error("an event does not serialise: {0}")]
    Serialise(#[from] serde_json::Error),
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// Records one use.
pub async fn record(log: &dyn EventLog, record: AccessRecord, node: &str) -> Result<(), RecordError> {
    let id = Uuid::now_v7();
    let metadata =
        Metadata::from([("actor", record.user.clone()), ("correlationId", id.to_string()), ("node", node.to_owned())]);
    let events = Access::default().decide(AccessCommand::RecordAccess(record))?;
    let stream = StreamAppend {
        aggregate_type: Access::TYPE,
        aggregate_id: id.to_string(),
        expected_sequence: 0,
        events: events.iter().map(NewEvent::of).collect::<Result<_, _>>()?,
    };
    log.append(Unit { command_id: id, streams: vec![stream], metadata: Arc::new(metadata), basis: None }).await?;
    Ok(())
}
