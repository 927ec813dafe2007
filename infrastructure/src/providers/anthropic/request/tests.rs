use serde_json::json;

use super::*;
use crate::providers::tests::replay::{generate, prompt, recorded};

fn sent(prompt: Value) -> Value {
    send(prompt, AnthropicVersion::V2023_06_01)
}

fn send(said: Value, version: AnthropicVersion) -> Value {
    let call = generate(prompt(said), false);
    serde_json::to_value(MessagesRequest::new(&call, version)).unwrap()
}

fn said(prompt: Value) -> Value {
    sent(prompt)["messages"].clone()
}

#[test]
fn everything_that_a_prompt_has_is_sent() {
    let prompt = json!({
        "system": "Be brief.",
        "messages": [{ "role": "system", "content": "In French." }, { "role": "user", "content": "Hi", "name": "Ann" }],
        "temperature": 0.5, "topP": 0.9, "stop": ["END"], "user": "u-1",
        "tools": [{ "type": "function", "function": { "name": "f", "description": "d", "parameters": { "type": "object" } } }],
        "toolChoice": "auto",
    });
    let mut expected = json!({
        "model": "some-model", "max_tokens": 100, "stream": false,
        "system": [{ "type": "text", "text": "Be brief." }, { "type": "text", "text": "In French." }],
        "messages": [{ "role": "user", "content": [{ "type": "text", "text": "Hi" }] }],
        "temperature": 0.5, "top_p": 0.9, "stop_sequences": ["END"], "metadata": { "user_id": "u-1" },
        "tools": [{ "name": "f", "description": "d", "input_schema": { "type": "object" } }],
        "tool_choice": { "type": "auto" },
    });
    assert_eq!(sent(prompt.clone()), expected);
    expected.as_object_mut().unwrap().retain(|name, _| name != "temperature" && name != "top_p");
    assert_eq!(send(prompt, AnthropicVersion::V2026_10_21), expected, "that version refuses both");
}

#[test]
fn what_a_prompt_does_not_have_is_not_sent() {
    assert_eq!(
        sent(json!({ "messages": [{ "role": "user", "content": "Hi" }], "toolChoice": "none" })),
        json!({
            "model": "some-model", "max_tokens": 100, "stream": false,
            "messages": [{ "role": "user", "content": [{ "type": "text", "text": "Hi" }] }],
        })
    );
}

#[test]
fn what_anthropic_has_another_form_for_is_sent_in_that() {
    let orders = json!({ "system": "Say hello.", "messages": [{ "role": "system", "content": "In French." }], "temperature": 1.5 });
    assert_eq!(
        sent(orders),
        json!({
            "model": "some-model", "max_tokens": 100, "stream": false, "temperature": 1.0,
            "messages": [{ "role": "user", "content": [
                { "type": "text", "text": "Say hello." }, { "type": "text", "text": "In French." },
            ] }],
        })
    );
}

#[test]
fn a_conversation_with_tools_becomes_the_one_that_was_recorded() {
    let (recorded, _) = recorded("anthropic/messages-parallel-tools.json").remove(1);
    let calls = [
        ("toolu_01TjHdHxyQNDy4DipRieJU5n", "weather", r#"{"latitude":"52.5200","longitude":"13.4050"}"#),
        ("toolu_01QHFWAkMuVLb3VgS4EDGUGY", "best_language_to_learn", ""),
    ];
    let prompt = json!({
        "messages": [
            { "role": "user", "content": recorded["messages"][0]["content"] },
            { "role": "assistant", "tool_calls": calls.map(|(id, name, arguments)|
                json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } })) },
            { "role": "tool", "tool_call_id": calls[0].0, "content": "Current weather at 52.5200, 13.4050: 15°C, Wind: 10 km/h" },
            { "role": "tool", "tool_call_id": calls[1].0, "content": [{ "type": "text", "text": "Ruby" }] },
        ],
        "tools": recorded["tools"].as_array().unwrap().iter().map(|tool| json!({ "type": "function", "function": {
            "name": tool["name"], "description": tool["description"], "parameters": tool["input_schema"],
        } })).collect::<Vec<_>>(),
    });
    let sent = sent(prompt);
    assert_eq!(sent["messages"], recorded["messages"]);
    assert_eq!(sent["tools"], recorded["tools"]);
}

#[test]
fn neighbours_of_one_role_are_one_turn_and_blank_text_is_left_out() {
    let text = |text: &str| json!({ "type": "text", "text": text });
    assert_eq!(
        said(json!({ "messages": [
            { "role": "user", "content": "a" },
            { "role": "user", "content": [text("b"), text("  ")] },
            { "role": "assistant", "content": " \n" },
            { "role": "user", "content": "c" },
            { "role": "assistant", "content": "d \n" },
        ] })),
        json!([
            { "role": "user", "content": [text("a"), text("b"), text("c")] },
            { "role": "assistant", "content": [text("d")] },
        ])
    );
}

#[test]
fn images_become_sources_and_orders_to_keep_something_go_along() {
    const GIF: &str = "R0lGODlhAQABAAAAACwAAAAAAQABAAACAUwAOw==";
    let control = json!({ "type": "ephemeral", "ttl": "1h" });
    assert_eq!(
        said(json!({ "messages": [{ "role": "user", "content": [
            { "type": "image_url", "image_url": { "url": format!("data:image/gif;base64,{GIF}"), "detail": "low" } },
            { "type": "image_url", "image_url": "https://a/b.png", "cache_control": control },
            { "type": "text", "text": "long", "cache_control": { "type": "ephemeral" } },
        ] }] }))[0]["content"],
        json!([
            { "type": "image", "source": { "type": "base64", "media_type": "image/gif", "data": GIF } },
            { "type": "image", "source": { "type": "url", "url": "https://a/b.png" }, "cache_control": control },
            { "type": "text", "text": "long", "cache_control": { "type": "ephemeral" } },
        ])
    );
}

#[test]
fn every_choice_of_tools_has_its_form() {
    let control = json!({ "type": "ephemeral" });
    let prompt = |choice: Value| {
        json!({
            "messages": [{ "role": "user", "content": "Hi" }],
            "tools": [{ "type": "function", "function": { "name": "f" }, "cache_control": control }],
            "toolChoice": choice,
        })
    };
    for (choice, expected) in [
        (json!("auto"), json!({ "type": "auto" })),
        (json!("none"), json!({ "type": "none" })),
        (json!("required"), json!({ "type": "any" })),
        (json!({ "type": "function", "function": { "name": "f" } }), json!({ "type": "tool", "name": "f" })),
    ] {
        let sent = sent(prompt(choice));
        assert_eq!(sent["tool_choice"], expected);
        let schema = json!({ "type": "object", "properties": {} });
        assert_eq!(sent["tools"], json!([{ "name": "f", "input_schema": schema, "cache_control": control }]));
    }
}

#[test]
fn arguments_that_are_no_object_go_along_as_a_text() {
    let call = |arguments: Value| {
        let function = json!({ "name": "f", "arguments": arguments });
        json!({ "messages": [{ "role": "assistant", "toolCalls": [{ "id": "c", "function": function }] }] })
    };
    for arguments in ["[1]", "{\"a\":", "\"a\""] {
        assert_eq!(said(call(json!(arguments)))[0]["content"][0]["input"], json!({ "arguments": arguments }));
    }
    for arguments in [json!(""), json!("{}"), json!(null), json!({})] {
        assert_eq!(said(call(arguments))[0]["content"][0]["input"], json!({}));
    }
}

#[test]
fn ids_of_other_providers_are_mapped_to_the_alphabet_that_is_taken_and_stay_apart() {
    let call = |id: &str| json!({ "id": id, "type": "function", "function": { "name": "f", "arguments": "{}" } });
    let result = |id: &str| json!({ "role": "tool", "toolCallId": id, "content": "1" });
    let ids = ["call.1|x", "call.1_x", "toolu_01-a"];
    let turns = said(json!({ "messages": [
        { "role": "user", "content": "a" },
        { "role": "assistant", "toolCalls": ids.map(call) },
        result(ids[0]), result(ids[1]), result(ids[2]),
    ] }));
    let sent: Vec<&str> = (0..3).map(|at| turns[1]["content"][at]["id"].as_str().unwrap()).collect();
    assert!(
        sent.iter().all(|id| id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))),
        "{sent:?}"
    );
    assert!(sent[0] != sent[1] && sent[2] == ids[2], "{sent:?}");
    for (at, id) in sent.iter().enumerate() {
        assert_eq!(turns[2]["content"][at]["tool_use_id"], *id);
    }
}
