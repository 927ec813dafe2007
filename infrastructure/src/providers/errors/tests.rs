use std::time::Duration;

use FailureKind::{
    ContextTooLong, InvalidRequest, ModelUnavailable, Overloaded, QuotaExceeded, RateLimited, ServerError, Timeout,
    Unauthorized,
};

use super::*;
use crate::providers::tests::replay::{Recorded, json_file, recorded};

fn refuse(status: u16, headers: &[(&str, &str)], body: &str) -> ProviderError {
    let headers = headers
        .iter()
        .map(|(name, value)| (http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap()))
        .collect();
    refused(StatusCode::from_u16(status).unwrap(), &headers, body.as_bytes())
}

fn kind(status: u16, body: &str) -> FailureKind {
    refuse(status, &[], body).kind
}

#[test]
fn recorded_refusals_are_recognised() {
    for (path, expected) in [
        ("openai/chat-400-unsupported", InvalidRequest),
        ("openai/chat-404-model-not-found", ModelUnavailable),
        ("openai/chat-404-stream", ModelUnavailable),
        ("openai/embeddings-404", ModelUnavailable),
        ("openai/embeddings-error", ModelUnavailable),
        ("openai/responses-400-api-error", ModelUnavailable),
        ("openai/responses-400-context-length", ContextTooLong),
        ("openai/responses-401-bad-key", Unauthorized),
        ("anthropic/messages-400-context-length", ContextTooLong),
        ("anthropic/messages-400-effort", InvalidRequest),
        ("anthropic/messages-401-bad-key", Unauthorized),
        ("anthropic/messages-404-model", ModelUnavailable),
        ("gemini/400-bad-key", Unauthorized),
        ("gemini/404-model", ModelUnavailable),
        ("local/llamacpp-400-malformed", InvalidRequest),
        ("local/llamacpp-401", Unauthorized),
    ] {
        let (_, Recorded { status, body, .. }) = recorded(&format!("{path}.json")).remove(0);
        let error = refuse(status, &[], &body);
        assert_eq!((error.kind, error.status), (expected, Some(status)), "{path}");
        assert!(!error.message.is_empty());
    }
    assert_eq!(kind(400, &json_file("openai/responses-400-temperature.json").to_string()), InvalidRequest);
}

#[test]
fn money_is_told_apart_from_haste() {
    let openai = json_file("openai/errors-quoted.json");
    for spend in openai["http_429_spend"].as_array().unwrap() {
        let error = refuse(429, &[("retry-after", "20")], &spend.to_string());
        assert_eq!((error.kind, error.retry_after), (QuotaExceeded, None), "a retry never helps");
    }
    let limit = refuse(429, &[], &openai["http_429_rate_limit"].to_string());
    assert_eq!((limit.kind, limit.retry_after), (RateLimited, Some(Duration::from_millis(174))));
    assert_eq!(kind(429, &openai["http_429_slow_down"].to_string()), RateLimited);

    let anthropic = |error: &str| format!(r#"{{"type":"error","error":{error},"request_id":"req_1"}}"#);
    for (status, error) in [
        (429, r#"{"type":"rate_limit_error","message":"…","details":{"error_code":"enforced_spend_limit_reached"}}"#),
        (429, r#"{"type":"rate_limit_error","message":"…","details":{"error_code":"contract_spend_limit_reached"}}"#),
        (402, r#"{"type":"billing_error","message":"…"}"#),
        (400, r#"{"type":"invalid_request_error","message":"You have reached your specified API usage limits."}"#),
        (400, r#"{"type":"invalid_request_error","message":"Your credit balance is too low to access the API."}"#),
    ] {
        assert_eq!(kind(status, &anthropic(error)), QuotaExceeded, "{error}");
    }
    let ramp = r#"{"type":"rate_limit_error","message":"…","details":{"error_code":"ramp_limit_exceeded"}}"#;
    assert_eq!(kind(429, &anthropic(ramp)), RateLimited);
}

#[test]
fn overload_is_recognised_by_name_and_by_status() {
    assert_eq!(kind(503, &json_file("openai/errors-quoted.json")["http_503"].to_string()), Overloaded);
    let quoted = json_file("anthropic/errors-quoted.json");
    assert_eq!(kind(529, quoted["http_529"]["body"].as_str().unwrap()), Overloaded);
    assert_eq!(kind(503, r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#), Overloaded);
    assert_eq!(kind(500, r#"{"error":{"type":"overloaded_error"}}"#), Overloaded);
}

#[test]
fn a_prompt_that_does_not_fit_is_recognised_in_every_servers_words() {
    for message in [
        "prompt is too long: 3333404 tokens > 200000 maximum",
        "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
        "the input length exceeds the context length",
    ] {
        assert_eq!(kind(400, &serde_json::json!({ "error": { "message": message } }).to_string()), ContextTooLong);
    }
    let batch = r#"{"error":{"code":500,"message":"input (6002 tokens) is too large to process. increase the physical batch size","type":"server_error"}}"#;
    assert_eq!(kind(500, batch), ContextTooLong);
    let llama = r#"{"error":{"code":400,"message":"too large","type":"exceed_context_size_error","n_ctx":512}}"#;
    assert_eq!(kind(400, llama), ContextTooLong);
}

#[test]
fn a_status_alone_is_enough() {
    for (status, expected) in [
        (302, ModelUnavailable),
        (400, InvalidRequest),
        (403, Unauthorized),
        (404, ModelUnavailable),
        (408, Timeout),
        (409, ServerError),
        (413, InvalidRequest),
        (422, InvalidRequest),
        (429, RateLimited),
        (500, ServerError),
        (502, ServerError),
        (504, Timeout),
    ] {
        for body in ["", "{}", "null", "[]", "<html>Bad Gateway</html>", "\u{0}"] {
            let error = refuse(status, &[], body);
            assert_eq!((error.kind, error.status), (expected, Some(status)), "{body:?}");
            assert!(!error.message.is_empty());
        }
    }
}

#[test]
fn a_message_is_found_where_each_server_puts_it_and_cut() {
    assert_eq!(refuse(502, &[], "<html>Bad Gateway</html>").message, "<html>Bad Gateway</html>");
    assert_eq!(refuse(400, &[], r#"{"error":"model is required"}"#).message, "model is required");
    assert_eq!(refuse(400, &[], r#"{"object":"error","message":"flat","code":400}"#).message, "flat");
    assert_eq!(refuse(422, &[], r#"{"detail":"missing"}"#).message, "missing");
    assert_eq!(refuse(500, &[], &"ü".repeat(600)).message, "ü".repeat(500));
}

#[test]
fn our_key_is_not_quoted_to_the_client() {
    let (_, bad_key) = recorded("openai/responses-401-bad-key.json").remove(0);
    assert!(bad_key.body.contains("invalid-key"));
    assert_eq!(refuse(401, &[], &bad_key.body).message, "the provider refused our credentials");
}
