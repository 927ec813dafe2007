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
    Leaf { position: u64 },
    #[error("position {position} is not chained to the one before")]
    Link { position: u64 },
    #[error("position {position} is recorded before the one in front of it")]
    Time { position: u64 },
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

/// Checks that `events` follow `head` without a gap, say what was recorded, and are chained; the new head.
/// The events have to be as they are stored, not upcast.
pub fn verify<'a>(
    head: ChainHead,
    events: impl IntoIterator<Item = &'a RecordedEvent>,
) -> Result<ChainHead, ChainError> {
    let mut head = head;
    let mut recorded_at = DateTime::<Utc>::MIN_UTC;
    for event in events {
        let position = event.position;
        if position != head.position + 1 {
            return Err(ChainError::Gap { expected: head.position + 1, found: position });
        }
        if event.leaf().hash() != event.leaf_hash {
            return Err(ChainError::Leaf { position });
        }
        if head.next_hash(event.recorded_at, &event.leaf_hash) != event.chain_hash {
            return Err(ChainError::Link { position });
        }
        if event.recorded_at < recorded_at {
            return Err(ChainError::Time { position });
        }
        recorded_at = event.recorded_at;
        head = ChainHead { position, chain_hash: event.chain_hash };
    }
    Ok(head)
}
