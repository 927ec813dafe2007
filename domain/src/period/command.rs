//! What can be asked of an accounting month.

use chrono::{DateTime, Utc};

use super::{Month, event::MonthTotals};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeriodCommand {
    CloseMonth {
        month: Month,
        /// The first month of the log that is not closed.
        first_open: Month,
        position: u64,
        chain_hash: String,
        totals: Box<MonthTotals>,
        actor: String,
        closed_at: DateTime<Utc>,
    },
}
