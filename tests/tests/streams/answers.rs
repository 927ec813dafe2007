//! What an answer looks like.

use aihub_infrastructure::simulated_providers::served::Outcome;
use aihub_tests::{
    app::TestApp,
    client::{chat, with},
};
use serde_json::{Value, json};

#[tokio::test]
async fn a_stream_is_passed_on_piece_by_piece_and_charged_by_its_tokens() {
    let app = TestApp::start(|_| ()).await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "output_tokens": 40 }));
    let mut client = app.connect("ann").await;
    assert_eq!(client.ready["credits"], 1_000.0);
    let answer = client.ask(&chat("a", "Why is the sky blue?")).await;
    assert_eq!(answer.chunks.len(), 40);
    assert!(answer.text().starts_with("Simulated answer"), "{}", answer.text());
    let call = app.providers.ended(Outcome::Completed).await;
    let done = answer.done();
    assert_eq!(done["usage"]["promptTokens"], call.input_tokens);
    assert_eq!(done["usage"]["completionTokens"], 40);
    assert_eq!(done["usage"]["totalTokens"], call.input_tokens + 40);
    // 0.1 and 0.5 dollars a million tokens, 1,000 credits a dollar.
    assert_eq!(answer.charged(), i64::from(call.input_tokens * 100 + 40 * 500));
    let metadata = &done["metadata"];
    assert_eq!((&metadata["provider"], &metadata["model"]), (&json!("openai"), &json!("gpt-6-luna")));
    assert_eq!((&metadata["finishReason"], &metadata["estimated"]), (&json!("stop"), &json!(false)));
    assert_eq!(metadata["attempts"], 1);
    assert!(metadata["firstChunkMs"].as_u64() <= metadata["latency"].as_u64(), "{metadata}");
    assert_eq!(call.client_request_id.as_deref(), Some(answer.request_id()));
    let audit = app.audit().await;
    assert_eq!(audit.accounts["ann"].spent, answer.charged());
    app.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_not_streamed_comes_whole_and_is_the_same() {
    let app = TestApp::start(|_| ()).await;
    let mut client = app.connect("ann").await;
    for (kind, provider, model) in [("chat", "openai", "gpt-6-luna"), ("completion", "claude", "claude-haiku-5-5")] {
        let request =
            with(chat("a", "What is a ledger?"), &json!({ "type": kind, "provider": provider, "model": model }));
        let streamed = client.ask(&request).await;
        let whole = client.ask(&with(request, &json!({ "stream": false }))).await;
        assert!(whole.chunks.is_empty());
        assert_eq!((&whole.end["type"], &whole.end["data"]), (&json!("completion"), &json!(streamed.text())));
        for answer in [&whole, &streamed] {
            assert_eq!(answer.end["metadata"]["kind"], kind);
        }
        assert_eq!(whole.end["usage"], streamed.done()["usage"]);
        assert_eq!(whole.end["metadata"]["provider"], provider);
    }
    app.stop().await;
}

#[tokio::test]
async fn many_requests_on_one_socket_interleave_and_each_is_whole() {
    const REQUESTS: usize = 40;
    let app = TestApp::start(|_| ()).await;
    let mut client = app.connect("ann").await;
    let prompt = |nth: usize| format!("Tell me about number{nth}.");
    let mut alone = Vec::new();
    for nth in 0..REQUESTS {
        alone.push(client.ask(&chat("alone", &prompt(nth))).await.text());
    }
    app.providers.rule(json!({ "tokens_per_second": 200, "ttft_ms": 0 }));
    for nth in 0..REQUESTS {
        client.send(&chat(&nth.to_string(), &prompt(nth))).await;
    }
    let mut together = vec![String::new(); REQUESTS];
    let (mut running, mut turns, mut last) = (REQUESTS, 0, Value::Null);
    while running > 0 {
        let frame = client.next().await;
        turns += usize::from(frame["id"] != last);
        last = frame["id"].clone();
        match frame["type"].as_str().unwrap() {
            "chunk" => {
                let nth: usize = frame["id"].as_str().unwrap().parse().unwrap();
                together[nth].push_str(frame["data"].as_str().unwrap());
            }
            "done" => running -= 1,
            _ => panic!("{frame}"),
        }
    }
    assert_eq!(together, alone);
    assert!(turns > REQUESTS * 5, "one after another: {turns} turns");
    app.stop().await;
}

#[tokio::test]
async fn an_embedding_has_a_vector_for_each_input_in_their_order() {
    let app = TestApp::start(|_| ()).await;
    let mut client = app.connect("ann").await;
    let embed =
        |input: Value| json!({ "id": "e", "type": "embedding", "model": "text-embedding-3-small", "input": input });
    let both = client.ask(&embed(json!(["one text", "and another text"]))).await.end;
    assert_eq!((&both["type"], &both["metadata"]["kind"]), (&json!("completion"), &json!("embedding")), "{both}");
    let second = client.ask(&embed(json!("and another text"))).await.end;
    assert_eq!(both["data"].as_array().unwrap().len(), 2);
    assert_eq!(both["data"][0].as_array().unwrap().len(), 1536);
    assert_eq!(both["data"][1], second["data"][0]);
    assert_eq!((&both["usage"]["promptTokens"], &both["usage"]["completionTokens"]), (&json!(5), &json!(0)));
    // 0.02 dollars a million tokens, 1,000 credits a dollar.
    assert_eq!(both["usage"]["credits"], 0.0001);
    let audit = app.audit().await;
    assert_eq!(audit.accounts["ann"].spent, 160);
    app.stop().await;
}

#[tokio::test]
async fn an_embedding_of_many_inputs_arrives_whole() {
    let app = TestApp::start(|_| ()).await;
    let mut client = app.connect("ann").await;
    // As text, about eight megabytes.
    let inputs: Vec<_> = (0..200).map(|nth| format!("text {nth}")).collect();
    let request = json!({ "id": "e", "type": "embedding", "model": "text-embedding-3-large", "input": inputs });
    let vectors = client.ask(&request).await.end;
    assert_eq!(vectors["data"].as_array().unwrap().len(), 200, "{:.300}", vectors.to_string());
    client.ask(&chat("a", "Why is the sky blue?")).await.done();
    app.stop().await;
}

#[tokio::test]
async fn tool_calls_are_streamed_from_both_providers_in_one_form() {
    let app = TestApp::start(|_| ()).await;
    let mut client = app.connect("ann").await;
    let parameters = json!({ "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] });
    let function = json!({ "name": "get_weather", "description": "The weather now.", "parameters": parameters });
    for (provider, model) in [("openai", "gpt-6-luna"), ("claude", "claude-haiku-5-5")] {
        let more = json!({
            "provider": provider, "model": model,
            "tools": [{ "type": "function", "function": function }], "toolChoice": "required",
        });
        let request = with(chat("a", "Use get_weather for Rotterdam"), &more);
        let streamed = client.ask(&request).await;
        assert_eq!(streamed.done()["metadata"]["finishReason"], "tool_calls");
        let first = &streamed.tool_calls[0];
        assert_eq!((&first["index"], &first["name"]), (&json!(0), &json!("get_weather")), "{provider}");
        assert!(first["id"].as_str().is_some_and(|id| !id.is_empty()));
        assert!(streamed.tool_calls.len() > 1, "not streamed: {:?}", streamed.tool_calls);
        let arguments = |fragment: &Value| fragment["arguments"].as_str().unwrap().to_owned();
        let joined: String = streamed.tool_calls.iter().map(arguments).collect();
        let joined: Value = serde_json::from_str(&joined).unwrap();
        assert!(joined["city"].is_string(), "{provider}: {joined}");
        let whole = client.ask(&with(request, &json!({ "stream": false }))).await.end;
        assert_eq!(serde_json::from_str::<Value>(&arguments(&whole["toolCalls"][0])).unwrap(), joined);
        assert_eq!(whole["metadata"]["finishReason"], "tool_calls");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_second_request_under_the_id_of_a_running_one_is_refused_and_the_first_goes_on() {
    let app = TestApp::start(|_| ()).await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "hang_after_tokens": 2 }));
    let mut client = app.connect("ann").await;
    client.send(&chat("a", "first")).await;
    let first = client.chunks("a", 2).await;
    assert_eq!(first.len(), 2);
    let second = client.ask(&with(chat("a", "second"), &json!({ "model": "gpt-6-astra" }))).await;
    second.error("DUPLICATE_REQUEST");
    client.send(&json!({ "type": "cancel", "id": "a" })).await;
    assert_eq!(client.answer_after("a", 2).await.done()["metadata"]["finishReason"], "cancelled");
    // Ended ids are free again.
    app.providers.rule(json!({ "model": "gpt-6-luna" }));
    client.ask(&chat("a", "third")).await.done();
    assert_eq!(app.audit().await.requests.len(), 2);
    app.stop().await;
}
