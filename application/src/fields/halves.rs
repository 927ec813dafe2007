//! Halves of characters: `JSON.stringify` writes an emoji that was cut in two as an escape of its half, which no text can have.

/// What stands for a character that cannot be read (U+FFFD), as an escape.
const REPLACEMENT: &[u8; 4] = b"fffd";
/// `\uXXXX`.
const ESCAPE_BYTES: usize = 6;

/// Puts a replacement in the place of each half that stands alone in this JSON. `false` where there is none.
pub fn mend(json: &mut [u8]) -> bool {
    let (mut at, mut is_mended) = (0, false);
    while at < json.len() {
        if json[at] != b'\\' {
            at += 1;
            continue;
        }
        at += match (unit(json, at), unit(json, at + ESCAPE_BYTES)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 2 * ESCAPE_BYTES,
            (Some(0xd800..=0xdfff), _) => {
                json[at + 2..at + ESCAPE_BYTES].copy_from_slice(REPLACEMENT);
                is_mended = true;
                ESCAPE_BYTES
            }
            (Some(_), _) => ESCAPE_BYTES,
            // Of whatever is escaped otherwise, the next byte is part.
            (None, _) => 2,
        };
    }
    is_mended
}

/// The UTF-16 code unit of the escape that stands there.
fn unit(json: &[u8], at: usize) -> Option<u16> {
    let digits = json.get(at..at + ESCAPE_BYTES)?.strip_prefix(b"\\u")?;
    let is_number = digits.iter().all(u8::is_ascii_hexdigit);
    is_number.then(|| u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok())?
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn halves_that_stand_alone_are_replaced_and_everything_else_stays() {
        for (json, mended) in [
            (r#""\ud83d\ude00""#, None),
            (r#""\\ud83d""#, None),
            (r#""a\nb\u00e4\"\/""#, None),
            (r#""\ud83d""#, Some("\u{fffd}")),
            (r#""\uDE00x""#, Some("\u{fffd}x")),
            (r#""\ud83d\ud83d\ude00""#, Some("\u{fffd}😀")),
            (r#""\ud83d\\ude00""#, Some("\u{fffd}\\ude00")),
            (r#""\\\ud83d""#, Some("\\\u{fffd}")),
        ] {
            let mut bytes = json.as_bytes().to_vec();
            assert_eq!(mend(&mut bytes), mended.is_some(), "{json}");
            match mended {
                Some(mended) => assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), mended, "{json}"),
                None => assert_eq!(bytes, json.as_bytes()),
            }
        }
        for torn in ["\\", "\\u", "\\ud83", "\"\\u\"", "\\u+123"] {
            assert!(!mend(&mut torn.as_bytes().to_vec()), "{torn}");
        }
    }
}
