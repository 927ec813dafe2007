//! Credits and provider cost. Integers only; floats appear in no amount.

use std::{
    fmt,
    iter::Sum,
    num::ParseIntError,
    ops::{Add, AddAssign, Sub, SubAssign},
};

use serde::{Deserialize, Serialize};

/// An amount of credits. One credit is 1,000,000 microcredits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Microcredits(pub i64);

/// What a provider asks for something, in 10⁻¹² US dollars: fine enough for one token at $0.01875 a million.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PicoUsd(pub i64);

/// A sum of provider costs, in 10⁻¹² US dollars. In JSON it is a text: not everybody reads so large a number alike.
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

    pub const fn from_credits(credits: i64) -> Self {
        Self(credits * Self::PER_CREDIT)
    }

    /// For JSON on the wire, where a credit is a decimal number. Exact up to nine billion credits.
    #[expect(clippy::cast_precision_loss, reason = "exact below 2^53 microcredits")]
    pub fn as_credits(self) -> f64 {
        self.0 as f64 / Self::PER_CREDIT as f64
    }

    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
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

impl MicrocreditsPerUsd {
    /// The charge for a provider's cost. The one rounding of the whole calculation happens here: up, to the next
    /// microcredit, so that a charge is never below its cost and a dearer usage never charges less.
    pub fn charge(self, cost: PicoUsd) -> Microcredits {
        let scaled = i128::from(cost.0) * i128::from(self.0);
        let charge = -(-scaled).div_euclid(1_000_000_000_000);
        Microcredits(i64::try_from(charge).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for Microcredits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, rest) = (self.0.unsigned_abs() / 1_000_000, self.0.unsigned_abs() % 1_000_000);
        let text = format!("{sign}{whole}.{rest:06}");
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl Add for Microcredits {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl Sub for Microcredits {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl AddAssign for Microcredits {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl SubAssign for Microcredits {
    fn sub_assign(&mut self, other: Self) {
        self.0 -= other.0;
    }
}

impl Sum for Microcredits {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
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
    fn credits_read_as_decimals_without_trailing_zeros() {
        assert_eq!(Microcredits(1_500_000).to_string(), "1.5");
        assert_eq!(Microcredits(-1).to_string(), "-0.000001");
        assert_eq!(Microcredits::from_credits(3).to_string(), "3");
    }
}
