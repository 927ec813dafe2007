//! What the two hashes of an event are computed over, and the check that a stretch of the log carries the right ones.
//!
//! `leaf_hash` says what was said. It is SHA-256 over, one after another:
//!
//! | field | bytes |
//! |---|---|
//! | `aggregate_type` | length, UTF-8 |
//! | `aggregate_id` | length, UTF-8 |
//! | `sequence` | 8, big-endian |
//! | `event_type` | length, UTF-8 |
//! | `event_version` | length, UTF-8 |
//! | `payload` | length, the JSON text as it is stored |
//! | `metadata` | length, the JSON text as it is stored |
//! | `command_id` | a zero where there is none, otherwise a one and its 16 bytes |
//!
//! where a length is the number of bytes that follow, in 4 bytes, big-endian.
//!
//! `chain_hash` says where and when it was put. It is SHA-256 over 80 bytes:
//!
//! | field | bytes |
//! |---|---|
//! | `chain_hash` of the position before, or zeros at position 1 | 32 |
//! | `position` | 8, big-endian |
//! | `recorded_at`, microseconds since 1970-01-01T00:00:00Z | 8, big-endian, signed |
//! | `leaf_hash` | 32 |
//!
//! The leaf is computed here for our own appends, which takes it off the log's lock, and by the trigger in
//! `migrations/0001_event_log.sql` for rows of other programs; the chain is computed there, under the lock.

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use thiserror::Error;
use uuid::Uuid;

use super::reader::RecordedEvent;

pub type Hash = [u8; 32];

/// The chain hash before the first event.
pub const GENESIS: Hash = [0; 32];

/// What the leaf is computed over.
#[derive(Debug, Clone, Copy)]
pub struct Leaf<'a> {
    pub aggregate_type: &'a str,
    pub aggregate_id: &'a str,
    pub sequence: u64,
    pub event_type: &'a str,
    pub event_version: &'a str,
    pub payload: &'a str,
    pub metadata: &'a str,
    pub command_id: Option<Uuid>,
}

/// The end of a stretch of the log that was verified, and so the start of the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainHead {
    pub position: u64,
    pub chain_hash: Hash,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ChainError {
    #[error("position {expected} is missing, {found} follows")]
    Gap { expected: u64, found: u64 },
    #[error("the content at position {position} is not what was recorded")]
    Leaf { position: u64, expected: Hash, found: Hash },
    #[error("position {position} is not chained to the one before")]
    Link { position: u64, expected: Hash, found: Hash },
    #[error("position {position} is recorded before the one in front of it")]
    Time { position: u64, expected: DateTime<Utc>, found: DateTime<Utc> },
}

/// Checks events one after another.
#[derive(Debug, Clone)]
pub struct ChainVerifier {
    head: ChainHead,
    recorded_at: DateTime<Utc>,
}

impl Leaf<'_> {
    pub fn hash(&self) -> Hash {
        let mut hasher = Sha256::new();
        update_text(&mut hasher, self.aggregate_type);
        update_text(&mut hasher, self.aggregate_id);
        hasher.update(self.sequence.to_be_bytes());
        for text in [self.event_type, self.event_version, self.payload, self.metadata] {
            update_text(&mut hasher, text);
        }
        match self.command_id {
            None => hasher.update([0]),
            Some(id) => {
                hasher.update([1]);
                hasher.update(id.as_bytes());
            }
        }
        hasher.finalize().into()
    }
}

fn update_text(hasher: &mut Sha256, text: &str) {
    // A column holds less than 1 GiB, so a length always fits.
    hasher.update(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    hasher.update(text);
}

impl ChainHead {
    pub const GENESIS: Self = Self { position: 0, chain_hash: GENESIS };

    /// The chain hash of an event that follows this head.
    pub fn next_hash(&self, recorded_at: DateTime<Utc>, leaf_hash: &Hash) -> Hash {
        let mut hasher = Sha256::new();
        hasher.update(self.chain_hash);
        hasher.update((self.position + 1).to_be_bytes());
        hasher.update(recorded_at.timestamp_micros().to_be_bytes());
        hasher.update(leaf_hash);
        hasher.finalize().into()
    }
}

impl ChainVerifier {
    /// For the events that follow `head`.
    pub fn after(head: ChainHead) -> Self {
        Self { head, recorded_at: DateTime::<Utc>::MIN_UTC }
    }

    /// The end of what was verified.
    pub fn head(&self) -> ChainHead {
        self.head
    }

    /// Checks that `event` is the next one, says what was recorded, and is chained. It has to be as it is stored, not
    /// upcast.
    pub fn check(&mut self, event: &RecordedEvent) -> Result<(), ChainError> {
        let position = event.position;
        if position != self.head.position + 1 {
            return Err(ChainError::Gap { expected: self.head.position + 1, found: position });
        }
        let found = event.leaf().hash();
        if found != event.leaf_hash {
            return Err(ChainError::Leaf { position, expected: event.leaf_hash, found });
        }
        let expected = self.head.next_hash(event.recorded_at, &event.leaf_hash);
        if expected != event.chain_hash {
            return Err(ChainError::Link { position, expected, found: event.chain_hash });
        }
        if event.recorded_at < self.recorded_at {
            return Err(ChainError::Time { position, expected: self.recorded_at, found: event.recorded_at });
        }
        self.recorded_at = event.recorded_at;
        self.head = ChainHead { position, chain_hash: event.chain_hash };
        Ok(())
    }
}

/// Checks that `events` follow `head` without a gap, say what was recorded, and are chained; the new head.
pub fn verify<'a>(
    head: ChainHead,
    events: impl IntoIterator<Item = &'a RecordedEvent>,
) -> Result<ChainHead, ChainError> {
    let mut verifier = ChainVerifier::after(head);
    events.into_iter().try_for_each(|event| verifier.check(event))?;
    Ok(verifier.head())
}
