//! The pieces of a text that has several, in their order. The list is kept like a piece, in clear: it says how many there
//! are and how long, and their hashes, which say nothing to whoever has not the key.
//!
//! | field | bytes |
//! |---|---|
//! | form: 0 what was sealed is a part of the text, 1 the text has it in Base64 | 1 |
//! | length of what was sealed | 4, big-endian |
//! | hash | 32 |
//!
//! one after another, without anything around them.

use aihub_domain::content::ContentHash;

const ENTRY_BYTES: usize = 37;

/// One piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub hash: ContentHash,
    /// Before it was sealed.
    pub bytes: u64,
    /// The text has it in Base64, standard alphabet with padding.
    pub is_base64: bool,
}

pub fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut list = Vec::with_capacity(entries.len() * ENTRY_BYTES);
    for entry in entries {
        list.push(u8::from(entry.is_base64));
        // A text comes in a frame, which is far below 4 GiB.
        list.extend(u32::try_from(entry.bytes).unwrap_or(u32::MAX).to_be_bytes());
        list.extend(entry.hash.0);
    }
    list
}

/// `None` for anything that [`encode`] did not give.
pub fn parse(list: &[u8]) -> Option<Vec<Entry>> {
    let (entries, rest) = list.as_chunks::<ENTRY_BYTES>();
    let entry = |fields: &[u8; ENTRY_BYTES]| {
        let (form, fields) = fields.split_first()?;
        let (bytes, hash) = fields.split_first_chunk::<4>()?;
        let is_base64 = match form {
            0 => false,
            1 => true,
            _ => return None,
        };
        Some(Entry { hash: ContentHash(hash.try_into().ok()?), bytes: u32::from_be_bytes(*bytes).into(), is_base64 })
    };
    if rest.is_empty() { entries.iter().map(entry).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_reads_back_and_nothing_else_is_one() {
        let entry = |byte, bytes, is_base64| Entry { hash: ContentHash([byte; 32]), bytes, is_base64 };
        let entries = [entry(1, 7, false), entry(2, 4_000_000, true)];
        let list = encode(&entries);
        assert_eq!(list.len(), 2 * ENTRY_BYTES);
        assert_eq!(parse(&list).unwrap(), entries);
        assert_eq!(parse(&list[1..]), None);
        assert_eq!(parse(&[2; ENTRY_BYTES]), None);
    }
}
