//! Which notes are of one re-pricing, told by their names.

use std::fmt;

use crate::period::Month;

/// The correction of a month's prices. It is reckoned from what was charged at first, so another one of the same month would
/// correct what has been corrected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repricing {
    pub month: Month,
    /// With the same one it is the same re-pricing.
    pub key: String,
}

impl Repricing {
    /// The name of an account's `nth` note.
    pub fn note(&self, nth: usize) -> String {
        format!("{self}:{nth}")
    }

    /// The number of a note of this one; `None` for any other note.
    pub fn nth(&self, adjustment_id: &str) -> Option<usize> {
        let (_, nth) = adjustment_id.rsplit_once(':')?;
        (Self::of_note(adjustment_id).as_ref() == Some(self)).then(|| nth.parse().ok())?
    }

    /// What the note belongs to; `None` for any other note.
    pub fn of_note(adjustment_id: &str) -> Option<Self> {
        let (month, rest) = adjustment_id.strip_prefix("reprice:")?.split_once(':')?;
        let (key, nth) = rest.rsplit_once(':')?;
        nth.parse::<usize>().ok()?;
        Some(Self { month: month.parse().ok()?, key: key.to_owned() })
    }

    /// The first of the notes that is of another re-pricing of the same month.
    pub fn other_in<'a>(&self, notes: impl IntoIterator<Item = &'a String>) -> Option<&'a String> {
        let is_other =
            |note: &&String| Self::of_note(note).is_some_and(|other| other.month == self.month && other != *self);
        notes.into_iter().find(is_other)
    }
}

impl fmt::Display for Repricing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reprice:{}:{}", self.month, self.key)
    }
}
