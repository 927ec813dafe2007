//! In which month something is booked, and how far a view has done so.
//!
//! What happened in a month that is still open is booked there, however late it is recorded. What is recorded after its
//! month was closed is booked on the first day of the month that was open then, and names the month it belongs to.
//! After means: behind the close in the log. So a view needs nothing but the events in their order.

use std::sync::Arc;

use aihub_domain::{
    account::Account,
    period::{Month, Period, event::PeriodEvent},
    request::Request,
    video::VideoJob,
};
use aihub_infrastructure::event_store::decode::LogEntry;
use chrono::{DateTime, NaiveDate, Utc};
use cqrs_es::Aggregate;
use sqlx::PgConnection;

use crate::credit_ledger::movement::Movement;

/// The day and the month that something counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Booking {
    pub day: NaiveDate,
    pub month: Month,
    /// The closed month in which it happened.
    pub corrects: Option<Month>,
}

impl Booking {
    pub fn of(happened_at: DateTime<Utc>, closed: Option<Month>) -> Self {
        let own = Month::of(happened_at);
        match closed {
            Some(closed) if own <= closed => {
                let open = closed.next();
                Self { day: open.first_day(), month: open, corrects: Some(own) }
            }
            _ => Self { day: happened_at.date_naive(), month: own, corrects: None },
        }
    }
}

/// Up to where a view has added up or booked, kept in a table of its own beside it: whatever feeds the view, nothing
/// counts twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// What the view is made from. Nothing else moves `applied`, so that it does not depend on what else was read.
    event_types: &'static [&'static str],
    applied: u64,
    /// The last closed month.
    pub closed: Option<Month>,
}

impl State {
    /// The view's state in front of the events, which becomes the one behind them. `None` where the view is made from
    /// none of them. `table` is `…_state_v1`.
    pub async fn advance(
        connection: &mut PgConnection,
        table: &str,
        event_types: &'static [&'static str],
        events: &[Arc<LogEntry>],
    ) -> anyhow::Result<Option<Self>> {
        let wanted = || events.iter().filter(|entry| event_types.contains(&entry.event_type.as_str()));
        let Some(last) = wanted().next_back() else { return Ok(None) };
        let mut closed: Option<Month> = None;
        for entry in wanted() {
            closed = closed.max(closed_by(entry)?);
        }
        // The inner selects see the row as it was before the statement.
        let upsert = format!(
            "INSERT INTO {table} AS s (one, applied_position, closed_month) VALUES (true, $1, $2)
             ON CONFLICT (one) DO UPDATE SET applied_position = greatest(s.applied_position, excluded.applied_position),
                                             closed_month = greatest(s.closed_month, excluded.closed_month)
             RETURNING (SELECT applied_position FROM {table}), (SELECT closed_month FROM {table})"
        );
        let before: (Option<i64>, Option<NaiveDate>) = sqlx::query_as(&upsert)
            .bind(last.position.cast_signed())
            .bind(closed.map(Month::first_day))
            .fetch_one(connection)
            .await?;
        let applied = before.0.unwrap_or(0).cast_unsigned();
        Ok(Some(Self { event_types, applied, closed: before.1.map(Month::of_day) }))
    }

    /// Whether the event is one that the view is made from and has not been applied yet. Events are asked about in their
    /// order; closes are noted.
    pub fn takes(&mut self, entry: &LogEntry) -> anyhow::Result<bool> {
        if entry.position <= self.applied || !self.event_types.contains(&entry.event_type.as_str()) {
            return Ok(false);
        }
        self.closed = self.closed.max(closed_by(entry)?);
        Ok(true)
    }
}

/// The month that the event closes.
fn closed_by(entry: &LogEntry) -> anyhow::Result<Option<Month>> {
    if entry.aggregate_type != Period::TYPE {
        return Ok(None);
    }
    let PeriodEvent::MonthClosed { month, .. } = entry.event::<Period>()?;
    Ok(Some(*month))
}

/// When something happened that is booked; `None` for an event that is not.
pub fn happened_at(entry: &LogEntry) -> anyhow::Result<Option<DateTime<Utc>>> {
    Ok(match entry.aggregate_type.as_str() {
        Request::TYPE => entry.event::<Request>()?.ended().map(|(_, ended_at)| ended_at),
        VideoJob::TYPE => entry.event::<VideoJob>()?.ended().map(|(_, ended_at)| ended_at),
        Account::TYPE => Movement::of(entry.event::<Account>()?).map(|movement| movement.happened_at),
        _ => None,
    })
}

/// The first month in which anything is booked.
pub async fn first_month(connection: &mut PgConnection) -> Result<Option<Month>, sqlx::Error> {
    let first = sqlx::query_scalar!(
        "SELECT least((SELECT min(accounting_month) FROM usage_ledger_v1),
                      (SELECT min(accounting_month) FROM credit_ledger_v1))"
    );
    Ok(first.fetch_one(connection).await?.map(Month::of_day))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn booked(at: &str, closed: Option<&str>) -> (String, String, Option<String>) {
        let booking = Booking::of(at.parse().unwrap(), closed.map(|month| month.parse().unwrap()));
        (booking.day.to_string(), booking.month.to_string(), booking.corrects.map(|month| month.to_string()))
    }

    #[test]
    fn what_comes_after_the_close_of_its_month_is_booked_on_the_first_day_of_the_open_one() {
        let own = ("2026-10-31".to_owned(), "2026-10".to_owned(), None);
        assert_eq!(booked("2026-10-31T23:59:59Z", None), own);
        assert_eq!(booked("2026-10-31T23:59:59Z", Some("2026-09")), own);
        let late = |of: &str, day: &str, month: &str| (day.to_owned(), month.to_owned(), Some(of.to_owned()));
        assert_eq!(booked("2026-10-31T23:59:59Z", Some("2026-10")), late("2026-10", "2026-11-01", "2026-11"));
        assert_eq!(booked("2026-08-01T00:00:00Z", Some("2026-12")), late("2026-08", "2027-01-01", "2027-01"));
    }
}
