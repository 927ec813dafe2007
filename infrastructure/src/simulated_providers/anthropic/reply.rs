//! An answer as a message, whole and as events.

use std::time::Duration;

use axum::{
    http::{HeaderMap, HeaderValue, header::CACHE_CONTROL},
    response::Response,
};
use serde_json::{Value, json};

use super::{
    super::{
        answer::{Answer, Finish, ToolCall},
        knobs::{Failure, FailureKind, UsageReport},
        respond::{Dialect, Reply},
        stream::Script,
    },
    error::AnthropicError,
    headers,
};

pub(super) struct Messages;

impl Dialect for Messages {
    fn headers(call: u64, _processing: Duration) -> HeaderMap {
        let mut headers = headers(call);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers
    }

    fn failure(failure: &Failure, call: u64) -> Response {
        AnthropicError::ordered(failure).into_response_of(call)
    }

    fn body(&self, reply: &Reply) -> Value {
        let Answer { thinking, text, calls, .. } = &reply.answer;
        let mut content = Vec::new();
        if !thinking.is_empty() {
            content.push(json!({"type": "thinking", "thinking": thinking, "signature": SIGNATURE}));
        }
        if !text.is_empty() {
            content.push(json!({"type": "text", "text": text}));
        }
        for (index, ToolCall { name, arguments }) in calls.iter().enumerate() {
            // Arguments that were cut are no JSON any more; a whole message then has an empty input.
            let input: Value = serde_json::from_str(arguments).unwrap_or_else(|_| json!({}));
            content.push(tool_use(reply.call, index, name, &input));
        }
        let mut message = message(reply);
        message["content"] = content.into();
        let (stop_reason, stop_sequence) = stop_reason(&reply.answer.finish);
        message["stop_reason"] = stop_reason.into();
        message["stop_sequence"] = stop_sequence.into();
        if reply.usage != UsageReport::Missing {
            message["usage"] = full_usage(reply, reply.input_tokens, reply.answer.output_tokens);
            add_thinking(&mut message["usage"], reply);
        }
        message
    }

    fn script(&self, reply: Reply) -> Script {
        let failure = AnthropicError::ordered(&Failure::of(FailureKind::Overloaded)).envelope(reply.call);
        let mut script = Script { failure: event("error", &failure).into(), ..Script::default() };
        script.event(event("message_start", &json!({"type": "message_start", "message": message_start(&reply)})));
        let ends = message_deltas(&reply);
        let Answer { thinking, text, calls, .. } = reply.answer;
        let mut blocks = Blocks { script, count: 0 };
        if !thinking.is_empty() {
            blocks.open(&json!({"type": "thinking", "thinking": "", "signature": ""}));
            blocks.deltas("{\"type\":\"thinking_delta\",\"thinking\":", thinking);
            blocks.deltas_event(&json!({"type": "signature_delta", "signature": SIGNATURE}));
            blocks.close();
        }
        if !text.is_empty() {
            blocks.open(&json!({"type": "text", "text": ""}));
            blocks.deltas("{\"type\":\"text_delta\",\"text\":", text);
            blocks.close();
        }
        for (index, ToolCall { name, arguments }) in calls.into_iter().enumerate() {
            blocks.open(&tool_use(reply.call, index, &name, &json!({})));
            blocks.deltas_event(&json!({"type": "input_json_delta", "partial_json": ""}));
            blocks.deltas("{\"type\":\"input_json_delta\",\"partial_json\":", arguments);
            blocks.close();
        }
        let mut script = blocks.script;
        for end in ends {
            script.event(event("message_delta", &end));
        }
        script.event(event("message_stop", &json!({"type": "message_stop"})));
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
    fn open(&mut self, block: &Value) {
        let start = json!({"type": "content_block_start", "index": self.count, "content_block": block});
        self.script.event(event("content_block_start", &start));
        if self.count == 0 {
            self.script.event("event: ping\ndata: {\"type\": \"ping\"}\n\n".to_owned());
        }
    }

    /// An event for each token of `text`; `delta` is the delta's JSON up to that token.
    fn deltas(&mut self, delta: &str, text: String) {
        let index = self.count;
        let before = format!(
            "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":{index},\"delta\":{delta}"
        );
        self.script.tokens(before, text, "}}     \n\n");
    }

    fn deltas_event(&mut self, delta: &Value) {
        let delta = json!({"type": "content_block_delta", "index": self.count, "delta": delta});
        self.script.event(event("content_block_delta", &delta));
    }

    fn close(&mut self) {
        let stop = json!({"type": "content_block_stop", "index": self.count});
        self.script.event(event("content_block_stop", &stop));
        self.count += 1;
    }
}

/// Anthropic pads its JSON with spaces before the end of the line.
fn event(name: &str, data: &Value) -> String {
    format!("event: {name}\ndata: {data}    \n\n")
}

/// A message without its content, end and usage.
fn message(reply: &Reply) -> Value {
    json!({
        "model": reply.model, "id": format!("msg_sim{:021x}", reply.call), "type": "message", "role": "assistant",
        "content": [], "stop_reason": null, "stop_sequence": null, "stop_details": null,
    })
}

fn message_start(reply: &Reply) -> Value {
    let mut message = message(reply);
    let input_tokens = match reply.usage {
        UsageReport::Missing => return message,
        UsageReport::Corrected => reply.input_tokens / 2,
        _ => reply.input_tokens,
    };
    message["usage"] = full_usage(reply, input_tokens, 1);
    message
}

/// The last events but one: one, or two that say the same.
fn message_deltas(reply: &Reply) -> Vec<Value> {
    let (stop_reason, stop_sequence) = stop_reason(&reply.answer.finish);
    let delta = json!({"stop_reason": stop_reason, "stop_sequence": stop_sequence, "stop_details": null});
    let mut event = json!({"type": "message_delta", "delta": delta});
    if reply.usage == UsageReport::Missing {
        return vec![event];
    }
    event["usage"] = usage(reply, reply.input_tokens, reply.answer.output_tokens);
    add_thinking(&mut event["usage"], reply);
    let times = if reply.usage == UsageReport::Repeated { 2 } else { 1 };
    vec![event; times]
}

fn usage(reply: &Reply, input_tokens: u32, output_tokens: u32) -> Value {
    let (input, output) = if reply.usage == UsageReport::Zero { (0, 0) } else { (input_tokens, output_tokens) };
    json!({"input_tokens": input, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": output})
}

fn full_usage(reply: &Reply, input_tokens: u32, output_tokens: u32) -> Value {
    let mut usage = usage(reply, input_tokens, output_tokens);
    usage["cache_creation"] = json!({"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0});
    usage["service_tier"] = "standard".into();
    usage["inference_geo"] = "not_available".into();
    usage
}

fn add_thinking(usage: &mut Value, reply: &Reply) {
    if !reply.answer.thinking.is_empty() {
        let tokens = if reply.usage == UsageReport::Zero { 0 } else { reply.answer.thinking_tokens };
        usage["output_tokens_details"] = json!({"thinking_tokens": tokens});
    }
}

fn tool_use(call: u64, index: usize, name: &str, input: &Value) -> Value {
    let id = format!("toolu_sim{call:019x}{index:02x}");
    json!({"type": "tool_use", "id": id, "name": name, "input": input, "caller": {"type": "direct"}})
}

fn stop_reason(finish: &Finish) -> (&'static str, Option<&str>) {
    match finish {
        Finish::Stop => ("end_turn", None),
        Finish::StopSequence(sequence) => ("stop_sequence", Some(sequence)),
        Finish::Length => ("max_tokens", None),
        Finish::ToolCalls => ("tool_use", None),
    }
}
