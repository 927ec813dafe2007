//! What is sent to `/embeddings`, and what comes back.

use std::fmt;

use aihub_application::ports::provider::{EmbedCall, Embeddings, ProviderError};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, IgnoredAny, SeqAccess, Visitor},
};

use super::usage::{Usage, UsageSoFar};
use crate::providers::errors;

/// Asks for base64, as the official SDKs do: a quarter of the bytes. A server that answers with numbers is fine.
#[derive(Debug, Serialize)]
pub(super) struct EmbeddingsRequest<'a> {
    model: &'a str,
    input: &'a [String],
    encoding_format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
}

impl<'a> EmbeddingsRequest<'a> {
    pub(super) fn new(call: &'a EmbedCall) -> Self {
        Self { model: &call.model, input: &call.inputs, encoding_format: "base64", user: call.user.as_deref() }
    }
}

#[derive(Deserialize)]
struct Answer {
    data: Option<Vec<Item>>,
    model: Option<String>,
    usage: Option<Usage>,
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Item {
    index: usize,
    embedding: Vector,
}

struct Vector(Vec<f32>);

/// The vectors in the order of the `inputs`, one for each.
pub(super) fn read(body: &[u8], inputs: usize) -> Result<Embeddings, ProviderError> {
    let answer: Answer = serde_json::from_slice(body).map_err(|error| errors::malformed(&error))?;
    if answer.error.is_some() {
        return Err(errors::in_answer(body));
    }
    let mut vectors = vec![Vec::new(); inputs];
    let mut missing = inputs;
    for item in answer.data.unwrap_or_default() {
        let Some(vector) = vectors.get_mut(item.index).filter(|vector| vector.is_empty()) else {
            return Err(errors::malformed(&format_args!(
                "vector {} answers no input, or one that has a vector",
                item.index
            )));
        };
        if item.embedding.0.is_empty() {
            return Err(errors::malformed(&format_args!("vector {} is empty", item.index)));
        }
        *vector = item.embedding.0;
        missing -= 1;
    }
    if missing > 0 {
        return Err(errors::malformed(&format_args!("{missing} of {inputs} inputs got no vector")));
    }
    let usage = answer.usage.and_then(|usage| UsageSoFar::of_embedding().merge(&usage));
    Ok(Embeddings { vectors, model: answer.model, usage })
}

/// Numbers, or little-endian 32-bit floats in base64.
impl<'de> Deserialize<'de> for Vector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Vector;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("numbers, or 32-bit floats in base64")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Vector, E> {
                let bytes = STANDARD.decode(text).map_err(E::custom)?;
                let (floats, []) = bytes.as_chunks::<4>() else {
                    return Err(E::custom("not a whole number of 32-bit floats"));
                };
                Ok(Vector(floats.iter().map(|float| f32::from_le_bytes(*float)).collect()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut numbers: A) -> Result<Vector, A::Error> {
                let mut vector = Vec::new();
                while let Some(number) = numbers.next_element()? {
                    vector.push(number);
                }
                Ok(Vector(vector))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests;
