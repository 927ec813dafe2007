use aihub_application::ports::provider::{FinishReason, ToolCallDelta};
use aihub_domain::price::TokenUsage;

use super::*;
use crate::providers::tests::replay::{
    self, assert_cuts_do_not_matter, file, json_file, recorded, recorded_lines, script_of,
};

const START: &str = r#"event: message_start
data: {"type":"message_start","message":{"model":"claude-x","type":"message","content":[],"stop_reason":null,"usage":{"input_tokens":43,"cache_creation_input_tokens":5,"cache_read_input_tokens":7,"output_tokens":1}}}

"#;
const STOP: &str = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

fn event(data: &str) -> String {
    let event: serde_json::Value = serde_json::from_str(data).unwrap();
    format!("event: {}\ndata: {data}   \n\n", event["type"].as_str().unwrap())
}

fn text(text: &str) -> String {
    event(&format!(r#"{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":"{text}"}}}}"#))
}

fn message_delta(stop_reason: &str, usage: &str) -> String {
    event(&format!(r#"{{"type":"message_delta","delta":{{"stop_reason":{stop_reason}}},"usage":{usage}}}"#))
}

async fn read(body: impl AsRef<str>) -> String {
    script_of(MessageDecoder::default(), body.as_ref()).await
}

async fn read_body(body: &str) -> Result<Vec<Delta>, ProviderError> {
    replay::read_body(MessageDecoder::default(), body).await
}

#[tokio::test]
async fn a_recorded_stream_is_read() {
    let (_, answer) = recorded("anthropic/messages-stream-text.json").remove(0);
    insta::assert_snapshot!(read(answer.body).await, @r#"
    model claude-haiku-4-5-20251001
    usage input 15 cached 0 written 0 output 1 reasoning 0
    text "1\n2\n3"
    usage input 15 cached 0 written 0 output 9 reasoning 0
    finish Stop (end_turn)
    "#);
    insta::assert_snapshot!(read(recorded_lines("anthropic/messages-text.chunks.txt")).await);
}

#[tokio::test]
async fn tool_calls_come_as_id_and_name_and_then_fragments() {
    let (_, answer) = recorded("anthropic/messages-stream-tools.json").remove(0);
    insta::assert_snapshot!(read(answer.body).await);
}

#[tokio::test]
async fn thinking_is_counted_and_not_shown() {
    let (_, answer) = recorded("anthropic/messages-stream-thinking.json").remove(0);
    let script = read(&answer.body).await;
    let shown = script.lines().find(|line| line.starts_with("text")).unwrap();
    assert!(
        script.lines().filter(|line| line.starts_with("thinking")).count() > 10 && !shown.contains("paradox question")
    );
    assert!(
        script.ends_with("usage input 80 cached 0 written 0 output 638 reasoning 353\nfinish Stop (end_turn)\n"),
        "{script}"
    );
    insta::assert_snapshot!(read(recorded_lines("anthropic/messages-clear-thinking.chunks.txt")).await);
}

#[tokio::test]
async fn recorded_streams_mean_the_same_however_they_are_cut() {
    for path in ["stream-text", "stream-tools", "stream-thinking"] {
        let (_, answer) = recorded(&format!("anthropic/messages-{path}.json")).remove(0);
        assert_cuts_do_not_matter::<MessageDecoder>(&answer.body).await;
    }
    for path in ["text", "clear-thinking"] {
        let body = recorded_lines(&format!("anthropic/messages-{path}.chunks.txt"));
        assert_cuts_do_not_matter::<MessageDecoder>(&body).await;
        assert_cuts_do_not_matter::<MessageDecoder>(&body.replace('\n', "\r\n")).await;
    }
}

#[tokio::test]
async fn recorded_bodies_are_read() {
    let deltas = read_body(&file("anthropic/messages-text.json")).await.unwrap();
    assert_eq!(deltas[0], Delta::Model("claude-sonnet-4-5-20250929".into()));
    assert!(matches!(&deltas[1], Delta::Text(text) if text.starts_with("Hello! I'm doing well")));
    let usage = TokenUsage { input: 12, output: 29, ..TokenUsage::default() };
    assert_eq!(
        deltas[2..],
        [Delta::Usage(usage), Delta::Finish { reason: FinishReason::Stop, said: Some("end_turn".into()) }]
    );

    let (_, tools) = recorded("anthropic/messages-parallel-tools.json").remove(0);
    let call = |index, id: Option<&str>, name: Option<&str>, arguments: &str| {
        let (id, name) = (id.map(Into::into), name.map(Into::into));
        Delta::ToolCall(ToolCallDelta { index, id, name, arguments: arguments.into(), broken: None })
    };
    let calls: Vec<_> = read_body(&tools.body).await.unwrap();
    let calls: Vec<_> = calls.into_iter().filter(|delta| matches!(delta, Delta::ToolCall(_))).collect();
    assert_eq!(
        calls,
        [
            call(0, Some("toolu_01TjHdHxyQNDy4DipRieJU5n"), Some("weather"), ""),
            call(1, Some("toolu_01QHFWAkMuVLb3VgS4EDGUGY"), Some("best_language_to_learn"), ""),
            call(0, None, None, r#"{"latitude":"52.5200","longitude":"13.4050"}"#),
            call(1, None, None, "{}"),
        ]
    );
}

#[tokio::test]
async fn usage_is_merged_field_by_field_and_the_last_word_counts() {
    let corrected =
        message_delta(r#""end_turn""#, r#"{"input_tokens":61,"cache_read_input_tokens":null,"output_tokens":9}"#);
    let script = read([START, &text("a"), &corrected, STOP].concat()).await;
    insta::assert_snapshot!(script, @r#"
    model claude-x
    usage input 43 cached 7 written 5 output 1 reasoning 0
    text "a"
    usage input 61 cached 7 written 5 output 9 reasoning 0
    finish Stop (end_turn)
    "#);
}

#[tokio::test]
async fn usage_of_zero_erases_nothing_and_a_missing_one_is_no_count() {
    let zero = message_delta(
        r#""end_turn""#,
        r#"{"input_tokens":0,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":0}"#,
    );
    let script = read([START, &text("a"), &zero, STOP].concat()).await;
    let kept = "usage input 43 cached 7 written 5 output 1 reasoning 0\nfinish Stop (end_turn)\n";
    assert!(script.ends_with(kept), "a nought erases nothing: {script}");

    let start = event(r#"{"type":"message_start","message":{"model":"m","content":[]}}"#);
    let half = message_delta(r#""end_turn""#, r#"{"output_tokens":3}"#);
    let none = event(r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"}}"#);
    for end in [half, none] {
        assert_eq!(
            read([&start, &text("a"), &end, STOP].concat()).await,
            "model m\ntext \"a\"\nfinish Stop (end_turn)\n"
        );
    }
}

#[tokio::test]
async fn a_second_start_names_no_second_model() {
    let script = read([START, START, &text("a"), &message_delta(r#""refusal""#, "null"), STOP].concat()).await;
    assert_eq!(script.matches("model").count(), 1);
    assert!(script.ends_with("finish ContentFilter (refusal)\n"));
}

#[tokio::test]
async fn a_call_without_fragments_has_the_input_that_it_began_with() {
    let block = |index: u32, input: &str| {
        event(&format!(
            r#"{{"type":"content_block_start","index":{index},"content_block":{{"type":"tool_use","id":"t{index}","name":"f","input":{input}}}}}"#
        )) + &event(&format!(r#"{{"type":"content_block_stop","index":{index}}}"#))
    };
    let later_text = event(r#"{"type":"content_block_start","index":5,"content_block":{"type":"text","text":"b"}}"#)
        + &event(r#"{"type":"content_block_stop","index":5}"#);
    let end = message_delta(r#""tool_use""#, r#"{"output_tokens":3}"#);
    let script = read([START, &block(1, "{}"), &block(2, r#"{"a":1}"#), &later_text, &end, STOP].concat()).await;
    insta::assert_snapshot!(script, @r#"
    model claude-x
    usage input 43 cached 7 written 5 output 1 reasoning 0
    tool 0 t1 f 
    tool 1 t2 f 
    text "b"
    usage input 43 cached 7 written 5 output 3 reasoning 0
    tool 0 - - {}
    tool 1 - - {"a":1}
    usage input 43 cached 7 written 5 output 3 reasoning 0
    finish ToolCalls (tool_use)
    "#);
}

#[tokio::test]
async fn blocks_deltas_and_reasons_that_nobody_knows_do_no_harm() {
    let odd = [
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"server_tool_use","id":7,"name":"web_search","data":{}}}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{\"q\":1}"}}"#,
        r#"{"type":"content_block_start","index":1,"content_block":{"type":"redacted_thinking","data":"EmwKAhgB"}}"#,
        r#"{"type":"content_block_delta","index":1,"delta":{"type":"citations_delta","citation":{"text":1}}}"#,
        r#"{"type":"something_new","message":"hello","delta":{},"usage":{}}"#,
    ];
    let odd: String = odd.into_iter().map(event).collect();
    let end = message_delta(r#""pause_turn""#, r#"{"output_tokens":3,"server_tool_use":{"web_search_requests":1}}"#);
    let script = read([START, &odd, &end, STOP].concat()).await;
    insta::assert_snapshot!(script, @r#"
    model claude-x
    usage input 43 cached 7 written 5 output 1 reasoning 0
    thinking 7 bytes
    thinking 8 bytes
    usage input 43 cached 7 written 5 output 3 reasoning 0
    flaw provider_ran_1_tools_uncharged at usage
    finish Other("pause_turn")
    "#);
}

#[tokio::test]
async fn events_without_a_name_are_known_by_their_type() {
    let (_, answer) = recorded("anthropic/messages-stream-text.json").remove(0);
    let mut nameless: String =
        answer.body.lines().filter(|line| !line.starts_with("event:")).collect::<Vec<_>>().join("\n");
    nameless.push_str("\n\n");
    assert_eq!(read(nameless).await, read(answer.body).await);
}

#[tokio::test]
async fn an_error_in_mid_stream_ends_it() {
    let overloaded = json_file("anthropic/errors-quoted.json")["midstream_event"].as_str().unwrap().to_owned();
    let script = read([START, &text("a"), &overloaded].concat()).await;
    assert!(script.ends_with("text \"a\"\nerror Overloaded Some(200) Overloaded None\n"), "{script}");
    for (error, expected) in [
        (r#"{"type":"error","error":{"type":"api_error","message":"Internal"}}"#, "ServerError"),
        (r#"{"type":"error","error":{"type":"rate_limit_error","message":"slow"}}"#, "RateLimited"),
        (r#"{"type":"error","error":{"type":"authentication_error","message":"key sk-1"}}"#, "Unauthorized"),
        (r#"{"type":"error","error":{"type":"timeout_error","message":"late"}}"#, "Timeout"),
        (r#"{"type":"error","error":{"type":"billing_error","message":"pay"}}"#, "QuotaExceeded"),
        (r#"{"error":{"code":503,"message":"OpenAI's form","type":"server_error"}}"#, "Overloaded"),
        (r#"{"type":"error","message":"flat","code":"invalid_request_error"}"#, "InvalidRequest"),
    ] {
        let nameless = read(format!("{START}data: {error}\n\n")).await;
        assert!(nameless.contains(&format!("error {expected} Some(200)")), "{error}: {nameless}");
        assert!(!nameless.contains("sk-1"));
    }
}

#[tokio::test]
async fn a_stream_that_ends_before_the_answer_does_was_cut_off() {
    let cut = "error Connection Some(200) the provider's stream ended before the answer did None\n";
    assert!(read([START, &text("a")].concat()).await.ends_with(&format!("text \"a\"\n{cut}")));
    let end = message_delta(r#""end_turn""#, r#"{"output_tokens":3}"#);
    assert!(read([START, &text("a"), &end].concat()).await.ends_with("finish Stop (end_turn)\n"), "all was said");
    assert!(read([START, &text("a"), STOP].concat()).await.ends_with("finish Stop\n"), "it says that it is over");
}

#[tokio::test]
async fn a_body_that_is_no_message_is_told_apart_from_an_error_in_one() {
    use aihub_application::ports::provider::FailureKind::{Empty, Malformed, Overloaded};
    for (body, kind) in [
        ("<html>", Malformed),
        ("", Empty),
        (r#"{"type":"message","content":[],"stop_reason":"end_turn"}"#, Empty),
        (r#"{"error":{"code":503,"message":"busy"}}"#, Overloaded),
        (r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#, Overloaded),
    ] {
        assert_eq!(read_body(body).await.unwrap_err().kind, kind, "{body}");
    }
}
