//! What a report is true at, and what says so.

use aihub_domain::period::Month;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Map, Value, json};
use sqlx::{PgConnection, PgPool, Row, Transaction};

use super::{
    ReportError,
    column::{Column, Value as CellValue},
    selection::{AsOf, Fault},
};
use crate::usage_ledger::{self, MonthClose};

const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// An append may be in flight so long, with an instant in it that is over.
const SETTLED_AFTER: TimeDelta = TimeDelta::minutes(1);

/// Where in the log a report stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Basis {
    pub position: u64,
    /// Of the event there, in hexadecimal.
    pub chain_hash: String,
    /// Of the event there; `None` in front of the first one, and where the log is not in this database.
    pub recorded_at: Option<DateTime<Utc>>,
}

/// What a report says about itself when it has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watermark {
    pub basis: Basis,
    pub rows: u64,
    /// The columns that are summed up, with their sums as they are written.
    pub totals: Vec<(&'static str, String)>,
    /// Views that it is made from and that do not go on: what came later is not in it, though it was asked for all that there is.
    pub standing: Vec<String>,
}

impl Watermark {
    /// Of rows that are all there.
    pub fn of(basis: Basis, columns: &[Column], rows: &[Vec<CellValue>]) -> Self {
        let totals = columns.iter().enumerate().filter(|(_, column)| column.is_totalled).map(|(index, column)| {
            let sum = rows.iter().filter_map(|row| row.get(index)).map(CellValue::amount).sum();
            (column.name, column.kind.write_sum(sum))
        });
        Self { basis, rows: rows.len() as u64, totals: totals.collect(), standing: vec![] }
    }

    pub fn json(&self) -> Value {
        let totals: Map<String, Value> =
            self.totals.iter().map(|(name, sum)| ((*name).to_owned(), Value::from(sum.as_str()))).collect();
        let mut json = json!({
            "position": self.basis.position,
            "chainHash": self.basis.chain_hash,
            "recordedAt": self.basis.recorded_at.map(|at| at.to_rfc3339_opts(SecondsFormat::Micros, true)),
            "rows": self.rows,
            "totals": totals,
        });
        if !self.standing.is_empty() {
            json["complete"] = json!(false);
            json["standing"] = json!(self.standing);
        }
        json
    }
}

/// The views as they stand at one instant.
pub struct Views {
    pub transaction: Transaction<'static, sqlx::Postgres>,
    /// Name, position and chain hash.
    applied: Vec<(String, u64, String)>,
    /// Those that have failed or are paused.
    standing: Vec<String>,
    pub closes: Vec<MonthClose>,
}

impl Views {
    pub async fn open(pool: &PgPool, names: &[&'static str]) -> Result<Self, sqlx::Error> {
        // Locked before the snapshot is taken: a view that is swapped in between would be another table than the one
        // that the snapshot knows. A report of many millions of rows may take longer than other statements.
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = '10min';
             LOCK TABLE {} IN ACCESS SHARE MODE",
            names.join(", ")
        );
        let mut transaction = pool.begin_with(begin).await?;
        let rows = sqlx::query(
            "SELECT name, position, encode(chain_hash, 'hex'), error IS NOT NULL OR paused_at IS NOT NULL FROM subscriptions",
        )
        .fetch_all(&mut *transaction)
        .await?;
        let applied = rows.iter().map(|row| {
            Ok::<_, sqlx::Error>((row.try_get(0)?, row.try_get::<i64, _>(1)?.cast_unsigned(), row.try_get(2)?))
        });
        let applied = applied.collect::<Result<_, _>>()?;
        let mut standing = Vec::new();
        for row in &rows {
            if row.try_get(3)? {
                standing.push(row.try_get(0)?);
            }
        }
        let closes = usage_ledger::closes(&mut transaction).await?;
        Ok(Self { transaction, applied, standing, closes })
    }

    /// Of these, those that do not go on, in words.
    pub fn standing(&self, names: &[&str]) -> Vec<String> {
        let standing = self.standing.iter().filter(|name| names.contains(&name.as_str()));
        standing.map(|name| format!("{name} stands at position {}", self.position(&[name]))).collect()
    }

    /// Up to where the views have all come.
    pub fn position(&self, names: &[&str]) -> u64 {
        let position = |name: &str| self.applied.iter().find(|(known, ..)| known == name).map_or(0, |view| view.1);
        names.iter().map(|name| position(name)).min().unwrap_or(0)
    }

    /// The close of the month, if the views have come up to it.
    pub fn close_of(&self, month: Month, up_to: u64) -> Option<&MonthClose> {
        self.closes.iter().find(|close| close.month == month && close.position <= up_to)
    }

    /// The position that is asked for. The views have to have come so far.
    pub async fn as_of(&mut self, as_of: AsOf, names: &[&str]) -> Result<u64, ReportError> {
        let last = self.position(names);
        let position = match as_of {
            AsOf::Position(position) => position,
            AsOf::Time(time) => position_at(&mut self.transaction, time, last).await?,
        };
        if position > last {
            let reason = format!("the views have come up to position {last}, not to {position} yet");
            return Err(Fault::new("asOf", reason).into());
        }
        Ok(position)
    }

    /// The last position up to this one behind which a commit ends: two ledgers that are written in one commit then
    /// agree.
    pub async fn end_of_commit(&mut self, position: u64) -> Result<u64, sqlx::Error> {
        let Some(next) = recorded_at(&mut self.transaction, position + 1).await? else { return Ok(position) };
        let mut position = position;
        // Everything in a commit is recorded at one instant.
        while position > 0 && recorded_at(&mut self.transaction, position).await? == Some(next) {
            position -= 1;
        }
        Ok(position)
    }

    pub async fn basis(&mut self, position: u64) -> Result<Basis, ReportError> {
        let event = sqlx::query("SELECT encode(chain_hash, 'hex'), recorded_at FROM events WHERE position = $1")
            .bind(position.cast_signed())
            .fetch_optional(&mut *self.transaction)
            .await?;
        if let Some(event) = event {
            return Ok(Basis { position, chain_hash: event.try_get(0)?, recorded_at: event.try_get(1)? });
        }
        // A database that is fed from elsewhere has no log.
        let known = self.applied.iter().find(|(_, at, _)| *at == position).map(|(.., hash)| hash.clone());
        let known = known.or_else(|| (position == 0).then(|| GENESIS.to_owned()));
        let closed = self.closes.iter().find(|close| close.watermark == position).map(|close| close.chain_hash.clone());
        let chain_hash = known
            .or(closed)
            .ok_or_else(|| Fault::new("asOf", format!("the log's position {position} is not in this database")))?;
        Ok(Basis { position, chain_hash, recorded_at: None })
    }
}

async fn recorded_at(connection: &mut PgConnection, position: u64) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    sqlx::query_scalar("SELECT recorded_at FROM events WHERE position = $1")
        .bind(position.cast_signed())
        .fetch_optional(connection)
        .await
}

/// The last position that was recorded up to an instant. Positions follow each other without gaps, in the order of their
/// times, so it is found by halving. `applied` is what the views have: what they know beyond the log was recorded elsewhere.
async fn position_at(connection: &mut PgConnection, time: DateTime<Utc>, applied: u64) -> Result<u64, ReportError> {
    let head = sqlx::query("SELECT position, recorded_at, now() FROM events ORDER BY position DESC LIMIT 1")
        .fetch_optional(&mut *connection)
        .await?;
    let head = head.map(|head| Ok::<_, sqlx::Error>((head.try_get(0)?, head.try_get(1)?, head.try_get(2)?)));
    let head: Option<(i64, DateTime<Utc>, DateTime<Utc>)> = head.transpose()?;
    let Some((mut high, newest, now)) = head.filter(|(position, ..)| position.cast_unsigned() >= applied) else {
        return Err(Fault::new("asOf", "times can be looked up only where the log is: give a position").into());
    };
    if time >= newest {
        if time > now - SETTLED_AFTER {
            let reason = "something may still be recorded up to then: give a time that is a minute past, or none";
            return Err(Fault::new("asOf", reason).into());
        }
        return Ok(high.cast_unsigned());
    }
    let mut low = 0;
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if recorded_at(connection, middle.cast_unsigned()).await?.is_some_and(|at| at <= time) {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(low.cast_unsigned())
}
