//! What the events of Anthropic's streams, and its messages in one body, mean.

use std::{borrow::Cow, collections::VecDeque};

use aihub_application::ports::provider::{Delta, FinishReason, ProviderError, ToolCallDelta};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::usage::{Usage, UsageSoFar};
use crate::providers::{
    answer::{Decode, Flow},
    errors,
};

/// All events in one, as telling them apart first would mean to read each twice.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    index: Option<u32>,
    /// Read only where the event is one that has it: in an error this is a string.
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    content_block: Option<&'a RawValue>,
    #[serde(borrow)]
    delta: Option<BlockDelta<'a>>,
    usage: Option<Usage>,
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(rename = "type")]
    kind: Option<String>,
    model: Option<String>,
    #[serde(borrow)]
    content: Option<Vec<&'a RawValue>>,
    stop_reason: Option<String>,
    usage: Option<Usage>,
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct BlockKind<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
}

/// A block of one of the kinds that we know. In others the same names may mean anything.
#[derive(Deserialize)]
struct Block<'a> {
    text: Option<String>,
    #[serde(borrow)]
    thinking: Option<Text<'a>>,
    /// Thinking that Anthropic encrypted.
    #[serde(borrow)]
    data: Option<Text<'a>>,
    id: Option<String>,
    name: Option<String>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
}

/// One field of the first four, or `stop_reason`.
#[derive(Deserialize)]
struct BlockDelta<'a> {
    text: Option<String>,
    partial_json: Option<String>,
    #[serde(borrow)]
    thinking: Option<Text<'a>>,
    stop_reason: Option<String>,
}

/// A string that borrows from the event unless it has escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Remembers what earlier events of one answer said.
#[derive(Default)]
pub(crate) struct MessageDecoder {
    has_begun: bool,
    is_finished: bool,
    usage: UsageSoFar,
    /// The client's tools called so far.
    calls: Vec<ToolCall>,
}

struct ToolCall {
    /// Counted over the calls, where the provider counts over all blocks.
    index: u32,
    block: Option<u32>,
    /// What the block began with: `{}` from Anthropic, all of the input from some servers. Stands when no fragments
    /// come after it.
    input: String,
    has_arguments: bool,
}

impl Decode for MessageDecoder {
    fn event(&mut self, name: Option<&str>, data: &str, out: &mut VecDeque<Delta>) -> Result<Flow, ProviderError> {
        if name == Some("error") {
            return Err(errors::in_answer(data.as_bytes()));
        }
        let event: Event<'_> = serde_json::from_str(data).map_err(|error| errors::malformed(&error))?;
        let kind = event.kind.as_ref().map_or("", |kind| &kind.0);
        if kind == "error" || event.error.is_some() {
            return Err(errors::in_answer(data.as_bytes()));
        }
        match kind {
            "message_start" => {
                if let Some(message) = event.message {
                    self.message(parse(message)?, out)?;
                }
            }
            "content_block_start" => {
                if let Some(block) = event.content_block {
                    self.block(event.index, block, out)?;
                }
            }
            "content_block_delta" => {
                if let Some(delta) = event.delta {
                    self.block_delta(event.index, delta, out);
                }
            }
            "content_block_stop" => self.block_end(event.index, out),
            "message_delta" => {
                self.usage(event.usage, out);
                self.finish(event.delta.and_then(|delta| delta.stop_reason), out);
            }
            "message_stop" => {
                // Without a reason before it, it says itself that this was all.
                self.finish(Some("end_turn".into()), out);
                return Ok(Flow::End);
            }
            // `ping`, and what is still to come.
            _ => {}
        }
        Ok(Flow::More)
    }

    fn body(&mut self, body: &[u8], out: &mut VecDeque<Delta>) -> Result<(), ProviderError> {
        let message: Message<'_> = serde_json::from_slice(body).map_err(|error| errors::malformed(&error))?;
        if message.error.is_some() {
            return Err(errors::in_answer(body));
        }
        if message.kind.as_deref() != Some("message") {
            return Err(errors::malformed(&"the provider's answer is not a message"));
        }
        self.message(message, out)?;
        self.finish(Some("end_turn".into()), out);
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.is_finished
    }
}

impl MessageDecoder {
    /// The beginning of a stream, with no content yet, or a whole answer.
    fn message(&mut self, message: Message<'_>, out: &mut VecDeque<Delta>) -> Result<(), ProviderError> {
        if !self.has_begun {
            self.has_begun = true;
            out.extend(message.model.filter(|model| !model.is_empty()).map(Delta::Model));
        }
        for block in message.content.into_iter().flatten() {
            self.block(None, block, out)?;
            self.block_end(None, out);
        }
        self.usage(message.usage, out);
        self.finish(message.stop_reason, out);
        Ok(())
    }

    fn block(&mut self, index: Option<u32>, block: &RawValue, out: &mut VecDeque<Delta>) -> Result<(), ProviderError> {
        let kind = parse::<BlockKind<'_>>(block)?.kind;
        if !matches!(&*kind, "text" | "thinking" | "redacted_thinking" | "tool_use") {
            return Ok(());
        }
        let block: Block<'_> = parse(block)?;
        if kind == "tool_use" {
            let position = u32::try_from(self.calls.len()).unwrap_or(u32::MAX);
            let input = block.input.map_or("{}", RawValue::get).to_owned();
            self.calls.push(ToolCall { index: position, block: index, input, has_arguments: false });
            let call = ToolCallDelta { index: position, id: block.id, name: block.name, arguments: String::new() };
            out.push_back(Delta::ToolCall(call));
        }
        out.extend(block.text.filter(|text| !text.is_empty()).map(Delta::Text));
        out.extend(thinking(block.thinking.or(block.data)));
        Ok(())
    }

    fn block_delta(&mut self, index: Option<u32>, delta: BlockDelta<'_>, out: &mut VecDeque<Delta>) {
        out.extend(delta.text.filter(|text| !text.is_empty()).map(Delta::Text));
        out.extend(thinking(delta.thinking));
        let Some(arguments) = delta.partial_json.filter(|json| !json.is_empty()) else {
            return;
        };
        match self.calls.iter_mut().rfind(|call| call.block == index) {
            Some(call) => {
                call.has_arguments = true;
                let index = call.index;
                out.push_back(Delta::ToolCall(ToolCallDelta { index, id: None, name: None, arguments }));
            }
            // The input of a tool that the provider runs itself: not for the client, but paid for like thinking.
            None => out.push_back(Delta::Thinking { bytes: arguments.len() }),
        }
    }

    fn block_end(&mut self, block: Option<u32>, out: &mut VecDeque<Delta>) {
        if let Some(call) = self.calls.last_mut()
            && call.block == block
            && !call.has_arguments
        {
            call.has_arguments = true;
            let arguments = std::mem::take(&mut call.input);
            out.push_back(Delta::ToolCall(ToolCallDelta { index: call.index, id: None, name: None, arguments }));
        }
    }

    fn usage(&mut self, report: Option<Usage>, out: &mut VecDeque<Delta>) {
        out.extend(report.and_then(|report| self.usage.merge(&report)).map(Delta::Usage));
    }

    fn finish(&mut self, stop_reason: Option<String>, out: &mut VecDeque<Delta>) {
        let Some(reason) = stop_reason.filter(|_| !self.is_finished) else {
            return;
        };
        self.is_finished = true;
        out.push_back(Delta::Finish(match reason.as_str() {
            "end_turn" | "stop_sequence" => FinishReason::Stop,
            "max_tokens" => FinishReason::Length,
            "tool_use" => FinishReason::ToolCalls,
            "refusal" => FinishReason::ContentFilter,
            _ => FinishReason::Other(reason),
        }));
    }
}

fn parse<'a, T: Deserialize<'a>>(json: &'a RawValue) -> Result<T, ProviderError> {
    serde_json::from_str(json.get()).map_err(|error| errors::malformed(&error))
}

fn thinking(text: Option<Text<'_>>) -> Option<Delta> {
    text.map(|text| text.0.len()).filter(|bytes| *bytes > 0).map(|bytes| Delta::Thinking { bytes })
}

#[cfg(test)]
mod tests;
