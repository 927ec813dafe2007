//! Recorded events as the domain's.

use anyhow::Context;
use cqrs_es::Aggregate;

use super::reader::RecordedEvent;

/// Those of the events that are `A`'s, each with what it says; the others are passed over unread.
pub fn events_of<A: Aggregate>(
    events: &[RecordedEvent],
) -> impl Iterator<Item = anyhow::Result<(&RecordedEvent, A::Event)>> {
    events.iter().filter(|event| event.aggregate_type == A::TYPE).map(|event| {
        let decoded = event.decode().with_context(|| {
            let RecordedEvent { position, event_type, event_version, .. } = event;
            format!("{event_type} {event_version} at position {position} does not decode as an event of {}", A::TYPE)
        })?;
        Ok((event, decoded))
    })
}
