use base64::{Engine as _, prelude::BASE64_STANDARD};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Harness, events, header, keys, parse, sorted};

const CHUNK_KEYS: [&str; 7] = ["id", "object", "created", "model", "service_tier", "system_fingerprint", "choices"];
const USAGE_KEYS: [&str; 5] =
    ["prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "completion_tokens_details"];

fn weather_tools() -> Value {
    json!([{"type": "function", "function": {
        "name": "get_weather", "description": "Get the weather", "parameters": {
            "type": "object", "required": ["location"],
            "properties": {"location": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
        },
    }}])
}

#[tokio::test]
async fn a_whole_completion_has_the_recorded_keys_headers_and_a_true_count() {
    let harness = Harness::start().await;
    let answer = harness.chat("", json!({})).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(header(&answer, "content-type"), Some("application/json"));
    let recorded = [
        "openai-processing-ms",
        "openai-version",
        "openai-organization",
        "x-ratelimit-limit-requests",
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-requests",
        "x-ratelimit-reset-tokens",
        "access-control-expose-headers",
    ];
    for name in recorded {
        assert!(header(&answer, name).is_some(), "{name} is missing");
    }
    assert!(header(&answer, "x-request-id").unwrap().starts_with("req_sim"));
    let body = parse(&answer.text().await.unwrap());
    let expected = [&CHUNK_KEYS[..], &["usage"]].concat();
    assert_eq!(keys(&body), sorted::<8>(expected.try_into().unwrap()));
    let choice = &body["choices"][0];
    assert_eq!(keys(choice), sorted(["index", "message", "logprobs", "finish_reason"]));
    assert_eq!(keys(&choice["message"]), sorted(["role", "content", "refusal", "annotations"]));
    assert!(body["id"].as_str().unwrap().starts_with("chatcmpl-sim"));
    assert_eq!((&body["object"], &body["model"]), (&json!("chat.completion"), &json!("gpt-6-luna")));
    assert_eq!(body["system_fingerprint"], "fp_simulated");
    let text = choice["message"]["content"].as_str().unwrap();
    assert!(text.starts_with("Simulated answer") && text.contains("sky") && text.contains("blue"), "{text}");
    let tokens = text.split(' ').count();
    assert!((55..80).contains(&tokens), "{tokens}");
    assert_eq!(keys(&body["usage"]), sorted(USAGE_KEYS));
    // "Why is the sky blue?" and three for the message.
    assert_eq!(body["usage"]["prompt_tokens"], 8);
    assert_eq!(body["usage"]["completion_tokens"], tokens);
    assert_eq!(body["usage"]["total_tokens"], 8 + tokens);
}

#[tokio::test]
async fn the_same_prompt_gets_the_same_answer_and_another_prompt_another() {
    let harness = Harness::start().await;
    let text = async |prompt: &str| {
        let answer = harness.chat("", json!({"messages": [{"role": "user", "content": prompt}]})).await;
        parse(&answer.text().await.unwrap())["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    };
    assert_eq!(text("Why is the sky blue?").await, text("Why is the sky blue?").await);
    assert_ne!(text("Why is the sky blue?").await, text("How do fish sleep?").await);
}

#[tokio::test]
async fn a_stream_says_role_words_finish_usage_and_done_in_this_order() {
    let harness = Harness::start().await;
    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let mut events = events(harness.chat("+tokens=12", options).await).await;
    assert!(events.iter().all(|(name, _)| name.is_empty()), "OpenAI has no event lines");
    assert_eq!(events.pop().unwrap().1, "[DONE]");
    let chunks: Vec<Value> = events.iter().map(|(_, data)| parse(data)).collect();
    let expected = [&CHUNK_KEYS[..], &["usage"]].concat();
    for chunk in &chunks {
        assert_eq!(keys(chunk), sorted::<8>(expected.clone().try_into().unwrap()));
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!((&chunk["id"], &chunk["created"]), (&chunks[0]["id"], &chunks[0]["created"]));
    }
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": "", "refusal": null}));
    let words: Vec<&str> =
        chunks[1..13].iter().map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().unwrap()).collect();
    assert_eq!(words[..3], ["Simulated", " answer,", " no"]);
    for chunk in &chunks[..13] {
        assert_eq!(keys(&chunk["choices"][0]), sorted(["index", "delta", "logprobs", "finish_reason"]));
        assert!(chunk["choices"][0]["finish_reason"].is_null() && chunk["usage"].is_null());
    }
    assert_eq!(chunks[13]["choices"], json!([{"index": 0, "delta": {}, "logprobs": null, "finish_reason": "stop"}]));
    assert_eq!(chunks[14]["choices"], json!([]));
    assert_eq!(keys(&chunks[14]["usage"]), sorted(USAGE_KEYS));
    assert_eq!(chunks[14]["usage"]["completion_tokens"], 12);
    assert_eq!(chunks.len(), 15);
}

#[tokio::test]
async fn a_stream_says_nothing_of_usage_unless_it_is_asked_to() {
    let harness = Harness::start().await;
    let events = events(harness.chat("", json!({"stream": true})).await).await;
    assert!(events.iter().all(|(_, data)| !data.contains("\"usage\"")));
}

#[tokio::test]
async fn a_stream_and_a_whole_completion_say_the_same() {
    let harness = Harness::start().await;
    let whole = parse(&harness.chat("", json!({})).await.text().await.unwrap());
    let events = events(harness.chat("", json!({"stream": true})).await).await;
    let words = events.iter().filter(|(_, data)| data != "[DONE]").map(|(_, data)| parse(data));
    let streamed: String =
        words.filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect();
    assert_eq!(whole["choices"][0]["message"]["content"], streamed);
}

#[tokio::test]
async fn words_that_json_escapes_arrive_unharmed() {
    let harness = Harness::start().await;
    let prompt = json!({"stream": true, "messages": [{"role": "user", "content": "Übermäßig 氷の世界"}]});
    let text = harness.chat("", prompt).await.text().await.unwrap();
    let data = text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap());
    let chunks = data.filter(|data| *data != "[DONE]").map(parse);
    let answer: String =
        chunks.filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect();
    assert!(answer.contains("übermäßig") && answer.contains("氷の世界"), "{answer}");
}

#[tokio::test]
async fn an_answer_over_max_tokens_is_cut_and_says_length() {
    let harness = Harness::start().await;
    for limit in [json!({"max_tokens": 5}), json!({"max_completion_tokens": 5})] {
        let body = parse(&harness.chat("", limit).await.text().await.unwrap());
        assert_eq!(body["choices"][0]["message"]["content"], "Simulated answer, no model was");
        assert_eq!(body["choices"][0]["finish_reason"], "length");
        assert_eq!(body["usage"]["completion_tokens"], 5);
    }
}

#[tokio::test]
async fn an_answer_ends_before_a_stop_sequence() {
    let harness = Harness::start().await;
    for stop in [json!(" was"), json!(["not there", " was"])] {
        let body = parse(&harness.chat("", json!({"stop": stop})).await.text().await.unwrap());
        assert_eq!(body["choices"][0]["message"]["content"], "Simulated answer, no model");
        assert_eq!(body["choices"][0]["finish_reason"], "stop");
    }
}

#[tokio::test]
async fn a_tool_that_the_prompt_names_is_called_with_arguments_that_fit_its_schema() {
    let harness = Harness::start().await;
    let asked =
        json!({"tools": weather_tools(), "messages": [{"role": "user", "content": "Please get weather for Paris"}]});
    let body = parse(&harness.chat("", asked).await.text().await.unwrap());
    let choice = &body["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], Value::Null);
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(keys(call), sorted(["id", "type", "function"]));
    assert_eq!(call["function"]["name"], "get_weather");
    let arguments = parse(call["function"]["arguments"].as_str().unwrap());
    assert_eq!(arguments, json!({"location": "simulated paris", "unit": "celsius"}));
}

#[tokio::test]
async fn tool_choice_decides_over_the_prompt() {
    let harness = Harness::start().await;
    let finish = async |choice: Value| {
        let asked = json!({"tools": weather_tools(), "tool_choice": choice});
        let body = parse(&harness.chat("", asked).await.text().await.unwrap());
        body["choices"][0]["finish_reason"].as_str().unwrap().to_owned()
    };
    assert_eq!(finish(json!("auto")).await, "stop");
    assert_eq!(finish(json!("none")).await, "stop");
    assert_eq!(finish(json!("required")).await, "tool_calls");
    assert_eq!(finish(json!({"type": "function", "function": {"name": "get_weather"}})).await, "tool_calls");
}

#[tokio::test]
async fn a_tools_result_is_answered_in_words() {
    let harness = Harness::start().await;
    let messages = json!([
        {"role": "user", "content": "Please get_weather"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "50 degrees"},
    ]);
    let body =
        parse(&harness.chat("", json!({"tools": weather_tools(), "messages": messages})).await.text().await.unwrap());
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["usage"]["prompt_tokens"], 2 + 2 + 3 * 3);
}

#[tokio::test]
async fn streamed_tool_calls_give_id_and_name_once_and_the_arguments_in_fragments() {
    let harness = Harness::start().await;
    let tool = |name: &str| {
        json!({"type": "function", "function": {"name": name, "parameters": {
        "type": "object", "properties": {"place": {"type": "string"}}}}})
    };
    let asked = json!({
        "stream": true, "stream_options": {"include_usage": true}, "tools": [tool("look_up"), tool("dig")],
        "messages": [{"role": "user", "content": "look up and dig here"}],
    });
    let mut events = events(harness.chat("", asked).await).await;
    events.pop();
    let chunks: Vec<Value> = events.iter().map(|(_, data)| parse(data)).collect();
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": null, "refusal": null}));
    let mut calls = vec![(String::new(), String::new()); 2];
    let mut fragments = 0;
    for chunk in &chunks[1..] {
        let Some(call) = chunk["choices"][0]["delta"]["tool_calls"].get(0) else { continue };
        let index = usize::try_from(call["index"].as_u64().unwrap()).unwrap();
        if let Some(id) = call["id"].as_str() {
            assert_eq!(keys(call), sorted(["index", "id", "type", "function"]));
            assert_eq!(call["function"]["arguments"], "");
            assert!(id.starts_with("call_sim") && calls[index].0.is_empty());
            calls[index].0 = call["function"]["name"].as_str().unwrap().to_owned();
        } else {
            assert_eq!(keys(call), sorted(["index", "function"]));
            calls[index].1 += call["function"]["arguments"].as_str().unwrap();
            fragments += 1;
        }
    }
    assert_eq!((calls[0].0.as_str(), calls[1].0.as_str()), ("look_up", "dig"));
    assert_eq!(parse(&calls[1].1), json!({"place": "simulated here"}));
    assert_eq!(chunks[chunks.len() - 2]["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(chunks[chunks.len() - 1]["usage"]["completion_tokens"], fragments);
}

#[tokio::test]
async fn a_missing_key_and_the_invalid_one_are_401_with_all_four_keys_of_the_envelope() {
    let harness = Harness::start().await;
    let send = async |key: Option<&str>| {
        let request = harness.request(Method::POST, "/v1/chat/completions").json(&json!({}));
        match key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
        .send()
        .await
        .unwrap()
    };
    for (key, code) in [(None, Value::Null), (Some(""), Value::Null), (Some("sk-invalid"), json!("invalid_api_key"))] {
        let answer = send(key).await;
        assert_eq!(answer.status(), 401);
        assert_eq!(header(&answer, "www-authenticate"), Some("Bearer realm=\"OpenAI API\""));
        assert_eq!(header(&answer, "content-type"), Some("application/json; charset=utf-8"));
        let error = parse(&answer.text().await.unwrap())["error"].take();
        assert_eq!(keys(&error), sorted(["message", "type", "param", "code"]));
        assert_eq!((&error["type"], &error["code"]), (&json!("invalid_request_error"), &code));
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_chat_is_said_with_status_code_and_param() {
    let harness = Harness::start().await;
    let cases = [
        (json!({"model": "gpt-9"}), 404, json!("model_not_found"), Value::Null),
        (json!({"model": "claude-opus-5-5"}), 404, json!("model_not_found"), Value::Null),
        (json!({"model": "text-embedding-3-small"}), 404, Value::Null, json!("model")),
        (json!({"model": null}), 400, Value::Null, Value::Null),
        (json!({"messages": null}), 400, json!("missing_required_parameter"), json!("messages")),
        (json!({"messages": []}), 400, json!("empty_array"), json!("messages")),
        (json!({"messages": [{"role": "king", "content": "x"}]}), 400, json!("invalid_value"), json!("messages")),
        (json!({"messages": "hello"}), 400, Value::Null, Value::Null),
        (json!({"temperature": 2.5}), 400, json!("decimal_above_max_value"), json!("temperature")),
        (json!({"max_tokens": 0}), 400, json!("integer_below_min_value"), json!("max_tokens")),
        (json!({"stop": ["a", "b", "c", "d", "e"]}), 400, json!("array_above_max_length"), json!("stop")),
        (json!({"stream_options": {"include_usage": true}}), 400, Value::Null, json!("stream_options")),
        (json!({"tool_choice": "required"}), 400, Value::Null, json!("tool_choice")),
        (json!({"n": 2}), 400, json!("unsupported_value"), json!("n")),
    ];
    for (wrong, status, code, param) in cases {
        let answer = harness.chat("", wrong.clone()).await;
        assert_eq!(answer.status(), status, "{wrong}");
        let error = parse(&answer.text().await.unwrap())["error"].take();
        assert_eq!((&error["code"], &error["param"]), (&code, &param), "{wrong}: {error}");
    }
    let long = json!({"messages": [{"role": "user", "content": "word ".repeat(922_000)}]});
    let answer = harness.chat("", long).await;
    assert_eq!(answer.status(), 400);
    assert_eq!(parse(&answer.text().await.unwrap())["error"]["code"], "context_length_exceeded");
}

#[tokio::test]
async fn an_error_of_a_streamed_chat_is_plain_json_with_its_status() {
    let harness = Harness::start().await;
    let answer = harness.chat("", json!({"stream": true, "model": "gpt-9"})).await;
    assert_eq!(answer.status(), 404);
    assert_eq!(header(&answer, "content-type"), Some("application/json; charset=utf-8"));
}

#[tokio::test]
async fn embeddings_are_unit_vectors_that_depend_on_the_text_alone() {
    let harness = Harness::start().await;
    let embed = async |more: Value| {
        let body =
            super::merged(json!({"model": "text-embedding-3-small+ttft=0s", "input": ["one two", "three"]}), more);
        parse(&harness.openai("/v1/embeddings", &body).await.text().await.unwrap())
    };
    let body = embed(json!({})).await;
    assert_eq!(keys(&body), sorted(["object", "data", "model", "usage"]));
    assert_eq!(keys(&body["data"][1]), sorted(["object", "index", "embedding"]));
    assert_eq!(body["usage"], json!({"prompt_tokens": 3, "total_tokens": 3}));
    let vector: Vec<f32> = serde_json::from_value(body["data"][1]["embedding"].clone()).unwrap();
    assert_eq!(vector.len(), 1536);
    let length: f64 = vector.iter().map(|x| f64::from(*x).powi(2)).sum();
    assert!((length - 1.0).abs() < 1e-5, "{length}");
    assert_ne!(body["data"][0]["embedding"], body["data"][1]["embedding"]);

    let encoded = embed(json!({"encoding_format": "base64"})).await;
    let bytes = BASE64_STANDARD.decode(encoded["data"][1]["embedding"].as_str().unwrap()).unwrap();
    let decoded: Vec<f32> = bytes.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect();
    assert_eq!(decoded, vector);

    let short = embed(json!({"dimensions": 7, "input": "three"})).await;
    assert_eq!(short["data"][0]["embedding"].as_array().unwrap().len(), 7);
    let tokens = embed(json!({"input": [[1, 2, 3], [4]]})).await;
    assert_eq!(tokens["usage"]["prompt_tokens"], 4);
}

#[tokio::test]
async fn what_is_wrong_with_an_embedding_is_said_with_its_status() {
    let harness = Harness::start().await;
    let cases = [
        (json!({"model": "nonexistent"}), 404),
        (json!({"model": "gpt-6-luna"}), 403),
        (json!({"input": null}), 400),
        (json!({"input": []}), 400),
        (json!({"input": ""}), 400),
        (json!({"dimensions": 0}), 400),
        (json!({"dimensions": 1537}), 400),
        (json!({"encoding_format": "hex"}), 400),
    ];
    for (wrong, status) in cases {
        let body = super::merged(json!({"model": "text-embedding-3-small+ttft=0s", "input": "x"}), wrong.clone());
        let answer = harness.openai("/v1/embeddings", &body).await;
        assert_eq!(answer.status(), status, "{wrong}");
    }
}

#[tokio::test]
async fn hidden_reasoning_is_counted_within_the_limit_and_shown_thinking_comes_before_the_text() {
    let harness = Harness::start().await;
    let usage = async |knobs: &str, limit: u32| {
        let answer = harness.chat(knobs, json!({"max_completion_tokens": limit})).await;
        let body = parse(&answer.text().await.unwrap());
        let (choice, usage) = (&body["choices"][0], &body["usage"]);
        let words = choice["message"]["content"].as_str().unwrap().split_whitespace().count();
        let reasoning = usage["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap();
        (words, usage["completion_tokens"].as_u64().unwrap(), reasoning, choice["finish_reason"].clone())
    };
    assert_eq!(usage("+tokens=10+hidden=30", 100).await, (10, 40, 30, json!("stop")));
    assert_eq!(usage("+tokens=10+hidden=30", 35).await, (5, 35, 30, json!("length")));
    assert_eq!(usage("+tokens=10+hidden=30", 20).await, (0, 20, 20, json!("length")));
    assert_eq!(usage("+tokens=50+cap=ignored", 20).await, (50, 50, 0, json!("stop")));

    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let events = events(harness.chat("+tokens=3+thinking=shown", options).await).await;
    let chunks: Vec<Value> = events.iter().filter(|(_, data)| data != "[DONE]").map(|(_, data)| parse(data)).collect();
    let deltas = chunks.iter().map(|chunk| chunk["choices"][0]["delta"].clone());
    let kinds: Vec<&str> = deltas
        .filter_map(|delta| {
            ["reasoning_content", "content"]
                .into_iter()
                .find(|name| delta[name].as_str().is_some_and(|text| !text.is_empty()))
        })
        .collect();
    let thought = kinds.iter().filter(|kind| **kind == "reasoning_content").count();
    assert!(thought > 5 && kinds[thought..] == ["content"; 3], "{kinds:?}");
    let usage = &chunks.last().unwrap()["usage"];
    assert_eq!(usage["completion_tokens"], thought + 3);
    assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], thought);
}
