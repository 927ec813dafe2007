//! What OpenAI's chunks and completions mean. They have one shape: a completion's `message` is a chunk's `delta` that
//! says everything at once.

use std::{borrow::Cow, collections::VecDeque};

use aihub_application::ports::provider::{Delta, ProviderError};

use crate::providers::{
    answer::Decode,
    calls::{Arguments, CallPiece},
    errors,
    json::{Fields, Json},
    meaning::Meaning,
};

/// Remembers what earlier chunks of one answer said.
#[derive(Default)]
pub(crate) struct ChatDecoder {
    meaning: Meaning,
    /// The choice that is read. We never ask for a second one.
    choice: Option<u64>,
    /// Something was said in pieces: a whole message behind them says it once more.
    has_deltas: bool,
}

impl Decode for ChatDecoder {
    fn piece(&mut self, name: Option<&str>, json: Json<'_>, out: &mut VecDeque<Delta>) -> Result<(), ProviderError> {
        let chunk = json.fields();
        if let Some(error) = error_in(name, json, &chunk) {
            return Err(error);
        }
        let choices = chunk.get("choices");
        // Some servers have one where the others have a list.
        let choices = choices.map_or_else(Vec::new, |all| if all.is_object() { vec![all] } else { all.items() });
        if choices.is_empty() && !chunk.has("choices") && chunk.get("usage").is_none() {
            self.meaning.words(json.raw());
            return Ok(());
        }
        self.meaning.model(chunk.text("model"), out);
        self.meaning.calls.begin_event();
        let numbered: Vec<_> = choices.into_iter().map(|choice| (number(choice), choice)).collect();
        let ours = numbered.iter().find(|(index, _)| *index == 0).or(numbered.first());
        let ours = self.choice.or(ours.map(|(index, _)| *index));
        self.choice = ours;
        let mut failed = None;
        for (_, choice) in numbered.into_iter().filter(|(index, _)| Some(*index) == ours) {
            failed = failed.or(self.choice(choice, out));
        }
        let usage = chunk.get("usage").or_else(|| chunk.get("x_groq")?.field("usage"));
        if let Some(usage) = usage {
            self.meaning.usage(usage, out);
        }
        failed.map_or(Ok(()), Err)
    }

    fn knows(&self, _name: &str) -> bool {
        true
    }

    fn is_over(&self) -> bool {
        false
    }

    fn done(&mut self) {
        self.meaning.end_sign();
    }

    fn meaning(&mut self) -> &mut Meaning {
        &mut self.meaning
    }
}

fn number(choice: Json<'_>) -> u64 {
    choice.fields().get("index").and_then(Json::count).unwrap_or(0)
}

/// An error, wherever it stands in a chunk.
fn error_in(name: Option<&str>, json: Json<'_>, chunk: &Fields<'_>) -> Option<ProviderError> {
    let failed = name == Some("error") || errors::is_error(chunk);
    // MiniMax has its refusals in a `base_resp` of a 200.
    let refused =
        chunk.get("base_resp").and_then(|said| said.field("status_code")?.count()).is_some_and(|code| code != 0);
    (failed || refused).then(|| errors::in_answer(json.raw().as_bytes()))
}

impl ChatDecoder {
    /// What it says, and then whether it ended in an error.
    fn choice(&mut self, choice: Json<'_>, out: &mut VecDeque<Delta>) -> Option<ProviderError> {
        let fields = choice.fields();
        let (delta, message) = (fields.get("delta").filter(|delta| delta.is_object()), fields.get("message"));
        if let Some(delta) = delta {
            self.has_deltas |= !delta.fields().is_empty();
            self.part(&delta.fields(), out);
        } else if let Some(message) = message.filter(|_| !self.has_deltas) {
            self.part(&message.fields(), out);
        }
        // Of the older completions, which some servers stream for a chat as well.
        if let Some(text) = fields.get("text").and_then(Json::wtf8)
            && delta.is_none()
            && message.is_none()
        {
            self.meaning.text(text, out);
        }
        let mut error = None;
        for part in [Some(choice), delta, message].into_iter().flatten().map(Json::fields) {
            if let Some(usage) = part.get("usage") {
                self.meaning.usage(usage, out);
            }
            error = error.or(part.get("error").filter(|error| errors::says_something(*error)));
        }
        if let Some(error) = error {
            return Some(errors::in_choice(choice, error));
        }
        let word = fields.text("finish_reason");
        if let Err(kind) = self.meaning.reason(word.as_deref().unwrap_or_default()) {
            return Some(errors::reason_of_error(kind, word.as_deref().unwrap_or_default()));
        }
        // A whole answer of a server that does not know of reasons has its end in its last brace.
        if message.is_some() && delta.is_none() && !fields.has("finish_reason") {
            self.meaning.end_sign();
        }
        None
    }

    fn part(&mut self, part: &Fields<'_>, out: &mut VecDeque<Delta>) {
        self.thinking(part, out);
        if let Some(content) = part.get("content") {
            self.content(content, out);
        }
        // A refusal is text that the model says in place of an answer.
        if let Some(refusal) = part.get("refusal").and_then(Json::wtf8) {
            self.meaning.text(refusal, out);
        }
        let calls = part.get("tool_calls").map(Json::items).unwrap_or_default();
        for call in calls {
            let fields = call.fields();
            let index = fields.get("index").and_then(Json::count);
            // Some have the function's fields beside the id.
            let function = fields.get("function").map_or(fields, Json::fields);
            self.meaning.call(call_piece(index, call.field("id").and_then(Json::text), &function), out);
        }
        // Of before there were several.
        if let Some(function) = part.get("function_call").filter(|call| call.is_object()) {
            self.meaning.call(call_piece(None, None, &function.fields()), out);
        }
    }

    /// vLLM and llama.cpp say `reasoning_content`, Ollama and newer vLLM `reasoning`; some say both, with one text.
    fn thinking(&mut self, part: &Fields<'_>, out: &mut VecDeque<Delta>) {
        let names = ["reasoning", "reasoning_content", "thinking"];
        let told = names.iter().filter_map(|name| Some(length(part.get(name)?))).max().unwrap_or(0);
        let details = || part.get("reasoning_details").map_or(0, length);
        self.meaning.thinking(if told > 0 { told } else { details() }, out);
    }

    /// A text, or a list of parts.
    fn content(&mut self, content: Json<'_>, out: &mut VecDeque<Delta>) {
        if let Some(text) = content.wtf8() {
            return self.meaning.text(text, out);
        }
        let parts = if content.is_object() { vec![content] } else { content.items() };
        for part in parts {
            let fields = part.fields();
            if let Some("thinking" | "reasoning") = fields.text("type").as_deref() {
                self.meaning.thinking(length(part), out);
                continue;
            }
            let text = || ["text", "refusal", "content"].iter().find_map(|name| text_of(fields.get(name)?));
            if let Some(text) = part.wtf8().or_else(text) {
                self.meaning.text(text, out);
            }
        }
    }
}

/// A text, or its `value`.
fn text_of(json: Json<'_>) -> Option<Cow<'_, [u8]>> {
    json.wtf8().or_else(|| json.field("value")?.wtf8())
}

/// How long the texts are that are thought, however they are wrapped.
fn length(json: Json<'_>) -> usize {
    length_within(json, MAX_WRAPS)
}

/// Deeper than anybody wraps them, all of it counts.
const MAX_WRAPS: usize = 8;

fn length_within(json: Json<'_>, wraps: usize) -> usize {
    let length = |json: Json<'_>| length_within(json, wraps - 1);
    if let Some(text) = json.text() {
        return text.len();
    }
    if wraps == 0 {
        return json.raw().len();
    }
    if json.is_list() {
        return json.items().into_iter().map(length).sum();
    }
    let names = ["text", "thinking", "content", "summary", "reasoning"];
    let fields = json.fields();
    names.iter().filter_map(|name| Some(length(fields.get(name)?))).max().unwrap_or(0)
}

fn call_piece<'a>(index: Option<u64>, id: Option<Cow<'a, str>>, function: &Fields<'a>) -> CallPiece<'a> {
    let arguments = function.get("arguments").or_else(|| function.get("parameters"));
    let arguments = arguments.map(|json| json.wtf8().map_or_else(|| Arguments::Whole(json.raw()), Arguments::Text));
    CallPiece { index, id, name: function.text("name"), arguments }
}

#[cfg(test)]
mod tests;
