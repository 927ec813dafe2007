//! The content that an event names, found without knowing the event.

use aihub_domain::content::ContentRef;
use serde_json::{Map, Value};

/// In the order in which the payload has them.
pub fn named(payload: &str) -> Vec<ContentRef> {
    let mut found = Vec::new();
    // Most events name none, and looking for the word is much faster than reading them.
    if payload.contains("\"keep\"")
        && let Ok(payload) = serde_json::from_str(payload)
    {
        gather(&payload, &mut found);
    }
    found
}

/// Whether this is the name of a content.
pub fn is_name(fields: &Map<String, Value>) -> bool {
    ["keep", "hash", "pieces"].iter().all(|field| fields.contains_key(*field))
}

fn gather(value: &Value, found: &mut Vec<ContentRef>) {
    match value {
        Value::Object(fields) if is_name(fields) => found.extend(serde_json::from_value(value.clone()).ok()),
        Value::Object(fields) => fields.values().for_each(|value| gather(value, found)),
        Value::Array(items) => items.iter().for_each(|value| gather(value, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_event_names_is_found_wherever_it_stands() {
        let reference = format!(
            r#"{{"subject":"acme","kind":"chat","month":"2026-11-01","keep":"sealed","hash":"{}","pieces":1,"bytes":7}}"#,
            "ab".repeat(32)
        );
        let payload = format!(r#"{{"A":{{"prompt":{reference},"steps":[{{"output":{reference}}}],"keep":1}}}}"#);
        assert_eq!(named(&payload).len(), 2);
        assert_eq!(named(&payload)[0].bytes, 7);
        assert!(named(r#"{"keep":"x","hash":"y"}"#).is_empty());
        assert!(named("not JSON, \"keep\"").is_empty());
    }
}
