//! What was spent in the running day and month, for the limits.

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveTime, Utc};
use serde::{Deserialize, Serialize};

use super::{AccountError, Period, UsageLimits};
use crate::money::Microcredits;

/// By requests: credit and debit notes count towards no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spend {
    day: PeriodSpend,
    month: PeriodSpend,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct PeriodSpend {
    /// The period's first day.
    start: NaiveDate,
    spent: Microcredits,
}

impl Spend {
    pub fn add(&mut self, at: DateTime<Utc>, charged: Microcredits) {
        let today = at.date_naive();
        self.day.add(today, charged);
        self.month.add(first_of_month(today), charged);
    }

    /// What is held counts against the running period, for that is when it will be settled at the earliest.
    pub fn require_within(
        &self,
        limits: &UsageLimits,
        held: Microcredits,
        required: Microcredits,
        at: DateTime<Utc>,
    ) -> Result<(), AccountError> {
        let today = at.date_naive();
        let month = first_of_month(today);
        let periods = [
            (Period::Day, limits.daily_microcredits, self.day.since(today), today + Days::new(1)),
            (Period::Month, limits.monthly_microcredits, self.month.since(month), month + Months::new(1)),
        ];
        for (period, limit, spent, next) in periods {
            let used = spent + held;
            if let Some(limit) = limit
                && used.saturating_add(required) > limit
            {
                let resets_at = next.and_time(NaiveTime::MIN).and_utc();
                return Err(AccountError::UsageLimitExceeded { period, limit, used, required, resets_at });
            }
        }
        Ok(())
    }
}

impl PeriodSpend {
    fn add(&mut self, start: NaiveDate, charged: Microcredits) {
        if start > self.start {
            *self = Self { start, spent: Microcredits::ZERO };
        }
        self.spent += charged;
    }

    fn since(&self, start: NaiveDate) -> Microcredits {
        if self.start < start { Microcredits::ZERO } else { self.spent }
    }
}

fn first_of_month(day: NaiveDate) -> NaiveDate {
    day.with_day(1).unwrap_or(day)
}
