//! How a text is cut into pieces: so that what is sent again is the same piece, few are small, and pictures are kept as the
//! bytes that they are.

use std::{borrow::Cow, mem};

use base64::{Engine, engine::general_purpose::STANDARD};

/// A part of so many bytes is a piece of its own. Smaller ones are gathered: a piece costs some 150 bytes beside what it
/// says.
const OWN_PIECE_BYTES: usize = 512;
/// Gathered parts are a piece when they have come to so much. From the front on, so that a history which grows at its end
/// is cut where it was cut before.
const GATHERED_BYTES: usize = 2_048;
/// So long a run of Base64 is kept as what it says: three quarters of it, and what it says may well be compressed already.
const BASE64_BYTES: usize = 1_024;

/// The longest piece: what is sealed, hashed and sent at once is done in a moment. A multiple of three, so that the Base64 of
/// pieces is that of the whole.
pub const MAX_PIECE_BYTES: usize = 65_535;

/// A piece of a text, before it is sealed.
#[derive(Debug, PartialEq, Eq)]
pub struct Cut<'t> {
    pub bytes: Cow<'t, [u8]>,
    /// The text has it in Base64.
    pub is_base64: bool,
}

/// The pieces of a text that comes in `parts`; at least one.
pub fn cut<'t>(parts: &[&'t [u8]]) -> Vec<Cut<'t>> {
    let mut pieces = Pieces::default();
    for part in parts {
        let mut rest = *part;
        while let Some((before, decoded, after)) = split_at_base64(rest) {
            pieces.add(before);
            pieces.close();
            let chunks = decoded.chunks(MAX_PIECE_BYTES).map(|chunk| Cow::Owned(chunk.to_vec()));
            pieces.done.extend(chunks.map(|bytes| Cut { bytes, is_base64: true }));
            rest = after;
        }
        pieces.add(rest);
    }
    pieces.close();
    if pieces.done.is_empty() {
        pieces.done.push(Cut { bytes: Cow::Borrowed(&[]), is_base64: false });
    }
    pieces.done
}

/// The text of the pieces.
pub fn join(pieces: impl IntoIterator<Item = (bool, Vec<u8>)>) -> Vec<u8> {
    let mut text = Vec::new();
    for (is_base64, bytes) in pieces {
        if is_base64 {
            text.extend_from_slice(STANDARD.encode(bytes).as_bytes());
        } else {
            text.extend_from_slice(&bytes);
        }
    }
    text
}

#[derive(Default)]
struct Pieces<'t> {
    done: Vec<Cut<'t>>,
    gathered: Vec<u8>,
}

impl<'t> Pieces<'t> {
    fn add(&mut self, part: &'t [u8]) {
        if part.len() >= OWN_PIECE_BYTES {
            self.close();
            let chunks = part.chunks(MAX_PIECE_BYTES).map(Cow::Borrowed);
            self.done.extend(chunks.map(|bytes| Cut { bytes, is_base64: false }));
            return;
        }
        self.gathered.extend_from_slice(part);
        if self.gathered.len() >= GATHERED_BYTES {
            self.close();
        }
    }

    fn close(&mut self) {
        if !self.gathered.is_empty() {
            let gathered = mem::take(&mut self.gathered);
            self.done.push(Cut { bytes: Cow::Owned(gathered), is_base64: false });
        }
    }
}

/// What is before the first long run of Base64, what that says, and what is behind it. A run that would not be the same when
/// it is encoded again is none.
fn split_at_base64(text: &[u8]) -> Option<(&[u8], Vec<u8>, &[u8])> {
    let mut at = 0;
    while text.len() - at >= BASE64_BYTES {
        // Looked at backwards: a run that reaches so far is not there when one of these is no part of it.
        let window = text.get(at..at + BASE64_BYTES)?;
        if let Some(foreign) = window.iter().rposition(|byte| !is_base64(*byte)) {
            at += foreign + 1;
            continue;
        }
        let length = text[at..].iter().position(|byte| !is_base64(*byte)).unwrap_or(text.len() - at);
        let padding = text[at + length..].iter().take(2).take_while(|byte| **byte == b'=').count();
        // What stands in front without a break, as in `…;base64,AAAA`, ends with a sign; the length decides.
        let run = &text[at..at + length + padding];
        let run = &run[..run.len() / 4 * 4];
        if let Ok(decoded) = STANDARD.decode(run) {
            return Some((&text[..at], decoded, &text[at + run.len()..]));
        }
        at += length;
    }
    None
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn joined(pieces: &[Cut<'_>]) -> Vec<u8> {
        join(pieces.iter().map(|piece| (piece.is_base64, piece.bytes.to_vec())))
    }

    #[test]
    fn a_picture_is_a_piece_of_its_own_as_the_bytes_that_it_is() {
        let picture: Vec<u8> = (0..3_000_u32).map(|n| n.to_be_bytes()[3]).collect();
        let text = format!(r#"{{"url":"data:image/png;base64,{}"}}"#, STANDARD.encode(&picture));
        let pieces = cut(&[text.as_bytes()]);
        assert_eq!(pieces.iter().map(|piece| piece.is_base64).collect::<Vec<_>>(), [false, true, false]);
        assert_eq!(pieces[1].bytes, picture);
        assert_eq!(joined(&pieces), text.as_bytes());
    }

    #[test]
    fn a_history_that_grows_is_cut_where_it_was_cut_before() {
        let messages: Vec<String> =
            (0..200).map(|nth| format!(r#",{{"role":"user","content":"message {nth}"}}"#)).collect();
        let parts: Vec<&[u8]> = messages.iter().map(String::as_bytes).collect();
        let (before, after) = (cut(&parts[..150]), cut(&parts));
        assert!(before.len() > 2 && after.len() > before.len());
        assert_eq!(before[..before.len() - 1], after[..before.len() - 1]);
        assert!(after.len() < 10, "few are small");
    }

    #[test]
    fn a_small_text_is_one_piece_and_so_is_none() {
        assert_eq!(cut(&[b"{\"messages\":[", b"{}", b"]}"]).len(), 1);
        assert_eq!(cut(&[]).len(), 1);
    }

    proptest! {
        #[test]
        fn whatever_was_cut_is_the_same_when_it_is_joined(
            parts in prop::collection::vec(prop_oneof![
                prop::collection::vec(any::<u8>(), 0..3_000),
                (any::<u8>(), 60_000..200_000_usize).prop_map(|(byte, count)| vec![byte; count]),
                "[A-Za-z0-9+/=]{0,3000}".prop_map(String::into_bytes),
                "[ -~]{0,600}".prop_map(String::into_bytes),
            ], 0..12)
        ) {
            let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(joined(&cut(&slices)), parts.concat());
        }
    }
}
