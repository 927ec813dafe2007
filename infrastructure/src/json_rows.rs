//! Rows as the argument of `json_populate_recordset`: one parameter, however many rows and columns, and whichever of a
//! table's columns there are. For what is written now and then; see [`rows`](crate::rows) for the rest.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, Serializer};

/// The rows' fields are named as the columns.
pub fn json_rows(rows: &[impl Serialize]) -> Result<String, serde_json::Error> {
    json_text(rows)
}

/// A zero character, which JSON and Rust can say and no text of the database can hold, becomes U+FFFD: what a provider
/// calls its model must not stop a view.
pub fn json_text(value: &(impl Serialize + ?Sized)) -> Result<String, serde_json::Error> {
    let mut json = Vec::with_capacity(512);
    value.serialize(&mut Serializer::with_formatter(&mut json, WithoutZeros))?;
    String::from_utf8(json).map_err(serde::ser::Error::custom)
}

struct WithoutZeros;

impl Formatter for WithoutZeros {
    fn write_char_escape<W: Write + ?Sized>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        match escape {
            CharEscape::AsciiControl(0) => writer.write_all(b"\\ufffd"),
            escape => CompactFormatter.write_char_escape(writer, escape),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_zero_character_is_replaced() {
        let rows = ["a\0b", r"a\u0000b", "\u{1}\n\"é"];
        let read: Vec<String> = serde_json::from_str(&json_rows(&rows).unwrap()).unwrap();
        assert_eq!(read, ["a\u{fffd}b", r"a\u0000b", "\u{1}\n\"é"]);
    }
}
