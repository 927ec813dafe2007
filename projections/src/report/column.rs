//! What stands in a report: columns with a type each, and values of these types.

use std::fmt;

use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use serde_json::Value as Json;
use sqlx::{Row, postgres::PgRow};

/// What a column's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// `2026-11-22`
    Day,
    /// `2026-11-22T08:00:00Z`
    Instant,
    /// A whole number.
    Count,
    /// A decimal number of credits, with at most six places. Kept in microcredits.
    Credits,
    /// A decimal number of US dollars, with at most twelve places. Kept in 10⁻¹² dollars.
    Usd,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    pub kind: Kind,
    /// Whether the watermark states the sum of it.
    pub is_totalled: bool,
    /// The SQL expression that it is.
    pub(super) sql: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    None,
    Text(String),
    Day(NaiveDate),
    Instant(DateTime<Utc>),
    Count(i64),
    Credits(i128),
    Usd(i128),
}

impl Column {
    pub fn new(name: &'static str, kind: Kind, sql: impl Into<String>) -> Self {
        Self { name, kind, is_totalled: false, sql: sql.into() }
    }

    #[must_use]
    pub fn totalled(self) -> Self {
        Self { is_totalled: true, ..self }
    }

    /// As it is selected. Sums of whole numbers are `numeric` in SQL, and neither credits nor dollars of many accounts have to fit
    /// into eight bytes. Text is in the
    /// order of its bytes, not in that of the database's locale: so it is the same report everywhere.
    pub(super) fn select(&self) -> String {
        let cast = match self.kind {
            Kind::Text => "text COLLATE \"C\"",
            Kind::Credits | Kind::Usd => "text",
            Kind::Day => "date",
            Kind::Instant => "timestamptz",
            Kind::Count => "bigint",
        };
        format!("({})::{cast}", self.sql)
    }
}

impl Kind {
    /// As reports describe their columns.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Day => "day",
            Self::Instant => "instant",
            Self::Count => "count",
            Self::Credits => "credits",
            Self::Usd => "usd",
        }
    }

    pub(super) fn read(self, row: &PgRow, index: usize) -> Result<Value, sqlx::Error> {
        Ok(match self {
            Self::Text => row.try_get::<Option<String>, _>(index)?.map(Value::Text),
            Self::Day => row.try_get::<Option<NaiveDate>, _>(index)?.map(Value::Day),
            Self::Instant => row.try_get::<Option<DateTime<Utc>>, _>(index)?.map(Value::Instant),
            Self::Count => row.try_get::<Option<i64>, _>(index)?.map(Value::Count),
            Self::Credits => amount(row, index)?.map(Value::Credits),
            Self::Usd => amount(row, index)?.map(Value::Usd),
        }
        .unwrap_or(Value::None))
    }

    /// A sum of values of this kind, as it is written.
    pub(super) fn write_sum(self, sum: i128) -> String {
        match self {
            Self::Credits => decimal(sum, 6),
            Self::Usd => decimal(sum, 12),
            _ => sum.to_string(),
        }
    }
}

impl Value {
    /// What it adds to its column's sum.
    pub(super) fn amount(&self) -> i128 {
        match self {
            Self::Count(amount) => (*amount).into(),
            Self::Credits(amount) | Self::Usd(amount) => *amount,
            _ => 0,
        }
    }

    /// Money is text: a decimal number that every reader of JSON takes for a float would not stay exact.
    pub fn json(&self) -> Json {
        match self {
            Self::None => Json::Null,
            Self::Count(count) => Json::from(*count),
            _ => Json::from(self.to_string()),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Text(text) => f.write_str(text),
            Self::Day(day) => day.fmt(f),
            Self::Instant(at) => f.write_str(&at.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
            Self::Count(count) => count.fmt(f),
            Self::Credits(micro) => f.write_str(&decimal(*micro, 6)),
            Self::Usd(pico) => f.write_str(&decimal(*pico, 12)),
        }
    }
}

fn amount(row: &PgRow, index: usize) -> Result<Option<i128>, sqlx::Error> {
    let text: Option<&str> = row.try_get(index)?;
    text.map(str::parse).transpose().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// `amount / 10^places`, exact, without zeros behind the last digit.
fn decimal(amount: i128, places: u32) -> String {
    let unit = 10_u128.pow(places);
    let (whole, rest) = (amount.unsigned_abs() / unit, amount.unsigned_abs() % unit);
    let sign = if amount < 0 { "-" } else { "" };
    let text = format!("{sign}{whole}.{rest:0width$}", width = places as usize);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_written_exactly_and_without_idle_zeros() {
        for (value, text) in [
            (Value::Credits(0), "0"),
            (Value::Credits(-1), "-0.000001"),
            (Value::Credits(1_500_000), "1.5"),
            (Value::Credits(i128::from(i64::MAX) * 1_000), "9223372036854775.807"),
            (Value::Usd(18_750), "0.00000001875"),
            (Value::Usd(-2_000_000_000_000), "-2"),
            (Value::Usd(i128::from(i64::MAX) * 1_000), "9223372036.854775807"),
        ] {
            assert_eq!(value.to_string(), text);
        }
        assert_eq!(Kind::Count.write_sum(10_000), "10000");
    }
}
