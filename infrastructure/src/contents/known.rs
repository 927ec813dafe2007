//! Which pieces are kept already, as far as this node knows: those that it saw committed. They are neither sealed nor sent
//! again. What it does not know is sent, and not kept twice for that.

use std::{
    collections::HashMap,
    mem,
    sync::{Mutex, PoisonError},
};

use aihub_application::ports::event_log::Piece;
use aihub_domain::content::ContentHash;

/// Of each of the two generations: some 6 MB.
const MAX_KNOWN: usize = 50_000;

/// By the fingerprint of the text, which is of one key.
#[derive(Debug, Default)]
pub struct KnownPieces {
    generations: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    recent: HashMap<[u8; 32], ContentHash>,
    /// Goes when the recent ones are as many.
    former: HashMap<[u8; 32], ContentHash>,
}

impl KnownPieces {
    pub fn find(&self, fingerprint: &[u8; 32]) -> Option<ContentHash> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hash) = generations.recent.get(fingerprint) {
            return Some(*hash);
        }
        let hash = *generations.former.get(fingerprint)?;
        generations.add(*fingerprint, hash);
        Some(hash)
    }

    /// They are committed.
    pub fn add<'p>(&self, pieces: impl IntoIterator<Item = &'p Piece>) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in pieces {
            if let Some(fingerprint) = piece.fingerprint {
                generations.add(fingerprint, piece.hash);
            }
        }
    }

    /// The database may be another one now, or have lost its last commits: nothing is known any more.
    pub fn forget(&self) {
        *self.generations.lock().unwrap_or_else(PoisonError::into_inner) = Generations::default();
    }
}

impl Generations {
    fn add(&mut self, fingerprint: [u8; 32], hash: ContentHash) {
        if self.recent.len() >= MAX_KNOWN {
            self.former = mem::take(&mut self.recent);
        }
        self.recent.insert(fingerprint, hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_known_for_longer_than_what_is_not() {
        let known = KnownPieces::default();
        let fingerprint = |nth: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&nth.to_be_bytes());
            bytes
        };
        let add = |nth| known.generations.lock().unwrap().add(fingerprint(nth), ContentHash([1; 32]));
        for nth in 0..=2 * MAX_KNOWN {
            add(nth);
            assert!(known.find(&fingerprint(0)).is_some());
        }
        assert!(known.find(&fingerprint(1)).is_none());
        known.forget();
        assert!(known.find(&fingerprint(0)).is_none());
    }
}
