//! A JSON object as a client sends it. Only the fields that somebody may ask for are kept: what else stands in it, however
//! much that is, is counted and read over.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::halves::mend;
use crate::error::MAX_TOLD_FAULTS;

/// Every field that any request has. One that is none of this kind's is left over, and told as such.
const KNOWN: [&str; 34] = [
    "after",
    "aspectRatio",
    "connectionId",
    "duration",
    "encoding",
    "fallback",
    "id",
    "idempotencyKey",
    "input",
    "language",
    "maxTokens",
    "messages",
    "model",
    "priority",
    "prompt",
    "provider",
    "requestId",
    "resolution",
    "sessionId",
    "stop",
    "stream",
    "style",
    "system",
    "temperature",
    "token",
    "toolChoice",
    "tools",
    "topP",
    "topics",
    "type",
    "user",
    "userId",
    "webhookUrl",
    "workflowType",
];

/// The fields of an object that were not taken yet.
#[derive(Debug, Default)]
pub struct Object {
    fields: Map<String, Value>,
    unknown: LeftOver,
}

/// Fields that nobody asked for.
#[derive(Debug, Default)]
pub(super) struct LeftOver {
    /// The first ones.
    pub named: Vec<String>,
    pub more: usize,
}

impl Object {
    /// Reads it, whether or not some of its characters were cut in two.
    pub fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        read(json).or_else(|error| {
            let mut json = json.to_vec();
            if mend(&mut json) { read(&json) } else { Err(error) }
        })
    }

    /// A text that is a field of it, also where the rest is no JSON, or ends early.
    pub fn text_of(json: &[u8], field: &str) -> Option<String> {
        let mut text = None;
        // Wherever it breaks off, what was found before counts.
        let _ = (TextOf { field, text: &mut text }).deserialize(&mut serde_json::Deserializer::from_slice(json));
        text
    }

    pub fn remove(&mut self, field: &str) -> Option<Value> {
        self.fields.remove(field)
    }

    pub(super) fn insert(&mut self, field: &str, value: Value) {
        self.fields.insert(field.to_owned(), value);
    }

    pub(super) fn left_over(self) -> LeftOver {
        let Self { fields, unknown: mut left } = self;
        left.more += fields.len();
        // Those whose names are known first: they are misplaced, the others perhaps noise.
        let known: Vec<String> = fields.into_iter().map(|(name, _)| name).take(MAX_TOLD_FAULTS).collect();
        left.more -= known.len();
        left.named.splice(0..0, known);
        left
    }
}

impl From<Map<String, Value>> for Object {
    fn from(fields: Map<String, Value>) -> Self {
        Self { fields, unknown: LeftOver::default() }
    }
}

fn read(json: &[u8]) -> Result<Object, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let object = Fields.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(object)
}

struct TextOf<'a> {
    field: &'a str,
    text: &'a mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for TextOf<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TextOf<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            if name == self.field {
                *self.text = Some(map.next_value()?);
                return Ok(());
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

struct Fields;

impl<'de> DeserializeSeed<'de> for Fields {
    type Value = Object;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Object, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
        let mut object = Object::default();
        while let Some(name) = map.next_key::<String>()? {
            if KNOWN.contains(&name.as_str()) {
                object.fields.insert(name, map.next_value()?);
                continue;
            }
            map.next_value::<IgnoredAny>()?;
            if object.unknown.named.len() < MAX_TOLD_FAULTS {
                object.unknown.named.push(name);
            } else {
                object.unknown.more += 1;
            }
        }
        Ok(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_nobody_asks_for_are_counted_and_not_kept() {
        let many: Vec<String> = (0..100_000).map(|nth| format!("\"u{nth}\":[{{}}]")).collect();
        let json = format!("{{\"id\":\"a\",\"stream\":true,{}}}", many.join(","));
        let mut object = Object::parse(json.as_bytes()).unwrap();
        assert_eq!(object.remove("id"), Some(Value::from("a")));
        let left = object.left_over();
        assert_eq!((left.named.len(), left.more), (11, 99_990));
        assert_eq!(left.named[..2], ["stream", "u0"]);
    }

    #[test]
    fn a_text_is_found_in_what_is_no_object() {
        for (json, id) in [
            (r#"{"id":"a"}"#, Some("a")),
            (r#"{"x":[{"id":"b"}],"id":"a","#, Some("a")),
            (r#"{"id":"a","x":nonsense"#, Some("a")),
            (r#"{"x":"\ud83d","id":"a","y":"\ud83d"}"#, Some("a")),
            (r#"{"id":7}"#, None),
            (r#"{"x":"#, None),
            ("[]", None),
            ("", None),
        ] {
            assert_eq!(Object::text_of(json.as_bytes(), "id").as_deref(), id, "{json}");
        }
        let nested = format!(r#"{{"x":{}{},"id":"a"}}"#, "[".repeat(50_000), "]".repeat(50_000));
        assert_eq!(Object::text_of(nested.as_bytes(), "id").as_deref(), Some("a"));
    }

    #[test]
    fn an_object_with_a_character_that_was_cut_in_two_is_read() {
        let mut object = Object::parse(br#"{"id":"a","prompt":"smile \ud83d"}"#).unwrap();
        assert_eq!(object.remove("prompt"), Some(Value::from("smile \u{fffd}")));
    }

    #[test]
    fn only_one_whole_object_is_an_object() {
        for json in ["", "[]", "null", "{", "{}{}", "{\"a\":}"] {
            assert!(Object::parse(json.as_bytes()).is_err(), "{json}");
        }
        assert!(Object::parse(b" {} ").is_ok());
    }
}
