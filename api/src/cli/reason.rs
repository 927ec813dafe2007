//! Why something is done that stands in the log for good.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// With fewer letters and digits nobody has said why.
const LEAST_LETTERS: usize = 3;
const MOST_BYTES: usize = 1_000;

/// A reason that says something, in at most 1,000 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason(String);

#[derive(Debug, Error, PartialEq, Eq)]
pub enum InvalidReason {
    #[error("it has to say why, in a word or more: whoever reads the log later has nothing else")]
    SaysNothing,
    #[error("it may have at most {MOST_BYTES} bytes")]
    TooLong,
}

impl FromStr for Reason {
    type Err = InvalidReason;

    fn from_str(text: &str) -> Result<Self, InvalidReason> {
        let text = text.trim();
        if text.chars().filter(|c| c.is_alphanumeric()).count() < LEAST_LETTERS {
            return Err(InvalidReason::SaysNothing);
        }
        if text.len() > MOST_BYTES { Err(InvalidReason::TooLong) } else { Ok(Self(text.to_owned())) }
    }
}

impl From<Reason> for String {
    fn from(Reason(reason): Reason) -> Self {
        reason
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_says_something() {
        assert_eq!(" wrong price \n".parse::<Reason>().unwrap().to_string(), "wrong price");
        assert!("価格修正".parse::<Reason>().is_ok());
        for nothing in ["", "  ", "-", "...", "x", "?!?!"] {
            assert_eq!(nothing.parse::<Reason>(), Err(InvalidReason::SaysNothing), "{nothing:?}");
        }
        assert_eq!("why ".repeat(300).parse::<Reason>(), Err(InvalidReason::TooLong));
    }
}
