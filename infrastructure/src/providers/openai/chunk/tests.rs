use aihub_application::ports::provider::{FinishReason, ProviderError};
use aihub_domain::price::TokenUsage;

use super::*;
use crate::providers::tests::replay::{
    self, assert_cuts_do_not_matter, json_file, recorded, recorded_lines, script_of,
};

fn chunk(choices: &str, rest: &str) -> String {
    format!(r#"data: {{"id":"c","object":"chat.completion.chunk","model":"m-1","choices":[{choices}]{rest}}}"#) + "\n\n"
}

fn text(text: &str) -> String {
    chunk(&format!(r#"{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":null}}"#), r#","usage":null"#)
}

fn stop() -> String {
    chunk(r#"{"index":0,"delta":{},"finish_reason":"stop"}"#, "")
}

async fn read(body: impl AsRef<str>) -> String {
    script_of(ChatDecoder::default(), body.as_ref()).await
}

async fn read_body(body: &str) -> Result<Vec<Delta>, ProviderError> {
    replay::read_body(ChatDecoder::default(), body).await
}

fn finish(reason: FinishReason) -> Delta {
    Delta::Finish { reason, said: None }
}

#[tokio::test]
async fn a_recorded_stream_is_read() {
    let (_, answer) = recorded("openai/chat-stream-include-usage.json").remove(0);
    insta::assert_snapshot!(read(answer.body).await, @r#"
    model gpt-4-0613
    text "\"This"
    text " is"
    text " a"
    text " test"
    text ".\""
    usage input 12 cached 0 written 0 output 5 reasoning 0
    finish Stop
    "#);
}

#[tokio::test]
async fn parallel_tool_calls_keep_their_fragments_apart() {
    let (_, answer) = recorded("openai/chat-stream-parallel-tools.json").remove(0);
    insta::assert_snapshot!(read(answer.body).await);
}

#[tokio::test]
async fn a_long_recorded_stream_with_padding_is_read() {
    let script = read(recorded_lines("openai/chat-text.chunks.txt")).await;
    assert_eq!(script.lines().filter(|line| line.starts_with("text")).count(), 300);
    let end: Vec<_> = script.lines().rev().take(2).collect();
    assert_eq!(end, ["finish Stop", "usage input 16 cached 0 written 0 output 300 reasoning 0"]);
}

#[tokio::test]
async fn llama_cpp_counts_what_it_had_cached() {
    let (_, answer) = recorded("local/llamacpp-chat-stream-usage.json").remove(0);
    let script = read(answer.body).await;
    assert!(script.starts_with("model smollm2-135m\ntext \"I\"\n"), "{script}");
    assert!(script.ends_with("usage input 10 cached 24 written 0 output 12 reasoning 0\nfinish Length\n"), "{script}");
}

#[tokio::test]
async fn recorded_streams_mean_the_same_however_they_are_cut() {
    for path in ["openai/chat-stream-include-usage.json", "local/llamacpp-chat-stream-usage.json"] {
        assert_cuts_do_not_matter::<ChatDecoder>(&recorded(path).remove(0).1.body).await;
    }
    let (_, tools) = recorded("openai/chat-stream-parallel-tools.json").remove(0);
    assert_cuts_do_not_matter::<ChatDecoder>(&tools.body).await;
    // The beginning and the end of the long one: between them, one event is like another.
    let long = recorded_lines("openai/chat-text.chunks.txt");
    let (begin, end) = (long.match_indices("\n\n").nth(6).unwrap().0, long.rmatch_indices("\n\n").nth(6).unwrap().0);
    assert_cuts_do_not_matter::<ChatDecoder>(&format!("{}{}", &long[..begin], &long[end..])).await;
    assert_cuts_do_not_matter::<ChatDecoder>(&[&text("Grüße 🌱 \\u00e9"), &stop()].map(String::as_str).concat()).await;
}

#[tokio::test]
async fn recorded_bodies_are_read() {
    let (_, basic) = recorded("openai/chat-basic.json").remove(0);
    let usage = |input, cached_input, output| TokenUsage { input, cached_input, output, ..TokenUsage::default() };
    assert_eq!(
        read_body(&basic.body).await.unwrap(),
        [
            Delta::Model("gpt-4o-mini-2024-07-18".into()),
            Delta::Text("This is a test.".into()),
            Delta::Usage(usage(12, 0, 5)),
            finish(FinishReason::Stop),
        ]
    );
    let (_, local) = recorded("local/llamacpp-chat.json").remove(0);
    assert_eq!(
        read_body(&local.body).await.unwrap()[2..],
        [Delta::Usage(usage(1, 33, 12)), finish(FinishReason::Length)]
    );
    let text = read_body(&json_file("openai/chat-text.json").to_string()).await.unwrap();
    assert_eq!(text[2], Delta::Usage(usage(16, 0, 363)));
}

#[tokio::test]
async fn tool_calls_in_a_body_are_numbered_by_their_place() {
    for (path, calls) in [("openai/chat-tool-calls.json", 2), ("local/ollama-qwen3-parallel-tools.json", 3)] {
        let (_, answer) = recorded(path).remove(0);
        let deltas = read_body(&answer.body).await.unwrap();
        let indexes = deltas.iter().filter_map(|delta| match delta {
            Delta::ToolCall(call) => {
                assert!(call.id.is_some() && call.name.is_some() && call.arguments.starts_with('{'), "{call:?}");
                Some(call.index)
            }
            _ => None,
        });
        assert!(indexes.eq(0..calls), "{deltas:?}");
        assert_eq!(deltas.last(), Some(&finish(FinishReason::ToolCalls)));
    }
}

#[tokio::test]
async fn ollamas_reasoning_is_counted_and_not_shown() {
    let (_, answer) = recorded("local/ollama-local-json-schema.json").remove(0);
    let deltas = read_body(&answer.body).await.unwrap();
    assert_eq!(deltas[1], Delta::Thinking { bytes: 508 });
    assert_eq!(deltas[2], Delta::Text(r#"{ "city": "Paris", "country": "France" }"#.into()));
}

#[tokio::test]
async fn one_text_under_two_names_for_reasoning_is_counted_once() {
    let both = r#"{"index":0,"delta":{"reasoning":"hm","reasoning_content":"hm","content":"ok"}}"#;
    let read = read(chunk(both, "") + &stop()).await;
    assert_eq!(read, "model m-1\nthinking 2 bytes\ntext \"ok\"\nfinish Stop\n");
}

#[tokio::test]
async fn usage_that_is_missing_is_not_invented() {
    assert_eq!(read(text("a") + &stop() + "data: [DONE]\n\n").await, "model m-1\ntext \"a\"\nfinish Stop\n");
    let half = chunk("", r#","usage":{"prompt_tokens":3}"#);
    let empty = chunk("", r#","usage":{}"#);
    assert_eq!(read(text("a") + &stop() + &half + &empty).await, "model m-1\ntext \"a\"\nfinish Stop\n");
}

#[tokio::test]
async fn usage_of_zero_is_a_count() {
    let zero = chunk("", r#","usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}"#);
    let script = read(text("a") + &stop() + &zero + "data: [DONE]\n\n").await;
    assert!(script.ends_with("usage input 0 cached 0 written 0 output 0 reasoning 0\nfinish Stop\n"), "{script}");
}

#[tokio::test]
async fn usage_that_is_repeated_or_corrected_counts_as_last_said() {
    let with = |text: &str, usage: &str| {
        chunk(&format!(r#"{{"index":0,"delta":{{"content":"{text}"}}}}"#), &format!(r#","usage":{usage}"#))
    };
    // vLLM's `continuous_usage_stats`.
    let body = with("a", r#"{"prompt_tokens":43,"completion_tokens":1}"#)
        + &with("b", r#"{"prompt_tokens":43,"completion_tokens":2}"#)
        + &stop()
        + &chunk(
            "",
            r#","usage":{"prompt_tokens":61,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":40,"cache_write_tokens":20},"completion_tokens_details":{"reasoning_tokens":1}}"#,
        )
        + &chunk("", r#","usage":{"completion_tokens":3,"prompt_tokens_details":null}"#)
        + "data: [DONE]\n\n";
    insta::assert_snapshot!(read(body).await, @r#"
    model m-1
    text "a"
    usage input 43 cached 0 written 0 output 1 reasoning 0
    text "b"
    usage input 43 cached 0 written 0 output 2 reasoning 0
    usage input 1 cached 40 written 20 output 2 reasoning 1
    usage input 1 cached 40 written 20 output 3 reasoning 1
    finish Stop
    "#);
}

#[tokio::test]
async fn chunks_without_choices_are_no_answer_wherever_they_stand() {
    let azure = r#"data: {"id":"","object":"","model":"","choices":[],"prompt_filter_results":[{"prompt_index":0}]}"#;
    let moderation = chunk("", r#","moderation":{"results":[]}"#);
    let body = format!("{azure}\n\n{}{}{moderation}data: [DONE]\n\n", text("a"), stop());
    assert_eq!(read(body).await, "model m-1\ntext \"a\"\nfinish Stop\n");
}

#[tokio::test]
async fn fields_events_and_reasons_that_nobody_knows_do_no_harm() {
    let odd = chunk(
        r#"{"index":1,"delta":{"content":"another choice"}},{"index":0,"delta":{"content":"a","annotations":[{}],"audio":{}},"logprobs":{},"finish_reason":"model_tired"}"#,
        r#","service_tier":"fast","obfuscation":"xyz","error":null,"usage":null"#,
    );
    let body = format!(": OPENROUTER PROCESSING\n\nevent: ping\n\nid: 7\n{odd}data: {{\"object\":\"x\"}}\n\n");
    assert_eq!(read(body).await, "model m-1\ntext \"a\"\nfinish Other(\"model_tired\")\n");
}

#[tokio::test]
async fn a_refusal_is_what_the_model_says() {
    let refusal = chunk(r#"{"index":0,"delta":{"role":"assistant","content":null,"refusal":"I won't."}}"#, "");
    assert_eq!(read(refusal + &stop()).await, "model m-1\ntext \"I won't.\"\nfinish Stop\n");
}

#[tokio::test]
async fn calls_that_all_have_index_0_are_told_apart_by_their_ids() {
    let call = |id: &str| {
        let call = format!(r#"{{"index":0,"id":"{id}","function":{{"name":"roll","arguments":"{{}}"}}}}"#);
        chunk(&format!(r#"{{"index":0,"delta":{{"tool_calls":[{call}]}}}}"#), "")
    };
    let again = chunk(
        r#"{"index":0,"delta":{"tool_calls":[{"index":0,"id":"b","function":{"name":"roll","arguments":"!"}}]}}"#,
        "",
    );
    let script = read(call("a") + &call("b") + &again + &stop()).await;
    let broken = "tool 1 - -  (its arguments are no JSON)";
    assert_eq!(
        script,
        format!("model m-1\ntool 0 a roll {{}}\ntool 1 b roll {{}}\ntool 1 - - !\n{broken}\nfinish ToolCalls\n")
    );
}

#[tokio::test]
async fn an_error_in_mid_stream_is_recognised_in_every_form() {
    let quoted = json_file("openai/errors-quoted.json");
    let server_error = format!("{}{}", text("a"), quoted["midstream_event"].as_str().unwrap());
    let script = read(server_error).await;
    assert!(
        script.starts_with("model m-1\ntext \"a\"\nerror ServerError Some(200) The server experienced"),
        "{script}"
    );
    for (event, expected) in [
        (
            r#"{"error":{"object":"error","message":"not multimodal","type":"BadRequestError","code":400}}"#,
            "InvalidRequest",
        ),
        (r#"{"object":"error","message":"too many","type":"RateLimitError","code":429}"#, "RateLimited"),
        (
            r#"{"type":"error","sequence_number":2,"error":{"type":"insufficient_quota","code":"insufficient_quota"}}"#,
            "QuotaExceeded",
        ),
        (r#"{"type":"error","code":"server_is_overloaded","message":"later"}"#, "Overloaded"),
        (
            r#"{"error":{"message":"context","type":"invalid_request_error","code":"context_length_exceeded"}}"#,
            "ContextTooLong",
        ),
        (r#"{"error":{"code":"model_not_found","message":"gone"}}"#, "ModelUnavailable"),
        (r#"{"error":"out of memory"}"#, "ServerError"),
    ] {
        let script = read(format!("{}data: {event}\n\ndata: [DONE]\n\n", text("a"))).await;
        assert!(script.contains(&format!("text \"a\"\nerror {expected} Some(200)")), "{event}: {script}");
        assert_eq!(script.lines().count(), 3, "nothing comes after an error");
    }
    let named = read("event: error\ndata: {\"code\":400,\"details\":\"Requested sample logprobs of 21\"}\n\n").await;
    assert_eq!(named, "error InvalidRequest Some(200) Requested sample logprobs of 21 None\n");
}

#[tokio::test]
async fn a_stream_that_ends_before_the_answer_does_was_cut_off() {
    let expected = "error Connection Some(200) the provider's stream ended before the answer did None\n";
    assert_eq!(read(text("a")).await, format!("model m-1\ntext \"a\"\n{expected}"));
    assert_eq!(read("").await, "error Empty Some(200) the provider's answer says nothing None\n");
    let stop = stop();
    assert!(read(text("a") + stop.trim_end()).await.ends_with("finish Stop\n"), "all of the last event is there");
    assert!(read(text("a") + &stop[..stop.len() - 8]).await.ends_with(expected), "half of the last event is none");
}

#[tokio::test]
async fn either_a_reason_or_done_ends_an_answer() {
    assert_eq!(read(text("a") + &stop()).await, "model m-1\ntext \"a\"\nfinish Stop\n");
    assert_eq!(read(text("a") + "data: [DONE]\n\n").await, "model m-1\ntext \"a\"\nfinish Stop\n");
    let after = text("a") + &stop() + "data: [DONE]\n\n" + &text("never read");
    assert_eq!(read(after).await, "model m-1\ntext \"a\"\nfinish Stop\n");
}

#[tokio::test]
async fn an_event_that_is_not_json_breaks_the_format() {
    assert!(read("data: {\"choices\":[\n\n").await.starts_with("error Malformed Some(200)"));
    let flaw = "the provider's answer is malformed: no_json at byte 17";
    assert_eq!(read("data: {\"choices\":oops}\n\n").await, format!("error Malformed Some(200) {flaw} None\n"));
}

#[tokio::test]
async fn a_body_that_is_no_answer_is_told_apart_from_an_error_in_one() {
    use aihub_application::ports::provider::FailureKind::{Empty, Malformed, Overloaded};
    for (body, kind) in [
        ("<html>", Malformed),
        ("", Empty),
        (r#"{"choices":[]}"#, Empty),
        (r#"{"choices":7}"#, Empty),
        (r#"{"error":{"message":"busy","type":"server_error","code":503}}"#, Overloaded),
    ] {
        assert_eq!(read_body(body).await.unwrap_err().kind, kind, "{body}");
    }
    let words = read_body(r#"{"code":1305,"msg":"the model is being updated"}"#).await.unwrap_err();
    assert_eq!(words.message, "the model is being updated");
}
