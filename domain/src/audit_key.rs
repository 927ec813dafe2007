//! Who signs what the log is. That somebody does stands in the log before anything that they sign: a key that the log does not
//! name signs nothing, and a change of the key is an event like any other.

use chrono::{DateTime, Utc};
use cqrs_es::{Aggregate, DomainEvent, event_sink::EventSink};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The only stream.
pub const STREAM: &str = "checkpoints";

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditKeys {
    current: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditKeyCommand {
    IntroduceKey(KeyIntroduction),
}

/// A key that is to sign from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyIntroduction {
    /// What its signatures are checked with, in the form name+id+key.
    pub key: String,
    /// The former key's signature over this one, in base64: who trusts that one may trust this one too. `None` for the first
    /// key, and where the former one is lost.
    pub endorsement: Option<String>,
    pub actor: String,
    pub reason: String,
    pub introduced_at: DateTime<Utc>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuditKeyEvent {
    AuditKeyIntroduced(KeyIntroduction),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AuditKeyError {}

impl AuditKeys {
    /// The one that signs.
    pub fn current(&self) -> Option<&str> {
        self.current.as_deref()
    }

    pub fn decide(&self, command: AuditKeyCommand) -> Result<Vec<AuditKeyEvent>, AuditKeyError> {
        let AuditKeyCommand::IntroduceKey(introduction) = command;
        let signs = self.current.as_deref() == Some(&introduction.key);
        Ok(if signs { vec![] } else { vec![AuditKeyEvent::AuditKeyIntroduced(introduction)] })
    }

    pub fn evolve(&mut self, event: &AuditKeyEvent) {
        let AuditKeyEvent::AuditKeyIntroduced(introduction) = event;
        self.current = Some(introduction.key.clone());
    }
}

impl DomainEvent for AuditKeyEvent {
    fn event_type(&self) -> String {
        "AuditKeyIntroduced".to_owned()
    }

    fn event_version(&self) -> String {
        "1.0".to_owned()
    }
}

impl Aggregate for AuditKeys {
    const TYPE: &'static str = "audit_key";
    type Command = AuditKeyCommand;
    type Event = AuditKeyEvent;
    type Error = AuditKeyError;
    type Services = ();

    async fn handle(&mut self, command: AuditKeyCommand, (): &(), sink: &EventSink<Self>) -> Result<(), AuditKeyError> {
        for event in self.decide(command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: AuditKeyEvent) {
        self.evolve(&event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_introduced_once_and_another_one_takes_its_place() {
        let mut keys = AuditKeys::default();
        let introduce = |key: &str| {
            AuditKeyCommand::IntroduceKey(KeyIntroduction {
                key: key.to_owned(),
                endorsement: None,
                actor: "ops".to_owned(),
                reason: "it begins".to_owned(),
                introduced_at: DateTime::UNIX_EPOCH,
            })
        };
        for key in ["one", "two", "one"] {
            let events = keys.decide(introduce(key)).unwrap();
            assert_eq!(events.len(), 1, "{key}");
            keys.evolve(&events[0]);
            assert_eq!(keys.current(), Some(key));
            assert!(keys.decide(introduce(key)).unwrap().is_empty());
        }
    }
}
