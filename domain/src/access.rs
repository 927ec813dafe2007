//! Somebody looked at what is not theirs: auditing, or reports on others. Each use is a stream of its own.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use cqrs_es::{Aggregate, DomainEvent, event_sink::EventSink};
use serde::{Deserialize, Serialize};
use thiserror::Error;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    recorded: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessCommand {
    RecordAccess(AccessRecord),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessRecord {
    /// Who, as the token names them, or the operating system.
    pub user: String,
    /// Empty on the command line.
    pub account: String,
    /// What was done: `audit.trail`.
    pub action: String,
    /// What was asked for.
    pub parameters: BTreeMap<String, String>,
    pub accessed_at: DateTime<Utc>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccessEvent {
    AccessRecorded(AccessRecord),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AccessError {
    #[error("a use is recorded once")]
    AlreadyRecorded,
}

impl Access {
    pub fn decide(&self, command: AccessCommand) -> Result<Vec<AccessEvent>, AccessError> {
        let AccessCommand::RecordAccess(record) = command;
        if self.recorded { Err(AccessError::AlreadyRecorded) } else { Ok(vec![AccessEvent::AccessRecorded(record)]) }
    }

    pub fn evolve(&mut self, _: &AccessEvent) {
        self.recorded = true;
    }
}

impl DomainEvent for AccessEvent {
    fn event_type(&self) -> String {
        "AccessRecorded".to_owned()
    }

    fn event_version(&self) -> String {
        "1.0".to_owned()
    }
}

impl Aggregate for Access {
    const TYPE: &'static str = "access";
    type Command = AccessCommand;
    type Event = AccessEvent;
    type Error = AccessError;
    type Services = ();

    async fn handle(&mut self, command: AccessCommand, (): &(), sink: &EventSink<Self>) -> Result<(), AccessError> {
        for event in self.decide(command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: AccessEvent) {
        self.evolve(&event);
    }
}
