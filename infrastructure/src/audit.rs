//! The log, proved: that it is what was recorded, all of it, and in that order.
//!
//! | module | holds |
//! |---|---|
//! | [`balances`] | what accounts have, added up from their events alone |
//! | [`contents`] | what is kept of the content that events name |
//! | [`checkpoint`] | signed statements of what the log was, made and kept |
//! | [`file`] | stretches of the log as files that prove themselves |
//! | [`merkle`] | the tree over the log that short proofs come from |
//! | [`note`] | a checkpoint as a signed text |
//! | [`restore`] | the log of a file into an empty database |
//! | [`scan`] | the log from end to end, fast and in constant memory |
//! | [`signers`] | whose signatures count |
//! | [`streams`] | that no stream has a hole |
//! | [`trail`] | the events of a request, an account or a user, in words |
//! | [`verify`] | all of it at once |
//!
//! The chain says that each event follows the one before; whoever can write to the database can compute it anew from a
//! changed event on. A signed checkpoint, kept where they cannot write, is what that cannot be brought to agree with.

pub mod balances;
pub mod checkpoint;
pub mod contents;
pub mod file;
pub mod merkle;
pub mod note;
pub mod restore;
pub mod scan;
pub mod signers;
pub mod streams;
pub mod trail;
pub mod verify;

use std::fmt;

use thiserror::Error;

use crate::event_store::chain::{ChainError, Hash};

/// Where the log is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The first bad one.
    pub position: u64,
    pub what: String,
    pub expected: String,
    pub found: String,
}

/// Why an audit has no result.
#[derive(Debug, Error)]
pub enum AuditError {
    #[error("the log cannot be read: {0}")]
    Database(#[from] sqlx::Error),
    #[error("the file cannot be read: {0}")]
    File(#[from] std::io::Error),
    /// It is not what it should be, so nothing is signed, proved or exported.
    #[error("{0}")]
    Tampered(Fault),
    /// What was asked for is not there.
    #[error("{0}")]
    Incomplete(String),
    /// A key that the log does not name signs nothing.
    #[error(
        "the log is signed with {known}, and the key here is {ours}: it signs nothing. `aihub audit change-key` changes the \
         key, where that is meant"
    )]
    ForeignKey { ours: String, known: String },
    /// It has not the form that it should have.
    #[error("{0}")]
    Malformed(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { position, what, expected, found } = self;
        write!(f, "position {position}: {what}: expected {expected}, found {found}")
    }
}

impl From<ChainError> for Fault {
    fn from(error: ChainError) -> Self {
        match error {
            ChainError::Gap { expected, found } => Self {
                position: expected,
                what: "the log has a gap or another order".to_owned(),
                expected: expected.to_string(),
                found: found.to_string(),
            },
            ChainError::Leaf { position, expected, found } => Self {
                position,
                what: "the event does not have the hash that was recorded".to_owned(),
                expected: hex(&expected),
                found: hex(&found),
            },
            ChainError::Link { position, expected, found } => Self {
                position,
                what: "the event is not chained to the one before".to_owned(),
                expected: hex(&expected),
                found: hex(&found),
            },
            ChainError::Time { position, expected, found } => Self {
                position,
                what: "the event is recorded before the one in front of it".to_owned(),
                expected: format!("{expected} or later"),
                found: found.to_string(),
            },
        }
    }
}

/// As files and people have a hash.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What [`hex`] gave.
pub fn unhex(text: &str) -> Option<Hash> {
    let mut hash = Hash::default();
    if text.len() != 2 * hash.len() || !text.is_ascii() {
        return None;
    }
    for (byte, nth) in hash.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(nth..nth + 2)?, 16).ok()?;
    }
    Some(hash)
}
