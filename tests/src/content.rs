//! What events name: nothing at all, or something that is kept.

use std::sync::Arc;

use aihub_application::ports::event_log::Piece;
use aihub_domain::content::{ContentHash, ContentKey, ContentKind, ContentRef, Keep};
use aihub_infrastructure::contents::hash_of;
use chrono::NaiveDate;

/// A text of which only a hash is kept.
pub fn nothing(subject: &str, kind: ContentKind) -> ContentRef {
    let (hash, month) = (ContentHash([7; 32]), NaiveDate::default());
    ContentRef { subject: subject.to_owned(), kind, month, keep: Keep::Hash, hash, pieces: 1, bytes: 7 }
}

/// A text of one piece that is kept as these bytes, which nobody can open.
pub fn kept(subject: &str, month: NaiveDate, bytes: Vec<u8>) -> (ContentRef, Piece) {
    let key = ContentKey { subject: subject.to_owned(), kind: ContentKind::Chat, month };
    let (hash, length) = (hash_of(&bytes), bytes.len() as u64);
    let content = ContentRef {
        subject: subject.to_owned(),
        kind: key.kind,
        month,
        keep: Keep::Sealed,
        hash,
        pieces: 1,
        bytes: length,
    };
    (content, Piece { key: Arc::new(key), hash, bytes: bytes.into(), fingerprint: None })
}
