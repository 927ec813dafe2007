//! A secret text that does not find its way into logs.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// How a secret is shown.
const SHOWN: &str = "[secret]";
/// How one is shown that came with white space at its end, as files and shells put a line break there. It is left out.
pub const TRIMMED: &str = "[secret, without the white space at its end]";

/// Shows all secrets in `value` alike, for a comparison: how one came says nothing about what it is.
pub fn show_alike(value: &mut Value) {
    match value {
        Value::String(text) if text == TRIMMED => SHOWN.clone_into(text),
        Value::Object(fields) => fields.values_mut().for_each(show_alike),
        Value::Array(items) => items.iter_mut().for_each(show_alike),
        _ => {}
    }
}

/// A secret. `Debug`, `Display` and `Serialize` give `[secret]`; only [`Secret::expose`] gives the text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    text: String,
    is_trimmed: bool,
}

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_trimmed: false }
    }

    /// The secret itself, for the one place that uses it.
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(SHOWN)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(SHOWN)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.is_trimmed { TRIMMED } else { SHOWN })
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut text = String::deserialize(deserializer)?;
        let length = text.trim_end().len();
        let is_trimmed = length < text.len();
        text.truncate(length);
        Ok(Self { text, is_trimmed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_itself_only_when_asked() {
        let secret: Secret = serde_json::from_str(r#""hunter2""#).unwrap();
        assert_eq!(format!("{secret} {secret:?} {}", serde_json::to_string(&secret).unwrap()), {
            "[secret] [secret] \"[secret]\""
        });
        assert_eq!(secret.expose(), "hunter2");
        let with_line_break: Secret = serde_json::from_str(r#"" hunter2\r\n""#).unwrap();
        assert_eq!(with_line_break.expose(), " hunter2");
        let mut shown = serde_json::json!([{ "key": with_line_break }]);
        assert_eq!(shown[0]["key"], TRIMMED);
        show_alike(&mut shown);
        assert_eq!(shown[0]["key"], SHOWN);
    }
}
