//! A point in the log, as a person names it.

use std::{fmt, str::FromStr};

use aihub_infrastructure::event_store::reader;
use anyhow::ensure;
use chrono::{DateTime, NaiveDate, NaiveTime, SecondsFormat, TimeDelta, Utc};
use sqlx::PgConnection;
use thiserror::Error;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    Position(u64),
    Time(DateTime<Utc>),
}

#[derive(Debug, Error)]
#[error("a position is a number; a time is 2026-11-22T18:00:00Z, or 2026-11-22 for the beginning of that day in UTC")]
pub struct InvalidPoint;

impl FromStr for Point {
    type Err = InvalidPoint;

    fn from_str(text: &str) -> Result<Self, InvalidPoint> {
        if let Ok(position) = text.parse() {
            return Ok(Self::Position(position));
        }
        if let Ok(day) = text.parse::<NaiveDate>() {
            return Ok(Self::Time(day.and_time(NaiveTime::MIN).and_utc()));
        }
        let time = DateTime::parse_from_rfc3339(text).map_err(|_| InvalidPoint)?;
        Ok(Self::Time(time.to_utc()))
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Position(position) => position.fmt(f),
            Self::Time(time) => f.write_str(&time.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
        }
    }
}

impl Point {
    /// Refuses one that the log has not come to.
    pub async fn require_past(self, connection: &mut PgConnection) -> anyhow::Result<()> {
        match self {
            Self::Position(position) => {
                let head = reader::head(connection).await?.position;
                ensure!(position <= head, "the log ends at position {head}: there is no {position} yet");
            }
            Self::Time(time) => {
                let now: DateTime<Utc> = sqlx::query_scalar("SELECT now()").fetch_one(connection).await?;
                ensure!(time <= now, "{self} is yet to come");
            }
        }
        Ok(())
    }

    /// The first position from then on.
    pub async fn first(self, connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
        match self {
            Self::Position(position) => Ok(position),
            Self::Time(time) => {
                let just_before = time - TimeDelta::microseconds(1);
                Ok(reader::position_at(connection, just_before).await? + 1)
            }
        }
    }

    /// The last position by then.
    pub async fn last(self, connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
        match self {
            Self::Position(position) => Ok(position),
            Self::Time(time) => reader::position_at(connection, time).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_a_position_a_time_or_a_day() {
        let at = |text: &str| Point::Time(text.parse().unwrap());
        assert_eq!("42".parse::<Point>().unwrap(), Point::Position(42));
        assert_eq!("2026-11-22".parse::<Point>().unwrap(), at("2026-11-22T00:00:00Z"));
        assert_eq!("2026-11-22T19:00:00+01:00".parse::<Point>().unwrap(), at("2026-11-22T18:00:00Z"));
        for text in ["42", "2026-11-22T18:00:00.500Z"] {
            assert_eq!(text.parse::<Point>().unwrap().to_string(), text);
        }
        assert!("yesterday".parse::<Point>().is_err());
    }
}
