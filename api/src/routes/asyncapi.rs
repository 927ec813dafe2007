//! `GET /asyncapi.json`: the socket's frames, the topics and the events, for programs and for who writes them. That it says
//! what is true is tested in `tests/tests/asyncapi.rs`.

use http::header;

/// `AsyncAPI` 3.0.
pub const DOCUMENT: &str = include_str!("../../asyncapi.json");

pub async fn document() -> ([(header::HeaderName, &'static str); 1], &'static str) {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}
