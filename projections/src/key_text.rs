//! Names as they stand in keys and columns.

use serde::Serialize;
use uuid::Uuid;

/// The longest account, user, provider or model that a row names whole.
pub const MAX_KEY_BYTES: usize = 256;

/// A name as it stands in the key: whole up to [`MAX_KEY_BYTES`], which no sane name exceeds, else its beginning and a
/// hash of all of it. A key has to fit into the index, whatever a provider calls its models.
pub fn key_text(name: &str) -> String {
    let name = name.replace('\0', "\u{fffd}");
    if name.len() <= MAX_KEY_BYTES {
        return name;
    }
    let beginning = name.get(..name.floor_char_boundary(MAX_KEY_BYTES)).unwrap_or_default();
    format!("{beginning}…{}", Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()))
}

/// The name that a unit variant has in events.
pub fn name(variant: impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::from_value(serde_json::to_value(variant)?)?)
}
