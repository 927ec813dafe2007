//! Recorded events as the domain's.

use std::{
    any::Any,
    ops::Deref,
    sync::{Arc, OnceLock},
};

use anyhow::{Context, anyhow};
use cqrs_es::Aggregate;

use super::reader::RecordedEvent;

/// An event of the log, upcast, as all handlers of a node share it: what it says is decoded once.
#[derive(Debug)]
pub struct LogEntry {
    recorded: RecordedEvent,
    decoded: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl LogEntry {
    pub fn new(recorded: RecordedEvent) -> Self {
        Self { recorded, decoded: OnceLock::new() }
    }

    /// What it says, which has to be an event of `A`.
    pub fn event<A: Aggregate<Event: 'static>>(&self) -> anyhow::Result<&A::Event> {
        if self.decoded.get().is_none() {
            let event: A::Event = self.decode().with_context(|| {
                let RecordedEvent { position, event_type, event_version, .. } = &self.recorded;
                format!(
                    "{event_type} {event_version} at position {position} does not decode as an event of {}",
                    A::TYPE
                )
            })?;
            // Another handler may have been first: it decoded the same.
            let _ = self.decoded.set(Box::new(event));
        }
        let decoded = self.decoded.get().and_then(|decoded| decoded.downcast_ref());
        decoded.ok_or_else(|| anyhow!("position {} is not an event of {}", self.position, A::TYPE))
    }
}

impl Deref for LogEntry {
    type Target = RecordedEvent;

    fn deref(&self) -> &RecordedEvent {
        &self.recorded
    }
}

/// Those of the events that are `A`'s, each with what it says; the others are passed over unread.
pub fn events_of<A: Aggregate<Event: 'static>>(
    events: &[Arc<LogEntry>],
) -> impl Iterator<Item = anyhow::Result<(&RecordedEvent, &A::Event)>> {
    events
        .iter()
        .filter(|entry| entry.aggregate_type == A::TYPE)
        .map(|entry| Ok((&entry.recorded, entry.event::<A>()?)))
}

/// As handlers get them.
pub fn entries(events: impl IntoIterator<Item = RecordedEvent>) -> Vec<Arc<LogEntry>> {
    events.into_iter().map(|event| Arc::new(LogEntry::new(event))).collect()
}
