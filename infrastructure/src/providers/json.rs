//! JSON as providers send it. Only what is looked for is looked at, so that a field that nobody uses costs nothing whatever
//! stands in it: fields of any type, twice, unknown, nested without end; numbers as texts; halves of surrogate pairs, as cut
//! emoji have them.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
};

use serde::{
    Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// A JSON value that is well-formed, by its text.
#[derive(Clone, Copy)]
pub(crate) struct Json<'a>(&'a str);

/// The fields of an object, in their order.
#[derive(Default)]
pub(crate) struct Fields<'a>(Vec<(Cow<'a, str>, Json<'a>)>);

/// Where a text stops being JSON, in bytes from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoJson(pub usize);

impl<'a> Json<'a> {
    pub fn parse(text: &'a str) -> Result<Self, NoJson> {
        match serde_json::from_str::<&RawValue>(text) {
            Ok(value) => Ok(Self(value.get())),
            Err(error) => Err(NoJson(position(text, error.line(), error.column()))),
        }
    }

    /// None where it is no object.
    pub fn fields(self) -> Fields<'a> {
        let mut json = serde_json::Deserializer::from_str(self.0);
        Fields(json.deserialize_map(FieldsVisitor).unwrap_or_default())
    }

    pub fn field(self, name: &str) -> Option<Self> {
        self.fields().get(name)
    }

    /// None where it is no list.
    pub fn items(self) -> Vec<Self> {
        let items: Vec<&RawValue> = serde_json::from_str(self.0).unwrap_or_default();
        items.into_iter().map(|item| Self(item.get())).collect()
    }

    pub fn is_null(self) -> bool {
        self.0 == "null"
    }

    pub fn is_object(self) -> bool {
        self.0.starts_with('{')
    }

    pub fn is_list(self) -> bool {
        self.0.starts_with('[')
    }

    pub fn is_true(self) -> bool {
        self.0 == "true"
    }

    pub fn raw(self) -> &'a str {
        self.0
    }

    /// A text's bytes in WTF-8: UTF-8 that may have halves of surrogate pairs. See [`super::text::Text`].
    pub fn wtf8(self) -> Option<Cow<'a, [u8]>> {
        if !self.0.starts_with('"') {
            return None;
        }
        serde_json::Deserializer::from_str(self.0).deserialize_bytes(TextVisitor).ok()
    }

    /// A text, with what is no character replaced.
    pub fn text(self) -> Option<Cow<'a, str>> {
        self.wtf8().map(super::text::whole)
    }

    /// A count of something, as an integer, a float or digits in a text.
    pub fn count(self) -> Option<u64> {
        let text = self.text();
        let digits = text.as_deref().unwrap_or(self.0).trim();
        if let Ok(count) = digits.parse() {
            return Some(count);
        }
        let number: f64 = digits.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it saturates, which is what is meant"
        )]
        Some(number as u64)
    }

    /// A number, likewise.
    pub fn number(self) -> Option<f64> {
        let text = self.text();
        text.as_deref().unwrap_or(self.0).trim().parse().ok()
    }
}

impl<'a> Fields<'a> {
    /// The last of this name, as every common reader has it; `None` where it is null.
    pub fn get(&self, name: &str) -> Option<Json<'a>> {
        let found = self.0.iter().rev().find(|(known, _)| known == name);
        found.map(|(_, json)| *json).filter(|json| !json.is_null())
    }

    pub fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        self.get(name)?.text()
    }

    /// Those of all fields that have one.
    pub fn counts(&self) -> impl Iterator<Item = u64> {
        self.0.iter().filter_map(|(_, json)| json.count())
    }

    /// It has it, be it null.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn position(text: &str, line: usize, column: usize) -> usize {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    (before + column.saturating_sub(1)).min(text.len())
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Vec<(Cow<'de, str>, Json<'de>)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::with_capacity(8);
        while let Some(name) = map.next_key_seed(Name)? {
            fields.push((name, Json(map.next_value::<&RawValue>()?.get())));
        }
        Ok(fields)
    }
}

struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_bytes(TextVisitor).map(super::text::whole)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Cow<'de, [u8]>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_borrowed_bytes<E: Error>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(bytes))
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        Ok(Cow::Owned(bytes.to_vec()))
    }
}

/// Whether a text is JSON of any kind.
pub(crate) fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// `text` with what servers write that is no JSON put right: numbers that are none (`NaN`, `Infinity`), control characters and
/// unknown escapes in texts, commas before a closing bracket. Of what else is wrong it changes nothing.
pub(crate) fn repaired(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut in_text = false;
    while let Some(next) = rest.chars().next() {
        let mut taken = next.len_utf8();
        if in_text {
            match next {
                '"' => {
                    in_text = false;
                    out.push(next);
                }
                '\\' => taken = escape(rest, &mut out),
                control if control < ' ' => {
                    // Writing into a text does not fail.
                    let _ = write!(out, "\\u{:04x}", u32::from(control));
                }
                other => out.push(other),
            }
        } else if let Some(word) = ["NaN", "-Infinity", "Infinity"].into_iter().find(|word| rest.starts_with(word)) {
            out.push_str("null");
            taken = word.len();
        } else {
            in_text = next == '"';
            let is_surplus = next == ',' && rest[taken..].trim_start().starts_with(['}', ']']);
            if !is_surplus {
                out.push(next);
            }
        }
        rest = &rest[taken..];
    }
    out
}

/// Writes the escape that `text` begins with, and says how long it was.
fn escape(text: &str, out: &mut String) -> usize {
    let Some(escaped) = text[1..].chars().next() else {
        return 1;
    };
    match escaped {
        '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't' => out.push_str(&text[..2]),
        'u' if text.get(2..6).is_some_and(|hex| hex.bytes().all(|digit| digit.is_ascii_hexdigit())) => {
            out.push_str(&text[..6]);
            return 6;
        }
        'u' => out.push('\u{fffd}'),
        control if control < ' ' => {}
        other => out.push(other),
    }
    1 + escaped.len_utf8()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_whatever_stands_beside_it() {
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        let text = format!(
            r#" {{"\ud83d": 1, "deep": {deep}, "big": 1e999, "a": 1, "a": {{"b": null, "c": ["x", 7]}}, "n": "12"}} "#
        );
        let json = Json::parse(&text).unwrap();
        assert_eq!(json.field("a").unwrap().field("c").unwrap().items()[0].text().unwrap(), "x");
        assert!(json.field("a").unwrap().field("b").is_none() && json.field("a").unwrap().fields().has("b"));
        assert!(json.field("deep").unwrap().fields().is_empty() && json.field("\u{fffd}").is_some());
    }

    #[test]
    fn a_count_may_be_an_integer_a_float_or_digits() {
        for (text, count) in [
            ("12", Some(12)),
            ("100.0", Some(100)),
            ("\"7\"", Some(7)),
            ("\" 7.9 \"", Some(7)),
            ("1e3", Some(1_000)),
            ("-1", None),
            ("\"\"", None),
            ("{}", None),
            ("1e400", None),
            ("18446744073709551616", Some(u64::MAX)),
        ] {
            assert_eq!(Json::parse(text).unwrap().count(), count, "{text}");
        }
    }

    #[test]
    fn what_is_no_json_is_told_where_and_what_servers_write_is_put_right() {
        assert_eq!(Json::parse("{\"a\":\n oops}").err(), Some(NoJson(7)));
        assert_eq!(Json::parse("{\"a\":1} x").err(), Some(NoJson(8)));
        let bad = "{\"a\": NaN, \"b\": [-Infinity,], \"c\": \"x\ny \\x \\u12 \\n \\ud83d NaN,]\",}";
        let put_right = repaired(bad);
        let json = Json::parse(&put_right).unwrap();
        assert_eq!(json.field("c").unwrap().text().unwrap(), "x\ny x \u{fffd}12 \n \u{fffd} NaN,]");
        assert!(json.field("a").is_none() && json.field("b").unwrap().is_list());
        let good = r#"{"a":"\\","b":[1,{}]}"#;
        assert_eq!(repaired(good), good);
    }
}
