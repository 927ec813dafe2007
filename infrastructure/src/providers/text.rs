//! Texts that may be cut within a character: an emoji is two halves in JSON, and a server that cuts between them sends the
//! first half in one piece and the second in the next.

use std::borrow::Cow;

const REPLACEMENT: &str = "\u{fffd}";

/// A text in pieces. The half of a surrogate pair at a piece's end waits for the other half.
#[derive(Debug, Default)]
pub(crate) struct Text {
    high: Option<u16>,
}

impl Text {
    /// The piece's characters, with the half that waited before them. `bytes` is WTF-8.
    pub fn push<'a>(&mut self, bytes: Cow<'a, [u8]>) -> Cow<'a, str> {
        if self.high.is_none() {
            match bytes {
                Cow::Borrowed(valid) => {
                    if let Ok(text) = std::str::from_utf8(valid) {
                        return Cow::Borrowed(text);
                    }
                    return Cow::Owned(self.join(valid));
                }
                Cow::Owned(bytes) => match String::from_utf8(bytes) {
                    Ok(text) => return Cow::Owned(text),
                    Err(error) => return Cow::Owned(self.join(error.as_bytes())),
                },
            }
        }
        Cow::Owned(self.join(&bytes))
    }

    /// What the half that nothing came for is worth.
    pub fn end(&mut self) -> Option<&'static str> {
        self.high.take().map(|_| REPLACEMENT)
    }

    fn join(&mut self, mut bytes: &[u8]) -> String {
        let mut text = String::with_capacity(bytes.len() + REPLACEMENT.len());
        while !bytes.is_empty() {
            if let Some((half, rest)) = surrogate(bytes) {
                bytes = rest;
                match (self.high.take(), half) {
                    (Some(high), 0xDC00..=0xDFFF) => text.extend(char::decode_utf16([high, half]).flatten()),
                    (None, 0xDC00..=0xDFFF) => text.push_str(REPLACEMENT),
                    (before, _) => {
                        text.extend(before.map(|_| REPLACEMENT));
                        self.high = Some(half);
                    }
                }
                continue;
            }
            text.extend(self.end());
            // Up to the next byte that a surrogate may begin with.
            let length = 1 + bytes[1..].iter().position(|byte| *byte == 0xED).unwrap_or(bytes.len() - 1);
            text.push_str(&String::from_utf8_lossy(&bytes[..length]));
            bytes = &bytes[length..];
        }
        text
    }
}

/// A text that is all there: a half without its other half is replaced.
pub(crate) fn whole(bytes: Cow<'_, [u8]>) -> Cow<'_, str> {
    let mut text = Text::default();
    let read = text.push(bytes);
    match text.end() {
        Some(end) => Cow::Owned(read.into_owned() + end),
        None => read,
    }
}

/// The half of a surrogate pair that `bytes` begin with, as WTF-8 writes it, and what comes after it.
fn surrogate(bytes: &[u8]) -> Option<(u16, &[u8])> {
    match bytes {
        [0xED, second @ 0xA0..=0xBF, third @ 0x80..=0xBF, rest @ ..] => {
            Some((0xD000 | u16::from(second & 0x3F) << 6 | u16::from(third & 0x3F), rest))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::json::Json;

    fn read(pieces: &[&str]) -> String {
        let mut text = Text::default();
        let mut read = String::new();
        for piece in pieces {
            read.push_str(&text.push(Json::parse(piece).unwrap().wtf8().unwrap()));
        }
        read.extend(text.end());
        read
    }

    #[test]
    fn halves_join_over_pieces_and_lone_ones_are_replaced() {
        assert_eq!(read(&[r#""a\ud83d""#, r#""\ude00b""#]), "a😀b");
        assert_eq!(read(&[r#""a\ud83d""#, r#""""#, r#""\ude00""#]), "a😀");
        assert_eq!(read(&[r#""a\ud83d""#, r#""b\ud83d\ud83d\ude00""#]), "a\u{fffd}b\u{fffd}😀");
        assert_eq!(read(&[r#""\ude00 ퟿ \ud83d""#]), "\u{fffd} ퟿ \u{fffd}");
        assert_eq!(read(&[r#""plain""#, r#"" grün 🌱""#]), "plain grün 🌱");
    }
}
