//! Credits and prices as people write them, read exactly: never through a binary fraction.

use std::{fmt, str::FromStr};

use aihub_domain::{
    money::{Microcredits, MicrocreditsPerUsd, PicoUsd},
    price::PicoUsdPerToken,
    video::price::MAX_PER_SECOND,
};
use rust_decimal::{Decimal, prelude::ToPrimitive};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("must be a number of credits with at most six decimals, such as 25 or 0.5, and at most {}", Microcredits::MAX)]
pub struct InvalidCredits;

/// An amount of credits, 0 to [`Microcredits::MAX`]: `25` or `"0.5"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credits(pub Microcredits);

impl FromStr for Credits {
    type Err = InvalidCredits;

    fn from_str(text: &str) -> Result<Self, InvalidCredits> {
        let credits = Decimal::from_str_exact(text).map_err(|_| InvalidCredits)?;
        let micro = credits.checked_mul(Decimal::from(Microcredits::PER_CREDIT)).ok_or(InvalidCredits)?;
        if credits.is_sign_negative() || !micro.fract().is_zero() {
            return Err(InvalidCredits);
        }
        let amount = micro.to_i64().map(Microcredits).filter(|amount| *amount <= Microcredits::MAX);
        amount.map(Self).ok_or(InvalidCredits)
    }
}

/// How many credits a US dollar of provider cost is charged with, 0.000001 to 4294.967295.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreditsPerUsd(pub MicrocreditsPerUsd);

/// US dollars per million tokens, the figure that price lists print: `"0.10"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsdPerMillionTokens(pub PicoUsdPerToken);

/// US dollars for a second of video, with at most nine decimals: `"0.10"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usd(pub PicoUsd);

impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let invalid = || de::Error::custom("must be US dollars, 0 to 10,000, such as \"0.10\"");
        let usd = Decimal::from_str_exact(&number_text(deserializer)?).map_err(|_| invalid())?;
        if usd.is_sign_negative() || usd.scale() > 9 {
            return Err(invalid());
        }
        let pico = usd.checked_mul(Decimal::from(1_000_000_000_000_i64)).and_then(|pico| pico.to_i64());
        pico.map(PicoUsd).filter(|price| *price <= MAX_PER_SECOND).map(Self).ok_or_else(invalid)
    }
}

impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Decimal::new(self.0.0, 12).normalize())
    }
}

impl<'de> Deserialize<'de> for Credits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        number_text(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for CreditsPerUsd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Credits(Microcredits(micro)) = Credits::deserialize(deserializer)?;
        let rate = u32::try_from(micro).ok().filter(|rate| *rate > 0).map(MicrocreditsPerUsd);
        rate.map(Self).ok_or_else(|| de::Error::custom("must be 0.000001 to 4294.967295 credits per US dollar"))
    }
}

impl<'de> Deserialize<'de> for UsdPerMillionTokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = number_text(deserializer)?;
        let usd = Decimal::from_str_exact(&text)
            .map_err(|_| de::Error::custom("must be US dollars per million tokens, such as \"0.10\""))?;
        PicoUsdPerToken::from_usd_per_million(usd).map(Self).map_err(de::Error::custom)
    }
}

impl Serialize for Credits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl Serialize for CreditsPerUsd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Microcredits(i64::from(self.0.0)))
    }
}

impl Serialize for UsdPerMillionTokens {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Decimal::new(i64::try_from(self.0.0).unwrap_or(i64::MAX), 6).normalize())
    }
}

/// A whole number, or a decimal in quotes. One without quotes has been rounded by the time it is seen here.
fn number_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    struct NumberText;

    impl de::Visitor<'_> for NumberText {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number, or a decimal in quotes")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<String, E> {
            Ok(number.to_string())
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<String, E> {
            Ok(number.to_string())
        }
    }

    deserializer.deserialize_any(NumberText)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn credits_are_exact_to_the_microcredit_and_anything_finer_is_refused() {
        let amount = |text: &str| text.parse::<Credits>().map(|credits| credits.0.0);
        assert_eq!(amount("0.000001"), Ok(1));
        assert_eq!(amount("9007199254.740993"), Ok(9_007_199_254_740_993));
        assert_eq!(amount("12.500000000"), Ok(12_500_000));
        assert_eq!(amount("1000000000000"), Ok(Microcredits::MAX.0));
        for text in [
            "0.0000001",
            "-1",
            "",
            "1,5",
            "1e3",
            "NaN",
            "1000000000000.000001",
            "9000000000000",
            "9223372036854",
            "9223372036854.775808",
            "99999999999999999999999999999",
        ] {
            assert_eq!(amount(text), Err(InvalidCredits), "{text}");
        }
        assert!(InvalidCredits.to_string().ends_with("at most 1000000000000"));
    }

    #[test]
    fn a_decimal_without_quotes_is_refused_because_it_is_not_exact() {
        assert!(read::<Credits>("0.1").unwrap_err().contains("a decimal in quotes"));
        assert_eq!(read::<Credits>("25").unwrap().0, Microcredits::from_credits(25));
        assert_eq!(read::<UsdPerMillionTokens>("\"0.10\"").unwrap().0, PicoUsdPerToken(100_000));
        assert!(read::<UsdPerMillionTokens>("\"0.0000001\"").unwrap_err().contains("six decimals"));
    }

    #[test]
    fn a_rate_of_nothing_or_of_too_much_is_refused() {
        assert_eq!(read::<CreditsPerUsd>("1000").unwrap().0, MicrocreditsPerUsd(1_000_000_000));
        for rate in ["0", "4295", "\"x\""] {
            read::<CreditsPerUsd>(rate).unwrap_err();
        }
        assert_eq!(read::<Usd>("10000").unwrap().0, MAX_PER_SECOND);
        for price in ["\"10000.000000001\"", "1000000", "-1", "\"0.0000000001\""] {
            read::<Usd>(price).unwrap_err();
        }
    }

    #[test]
    fn an_amount_is_written_as_it_is_read() {
        assert_eq!(serde_json::to_string(&read::<UsdPerMillionTokens>("\"0.10\"").unwrap()).unwrap(), "\"0.1\"");
        assert_eq!(serde_json::to_string(&read::<CreditsPerUsd>("1000").unwrap()).unwrap(), "\"1000\"");
    }
}
