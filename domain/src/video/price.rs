//! What a provider asks for a second of video.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::format::Resolution;
use crate::money::PicoUsd;

/// From one day to another, and who says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VideoPrice {
    /// Named by every charge that was calculated from it: `provider/model@2026-11-22`.
    pub id: String,
    pub per_second: BTreeMap<Resolution, PicoUsd>,
    pub valid_from: DateTime<Utc>,
    pub valid_until: Option<DateTime<Utc>>,
    /// Where the figures come from.
    pub source: String,
}

/// The longest video that can be asked for, in seconds.
pub const MAX_SECONDS: u32 = 600;
/// $10,000: the dearest second that is taken. Ten minutes of it still fit into [`PicoUsd`].
pub const MAX_PER_SECOND: PicoUsd = PicoUsd(10_000_000_000_000_000);

impl VideoPrice {
    pub fn is_valid_at(&self, at: DateTime<Utc>) -> bool {
        self.valid_from <= at && self.valid_until.is_none_or(|until| at < until)
    }

    /// Seconds x price of the resolution. `None` where that is not offered.
    pub fn cost(&self, resolution: Resolution, seconds: u32) -> Option<PicoUsd> {
        let per_second = self.per_second.get(&resolution)?;
        Some(PicoUsd(per_second.0.saturating_mul(seconds.into())))
    }
}

/// The seconds that are billed for a file: to the nearest one, because encoders end on a frame and not on a second, and
/// never more than were asked for.
pub fn billed_seconds(delivered_ms: u64, asked_seconds: u32) -> u32 {
    u32::try_from(delivered_ms.saturating_add(500) / 1_000).unwrap_or(u32::MAX).min(asked_seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_video_at_the_dearest_price_costs_what_it_costs() {
        let price = VideoPrice {
            id: "p".into(),
            per_second: [(Resolution::P720, MAX_PER_SECOND)].into(),
            valid_from: DateTime::UNIX_EPOCH,
            valid_until: None,
            source: "test".into(),
        };
        let cost = i64::from(MAX_SECONDS) * MAX_PER_SECOND.0;
        assert_eq!(price.cost(Resolution::P720, MAX_SECONDS), Some(PicoUsd(cost)));
        assert_eq!(price.cost(Resolution::P720, u32::MAX), Some(PicoUsd(i64::MAX)), "and nothing wraps beyond");
    }

    #[test]
    fn a_file_is_billed_by_whole_seconds_and_never_for_more_than_was_asked() {
        assert_eq!(billed_seconds(7_960, 8), 8);
        assert_eq!(billed_seconds(8_040, 8), 8);
        assert_eq!(billed_seconds(12_000, 8), 8);
        assert_eq!(billed_seconds(5_499, 8), 5);
        assert_eq!(billed_seconds(400, 8), 0);
    }
}
