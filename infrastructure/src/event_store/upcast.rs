//! Events of former versions, read as today's.
//!
//! What is stored never changes. An upcaster takes the payload of one event type and version and gives the events that
//! it means today: usually one, sometimes several, never none, or its sequence would be lost. It is applied on every
//! way an event is read for its meaning; the chain is verified on what is stored.

use std::collections::HashMap;

use serde_json::Value;
use thiserror::Error;

use super::reader::RecordedEvent;

/// An event as an upcaster gives it.
#[derive(Debug, Clone, PartialEq)]
pub struct Upcasted {
    pub event_type: String,
    pub event_version: String,
    pub payload: Value,
}

/// Has to give events of later versions than it takes: they are upcast in turn.
pub type Upcaster = fn(Value) -> Vec<Upcasted>;

#[derive(Debug, Error)]
pub enum UpcastError {
    #[error("the payload at position {position} is not JSON: {source}")]
    NotJson { position: u64, source: serde_json::Error },
    #[error("the upcaster of {event_type} {event_version} gives no event")]
    NoEvent { event_type: String, event_version: String },
}

/// The upcasters by event type and version.
#[derive(Debug, Clone, Default)]
pub struct Upcasters(HashMap<(&'static str, &'static str), Upcaster>);

impl Upcasters {
    #[must_use]
    pub fn with(mut self, event_type: &'static str, event_version: &'static str, upcaster: Upcaster) -> Self {
        self.0.insert((event_type, event_version), upcaster);
        self
    }

    /// The types of all events that are upcast.
    pub fn event_types(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.0.keys().map(|(event_type, _)| *event_type)
    }

    /// The events in today's versions, in order. Those that come from one event share its position and sequence.
    pub fn apply(&self, events: Vec<RecordedEvent>) -> Result<Vec<RecordedEvent>, UpcastError> {
        if self.0.is_empty() {
            return Ok(events);
        }
        let mut current = Vec::with_capacity(events.len());
        for event in events {
            self.upcast(event, &mut current)?;
        }
        Ok(current)
    }

    fn upcast(&self, event: RecordedEvent, current: &mut Vec<RecordedEvent>) -> Result<(), UpcastError> {
        let Some(upcaster) = self.0.get(&(event.event_type.as_str(), event.event_version.as_str())) else {
            current.push(event);
            return Ok(());
        };
        let payload = serde_json::from_str(&event.payload)
            .map_err(|source| UpcastError::NotJson { position: event.position, source })?;
        let meanings = upcaster(payload);
        if meanings.is_empty() {
            return Err(UpcastError::NoEvent { event_type: event.event_type, event_version: event.event_version });
        }
        for Upcasted { event_type, event_version, payload } in meanings {
            let payload = payload.to_string();
            self.upcast(RecordedEvent { event_type, event_version, payload, ..event.clone() }, current)?;
        }
        Ok(())
    }
}
