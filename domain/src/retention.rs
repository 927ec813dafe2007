//! Content that was kept for as long as it may be. Keys are of a kind and a month each, so that what is too old can be erased
//! and the rest stays. Each telling is a stream of its own.

use chrono::{DateTime, Days, Months, NaiveDate, Utc};
use cqrs_es::{Aggregate, DomainEvent, event_sink::EventSink};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::content::ContentKey;

/// The most keys that one event names, some 100 bytes each where names are not long.
pub const MAX_KEYS: usize = 128;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    recorded: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetentionCommand {
    /// At most [`MAX_KEYS`].
    ExpireContent { keys: Vec<ContentKey>, expired_at: DateTime<Utc> },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RetentionEvent {
    /// These keys are destroyed because this is in the log.
    ContentExpired { keys: Vec<ContentKey>, expired_at: DateTime<Utc> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RetentionError {
    #[error("an expiry is recorded once")]
    AlreadyRecorded,
    #[error("an expiry names 1 to {MAX_KEYS} keys")]
    NotSoMany,
}

/// A month whose content is kept for `retention_days` goes on this day, when its last day is older than that: content is kept
/// for as long as that, and for a month more at most. `None` beyond all calendars.
pub fn expires_on(month: NaiveDate, retention_days: u32) -> Option<NaiveDate> {
    month.checked_add_months(Months::new(1))?.checked_add_days(Days::new(retention_days.into()))
}

impl Retention {
    pub fn decide(&self, command: RetentionCommand) -> Result<Vec<RetentionEvent>, RetentionError> {
        let RetentionCommand::ExpireContent { keys, expired_at } = command;
        match keys.len() {
            _ if self.recorded => Err(RetentionError::AlreadyRecorded),
            1..=MAX_KEYS => Ok(vec![RetentionEvent::ContentExpired { keys, expired_at }]),
            _ => Err(RetentionError::NotSoMany),
        }
    }

    pub fn evolve(&mut self, _: &RetentionEvent) {
        self.recorded = true;
    }
}

impl DomainEvent for RetentionEvent {
    fn event_type(&self) -> String {
        "ContentExpired".to_owned()
    }

    fn event_version(&self) -> String {
        "1.0".to_owned()
    }
}

impl Aggregate for Retention {
    const TYPE: &'static str = "retention";
    type Command = RetentionCommand;
    type Event = RetentionEvent;
    type Error = RetentionError;
    type Services = ();

    async fn handle(
        &mut self,
        command: RetentionCommand,
        (): &(),
        sink: &EventSink<Self>,
    ) -> Result<(), RetentionError> {
        for event in self.decide(command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: RetentionEvent) {
        self.evolve(&event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::ContentKind;

    #[test]
    fn a_month_is_kept_until_its_last_day_is_too_old() {
        let day = |text: &str| text.parse::<NaiveDate>().unwrap();
        assert_eq!(expires_on(day("2026-10-01"), 30), Some(day("2026-12-01")));
        assert_eq!(expires_on(day("2026-11-01"), 0), Some(day("2026-12-01")));
        assert_eq!(expires_on(day("2026-11-01"), u32::MAX), None);
    }

    #[test]
    fn an_expiry_names_its_keys_and_is_recorded_once() {
        let key = ContentKey { subject: "acme".into(), kind: ContentKind::Chat, month: "2026-10-01".parse().unwrap() };
        let expire = |keys| RetentionCommand::ExpireContent { keys, expired_at: DateTime::UNIX_EPOCH };
        let mut retention = Retention::default();
        for keys in [vec![], vec![key.clone(); MAX_KEYS + 1]] {
            assert_eq!(retention.decide(expire(keys)), Err(RetentionError::NotSoMany));
        }
        let events = retention.decide(expire(vec![key.clone()])).unwrap();
        retention.evolve(&events[0]);
        assert_eq!(retention.decide(expire(vec![key])), Err(RetentionError::AlreadyRecorded));
    }
}
