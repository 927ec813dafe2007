//! Credits and provider cost. Integers only; floats appear in no amount.
//!
//! Nothing here wraps. Amounts that come in are bounded at the doors by [`Microcredits::MAX`], and what an account was
//! granted altogether is bounded by it as well, so that no sum over one account comes near the end of its 64 bits. Sums over
//! many accounts have 128.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::{fmt, num::ParseIntError};

use serde::{Deserialize, Serialize};

/// An amount of credits. One credit is 1,000,000 microcredits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Microcredits(pub i64);

/// A sum of credits over any number of accounts, in microcredits. In JSON it is a text: not everybody reads so large a
/// number alike.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MicrocreditsSum(pub i128);

/// What a provider asks for something, in 10⁻¹² US dollars: fine enough for one token at $0.01875 a million.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PicoUsd(pub i64);

/// A sum of provider costs, in 10⁻¹² US dollars. In JSON it is a text, as [`MicrocreditsSum`] is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PicoUsdSum(pub i128);

/// How many microcredits a US dollar of provider cost is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MicrocreditsPerUsd(pub u32);

impl Microcredits {
    pub const ZERO: Self = Self(0);
    pub const PER_CREDIT: i64 = 1_000_000;
    /// 10¹² credits: the most that one grant, note or limit may be, and the most that one account may be granted altogether.
    /// At 1,000 credits a dollar it is a billion dollars, and nine of it still fit into 64 bits.
    pub const MAX: Self = Self(1_000_000_000_000_000_000);

    pub const fn from_credits(credits: i64) -> Self {
        Self(credits.saturating_mul(Self::PER_CREDIT))
    }

    /// For JSON on the wire, where a credit is a decimal number. Exact up to nine billion credits.
    #[expect(clippy::cast_precision_loss, reason = "exact below 2^53 microcredits")]
    pub fn as_credits(self) -> f64 {
        self.0 as f64 / Self::PER_CREDIT as f64
    }

    /// The sum of two amounts that are within [`MAX`](Self::MAX) each, or that an event states. The latter are facts, and were
    /// checked when they were decided; should somebody have put another one into the log, it is cut off and does not wrap.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference of two such amounts.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl From<PicoUsdSum> for String {
    fn from(sum: PicoUsdSum) -> Self {
        sum.0.to_string()
    }
}

impl TryFrom<String> for PicoUsdSum {
    type Error = ParseIntError;

    fn try_from(text: String) -> Result<Self, ParseIntError> {
        text.parse().map(Self)
    }
}

impl From<MicrocreditsSum> for String {
    fn from(sum: MicrocreditsSum) -> Self {
        sum.0.to_string()
    }
}

impl TryFrom<String> for MicrocreditsSum {
    type Error = ParseIntError;

    fn try_from(text: String) -> Result<Self, ParseIntError> {
        text.parse().map(Self)
    }
}

impl PicoUsd {
    /// The sum of the costs of calls, each of which is far below its bound.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl MicrocreditsPerUsd {
    /// The charge for a provider's cost. The one rounding of the whole calculation happens here: up, to the next
    /// microcredit, so that a charge is never below its cost and a dearer usage never charges less.
    ///
    /// The largest cost at the largest rate is 4 × 10¹⁶ microcredits, so that every charge is below [`Microcredits::MAX`].
    pub fn charge(self, cost: PicoUsd) -> Microcredits {
        let scaled = u128::from(cost.0.max(0).unsigned_abs()).saturating_mul(self.0.into());
        Microcredits(i64::try_from(scaled.div_ceil(1_000_000_000_000)).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for Microcredits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        MicrocreditsSum(self.0.into()).fmt(f)
    }
}

/// In credits.
impl fmt::Display for MicrocreditsSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, rest) = (self.0.unsigned_abs() / 1_000_000, self.0.unsigned_abs() % 1_000_000);
        let text = format!("{sign}{whole}.{rest:06}");
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_is_rounded_up_once_and_never_below_its_cost() {
        let rate = MicrocreditsPerUsd(1_000_000_000);
        assert_eq!(rate.charge(PicoUsd(0)), Microcredits(0));
        assert_eq!(rate.charge(PicoUsd(1)), Microcredits(1));
        assert_eq!(rate.charge(PicoUsd(1_000)), Microcredits(1));
        assert_eq!(rate.charge(PicoUsd(1_001)), Microcredits(2));
    }

    #[test]
    fn the_largest_cost_at_the_largest_rate_is_an_amount() {
        let charge = MicrocreditsPerUsd(u32::MAX).charge(PicoUsd(i64::MAX));
        assert_eq!(charge, Microcredits(39_614_081_247_908_797));
        assert!(charge < Microcredits::MAX);
    }

    #[test]
    fn amounts_at_their_end_do_not_wrap() {
        assert_eq!(Microcredits(i64::MAX).plus(Microcredits(1)), Microcredits(i64::MAX));
        assert_eq!(Microcredits(i64::MIN).minus(Microcredits(1)), Microcredits(i64::MIN));
        assert_eq!(Microcredits::from_credits(i64::MAX), Microcredits(i64::MAX));
        let nine = (0..9).fold(Microcredits::ZERO, |sum, _| sum.plus(Microcredits::MAX));
        assert_eq!(nine, Microcredits(9 * Microcredits::MAX.0), "no sum of nine is cut off");
    }

    #[test]
    fn credits_read_as_decimals_without_trailing_zeros() {
        assert_eq!(Microcredits(1_500_000).to_string(), "1.5");
        assert_eq!(Microcredits(-1).to_string(), "-0.000001");
        assert_eq!(Microcredits::from_credits(3).to_string(), "3");
    }
}
