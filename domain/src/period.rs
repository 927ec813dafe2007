//! Accounting months. A month is closed once, when it is over and those before it are closed: what it comes to is then
//! written down together with the position that this is true at. What is recorded later is booked in an open month.

pub mod command;
pub mod event;
#[cfg(test)]
mod tests;

use std::{fmt, str::FromStr};

use chrono::{DateTime, Datelike, Months, NaiveDate, NaiveTime, Utc};
use cqrs_es::{Aggregate, event_sink::EventSink};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use command::PeriodCommand;
use event::PeriodEvent;

/// A calendar month in UTC, written `2026-10`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Month {
    first_day: NaiveDate,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0} is not a month: it has to look like 2026-10")]
pub struct InvalidMonth(String);

/// The accounts of a month. Its id is the month's name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Period {
    closed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PeriodError {
    #[error("{0} is closed already")]
    AlreadyClosed(Month),
    #[error("{month} is not over before {ends_at}")]
    NotOver { month: Month, ends_at: DateTime<Utc> },
    #[error("{first_open} has to be closed before {month}")]
    EarlierMonthOpen { month: Month, first_open: Month },
    #[error("{month} lies before the log, which begins in {first_open}")]
    BeforeTheLog { month: Month, first_open: Month },
}

impl Month {
    pub fn of(at: DateTime<Utc>) -> Self {
        Self::of_day(at.date_naive())
    }

    pub fn of_day(day: NaiveDate) -> Self {
        Self { first_day: day.with_day(1).unwrap_or(day) }
    }

    pub fn first_day(self) -> NaiveDate {
        self.first_day
    }

    #[must_use]
    pub fn next(self) -> Self {
        Self { first_day: self.first_day + Months::new(1) }
    }

    /// The first instant that is no longer in it.
    pub fn ends_at(self) -> DateTime<Utc> {
        self.next().first_day.and_time(NaiveTime::MIN).and_utc()
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.first_day.year(), self.first_day.month())
    }
}

impl FromStr for Month {
    type Err = InvalidMonth;

    fn from_str(text: &str) -> Result<Self, InvalidMonth> {
        let first_day = NaiveDate::parse_from_str(&format!("{text}-01"), "%Y-%m-%d").ok();
        let month = first_day.map(|first_day| Self { first_day });
        month.filter(|month| month.to_string() == text).ok_or_else(|| InvalidMonth(text.to_owned()))
    }
}

impl TryFrom<String> for Month {
    type Error = InvalidMonth;

    fn try_from(text: String) -> Result<Self, InvalidMonth> {
        text.parse()
    }
}

impl From<Month> for String {
    fn from(month: Month) -> Self {
        month.to_string()
    }
}

impl Period {
    pub fn decide(&self, command: PeriodCommand) -> Result<Vec<PeriodEvent>, PeriodError> {
        let PeriodCommand::CloseMonth { month, first_open, position, chain_hash, totals, actor, closed_at } = command;
        if self.closed {
            return Err(PeriodError::AlreadyClosed(month));
        }
        if closed_at < month.ends_at() {
            return Err(PeriodError::NotOver { month, ends_at: month.ends_at() });
        }
        if first_open < month {
            return Err(PeriodError::EarlierMonthOpen { month, first_open });
        }
        if month < first_open {
            return Err(PeriodError::BeforeTheLog { month, first_open });
        }
        Ok(vec![PeriodEvent::MonthClosed { month, position, chain_hash, totals, actor, closed_at }])
    }

    pub fn evolve(&mut self, event: &PeriodEvent) {
        match event {
            PeriodEvent::MonthClosed { .. } => self.closed = true,
        }
    }
}

impl Aggregate for Period {
    const TYPE: &'static str = "period";
    type Command = PeriodCommand;
    type Event = PeriodEvent;
    type Error = PeriodError;
    type Services = ();

    async fn handle(&mut self, command: PeriodCommand, (): &(), sink: &EventSink<Self>) -> Result<(), PeriodError> {
        for event in self.decide(command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: PeriodEvent) {
        self.evolve(&event);
    }
}
