use reqwest::Method;
use serde_json::{Value, json};

use super::{Harness, events, header, keys, parse, sorted};

const MESSAGE_KEYS: [&str; 9] =
    ["model", "id", "type", "role", "content", "stop_reason", "stop_sequence", "stop_details", "usage"];
const USAGE_KEYS: [&str; 7] = [
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "cache_creation",
    "output_tokens",
    "service_tier",
    "inference_geo",
];

fn tools() -> Value {
    json!([{"name": "get_weather", "description": "Get the weather", "input_schema": {
        "type": "object", "properties": {"location": {"type": "string"}, "days": {"type": "integer"}}}}])
}

fn names(events: &[(String, String)]) -> Vec<&str> {
    let mut names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    names.dedup();
    names
}

/// All texts of the deltas of one kind, joined.
fn joined(events: &[(String, String)], kind: &str, field: &str) -> (String, usize) {
    let deltas = events.iter().filter(|(name, _)| name == "content_block_delta").map(|(_, data)| parse(data));
    let texts: Vec<String> = deltas
        .filter(|delta| delta["delta"]["type"] == kind)
        .map(|delta| delta["delta"][field].as_str().unwrap().to_owned())
        .collect();
    (texts.concat(), texts.iter().filter(|text| !text.is_empty()).count())
}

#[tokio::test]
async fn a_whole_message_has_the_recorded_keys_headers_and_a_true_count() {
    let harness = Harness::start().await;
    let answer = harness.message("", json!({"system": "Be brief."})).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(header(&answer, "content-type"), Some("application/json"));
    assert!(header(&answer, "request-id").unwrap().starts_with("req_sim"));
    assert!(header(&answer, "anthropic-organization-id").is_some());
    for limit in ["requests", "tokens", "input-tokens", "output-tokens"] {
        for part in ["limit", "remaining", "reset"] {
            let name = format!("anthropic-ratelimit-{limit}-{part}");
            assert!(header(&answer, &name).is_some(), "{name} is missing");
        }
    }
    let body = parse(&answer.text().await.unwrap());
    assert_eq!(keys(&body), sorted(MESSAGE_KEYS));
    assert_eq!(keys(&body["usage"]), sorted(USAGE_KEYS));
    assert!(body["id"].as_str().unwrap().starts_with("msg_sim"));
    assert_eq!((&body["type"], &body["role"]), (&json!("message"), &json!("assistant")));
    assert_eq!((&body["stop_reason"], &body["stop_sequence"]), (&json!("end_turn"), &Value::Null));
    assert_eq!(keys(&body["content"][0]), sorted(["type", "text"]));
    let text = body["content"][0]["text"].as_str().unwrap();
    assert!(text.starts_with("Simulated"), "{text}");
    // Five words and two, and three for each of the two messages.
    assert_eq!(body["usage"]["input_tokens"], 13);
    assert_eq!(body["usage"]["output_tokens"], text.split(' ').count());
}

#[tokio::test]
async fn a_stream_has_the_recorded_events_in_the_recorded_order() {
    let harness = Harness::start().await;
    let events = events(harness.message("+tokens=9", json!({"stream": true})).await).await;
    let order = [
        "message_start",
        "content_block_start",
        "ping",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(names(&events), order);
    for (name, data) in &events {
        assert_eq!(parse(data)["type"], *name);
        assert!(data.starts_with("{\"type\":"), "the type comes first: {data}");
    }
    let start = parse(&events[0].1)["message"].take();
    assert_eq!(keys(&start), sorted(MESSAGE_KEYS));
    assert_eq!(keys(&start["usage"]), sorted(USAGE_KEYS));
    assert_eq!((&start["content"], &start["usage"]["output_tokens"]), (&json!([]), &json!(1)));
    assert_eq!(parse(&events[1].1)["content_block"], json!({"type": "text", "text": ""}));
    assert_eq!(joined(&events, "text_delta", "text").1, 9);
    let end = parse(&events[events.len() - 2].1);
    assert_eq!(keys(&end), sorted(["type", "delta", "usage"]));
    assert_eq!(end["delta"], json!({"stop_reason": "end_turn", "stop_sequence": null, "stop_details": null}));
    assert_eq!(
        end["usage"],
        json!({"input_tokens": 8, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 9})
    );
}

#[tokio::test]
async fn data_lines_are_padded_with_spaces_as_recorded() {
    let harness = Harness::start().await;
    let text = harness.message("", json!({"stream": true})).await.text().await.unwrap();
    assert!(text.contains("}}     \n\n"), "{text}");
}

#[tokio::test]
async fn thinking_comes_first_is_signed_and_counted_within_the_output() {
    let harness = Harness::start().await;
    let asked = json!({"stream": true, "max_tokens": 2000, "thinking": {"type": "enabled", "budget_tokens": 1024}});
    let events = events(harness.message("+tokens=9", asked).await).await;
    assert_eq!(parse(&events[1].1)["content_block"], json!({"type": "thinking", "thinking": "", "signature": ""}));
    let (thinking, thinking_tokens) = joined(&events, "thinking_delta", "thinking");
    assert!(thinking.starts_with("Simulated thinking"), "{thinking}");
    assert_eq!(joined(&events, "signature_delta", "signature").0, "c2ltdWxhdGVk");
    let usage = parse(&events[events.len() - 2].1)["usage"].take();
    assert_eq!(usage["output_tokens"], thinking_tokens + 9);
    assert_eq!(usage["output_tokens_details"]["thinking_tokens"], thinking_tokens);

    let asked = json!({"thinking": {"type": "adaptive"}});
    let whole = parse(&harness.message("", asked).await.text().await.unwrap());
    assert_eq!(keys(&whole["content"][0]), sorted(["type", "thinking", "signature"]));
    assert_eq!(whole["content"][1]["type"], "text");
}

#[tokio::test]
async fn a_tool_is_called_with_an_object_and_streamed_in_fragments_of_its_json() {
    let harness = Harness::start().await;
    let asked = json!({"tools": tools(), "tool_choice": {"type": "any"}});
    let whole = parse(&harness.message("", asked.clone()).await.text().await.unwrap());
    assert_eq!(whole["stop_reason"], "tool_use");
    let call = &whole["content"][0];
    assert_eq!(keys(call), sorted(["type", "id", "name", "input", "caller"]));
    assert!(call["id"].as_str().unwrap().starts_with("toolu_sim"));
    assert_eq!(call["input"], json!({"location": "simulated blue", "days": 1}));

    let streamed = super::merged(asked, json!({"stream": true}));
    let events = events(harness.message("", streamed).await).await;
    let block = parse(&events[1].1)["content_block"].take();
    assert_eq!(
        (&block["type"], &block["name"], &block["input"]),
        (&json!("tool_use"), &json!("get_weather"), &json!({}))
    );
    let (arguments, fragments) = joined(&events, "input_json_delta", "partial_json");
    assert_eq!(parse(&arguments), call["input"]);
    let end = parse(&events[events.len() - 2].1);
    assert_eq!((&end["delta"]["stop_reason"], &end["usage"]["output_tokens"]), (&json!("tool_use"), &json!(fragments)));
}

#[tokio::test]
async fn a_tools_result_is_answered_in_words() {
    let harness = Harness::start().await;
    let messages = json!([
        {"role": "user", "content": "Please get_weather"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "50 degrees"}]},
    ]);
    let body = parse(&harness.message("", json!({"tools": tools(), "messages": messages})).await.text().await.unwrap());
    assert_eq!(body["stop_reason"], "end_turn");
    assert_eq!(body["usage"]["input_tokens"], 2 + 2 + 3 * 3);
}

#[tokio::test]
async fn a_limit_and_a_stop_sequence_end_the_message_and_say_so() {
    let harness = Harness::start().await;
    let cut = parse(&harness.message("", json!({"max_tokens": 2})).await.text().await.unwrap());
    assert_eq!((&cut["stop_reason"], &cut["content"][0]["text"]), (&json!("max_tokens"), &json!("Simulated answer,")));
    let warm = parse(&harness.message("", json!({"max_tokens": 0})).await.text().await.unwrap());
    assert_eq!((&warm["content"], &warm["usage"]["output_tokens"]), (&json!([]), &json!(0)));
    let stopped = parse(&harness.message("", json!({"stop_sequences": [" model"]})).await.text().await.unwrap());
    assert_eq!((&stopped["stop_reason"], &stopped["stop_sequence"]), (&json!("stop_sequence"), &json!(" model")));
    assert_eq!(stopped["content"][0]["text"], "Simulated answer, no");
}

#[tokio::test]
async fn counting_agrees_with_the_usage_of_the_message() {
    let harness = Harness::start().await;
    let body = json!({"model": "claude-haiku-5-5+ttft=0s", "system": [{"type": "text", "text": "Be brief."}],
                      "messages": [{"role": "user", "content": [{"type": "text", "text": "Why is the sky blue?"}]}]});
    let answer = harness.anthropic("/v1/messages/count_tokens", "2026-10-21", &body).await;
    assert_eq!(parse(&answer.text().await.unwrap()), json!({"input_tokens": 13}));
}

#[tokio::test]
async fn both_key_headers_are_taken_and_the_invalid_key_is_a_401() {
    let harness = Harness::start().await;
    let send = async |headers: &[(&str, &str)]| {
        let body = json!({"model": "claude-haiku-5-5+ttft=0s+rate=0", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]});
        let request =
            harness.request(Method::POST, "/v1/messages").header("anthropic-version", "2026-10-21").json(&body);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.send().await.unwrap()
    };
    assert_eq!(send(&[("authorization", "Bearer sk-any")]).await.status(), 200);
    assert_eq!(send(&[("x-api-key", "sk-any"), ("authorization", "Bearer sk-invalid")]).await.status(), 200);
    for headers in [&[][..], &[("x-api-key", "sk-invalid")], &[("authorization", "Bearer sk-invalid")]] {
        let answer = send(headers).await;
        assert_eq!(answer.status(), 401);
        assert_eq!(header(&answer, "x-should-retry"), Some("false"));
        let body = parse(&answer.text().await.unwrap());
        assert_eq!(keys(&body), sorted(["type", "error", "request_id"]));
        assert_eq!(keys(&body["error"]), sorted(["type", "message"]));
        assert_eq!(body["error"]["type"], "authentication_error");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_message_is_said_with_status_and_field() {
    let harness = Harness::start().await;
    let cases = [
        (json!({"model": "claude-1"}), 404, "model: claude-1"),
        (json!({"model": "gpt-6-luna"}), 404, "model: gpt-6-luna"),
        (json!({"model": null}), 400, "model: Field required"),
        (json!({"messages": null}), 400, "messages: Field required"),
        (json!({"messages": []}), 400, "at least one message"),
        (json!({"messages": [{"role": "king", "content": "x"}]}), 400, "messages.0.role"),
        (json!({"max_tokens": null}), 400, "max_tokens: Field required"),
        (json!({"max_tokens": 128_001}), 400, "max_tokens: 128001 > 128000"),
        (json!({"thinking": {"type": "enabled", "budget_tokens": 5}}), 400, "budget_tokens"),
        (json!({"thinking": {"type": "enabled", "budget_tokens": 1024}}), 400, "must be greater"),
        (json!({"tool_choice": {"type": "tool", "name": "none"}}), 400, "Tool 'none' not found"),
    ];
    for (wrong, status, message) in cases {
        let answer = harness.message("", wrong.clone()).await;
        assert_eq!(answer.status(), status, "{wrong}");
        let error = parse(&answer.text().await.unwrap())["error"].take();
        assert!(error["message"].as_str().unwrap().contains(message), "{wrong}: {error}");
    }
}

#[tokio::test]
async fn version_2026_10_21_refuses_what_2023_06_01_takes() {
    let harness = Harness::start().await;
    let cases = [
        json!({"temperature": 1.0}),
        json!({"top_p": 0.9}),
        json!({"top_k": 5}),
        json!({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": [{"type": "document"}]}]}),
        json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "citations": [{}]}]}]}),
    ];
    for more in cases {
        let body = json!({"model": "claude-haiku-5-5+ttft=0s+rate=0", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]});
        let body = super::merged(body, more.clone());
        assert_eq!(harness.anthropic("/v1/messages", "2023-06-01", &body).await.status(), 200, "{more}");
        assert_eq!(harness.anthropic("/v1/messages", "2026-10-21", &body).await.status(), 400, "{more}");
    }
    let body = json!({});
    let answer = harness.anthropic("/v1/messages", "2022-01-01", &body).await;
    assert_eq!(answer.status(), 400);
    assert!(answer.text().await.unwrap().contains("anthropic-version"));
    let unversioned = harness.request(Method::POST, "/v1/messages").bearer_auth("sk-any").json(&body).send().await;
    assert_eq!(unversioned.unwrap().status(), 400);
}

#[tokio::test]
async fn what_is_to_be_kept_is_told_as_written_into_the_cache_by_how_long_it_is_kept() {
    let harness = Harness::start().await;
    for (control, minutes, hour) in [
        (json!({"type": "ephemeral"}), 8, 0),
        (json!({"type": "ephemeral", "ttl": "5m"}), 8, 0),
        (json!({"type": "ephemeral", "ttl": "1h"}), 0, 8),
    ] {
        let content = json!([{"type": "text", "text": "Why is the sky blue?", "cache_control": control}]);
        let more = json!({"messages": [{"role": "user", "content": content}]});
        let usage = parse(&harness.message("", more).await.text().await.unwrap())["usage"].clone();
        assert_eq!((&usage["input_tokens"], &usage["cache_creation_input_tokens"]), (&json!(0), &json!(8)));
        let creation = json!({"ephemeral_5m_input_tokens": minutes, "ephemeral_1h_input_tokens": hour});
        assert_eq!(usage["cache_creation"], creation);
    }
}
