//! Who looks at what is not theirs is in the log: over HTTP and on the command line.

use std::sync::Arc;

use aihub_domain::access::{Access, AccessCommand, AccessError, AccessRecord};
use thiserror::Error;
use uuid::Uuid;

use crate::{
    ports::event_log::{AppendError, EventLog, Metadata, StreamAppend, Unit},
    principal::MAX_IDENTIFIER_BYTES,
};

#[derive(Debug, Error)]
pub enum RecordError {
    #[error(transparent)]
    Refused(#[from] AccessError),
    #[error("an event does not serialise: {0}")]
    Serialise(#[from] serde_json::Error),
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// Records one use. Of a parameter that is longer than any name, only the beginning.
pub async fn record(log: &dyn EventLog, mut record: AccessRecord, node: &str) -> Result<(), RecordError> {
    for value in record.parameters.values_mut() {
        value.truncate(value.floor_char_boundary(MAX_IDENTIFIER_BYTES));
    }
    let id = Uuid::now_v7();
    let metadata =
        Metadata::from([("actor", record.user.clone()), ("correlationId", id.to_string()), ("node", node.to_owned())]);
    let events = Access::default().decide(AccessCommand::RecordAccess(record))?;
    let stream = StreamAppend::of::<Access>(&id.to_string(), 0, &events)?;
    log.append(Unit { command_id: id, streams: vec![stream], metadata: Arc::new(metadata), basis: None }).await?;
    Ok(())
}
