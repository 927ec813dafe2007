//! What OpenAI's chunks and completions mean. They have one shape: a completion's `message` is a chunk's `delta` that
//! says everything at once.

use std::{borrow::Cow, collections::VecDeque};

use aihub_application::ports::provider::{Delta, FinishReason, ProviderError, ToolCallDelta};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::usage::{Usage, UsageSoFar};
use crate::providers::{
    answer::{Decode, Flow},
    errors,
};

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    model: Option<Text<'a>>,
    /// Empty in a chunk that only counts, and in one of Azure's that goes before the first. Missing in no answer.
    #[serde(borrow)]
    choices: Option<Vec<Choice<'a>>>,
    usage: Option<Usage>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    /// This or `type` is `error` where an error's fields lie flat in the event.
    #[serde(borrow)]
    object: Option<Text<'a>>,
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    index: Option<u32>,
    #[serde(borrow)]
    delta: Option<Part<'a>>,
    #[serde(borrow)]
    message: Option<Part<'a>>,
    #[serde(borrow)]
    finish_reason: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Part<'a> {
    content: Option<String>,
    refusal: Option<String>,
    /// vLLM and llama.cpp say `reasoning_content`, Ollama and newer vLLM `reasoning`; some say both, with one text.
    #[serde(borrow)]
    reasoning: Option<Text<'a>>,
    #[serde(borrow)]
    reasoning_content: Option<Text<'a>>,
    tool_calls: Option<Vec<ToolCall>>,
}

#[derive(Deserialize)]
struct ToolCall {
    index: Option<u32>,
    id: Option<String>,
    function: Option<Function>,
}

#[derive(Deserialize, Default)]
struct Function {
    name: Option<String>,
    arguments: Option<String>,
}

/// A string that borrows from the event unless it has escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Remembers what earlier chunks of one answer said.
#[derive(Default)]
pub(crate) struct ChatDecoder {
    has_begun: bool,
    is_finished: bool,
    usage: UsageSoFar,
    /// The tool calls so far: the server's index and the call's id. Ours is the position.
    calls: Vec<(u32, String)>,
}

impl Decode for ChatDecoder {
    fn event(&mut self, name: Option<&str>, data: &str, out: &mut VecDeque<Delta>) -> Result<Flow, ProviderError> {
        if data == "[DONE]" {
            self.finish_if_not_said(out);
            return Ok(Flow::End);
        }
        if name == Some("error") {
            return Err(errors::in_answer(data.as_bytes()));
        }
        let chunk = parse(data.as_bytes())?;
        self.chunk(chunk, out);
        Ok(Flow::More)
    }

    fn body(&mut self, body: &[u8], out: &mut VecDeque<Delta>) -> Result<(), ProviderError> {
        let chunk = parse(body)?;
        if chunk.choices.as_ref().is_none_or(Vec::is_empty) {
            return Err(errors::malformed(&"the provider's answer has no choices"));
        }
        self.chunk(chunk, out);
        self.finish_if_not_said(out);
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.is_finished
    }
}

fn parse(data: &[u8]) -> Result<Chunk<'_>, ProviderError> {
    let chunk: Chunk<'_> = serde_json::from_slice(data).map_err(|error| errors::malformed(&error))?;
    let is_flat_error = [&chunk.object, &chunk.kind].into_iter().flatten().any(|kind| kind.0 == "error");
    if chunk.error.is_some() || is_flat_error {
        return Err(errors::in_answer(data));
    }
    Ok(chunk)
}

impl ChatDecoder {
    fn chunk(&mut self, chunk: Chunk<'_>, out: &mut VecDeque<Delta>) {
        if !self.has_begun
            && let Some(Text(model)) = chunk.model
            && !model.is_empty()
        {
            self.has_begun = true;
            out.push_back(Delta::Model(model.into_owned()));
        }
        let mut finish = None;
        // We never ask for a second choice.
        for choice in chunk.choices.into_iter().flatten().filter(|choice| choice.index.unwrap_or(0) == 0) {
            if let Some(part) = choice.delta.or(choice.message) {
                self.part(part, out);
            }
            finish = finish.or(choice.finish_reason);
        }
        if let Some(usage) = chunk.usage.and_then(|usage| self.usage.merge(&usage)) {
            out.push_back(Delta::Usage(usage));
        }
        if let Some(Text(reason)) = finish
            && !self.is_finished
        {
            self.is_finished = true;
            out.push_back(Delta::Finish(finish_reason(&reason)));
        }
        self.has_begun |= !out.is_empty();
    }

    fn part(&mut self, part: Part<'_>, out: &mut VecDeque<Delta>) {
        let thinking = [part.reasoning, part.reasoning_content];
        let bytes = thinking.iter().flatten().map(|text| text.0.len()).max().unwrap_or(0);
        if bytes > 0 {
            out.push_back(Delta::Thinking { bytes });
        }
        // A refusal is text that the model says in place of an answer.
        let texts = [part.content, part.refusal].into_iter().flatten().filter(|text| !text.is_empty());
        out.extend(texts.map(Delta::Text));
        for (position, call) in (0..).zip(part.tool_calls.into_iter().flatten()) {
            self.tool_call(position, call, out);
        }
    }

    /// Servers number calls from 0, not at all (in a body), or all of them 0 with an id each (older Ollama).
    fn tool_call(&mut self, position: u32, call: ToolCall, out: &mut VecDeque<Delta>) {
        let their_index = call.index.unwrap_or(position);
        let id = call.id.filter(|id| !id.is_empty());
        let function = call.function.unwrap_or_default();
        let arguments = function.arguments.unwrap_or_default();
        let known = self.calls.iter().rposition(|(index, _)| *index == their_index);
        let same = known.filter(|known| id.as_ref().is_none_or(|id| *id == self.calls[*known].1));
        let (index, id, name) = match same {
            Some(_) if arguments.is_empty() => return,
            Some(index) => (index, None, None),
            None => {
                self.calls.push((their_index, id.clone().unwrap_or_default()));
                (self.calls.len() - 1, id, function.name)
            }
        };
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        out.push_back(Delta::ToolCall(ToolCallDelta { index, id, name, arguments }));
    }

    /// A server that says "this was all" without a reason has stopped.
    fn finish_if_not_said(&mut self, out: &mut VecDeque<Delta>) {
        if !self.is_finished {
            self.is_finished = true;
            out.push_back(Delta::Finish(FinishReason::Stop));
        }
    }
}

fn finish_reason(reason: &str) -> FinishReason {
    match reason {
        "stop" => FinishReason::Stop,
        "length" => FinishReason::Length,
        "tool_calls" => FinishReason::ToolCalls,
        "content_filter" => FinishReason::ContentFilter,
        other => FinishReason::Other(other.into()),
    }
}

#[cfg(test)]
mod tests;
