//! Both adapters with their real HTTP client against a real server that answers with recorded traffic.

use std::{collections::HashSet, sync::Arc, time::Duration};

use aihub_application::ports::provider::{
    Delta, EmbedCall, FailureKind, GenerateCall, Provider, ProviderError, Reached,
};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::task::TaskTracker;

use super::{
    anthropic::{AnthropicProvider, AnthropicVersion, event::MessageDecoder},
    http::{ApiKey, ProviderHttp},
    openai::{MaxTokensField, OpenAiOptions, OpenAiProvider, chunk::ChatDecoder},
};
use replay::{End, Recorded, Server, call, collect, generate, json_file, recorded, recorded_lines, script, script_of};

mod contract;
mod fuzz;
pub(crate) mod replay;

fn openai(settings: &ProviderHttp) -> OpenAiProvider {
    OpenAiProvider::new(settings, OpenAiOptions::default()).unwrap()
}

fn anthropic(settings: &ProviderHttp) -> AnthropicProvider {
    AnthropicProvider::new(settings, AnthropicVersion::default()).unwrap()
}

async fn failure(provider: &impl Provider, stream: bool) -> ProviderError {
    collect(provider.generate(call(stream)).await).await.unwrap_err()
}

#[tokio::test]
async fn recorded_answers_mean_the_same_over_http() {
    for path in
        ["openai/chat-stream-include-usage", "openai/chat-stream-parallel-tools", "local/llamacpp-chat-stream-usage"]
    {
        let (_, answer) = recorded(&format!("{path}.json")).remove(0);
        let server = Server::one(answer.clone()).await;
        let deltas = openai(&server.settings()).generate(call(true)).await.unwrap().collect::<Vec<_>>().await;
        assert_eq!(script(&deltas), script_of(ChatDecoder::default(), &answer.body).await, "{path}");
    }
    for path in ["stream-text", "stream-tools", "stream-thinking"] {
        let (_, answer) = recorded(&format!("anthropic/messages-{path}.json")).remove(0);
        let server = Server::one(answer.clone()).await;
        let deltas = anthropic(&server.settings()).generate(call(true)).await.unwrap().collect::<Vec<_>>().await;
        assert_eq!(script(&deltas), script_of(MessageDecoder::default(), &answer.body).await, "{path}");
    }
    let long = Recorded::stream(recorded_lines("openai/chat-text.chunks.txt"));
    let server = Server::one(long.clone()).await;
    let deltas = openai(&server.settings()).generate(call(true)).await.unwrap().collect::<Vec<_>>().await;
    assert_eq!(script(&deltas), script_of(ChatDecoder::default(), &long.body).await);
}

fn assert_is_whole(what: &str, deltas: &[Delta]) {
    assert!(matches!(deltas, [Delta::Model(_), .., Delta::Finish { .. }]), "{what}: {deltas:?}");
    assert!(deltas.iter().any(|delta| matches!(delta, Delta::Usage(_))), "{what}: {deltas:?}");
}

#[tokio::test]
async fn answers_in_one_piece_give_the_same_kinds_of_deltas() {
    for path in
        ["openai/chat-basic", "openai/chat-tool-calls", "local/llamacpp-chat", "local/ollama-qwen3-parallel-tools"]
    {
        for (_, answer) in recorded(&format!("{path}.json")) {
            let server = Server::one(answer).await;
            let deltas = collect(openai(&server.settings()).generate(call(false)).await).await.unwrap();
            assert_is_whole(path, &deltas);
        }
    }
    for (_, answer) in recorded("anthropic/messages-parallel-tools.json") {
        let server = Server::one(answer).await;
        let deltas = collect(anthropic(&server.settings()).generate(call(false)).await).await.unwrap();
        assert_is_whole("parallel tools", &deltas);
    }
}

#[tokio::test]
async fn an_answer_is_what_it_says_it_is_and_not_what_was_asked_for() {
    let (_, body) = recorded("openai/chat-basic.json").remove(0);
    let (_, stream) = recorded("openai/chat-stream-include-usage.json").remove(0);
    let server = Server::start(vec![(body, End::Close), (stream, End::Close)]).await;
    let provider = openai(&server.settings());
    assert_eq!(collect(provider.generate(call(true)).await).await.unwrap().len(), 4);
    assert_eq!(collect(provider.generate(call(false)).await).await.unwrap().len(), 8);
}

#[tokio::test]
async fn what_is_left_of_the_context_is_no_limit_that_the_server_is_sent_but_anthropic_wants_one() {
    let (_, answer) = recorded("openai/chat-basic.json").remove(0);
    let mut server = Server::start(vec![(answer.clone(), End::Close), (answer, End::Close)]).await;
    let call = GenerateCall { is_capped_by_context: true, ..call(true) };
    drop(openai(&server.settings()).generate(call.clone()).await.unwrap());
    let seen = server.seen().await.body;
    assert!(seen.get("max_completion_tokens").is_none() && seen.get("max_tokens").is_none(), "{seen}");
    drop(anthropic(&server.settings()).generate(call).await.unwrap());
    assert_eq!(server.seen().await.body["max_tokens"], 100);
}

#[tokio::test]
async fn openai_is_sent_the_prompt_as_it_is() {
    let (_, answer) = recorded("openai/chat-basic.json").remove(0);
    let mut server = Server::start(vec![(answer.clone(), End::Close), (answer, End::Close)]).await;
    let tools = json!([{ "type": "function", "function": { "name": "f", "parameters": {}, "strict": true } }]);
    let tool_call = json!({ "id": "c1", "type": "function", "function": { "name": "f", "arguments": "{}" } });
    let picture = json!({ "type": "image_url", "image_url": { "url": "https://a/b.png", "detail": "low" } });
    let parts = json!([picture, { "type": "text", "text": "" }]);
    let kept = json!([picture, { "type": "text", "text": "", "cache_control": { "type": "ephemeral" } }]);
    let said = json!({
        "system": "Be brief.",
        "messages": [
            { "role": "user", "content": kept, "name": "Ann" },
            { "role": "assistant", "toolCalls": [tool_call] },
            { "role": "tool", "toolCallId": "c1", "content": "1" },
        ],
        "temperature": 0.5, "topP": 0.9, "stop": ["END"], "tools": tools, "toolChoice": "required", "user": "u-1",
    });
    let prompt = generate(replay::prompt(said), true);
    let mut expected = json!({
        "model": "some-model", "max_completion_tokens": 100, "stream": true, "stream_options": { "include_usage": true },
        "messages": [
            { "role": "system", "content": "Be brief." },
            { "role": "user", "content": parts, "name": "Ann" },
            { "role": "assistant", "tool_calls": [tool_call] },
            { "role": "tool", "tool_call_id": "c1", "content": "1" },
        ],
        "temperature": 0.5, "top_p": 0.9, "stop": ["END"], "tools": tools, "tool_choice": "required", "user": "u-1",
    });
    drop(openai(&server.settings()).generate(prompt.clone()).await.unwrap());
    let seen = server.seen().await;
    assert_eq!((seen.path.as_str(), &seen.body), ("/chat/completions", &expected));

    let options =
        OpenAiOptions { max_tokens_field: MaxTokensField::MaxTokens, include_usage: false, ..OpenAiOptions::default() };
    drop(OpenAiProvider::new(&server.settings(), options).unwrap().generate(prompt).await.unwrap());
    let fields = expected.as_object_mut().unwrap();
    fields.remove("stream_options");
    let limit = fields.remove("max_completion_tokens").unwrap();
    fields.insert("max_tokens".into(), limit);
    assert_eq!(server.seen().await.body, expected);
}

#[tokio::test]
async fn each_provider_gets_its_headers() {
    let (_, answer) = recorded("openai/chat-basic.json").remove(0);
    let mut server = Server::start(vec![(answer, End::Close); 3]).await;
    let mut settings = server.settings();
    settings.base_url.push('/');
    settings.extra_headers.0.insert("OpenAI-Project".into(), "p-1".into());
    let header =
        |seen: &replay::Seen, name: &str| seen.headers.get(name).map(|value| value.to_str().unwrap().to_owned());

    drop(openai(&settings).generate(call(true)).await.unwrap());
    let seen = server.seen().await;
    assert_eq!(header(&seen, "authorization").as_deref(), Some("Bearer sk-test"));
    assert_eq!(header(&seen, "x-client-request-id").as_deref(), Some("0190-request"));
    assert_eq!(header(&seen, "openai-project").as_deref(), Some("p-1"));
    assert_eq!(header(&seen, "content-type").as_deref(), Some("application/json"));
    assert!(header(&seen, "user-agent").unwrap().starts_with("aihub/"));

    settings.base_url.push_str("v1/");
    let provider = AnthropicProvider::new(&settings, AnthropicVersion::V2026_10_21).unwrap();
    drop(provider.generate(call(true)).await.unwrap());
    let seen = server.seen().await;
    assert_eq!(seen.path, "/v1/messages");
    assert_eq!(header(&seen, "anthropic-version").as_deref(), Some("2026-10-21"));
    assert_eq!((header(&seen, "x-api-key").as_deref(), header(&seen, "authorization")), (Some("sk-test"), None));

    settings.api_key = None;
    drop(openai(&settings).generate(call(true)).await.unwrap());
    assert_eq!(header(&server.seen().await, "authorization"), None);
}

#[tokio::test]
async fn embeddings_are_asked_for_in_base64_and_come_in_order() {
    let (_, answer) = recorded("local/llamacpp-embeddings.json").remove(0);
    let mut server = Server::one(answer).await;
    let inputs = Arc::new(vec!["a cat".to_owned(), "a dog".to_owned()]);
    let call = EmbedCall {
        request_id: "r".into(),
        model: "mini".into(),
        inputs,
        user: Some("u-1".into()),
        reached: Reached::default(),
    };
    let embeddings = openai(&server.settings()).embed(call.clone()).await.unwrap();
    assert_eq!(embeddings.vectors.len(), 2);
    assert_eq!(embeddings.usage.unwrap().input, 8);
    let seen = server.seen().await;
    let expected = json!({ "model": "mini", "input": ["a cat", "a dog"], "encoding_format": "base64", "user": "u-1" });
    assert_eq!((seen.path.as_str(), seen.body), ("/embeddings", expected));
    assert_eq!(anthropic(&server.settings()).embed(call).await.unwrap_err().kind, FailureKind::ModelUnavailable);
}

#[tokio::test]
async fn a_refusal_before_the_stream_is_the_calls_own_error() {
    let (_, unknown_model) = recorded("openai/chat-404-stream.json").remove(0);
    let server = Server::one(unknown_model).await;
    let error = openai(&server.settings()).generate(call(true)).await.err().unwrap();
    assert_eq!((error.kind, error.status), (FailureKind::ModelUnavailable, Some(404)));

    let mut limited = Recorded::json(429, json_file("openai/errors-quoted.json")["http_429_slow_down"].to_string());
    limited.headers.push(("retry-after".into(), "7".into()));
    let server = Server::one(limited).await;
    let error = openai(&server.settings()).generate(call(true)).await.err().unwrap();
    assert_eq!((error.kind, error.retry_after), (FailureKind::RateLimited, Some(Duration::from_secs(7))));

    let mut elsewhere = Recorded::json(302, "");
    elsewhere.headers.push(("location".into(), "/v2".into()));
    let mut server = Server::one(elsewhere).await;
    assert_eq!(failure(&openai(&server.settings()), true).await.status, Some(302));
    server.seen().await;
}

#[tokio::test]
async fn a_refusal_whose_body_hangs_is_known_by_its_status() {
    let server = Server::start(vec![(Recorded::json(503, "busy"), End::Hang)]).await;
    let mut settings = server.settings();
    settings.idle_timeout = Duration::from_millis(50);
    assert_eq!(failure(&openai(&settings), true).await.kind, FailureKind::Overloaded);
}

#[tokio::test]
async fn a_torn_stream_gives_what_came_and_then_the_failure() {
    let (_, whole) = recorded("anthropic/messages-stream-text.json").remove(0);
    let finish = whole.body.find("event: message_delta").unwrap();
    let torn = Recorded { body: whole.body[..finish].into(), ..whole.clone() };
    let server = Server::start(vec![(torn, End::Tear), (whole, End::Tear)]).await;
    let provider = anthropic(&server.settings());
    let deltas: Vec<_> = provider.generate(call(true)).await.unwrap().collect().await;
    let error = deltas.last().unwrap().as_ref().unwrap_err();
    assert_eq!((error.kind, error.status, deltas.len()), (FailureKind::Connection, Some(200), 4));
    assert!(matches!(&deltas[2], Ok(Delta::Text(text)) if text == "1\n2\n3"));
    assert!(collect(provider.generate(call(true)).await).await.is_ok(), "torn behind the last event");
}

#[tokio::test]
async fn an_answer_with_its_finish_reason_is_whole_however_the_connection_ends() {
    let (_, whole) = recorded("openai/chat-stream-include-usage.json").remove(0);
    let usage = whole.body.rfind("data: {").unwrap();
    let unfinished = Recorded { body: whole.body[..usage].into(), ..whole };
    for end in [End::Close, End::Tear, End::Hang] {
        let server = Server::start(vec![(unfinished.clone(), end)]).await;
        // Of one that hangs, the rest is waited for only so long.
        let deltas = collect(openai(&server.settings()).generate(call(true)).await).await.unwrap();
        assert!(matches!(deltas.last(), Some(Delta::Finish { .. })), "{end:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_connection_failure_with_its_cause() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = failure(&openai(&ProviderHttp::new(&gone, None)), true).await;
    assert_eq!((error.kind, error.status), (FailureKind::Connection, None));
    assert!(error.message.contains("Connection refused") && !error.message.contains(&gone), "{}", error.message);
}

#[tokio::test]
async fn a_call_has_reached_its_provider_once_it_was_sent_and_not_before() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let brief = Duration::from_millis(100);
    // Accepted by nobody: the kernel takes the connection, and what is written to it.
    let settings = ProviderHttp::new(&address, None);
    let silent = call(true);
    timeout(brief, openai(&settings).generate(silent.clone())).await.map(|_| ()).unwrap_err();
    assert!(silent.reached.is_noted());
    drop(listener);
    let gone = call(true);
    collect(openai(&settings).generate(gone.clone()).await).await.unwrap_err();
    assert!(!gone.reached.is_noted(), "there was no connection");

    let (_, answer) = recorded("openai/chat-basic.json").remove(0);
    let mut server = Server::one(answer).await;
    let answered = call(false);
    collect(openai(&server.settings()).generate(answered.clone()).await).await.unwrap();
    assert!(answered.reached.is_noted());
    let headers = server.seen().await.headers;
    assert!(headers.contains_key("content-length") && !headers.contains_key("transfer-encoding"), "{headers:?}");
}

#[tokio::test]
async fn an_event_of_megabytes_that_nobody_uses_is_passed_over() {
    let fetched = json!({ "type": "content_block_start", "index": 0, "content_block": {
        "type": "web_fetch_tool_result",
        "content": { "type": "web_fetch_result", "content": { "type": "document", "source": {
            "type": "base64", "media_type": "application/pdf", "data": "JVBERi0x".repeat(200_000),
        } } },
    } });
    let (_, answer) = recorded("anthropic/messages-stream-text.json").remove(0);
    let (start, rest) = answer.body.split_once("\n\n").unwrap();
    let body = format!("{start}\n\nevent: content_block_start\ndata: {fetched}\n\n{rest}");
    let server = Server::one(Recorded { body, ..answer.clone() }).await;
    let deltas = anthropic(&server.settings()).generate(call(true)).await.unwrap().collect::<Vec<_>>().await;
    let usual = script_of(MessageDecoder::default(), &answer.body).await;
    let texts =
        |script: &str| script.lines().filter(|line| !line.starts_with("thinking")).collect::<Vec<_>>().join("\n");
    assert_eq!(texts(&script(&deltas)), texts(&usual));
}

#[tokio::test]
async fn an_answer_over_the_limit_is_refused() {
    let server = Server::one(Recorded::json(200, format!("{{{}", " ".repeat(16 * 1024 * 1024)))).await;
    let error = failure(&openai(&server.settings()), false).await;
    assert_eq!((error.kind, error.status), (FailureKind::Malformed, Some(200)));
    assert_eq!(error.message, "the provider's answer has one event or value of more than 16777216 bytes, our limit");
}

#[tokio::test]
async fn a_stream_that_was_read_to_its_end_leaves_its_connection_for_the_next() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = ProviderHttp::new(format!("http://{}", listener.local_addr().unwrap()), None);
    let (peers, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let answer = recorded("openai/chat-stream-include-usage.json").remove(0).1.body;
    let handler = move |axum::extract::ConnectInfo(peer): axum::extract::ConnectInfo<std::net::SocketAddr>| async move {
        peers.send(peer).unwrap();
        ([("content-type", "text/event-stream")], answer)
    };
    let service = axum::Router::new().fallback(handler).into_make_service_with_connect_info::<std::net::SocketAddr>();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, service).await.unwrap() });
    let provider = openai(&settings);
    let mut connections = HashSet::new();
    for _ in 0..3 {
        collect(provider.generate(call(true)).await).await.unwrap();
        connections.insert(seen.recv().await.unwrap());
    }
    assert_eq!(connections.len(), 1);
}

/// Answers a first request on each connection, and closes the connection when a second one comes.
async fn closes_kept_connections(listener: TcpListener, answer: String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let tasks = TaskTracker::new();
    loop {
        let (mut connection, _) = listener.accept().await.unwrap();
        let answer = answer.clone();
        tasks.spawn(async move {
            let mut request = vec![0; 64 << 10];
            if let Ok(1..) = connection.read(&mut request).await {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", answer.len());
                connection.write_all((head + &answer).as_bytes()).await.unwrap();
                let _ = connection.read(&mut request).await;
            }
        });
    }
}

#[tokio::test]
async fn a_kept_connection_that_is_dead_is_no_failure_of_the_provider() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = ProviderHttp::new(format!("http://{}", listener.local_addr().unwrap()), None);
    let answer = recorded("openai/chat-basic.json").remove(0).1.body;
    TaskTracker::new().spawn(closes_kept_connections(listener, answer));
    let provider = openai(&settings);
    for nth in 0..5 {
        let call = call(false);
        collect(provider.generate(call.clone()).await).await.unwrap_or_else(|error| panic!("call {nth}: {error}"));
        assert!(call.reached.is_noted());
    }
}

#[tokio::test]
async fn a_server_that_refuses_base64_is_asked_for_numbers_and_not_again() {
    let refusal = r#"{"error":{"message":"encoding_format must be float","type":"invalid_request_error"}}"#;
    let numbers = r#"{"data":[{"embedding":[1.5]}],"usage":{"prompt_tokens":3}}"#;
    let answers = [Recorded::json(400, refusal), Recorded::json(200, numbers), Recorded::json(200, numbers)];
    let mut server = Server::start(answers.map(|answer| (answer, End::Close)).to_vec()).await;
    let provider = openai(&server.settings());
    for _ in 0..2 {
        let inputs = Arc::new(vec!["a".to_owned()]);
        let call =
            EmbedCall { request_id: "r".into(), model: "m".into(), inputs, user: None, reached: Reached::default() };
        assert_eq!(provider.embed(call).await.unwrap().vectors, [[1.5]]);
    }
    for format in ["base64", "float", "float"] {
        assert_eq!(server.seen().await.body["encoding_format"], format);
    }
}

#[tokio::test]
async fn more_inputs_than_the_server_takes_at_once_are_asked_for_in_several_calls() {
    let part = |first: u32, count: u32| {
        let data: Vec<_> = (0..count).map(|nth| json!({ "index": nth, "embedding": [first + nth] })).collect();
        Recorded::json(200, json!({ "data": data, "usage": { "prompt_tokens": count } }).to_string())
    };
    let answers = vec![(part(0, 2), End::Close), (part(2, 2), End::Close), (part(4, 1), End::Close)];
    let mut server = Server::start(answers).await;
    let options = OpenAiOptions { max_inputs: 2.try_into().unwrap(), ..OpenAiOptions::default() };
    let provider = OpenAiProvider::new(&server.settings(), options).unwrap();
    let inputs = Arc::new((0..5).map(|nth| nth.to_string()).collect());
    let call = EmbedCall { request_id: "r".into(), model: "m".into(), inputs, user: None, reached: Reached::default() };
    let embeddings = provider.embed(call).await.unwrap();
    assert_eq!(embeddings.vectors, [[0.0], [1.0], [2.0], [3.0], [4.0]]);
    assert_eq!(embeddings.usage.unwrap().input, 5);
    for inputs in [json!(["0", "1"]), json!(["2", "3"]), json!(["4"])] {
        assert_eq!(server.seen().await.body["input"], inputs);
    }
}

#[tokio::test]
async fn a_stream_that_is_dropped_is_aborted_upstream() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = ProviderHttp::new(format!("http://{}", listener.local_addr().unwrap()), None);
    let (sender, mut bodies) = tokio::sync::mpsc::unbounded_channel();
    let handler = move || async move {
        // Closed when the server drops its answer, which it does when the client has gone.
        let (alive, body_dropped) = tokio::sync::oneshot::channel::<()>();
        sender.send(body_dropped).unwrap();
        let first = futures::stream::iter([Ok::<_, std::io::Error>("data: {\"model\":\"m\",\"choices\":[]}\n\n")]);
        let rest = futures::stream::pending().map(move |never| (never, &alive).0);
        ([("content-type", "text/event-stream")], axum::body::Body::from_stream(first.chain(rest)))
    };
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, axum::Router::new().fallback(handler)).await.unwrap() });
    let mut deltas = openai(&settings).generate(call(true)).await.unwrap();
    assert_eq!(deltas.next().await.unwrap(), Ok(Delta::Model("m".into())));
    drop(deltas);
    assert!(bodies.recv().await.unwrap().await.is_err());
}

#[test]
fn settings_that_cannot_work_are_refused_and_secrets_are_not_printed() {
    let refused =
        |settings: &ProviderHttp| OpenAiProvider::new(settings, OpenAiOptions::default()).unwrap_err().to_string();
    for url in ["", "api.openai.com/v1", "ftp://a/b", "http://"] {
        let message = refused(&ProviderHttp::new(url, None));
        assert_eq!(message, format!("the base URL {:?} is not an http(s) URL", url.trim_end_matches('/')));
    }
    let line_break = ProviderHttp::new("http://a", Some(ApiKey::new("sk\n1")));
    assert!(refused(&line_break).contains("\"authorization\""), "the name, not the value");

    let mut settings = ProviderHttp::new("http://a/v1", Some(ApiKey::new("sk-secret")));
    settings.extra_headers.0.insert("api-key".into(), "sk-secret".into());
    let provider = openai(&settings);
    assert!(!format!("{settings:?} {provider:?}").contains("sk-secret"));
}

#[test]
fn options_are_read_from_configuration() {
    let read = |options: Value| serde_json::from_value::<OpenAiOptions>(options).unwrap();
    assert_eq!(read(json!({})), OpenAiOptions::default());
    let local = OpenAiOptions { max_tokens_field: MaxTokensField::MaxTokens, ..OpenAiOptions::default() };
    assert_eq!(read(json!({ "max_tokens_field": "max_tokens" })), local);
    let version = serde_json::from_value::<AnthropicVersion>(json!("2026-10-21")).unwrap();
    assert_eq!(version, AnthropicVersion::V2026_10_21);
}
