//! How long content is kept. Keys are of a month each, so that what is too old can be erased and the rest stays.

use chrono::{DateTime, Datelike, Days, NaiveDate, Utc};
use cqrs_es::{Aggregate, DomainEvent, event_sink::EventSink};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The only stream.
pub const STREAM: &str = "content";

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    expired_before: Option<NaiveDate>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetentionCommand {
    ExpireContent { retention_days: u32, now: DateTime<Utc> },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RetentionEvent {
    /// The keys of all months before this one are destroyed because this is in the log.
    ContentExpired {
        /// The first day of the first month whose keys are kept.
        before: NaiveDate,
        retention_days: u32,
        expired_at: DateTime<Utc>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RetentionError {}

impl Retention {
    /// A month goes when its last day is older than the retention: content is kept for as long as that, and for a month
    /// more at most.
    pub fn decide(&self, command: RetentionCommand) -> Result<Vec<RetentionEvent>, RetentionError> {
        let RetentionCommand::ExpireContent { retention_days, now } = command;
        let oldest = now.date_naive().checked_sub_days(Days::new(retention_days.into()));
        let before = oldest.and_then(|day| day.with_day(1));
        Ok(match before {
            Some(before) if self.expired_before.is_none_or(|expired| before > expired) => {
                vec![RetentionEvent::ContentExpired { before, retention_days, expired_at: now }]
            }
            _ => vec![],
        })
    }

    pub fn evolve(&mut self, event: &RetentionEvent) {
        let RetentionEvent::ContentExpired { before, .. } = event;
        self.expired_before = Some(*before);
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

    fn expire(retention: &mut Retention, now: &str) -> Option<String> {
        let now = now.parse().unwrap();
        let events = retention.decide(RetentionCommand::ExpireContent { retention_days: 30, now }).unwrap();
        events.into_iter().next().map(|event| {
            retention.evolve(&event);
            let RetentionEvent::ContentExpired { before, .. } = event;
            before.to_string()
        })
    }

    #[test]
    fn a_month_expires_when_its_last_day_is_too_old_and_once() {
        let mut retention = Retention::default();
        assert_eq!(expire(&mut retention, "2026-11-30T00:00:00Z").as_deref(), Some("2026-10-01"));
        assert_eq!(expire(&mut retention, "2026-11-30T23:59:59Z"), None);
        assert_eq!(expire(&mut retention, "2026-12-01T00:00:00Z").as_deref(), Some("2026-11-01"));
        assert_eq!(expire(&mut retention, "2026-11-15T00:00:00Z"), None, "a clock that runs back brings nothing back");
    }
}
