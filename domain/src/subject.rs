//! Somebody whose content is sealed under keys of their own, and who may want it erased: an account.

use chrono::{DateTime, Utc};
use cqrs_es::{Aggregate, DomainEvent, event_sink::EventSink};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    erased_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubjectCommand {
    EraseSubject {
        reason: String,
        actor: String,
        /// The keys that there are.
        key_ids: Vec<Uuid>,
        erased_at: DateTime<Utc>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SubjectEvent {
    /// The subject's keys are destroyed because this is in the log: what they sealed is gone wherever it is kept, and
    /// nothing more is sealed for the subject.
    SubjectErased { reason: String, actor: String, key_ids: Vec<Uuid>, erased_at: DateTime<Utc> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SubjectError {}

impl Subject {
    /// When its content was erased.
    pub fn erased_at(&self) -> Option<DateTime<Utc>> {
        self.erased_at
    }

    pub fn decide(&self, command: SubjectCommand) -> Result<Vec<SubjectEvent>, SubjectError> {
        let SubjectCommand::EraseSubject { reason, actor, key_ids, erased_at } = command;
        Ok(match self.erased_at {
            Some(_) => vec![],
            None => vec![SubjectEvent::SubjectErased { reason, actor, key_ids, erased_at }],
        })
    }

    pub fn evolve(&mut self, event: &SubjectEvent) {
        let SubjectEvent::SubjectErased { erased_at, .. } = event;
        self.erased_at = Some(*erased_at);
    }
}

impl DomainEvent for SubjectEvent {
    fn event_type(&self) -> String {
        "SubjectErased".to_owned()
    }

    fn event_version(&self) -> String {
        "1.0".to_owned()
    }
}

impl Aggregate for Subject {
    const TYPE: &'static str = "subject";
    type Command = SubjectCommand;
    type Event = SubjectEvent;
    type Error = SubjectError;
    type Services = ();

    async fn handle(&mut self, command: SubjectCommand, (): &(), sink: &EventSink<Self>) -> Result<(), SubjectError> {
        for event in self.decide(command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: SubjectEvent) {
        self.evolve(&event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_erased_once() {
        let erase = || SubjectCommand::EraseSubject {
            reason: "asked for".to_owned(),
            actor: "ann".to_owned(),
            key_ids: vec![],
            erased_at: DateTime::UNIX_EPOCH,
        };
        let mut subject = Subject::default();
        let events = subject.decide(erase()).unwrap();
        assert_eq!(events.len(), 1);
        subject.evolve(&events[0]);
        assert_eq!(subject.erased_at(), Some(DateTime::UNIX_EPOCH));
        assert_eq!(subject.decide(erase()), Ok(vec![]));
    }
}
