//! What was spent in the running day and month, for the limits.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

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

    /// What the limits leave room for, at least `required`. What is held counts against the running period, for that is when
    /// it will be settled at the earliest.
    pub fn room(
        &self,
        limits: &UsageLimits,
        held: Microcredits,
        required: Microcredits,
        at: DateTime<Utc>,
    ) -> Result<Microcredits, AccountError> {
        let today = at.date_naive();
        let month = first_of_month(today);
        let tomorrow = today.checked_add_days(Days::new(1)).unwrap_or(today);
        let next_month = month.checked_add_months(Months::new(1)).unwrap_or(month);
        let periods = [
            (Period::Day, limits.daily_microcredits, self.day.since(today), tomorrow),
            (Period::Month, limits.monthly_microcredits, self.month.since(month), next_month),
        ];
        let mut room = Microcredits::MAX;
        for (period, limit, spent, next) in periods {
            let Some(limit) = limit else { continue };
            let used = spent.plus(held);
            let left = limit.minus(used);
            if left < required {
                let resets_at = next.and_time(NaiveTime::MIN).and_utc();
                return Err(AccountError::UsageLimitExceeded { period, limit, used, required, resets_at });
            }
            room = room.min(left);
        }
        Ok(room)
    }
}

impl PeriodSpend {
    fn add(&mut self, start: NaiveDate, charged: Microcredits) {
        if start > self.start {
            *self = Self { start, spent: Microcredits::ZERO };
        }
        self.spent = self.spent.plus(charged);
    }

    fn since(&self, start: NaiveDate) -> Microcredits {
        if self.start < start { Microcredits::ZERO } else { self.spent }
    }
}

fn first_of_month(day: NaiveDate) -> NaiveDate {
    day.with_day(1).unwrap_or(day)
}
