//! What is sent to `/embeddings`, and what comes back.

use aihub_application::ports::provider::{EmbedCall, Embeddings, Flaw, ProviderError, providers_word};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;

use crate::providers::{
    errors,
    json::{Json, repaired},
    usage::UsageSoFar,
};

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
    pub(super) fn new(call: &'a EmbedCall, inputs: &'a [String], base64: bool) -> Self {
        let encoding_format = if base64 { "base64" } else { "float" };
        Self { model: &call.model, input: inputs, encoding_format, user: call.user.as_deref() }
    }
}

/// The vectors in the order of the `inputs`, one for each.
pub(super) fn read(body: &[u8], inputs: usize) -> Result<Embeddings, ProviderError> {
    let text = String::from_utf8_lossy(body);
    let put_right;
    let json = match Json::parse(text.trim()) {
        Ok(json) => json,
        Err(at) => {
            put_right = repaired(text.trim());
            Json::parse(&put_right).map_err(|_| malformed("no_json", None, Some(at.0)))?
        }
    };
    let answer = json.fields();
    if errors::is_error(&answer) {
        return Err(errors::in_answer(json.raw().as_bytes()));
    }
    let data = answer.get("data").map(Json::items);
    // Some have a bare list.
    let items = data.unwrap_or_else(|| json.items());
    if items.is_empty() {
        return Err(errors::in_answer_or_empty(json.raw().as_bytes()));
    }
    if items.len() != inputs {
        let class = format!("{}_vectors_for_{inputs}_inputs", items.len());
        return Err(malformed(&class, Some("data".to_owned()), None));
    }
    let mut vectors = Vec::with_capacity(inputs);
    let mut indices = Vec::with_capacity(inputs);
    for (at, item) in items.into_iter().enumerate() {
        let fields = item.fields();
        let embedding = fields.get("embedding").unwrap_or(item);
        let vector = vector(embedding).filter(|vector| !vector.is_empty());
        vectors.push(vector.ok_or_else(|| malformed("no_vector", Some(format!("data[{at}].embedding")), None))?);
        indices.push(fields.get("index").and_then(Json::count).and_then(|index| usize::try_from(index).ok()));
    }
    let usage = answer.get("usage").and_then(|usage| UsageSoFar::of_embedding().merge(usage));
    let model = answer.text("model").filter(|model| !model.is_empty());
    let model = model.map(|model| providers_word(model.into_owned()));
    Ok(Embeddings { vectors: in_order(vectors, &indices), model, usage })
}

/// By their indices, where these name each input once; else as they stand.
fn in_order(mut vectors: Vec<Vec<f32>>, indices: &[Option<usize>]) -> Vec<Vec<f32>> {
    let mut ordered = vec![None; vectors.len()];
    for (at, index) in indices.iter().enumerate() {
        match index.and_then(|index| ordered.get_mut(index)) {
            Some(place @ None) => *place = Some(at),
            _ => return vectors,
        }
    }
    ordered.into_iter().flatten().map(|at| std::mem::take(&mut vectors[at])).collect()
}

/// Numbers, or little-endian 32-bit floats in base64.
fn vector(json: Json<'_>) -> Option<Vec<f32>> {
    if let Some(text) = json.text() {
        let bytes = STANDARD.decode(text.trim()).ok()?;
        let (floats, []) = bytes.as_chunks::<4>() else { return None };
        return Some(floats.iter().map(|float| f32::from_le_bytes(*float)).collect());
    }
    if let Ok(numbers) = serde_json::from_str(json.raw()) {
        return Some(numbers);
    }
    #[expect(clippy::cast_possible_truncation, reason = "vectors have 32 bits")]
    json.items().into_iter().map(|number| number.number().map(|number| number as f32)).collect()
}

fn malformed(class: &str, field: Option<String>, offset: Option<usize>) -> ProviderError {
    errors::malformed_at(Flaw { class: class.to_owned(), field, offset: offset.map(|offset| offset as u64) })
}

#[cfg(test)]
mod tests;
