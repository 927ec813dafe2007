//! An answer as a message, whole and as events.

use std::time::Duration;

use axum::{
    http::{HeaderMap, HeaderValue, header::CACHE_CONTROL},
    response::Response,
};
use serde_json::{Value, json};

use super::{
    super::{
        answer::{Answer, CacheLifetime, Finish, ToolCall},
        knobs::{Failure, FailureKind, UsageReport},
        respond::{Dialect, Failing, Reply, to_json},
        stream::Script,
    },
    error::AnthropicError,
    headers,
    wire::{Block, CacheCreation, Caller, Delta, Ending, Event, Message, OutputTokensDetails, Usage},
};

pub(super) struct Messages;

impl Failing for Messages {
    fn failure(failure: &Failure, call: u64) -> Response {
        AnthropicError::ordered(failure).into_response_of(call)
    }
}

impl Dialect for Messages {
    fn headers(call: u64, _processing: Duration) -> HeaderMap {
        let mut headers = headers(call);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers
    }

    fn body(&self, reply: &Reply) -> String {
        let Answer { thinking, text, calls, finish, output_tokens, .. } = &reply.answer;
        let mut content = Vec::new();
        if !thinking.is_empty() {
            content.push(Block::Thinking { thinking, signature: SIGNATURE });
        }
        if !text.is_empty() {
            content.push(Block::Text { text });
        }
        for (index, ToolCall { name, arguments }) in calls.iter().enumerate() {
            // Arguments that were cut are no JSON any more; a whole message then has an empty input.
            let input = serde_json::from_str(arguments).unwrap_or_else(|_| json!({}));
            content.push(tool_use(reply.call, index, name, input));
        }
        let counts = (reply.input_tokens, *output_tokens);
        let usage = usage(reply, counts)
            .map(|usage| Usage { output_tokens_details: thinking_tokens(reply), ..full(usage, reply.cache) });
        to_json(&message(reply, content, ending(finish), usage))
    }

    fn script(&self, reply: Reply) -> Script {
        let failure = AnthropicError::ordered(&Failure::of(FailureKind::Overloaded)).envelope(reply.call);
        let mut script = Script { failure: format!("event: error\ndata: {failure}\n\n").into(), ..Script::default() };
        let first_input =
            if reply.usage == UsageReport::Corrected { reply.input_tokens / 2 } else { reply.input_tokens };
        let first_usage = usage(&reply, (first_input, 1)).map(|usage| full(usage, reply.cache));
        script.event(Event::MessageStart { message: message(&reply, vec![], Ending::default(), first_usage) }.to_sse());
        let end = usage(&reply, (reply.input_tokens, reply.answer.output_tokens))
            .map(|usage| Usage { output_tokens_details: thinking_tokens(&reply), ..usage });
        let Reply { call, usage: report, answer: Answer { thinking, text, calls, finish, .. }, .. } = reply;

        let mut blocks = Blocks { script, count: 0 };
        if !thinking.is_empty() {
            blocks.open(Block::Thinking { thinking: "", signature: "" });
            blocks.tokens("{\"type\":\"thinking_delta\",\"thinking\":", thinking);
            blocks.delta(Delta::SignatureDelta { signature: SIGNATURE });
            blocks.close();
        }
        if !text.is_empty() {
            blocks.open(Block::Text { text: "" });
            blocks.tokens("{\"type\":\"text_delta\",\"text\":", text);
            blocks.close();
        }
        for (index, ToolCall { name, arguments }) in calls.into_iter().enumerate() {
            blocks.open(tool_use(call, index, &name, json!({})));
            blocks.delta(Delta::InputJsonDelta { partial_json: "" });
            blocks.tokens("{\"type\":\"input_json_delta\",\"partial_json\":", arguments);
            blocks.close();
        }
        let mut script = blocks.script;
        for _ in 0..if report == UsageReport::Repeated { 2 } else { 1 } {
            script.event(Event::MessageDelta { delta: ending(&finish), usage: end }.to_sse());
        }
        script.event(Event::MessageStop.to_sse());
        script
    }
}

/// Anthropic signs its thinking; this is the base64 of "simulated".
const SIGNATURE: &str = "c2ltdWxhdGVk";

/// Content blocks of a stream, numbered as they come.
struct Blocks {
    script: Script,
    count: usize,
}

impl Blocks {
    fn open(&mut self, block: Block<'_>) {
        self.script.event(Event::ContentBlockStart { index: self.count, content_block: block }.to_sse());
        if self.count == 0 {
            self.script.event("event: ping\ndata: {\"type\": \"ping\"}\n\n".to_owned());
        }
    }

    /// An event for each token of `text`; `delta` is the delta's JSON up to that token.
    fn tokens(&mut self, delta: &str, text: String) {
        let index = self.count;
        let before = format!(
            "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":{index},\"delta\":{delta}"
        );
        self.script.tokens(before, text, "}}     \n\n");
    }

    fn delta(&mut self, delta: Delta<'_>) {
        self.script.event(Event::ContentBlockDelta { index: self.count, delta }.to_sse());
    }

    fn close(&mut self) {
        self.script.event(Event::ContentBlockStop { index: self.count }.to_sse());
        self.count += 1;
    }
}

fn message<'a>(reply: &Reply, content: Vec<Block<'a>>, ending: Ending<'a>, usage: Option<Usage>) -> Message<'a> {
    let id = format!("msg_sim{:021x}", reply.call);
    Message { model: reply.model, id, kind: "message", role: "assistant", content, ending, usage }
}

/// The counts as they are told, in the short form; `None` where nothing is told.
fn usage(reply: &Reply, (input_tokens, output_tokens): (u32, u32)) -> Option<Usage> {
    match reply.usage {
        UsageReport::Missing => None,
        UsageReport::Zero => Some(Usage::default()),
        _ if reply.cache.is_some() => {
            Some(Usage { cache_creation_input_tokens: input_tokens, output_tokens, ..Usage::default() })
        }
        _ => Some(Usage { input_tokens, output_tokens, ..Usage::default() }),
    }
}

fn full(usage: Usage, cache: Option<CacheLifetime>) -> Usage {
    let written = usage.cache_creation_input_tokens;
    let is_for_an_hour = cache == Some(CacheLifetime::OneHour);
    let for_an_hour = if is_for_an_hour { written } else { 0 };
    let cache_creation = Some(CacheCreation {
        ephemeral_5m_input_tokens: written - for_an_hour,
        ephemeral_1h_input_tokens: for_an_hour,
    });
    Usage { cache_creation, service_tier: Some("standard"), inference_geo: Some("not_available"), ..usage }
}

fn thinking_tokens(reply: &Reply) -> Option<OutputTokensDetails> {
    let thinking_tokens = if reply.usage == UsageReport::Zero { 0 } else { reply.answer.thinking_tokens };
    (!reply.answer.thinking.is_empty()).then_some(OutputTokensDetails { thinking_tokens })
}

fn tool_use(call: u64, index: usize, name: &str, input: Value) -> Block<'_> {
    Block::ToolUse { id: format!("toolu_sim{call:019x}{index:02x}"), name, input, caller: Caller::Direct }
}

fn ending(finish: &Finish) -> Ending<'_> {
    let (stop_reason, stop_sequence) = match finish {
        Finish::Stop => ("end_turn", None),
        Finish::StopSequence(sequence) => ("stop_sequence", Some(sequence.as_str())),
        Finish::Length => ("max_tokens", None),
        Finish::ToolCalls => ("tool_use", None),
    };
    Ending { stop_reason: Some(stop_reason), stop_sequence, stop_details: None }
}
