use aihub_domain::price::Price;
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::json;

use super::{pictures::Pictures, *};
use crate::catalog::{Model, Serves};

fn parse(kind: RequestKind, fields: &Value) -> Result<AnswerRequest, Faults> {
    AnswerRequest::from_fields(kind, fields.as_object().unwrap().clone())
}

fn faults(kind: RequestKind, fields: &Value) -> Vec<String> {
    parse(kind, fields).unwrap_err().told().iter().map(|fault| fault.field.clone()).collect()
}

/// What is wrong with a chat of one message that has these parts.
fn faults_of_parts(parts: &Value) -> Vec<String> {
    faults(RequestKind::Chat, &json!({ "messages": [{ "role": "user", "content": parts }] }))
}

fn model(context_tokens: u64) -> Model {
    Model {
        upstream_name: "m".into(),
        serves: Serves::Text,
        context_tokens,
        max_output_tokens: 1,
        hidden_output: false,
        pictures: Pictures::default(),
        first_piece: None,
        prices: Vec::<Price>::new(),
    }
}

/// A GIF's signature and size.
fn gif(width: u16, height: u16) -> String {
    let mut bytes = b"GIF89a".to_vec();
    bytes.extend(width.to_le_bytes());
    bytes.extend(height.to_le_bytes());
    bytes.extend([0; 20]);
    format!("data:image/gif;base64,{}", BASE64_STANDARD.encode(bytes))
}

#[test]
fn a_prompt_is_one_message_of_the_user() {
    let request = parse(RequestKind::Chat, &json!({"prompt": "hi", "model": null})).unwrap();
    assert_eq!(request.prompt.messages[0].content.texts().collect::<Vec<_>>(), ["hi"]);
    assert_eq!((request.provider.as_str(), request.stream, request.fallback), (AUTO, false, true));
}

#[test]
fn everything_that_goes_into_the_prompt_counts_for_the_hold() {
    let counts = |message: Value, more: Value| {
        let mut fields = json!({ "messages": [message] });
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let request = parse(RequestKind::Chat, &fields).unwrap_or_else(|faults| panic!("{faults:?}"));
        (request.input_tokens_estimate(&model(9_999)), request.input_tokens_at_most(&model(9_999)))
    };
    let long = "x".repeat(300);
    let (role, plain) = ("user", counts(json!({"role": "user", "content": "hi"}), json!({})));
    let image = json!({"type": "image_url", "image_url": {"url": gif(160, 160), "detail": "high"}});
    let call = json!({"id": "c", "function": {"name": "f", "arguments": {"a": long}}});
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": {"description": long}}});
    for (message, more) in [
        (json!({"role": role, "content": [image]}), json!({})),
        (json!({"role": role, "content": [{"type": "text", "text": long}]}), json!({})),
        (json!({"role": role, "content": "hi", "name": long}), json!({})),
        (json!({"role": "tool", "content": "hi", "tool_call_id": long}), json!({})),
        (json!({"role": "assistant", "tool_calls": [call]}), json!({})),
        (json!({"role": role, "content": "hi"}), json!({"tools": [tool]})),
        (json!({"role": role, "content": "hi"}), json!({"system": long})),
        (json!({"role": role, "content": "hi"}), json!({"toolChoice": {"function": {"name": long}}})),
        (json!({"role": role, "content": "hi"}), json!({"stop": [long]})),
    ] {
        let (about, at_most) = counts(message.clone(), more.clone());
        let case = format!("{message} {more}");
        assert!(about >= plain.0 + 99 && at_most >= plain.1 + 197, "{case}: {about}, {at_most}");
        assert!(at_most >= about, "{case}");
    }
}

#[test]
fn no_text_has_more_tokens_than_bytes_and_none_more_than_fit_into_the_context() {
    let at_most = |text: &str, context| {
        let request = parse(RequestKind::Chat, &json!({ "prompt": text })).unwrap();
        request.input_tokens_at_most(&model(context))
    };
    // A token a letter, a digit, or a byte of a sign that no tokenizer has.
    for text in ["a b c d e f g h", "1234567890", "\u{13000}\u{13001}\u{13002}"] {
        assert!(at_most(text, 1_000) >= text.len() as u64, "{text}");
    }
    assert_eq!(at_most(&"x".repeat(5_000), 1_000), 1_000);
    let texts = json!({ "input": ["x".repeat(5_000), "x".repeat(5_000), "hi"] });
    let embedding = parse(RequestKind::Embedding, &texts).unwrap();
    assert!((2_002..2_200).contains(&embedding.input_tokens_at_most(&model(1_000))));
}

#[test]
fn every_faulty_field_is_named_at_once() {
    let fields = json!({
        "prompt": "", "temperature": 3, "topP": "high", "maxTokens": 0, "max_tokens": 5, "stream": 1, "provider": "",
    });
    let mut named = faults(RequestKind::Chat, &fields);
    named.sort();
    assert_eq!(named, ["maxTokens", "max_tokens", "prompt", "provider", "stream", "temperature", "topP"]);
}

#[test]
fn messages_and_prompt_exclude_each_other_and_one_is_required() {
    let messages = json!([{"role": "user", "content": "x"}]);
    assert_eq!(faults(RequestKind::Chat, &json!({"messages": messages, "prompt": "y"})), ["prompt"]);
    assert_eq!(faults(RequestKind::Completion, &json!({})), ["messages"]);
    assert_eq!(faults(RequestKind::Chat, &json!({"messages": "x"})), ["messages"]);
    assert_eq!(faults(RequestKind::Chat, &json!({"messages": [{"role": "nobody"}]})), ["messages[0].role"]);
}

#[test]
fn a_part_whose_cost_has_no_bound_is_refused_by_its_name_and_place() {
    let text = json!({"type": "text", "text": "x"});
    let source = json!({"type": "url", "url": "https://a.example/b.pdf"});
    for (part, field) in [
        (json!({"type": "document", "source": source}), "document"),
        (json!({"type": "file", "file": {"file_id": "file-1"}}), "file"),
        (json!({"type": "input_audio", "input_audio": {"data": "…"}}), "input_audio"),
        (json!({"type": "video_url", "video_url": {"url": "https://a.example/b.mp4"}}), "video_url"),
        (json!({"type": "image", "source": source}), "image"),
        (json!({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}), "image_url"),
        (json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}), "image_url"),
        (json!({"type": "image_url", "image_url": {"file_id": "file-1"}}), "image_url"),
        (json!({"type": "tool_result", "tool_use_id": "c"}), "tool_result"),
        (json!({"type": "to be\nmade up", "x": 1}), "type"),
        (json!({"type": 1}), "type"),
        (json!({"x": 1}), "type"),
    ] {
        assert_eq!(faults_of_parts(&json!([text, part])), [format!("messages[0].content[1].{field}")], "{part}");
    }
    for (part, field) in [
        (json!("x"), "messages[0].content[0]"),
        (json!({"type": "text", "text": "x", "citations": [{}]}), "messages[0].content[0]"),
        (
            json!({"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "2h"}}),
            "messages[0].content[0]",
        ),
    ] {
        assert_eq!(faults_of_parts(&json!([part])), [field], "{part}");
    }
    assert_eq!(faults_of_parts(&json!({"type": "text", "text": "x"})), ["messages[0].content"]);
}

#[test]
fn what_a_provider_would_run_and_options_that_nobody_knows_are_refused_by_their_names() {
    let chat = |more: Value| {
        let mut fields = json!({ "prompt": "hi" });
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        faults(RequestKind::Chat, &fields)
    };
    let function = json!({"type": "function", "function": {"name": "f"}});
    for kind in ["web_search_20250305", "code_execution_20250825", "computer_20251124", "custom", "mcp"] {
        let tools = json!({ "tools": [function, {"type": kind, "name": "x", "max_uses": 1}] });
        assert_eq!(chat(tools), [format!("tools[1].{kind}")]);
    }
    assert_eq!(
        chat(json!({ "tools": [{"type": "function", "function": {"name": "f"}, "defer_loading": true}] })),
        ["tools[0]"]
    );
    assert_eq!(chat(json!({ "tools": [{"name": "f", "input_schema": {}}] })), ["tools[0]"]);
    assert_eq!(chat(json!({ "toolChoice": {"type": "allowed_tools"} })), ["toolChoice"]);
    assert_eq!(chat(json!({ "web_search_options": {} })), ["web_search_options"]);
    let said = |message: Value| faults(RequestKind::Chat, &json!({ "messages": [message] }));
    assert_eq!(said(json!({"role": "assistant", "content": "x", "audio": {"id": "a"}})), ["messages[0].audio"]);
    let repeated = json!({"role": "assistant", "content": "x", "refusal": null, "annotations": [], "audio": null});
    parse(RequestKind::Chat, &json!({ "messages": [repeated] })).unwrap();
}

#[test]
fn what_is_to_be_kept_for_an_hour_is_known_wherever_it_is_asked_for() {
    let control = |ttl: &str| json!({ "type": "ephemeral", "ttl": ttl });
    let asks = |ttl: &str| {
        let part = json!({"type": "text", "text": "x", "cache_control": control(ttl)});
        let tool = json!({"type": "function", "function": {"name": "f"}, "cache_control": control(ttl)});
        let of_part = json!({ "messages": [{"role": "user", "content": [part]}] });
        let of_tool = json!({ "prompt": "hi", "tools": [tool] });
        [of_part, of_tool].map(|fields| parse(RequestKind::Chat, &fields).unwrap().prompt.writes_for_an_hour())
    };
    assert_eq!((asks("1h"), asks("5m")), ([true; 2], [false; 2]));
}

#[test]
fn what_is_sealed_is_what_was_said() {
    let fields = json!({
        "system": "Be brief.", "temperature": 0.5, "topP": 0.9, "stop": ["END"], "user": "u-1",
        "messages": [
            { "role": "user", "name": "Ann", "content": [
                { "type": "text", "text": "x", "cache_control": { "type": "ephemeral", "ttl": "1h" } },
                { "type": "image_url", "image_url": { "url": gif(1, 1), "detail": "low" } },
            ] },
            { "role": "assistant", "toolCalls": [
                { "id": "c1", "type": "function", "function": { "name": "f", "arguments": "{}" } },
            ] },
            { "role": "tool", "toolCallId": "c1", "content": "1" },
        ],
        "tools": [{ "type": "function", "function": { "name": "f", "parameters": {}, "strict": true } }],
        "toolChoice": { "type": "function", "function": { "name": "f" } },
    });
    let sealed = parse(RequestKind::Chat, &fields).unwrap().content().unwrap().concat();
    assert_eq!(serde_json::from_str::<Value>(&sealed).unwrap(), fields);
}

#[test]
fn the_parts_of_a_content_are_its_json_and_a_message_that_is_sent_again_is_the_same_part() {
    let message = |role: &str, text: &str| json!({"role": role, "content": text});
    let odd = r#"{"messages":[]}"#;
    let asked = |messages: &[Value]| {
        let fields = json!({
            "system": odd, "messages": messages, "temperature": 0.5,
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"messages": []}}}],
        });
        parse(RequestKind::Chat, &fields).unwrap()
    };
    let history = [message("user", "one"), message("assistant", odd), message("user", "two")];
    let (first, second) = (asked(&history[..1]), asked(&history));
    for request in [&first, &second] {
        let whole: Value = serde_json::from_str(&request.content().unwrap().concat()).unwrap();
        assert_eq!(whole, serde_json::to_value(&*request.prompt).unwrap());
    }
    assert_eq!(first.content().unwrap()[..2], second.content().unwrap()[..2]);
    let inputs = parse(RequestKind::Embedding, &json!({"input": ["a", "b"]})).unwrap();
    assert_eq!(inputs.content().unwrap().concat(), r#"["a","b"]"#);
}

#[test]
fn an_embedding_takes_a_text_or_a_list_of_texts() {
    assert_eq!(*parse(RequestKind::Embedding, &json!({"input": ["a", "b"]})).unwrap().inputs, ["a", "b"]);
    assert_eq!(*parse(RequestKind::Embedding, &json!({"prompt": "a"})).unwrap().inputs, ["a"]);
    assert_eq!(faults(RequestKind::Embedding, &json!({"input": ["a", ""]})), ["input"]);
}

#[test]
fn a_text_is_never_said_to_have_more_tokens_than_it_can_have() {
    // With the fewest tokens that a tokenizer can make of it.
    for (text, tokens) in [
        ("hello world", 2),
        ("नमस्ते मेरा नाम", 3),
        (&" ".repeat(1_280), 10),
        (&"{\n                                        \"a\": 1 }\n".repeat(10), 40),
        (&"}\n//\n".repeat(100), 100),
    ] {
        assert!(tokens::tokens_at_least(text) <= tokens, "{text}");
    }
    assert_eq!(tokens::tokens_at_least(&"word ".repeat(1_000)), 500);
    assert_eq!(tokens::tokens_at_least(&"x".repeat(128_000)), 1_000);
}

#[test]
fn messages_need_room_together_and_the_texts_of_an_embedding_each_by_itself() {
    let text = "word ".repeat(100);
    let parts = json!([{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": gif(9, 9)}}]);
    let messages = json!([{"role": "user", "content": text}, {"role": "user", "content": parts}]);
    let chat = parse(RequestKind::Chat, &json!({"system": text, "messages": messages})).unwrap();
    assert_eq!((chat.input_tokens_at_least(), chat.text_field), (150, "messages"));
    let embedding = parse(RequestKind::Embedding, &json!({"input": [text, "short", text]})).unwrap();
    assert_eq!((embedding.input_tokens_at_least(), embedding.text_field), (50, "input"));
    assert_eq!(parse(RequestKind::Embedding, &json!({"prompt": "a"})).unwrap().text_field, "prompt");
}
