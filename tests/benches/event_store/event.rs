//! An event of 0.7 kB, for each way to append it.

use std::sync::Arc;

use aihub_application::ports::event_log::{NewEvent, StreamAppend, Unit};
use cqrs_es::{Aggregate, DomainEvent, event_sink::EventSink, persist::SerializedEvent};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub const TYPE: &str = "Request";
pub const EVENT_TYPE: &str = "RequestAccepted";

pub fn payload() -> String {
    format!(r#"{{"RequestAccepted":{{"model":"a-model","sealed":"{}"}}}}"#, "x".repeat(500))
}

pub fn metadata() -> [(&'static str, String); 3] {
    let correlation = "0193f3f0-5f3c-7d3e-a0b1-2c3d4e5f6071".to_owned();
    [("actor", "user-0001".to_owned()), ("correlationId", correlation), ("node", "node-1".to_owned())]
}

pub fn unit(aggregate_id: &str, expected_sequence: u64) -> Unit {
    Unit {
        command_id: Uuid::now_v7(),
        streams: vec![StreamAppend {
            aggregate_type: TYPE,
            aggregate_id: aggregate_id.to_owned(),
            expected_sequence,
            events: vec![NewEvent {
                event_type: EVENT_TYPE.to_owned(),
                event_version: "1".to_owned(),
                payload: payload(),
            }],
            contents: vec![],
        }],
        metadata: Arc::new(metadata().into_iter().collect()),
        basis: None,
    }
}

pub fn serialized(aggregate_id: &str, sequence: u64) -> SerializedEvent {
    SerializedEvent {
        aggregate_id: aggregate_id.to_owned(),
        sequence: usize::try_from(sequence).unwrap(),
        aggregate_type: TYPE.to_owned(),
        event_type: EVENT_TYPE.to_owned(),
        event_version: "1".to_owned(),
        payload: serde_json::from_str(&payload()).unwrap(),
        metadata: serde_json::Value::Object(
            metadata().map(|(key, value)| (key.to_owned(), value.into())).into_iter().collect(),
        ),
    }
}

/// Only its type matters.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Account;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Nothing;

impl DomainEvent for Nothing {
    fn event_type(&self) -> String {
        String::new()
    }

    fn event_version(&self) -> String {
        String::new()
    }
}

impl Aggregate for Account {
    const TYPE: &'static str = TYPE;
    type Command = ();
    type Event = Nothing;
    type Error = std::convert::Infallible;
    type Services = ();

    async fn handle(&mut self, (): (), (): &(), _: &EventSink<Self>) -> Result<(), Self::Error> {
        Ok(())
    }

    fn apply(&mut self, _: Nothing) {}
}
