//! What an answer looks like.

use aihub_infrastructure::simulated_providers::served::Outcome;
use aihub_tests::{
    app::TestApp,
    client::{Answer, chat, with},
};
use base64::{Engine, engine::general_purpose::STANDARD};
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
async fn an_embedding_of_many_inputs_arrives_in_one_message_where_that_is_asked_for() {
    let app = TestApp::start(|_| ()).await;
    let mut client = app.connect("ann").await;
    // As text, about eight megabytes.
    let inputs: Vec<_> = (0..200).map(|nth| format!("text {nth}")).collect();
    let request = json!({ "id": "e", "type": "embedding", "model": "text-embedding-3-large", "input": inputs });
    let vectors = client.ask(&with(request, &json!({ "stream": false }))).await.end;
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

#[tokio::test]
async fn what_goes_beyond_the_longest_answer_is_not_given_and_what_was_paid_for_is_whole_or_in_pieces() {
    let app = TestApp::start(|config| config.gateway.max_answer_bytes = 2_000).await;
    app.providers.rule(json!({ "model": "gpt-6-luna", "output_tokens": 5_000 }));
    for stream in [true, false] {
        let user = format!("ann-{stream}");
        let mut client = app.connect(&user).await;
        assert_eq!(client.ready["limits"]["maxAnswerBytes"], 2_000);
        let long = json!({ "maxTokens": 5_000, "stream": stream });
        let answer = client.ask(&with(chat("a", "Go on"), &long)).await;
        let told = |answer: &Answer| answer.end["data"].as_str().map_or_else(|| answer.text(), str::to_owned);
        let text = told(&answer);
        assert_eq!(answer.end["metadata"]["finishReason"], "answer_too_long", "{}", answer.end);
        assert!((1_990..=2_000).contains(&text.len()), "{} bytes", text.len());
        assert!(answer.end["usage"]["credits"].as_f64() > Some(0.0), "{}", answer.end);
        let audit = app.audit().await;
        assert_eq!((audit.accounts[&user].held(), audit.accounts[&user].spent > 0), (0, true));
        // And it can be asked for again.
        client.send(&json!({ "type": "resume", "id": "a", "requestId": answer.request_id(), "after": 0 })).await;
        assert_eq!(told(&client.answer_after("a", 0).await), text);
    }
    app.stop().await;
}

#[tokio::test]
async fn an_answer_can_be_fetched_again_over_http_by_whom_it_is_for_while_it_is_made_and_afterwards() {
    let app = TestApp::start(|_| ()).await;
    let fetch = async |user: &str, request_id: &str| {
        app.get(&format!("/api/requests/{request_id}/answer"), Some(&app.token(user))).await
    };
    let mut client = app.connect("ann").await;
    let streamed = client.ask(&chat("a", "Why is the sky blue?")).await;
    let (status, headers, again) = fetch("ann", streamed.request_id()).await;
    assert_eq!((status.as_u16(), &headers["content-type"]), (200, &"application/json".parse().unwrap()));
    assert_eq!((&again["type"], &again["data"]), (&json!("completion"), &json!(streamed.text())));
    assert_eq!((&again["usage"], &again["metadata"]), (&streamed.done()["usage"], &streamed.end["metadata"]));
    // One that is still being made.
    app.providers.rule(json!({ "model": "gpt-6-luna", "tokens_per_second": 50, "output_tokens": 50 }));
    client.send(&chat("b", "Why is the sky blue?")).await;
    let first = client.next_of("b").await;
    let id = first["requestId"].as_str().unwrap();
    let (fetched, whole) = tokio::join!(fetch("ann", id), client.answer_after("b", 1));
    assert_eq!(fetched.2["data"], json!(first["data"].as_str().unwrap().to_owned() + &whole.text()));
    // Of large vectors, too; and nobody else's.
    let inputs: Vec<String> = (0..300).map(|nth| format!("text {nth}")).collect();
    let embedding = client.ask(&json!({ "id": "c", "type": "embedding", "input": inputs, "stream": false })).await;
    let (_, _, again) = fetch("ann", embedding.request_id()).await;
    assert_eq!((again["data"].as_array().unwrap().len(), &again["data"]), (300, &embedding.end["data"]));
    let (status, _, refused) = fetch("eve", embedding.request_id()).await;
    assert_eq!((status.as_u16(), &refused["code"]), (403, &json!("FORBIDDEN")));
    let (status, _, unknown) = fetch("ann", "no-such-request").await;
    assert_eq!((status.as_u16(), &unknown["code"]), (404, &json!("NOT_FOUND")), "{unknown}");
    app.stop().await;
}

#[tokio::test]
async fn an_embedding_comes_in_half_the_bytes_where_that_is_asked_for() {
    let app = TestApp::start(|_| ()).await;
    let mut client = app.connect("ann").await;
    let ask = |encoding: &str| json!({ "id": "a", "type": "embedding", "input": ["one", "two"], "encoding": encoding });
    let numbers = client.ask(&ask("float")).await.end["data"].clone();
    let short = client.ask(&ask("base64")).await.end["data"].clone();
    let numbers: Vec<Vec<f32>> = serde_json::from_value(numbers).unwrap();
    let read = |text: &Value| -> Vec<f32> {
        let bytes = STANDARD.decode(text.as_str().unwrap()).unwrap();
        bytes.as_chunks().0.iter().map(|number| f32::from_le_bytes(*number)).collect()
    };
    assert_eq!(short.as_array().unwrap().iter().map(read).collect::<Vec<_>>(), numbers);
    let refused = client.ask(&ask("hex")).await;
    let fault = &refused.error("VALIDATION_ERROR")["details"]["fields"][0];
    assert_eq!(fault, &json!({ "field": "encoding", "reason": "must be `float` or `base64`, and is `hex`" }));
    client.ask(&with(chat("a", "hello"), &json!({ "encoding": "float" }))).await.error("VALIDATION_ERROR");
    app.stop().await;
}
