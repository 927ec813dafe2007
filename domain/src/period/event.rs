//! What happened to an accounting month.

use chrono::{DateTime, Utc};
use cqrs_es::DomainEvent;
use serde::{Deserialize, Serialize};

use super::Month;
use crate::money::{MicrocreditsSum, PicoUsdSum};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeriodEvent {
    /// What is recorded after this event is booked in later months, whenever it happened.
    MonthClosed {
        month: Month,
        /// What the totals are true at: the position of the event in front of this one.
        position: u64,
        /// Of that event, in hexadecimal.
        chain_hash: String,
        totals: Box<MonthTotals>,
        actor: String,
        closed_at: DateTime<Utc>,
    },
}

/// What is booked in a month.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonthTotals {
    /// That ended, in whatever way; videos as well.
    pub requests: u64,
    pub input_tokens: u64,
    pub cached_input_tokens: u64,
    pub cache_write_tokens: u64,
    pub cache_write_1h_tokens: u64,
    /// Thinking included.
    pub output_tokens: u64,
    pub reasoning_tokens: u64,
    /// That were billed.
    pub video_seconds: u64,
    pub charged_microcredits: MicrocreditsSum,
    pub cost_picousd: PicoUsdSum,
    pub granted_microcredits: MicrocreditsSum,
    pub expired_microcredits: MicrocreditsSum,
    /// Given back.
    pub credit_notes_microcredits: MicrocreditsSum,
    /// Taken.
    pub debit_notes_microcredits: MicrocreditsSum,
}

impl DomainEvent for PeriodEvent {
    fn event_type(&self) -> String {
        match self {
            Self::MonthClosed { .. } => "MonthClosed",
        }
        .to_owned()
    }

    fn event_version(&self) -> String {
        "1.0".to_owned()
    }
}
