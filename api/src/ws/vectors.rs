//! An embedding's vectors as JSON: lists of numbers, or base64 of their bytes.

use std::{fmt::Write, sync::Arc};

use aihub_application::{
    answer::{AnswerEnd, Part},
    request::Encoding,
};
use base64::{Engine, engine::general_purpose::STANDARD};

use super::frame::to_json;

pub fn write_vector(vector: &[f32], encoding: Encoding, json: &mut String) {
    match encoding {
        Encoding::Float => json.push_str(&to_json(vector)),
        Encoding::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
            let _ = write!(json, "\"{}\"", STANDARD.encode(bytes));
        }
    }
}

/// Some of the vectors as a chunk: `first` is the index of the first of them.
pub fn chunk(id: &str, request_id: Option<&Arc<str>>, part: &Part) -> String {
    let Part { seq, vectors, end } = part;
    let mut json = format!(r#"{{"type":"chunk","id":{},"seq":{seq}"#, to_json(id));
    if let Some(request_id) = request_id {
        let _ = write!(json, r#","requestId":{}"#, to_json(&**request_id));
    }
    let _ = write!(json, r#","first":{},"data":["#, vectors.start);
    if let AnswerEnd::Done(done) = &**end {
        for (nth, vector) in done.vectors[vectors.clone()].iter().enumerate() {
            if nth > 0 {
                json.push(',');
            }
            write_vector(vector, done.encoding, &mut json);
        }
    }
    json.push_str("]}");
    json
}
