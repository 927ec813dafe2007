//! How many tokens the input has, by three counts: at least so many, which have to fit into the context; about so many, which
//! are charged where a provider does not say; and at most so many, which are held.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use super::AnswerRequest;
use crate::{
    catalog::Model,
    ports::provider::prompt::{Message, Prompt, Tool, ToolCall, ToolChoice},
};

/// The longest token of the tokenizers that are published, a run of spaces (`o200k_base`, Llama 3).
const LONGEST_TOKEN_BYTES: u64 = 128;
/// What a picture by address counts for where its model does not say what the most is.
const TOKENS_PER_UNKNOWN_PICTURE: u64 = 2_000;

/// How texts and what stands around them are counted.
struct Scale {
    bytes_per_token: u64,
    /// What a provider adds to every request: the ends of its template, the day, instructions of its own.
    request: u64,
    message: u64,
    call: u64,
    tool: u64,
    /// What it adds as soon as there are tools.
    tools: u64,
}

/// A third of its bytes is above what tokenizers make of prose and code in most scripts.
const ABOUT: Scale = Scale { bytes_per_token: 3, request: 0, message: 8, call: 8, tool: 8, tools: 0 };

/// A token is a byte at least, whatever the script and whoever made up the text. Instructions for tools are up to 530 tokens at
/// Anthropic (<https://platform.claude.com/docs/en/agents-and-tools/tool-use/overview#pricing>), and that has grown before.
const AT_MOST: Scale = Scale { bytes_per_token: 1, request: 128, message: 16, call: 32, tool: 64, tools: 1_000 };

impl AnswerRequest {
    /// How many tokens the input has, about, at `model`. Never more than [`Self::input_tokens_at_most`].
    pub fn input_tokens_estimate(&self, model: &Model) -> u64 {
        self.count(&ABOUT, model).max(1)
    }

    /// How many tokens the input can have at `model`, so that no provider bills more. Text that does not fit into the context
    /// is refused by the provider, and not billed. Pictures may be billed beyond it: gpt-4o-mini counts them for more than
    /// they take.
    pub fn input_tokens_at_most(&self, model: &Model) -> u64 {
        self.count(&AT_MOST, model).max(1)
    }

    /// How many tokens certainly have to fit into a context at once: those of all messages, or of an embedding's
    /// longest text. What providers rewrite or drop (tools, images, names) is not counted.
    pub fn input_tokens_at_least(&self) -> u64 {
        let system = self.prompt.system.as_deref().map_or(0, tokens_at_least);
        let texts = self.prompt.messages.iter().flat_map(|message| message.content.texts());
        let messages = sum(texts.map(tokens_at_least));
        let longest_input = self.inputs.iter().map(|input| tokens_at_least(input)).max().unwrap_or_default();
        sum([system, messages, longest_input])
    }

    /// How many bytes of text the client sent, about.
    pub fn text_bytes(&self) -> u64 {
        let bytes = Scale { bytes_per_token: 1, request: 0, message: 0, call: 0, tool: 0, tools: 0 };
        let pictures = self.prompt.pictures().map(|(_, _, picture)| length(&picture.url));
        sum([bytes.prompt(&self.prompt), sum(self.inputs.iter().map(|input| length(input))), sum(pictures)])
    }

    fn count(&self, scale: &Scale, model: &Model) -> u64 {
        let fits = |tokens: u64| tokens.min(model.context_tokens);
        let pictures = self.prompt.pictures().map(|(_, _, picture)| model.pictures.tokens(picture.extent));
        let pictures = pictures.map(|tokens| tokens.unwrap_or(TOKENS_PER_UNKNOWN_PICTURE));
        // Each input has a context of its own.
        let inputs = self.inputs.iter().map(|input| fits(scale.text(input).saturating_add(scale.message)));
        sum([fits(scale.prompt(&self.prompt)), sum(pictures), sum(inputs)])
    }
}

impl Scale {
    fn text(&self, text: &str) -> u64 {
        length(text).div_ceil(self.bytes_per_token)
    }

    /// Without its pictures.
    fn prompt(&self, prompt: &Prompt) -> u64 {
        let choice = match &prompt.tool_choice {
            Some(ToolChoice::Named(named)) => self.text(&named.function.name),
            Some(ToolChoice::Mode(_)) | None => 0,
        };
        sum([
            self.request,
            prompt.system.as_deref().map_or(0, |system| self.text(system).saturating_add(self.message)),
            sum(prompt.messages.iter().map(|message| self.message(message))),
            if prompt.tools.is_empty() { 0 } else { self.tools },
            sum(prompt.tools.iter().map(|tool| self.tool(tool))),
            choice,
            sum(prompt.stop.iter().map(|stop| self.text(stop))),
        ])
    }

    fn message(&self, message: &Message) -> u64 {
        let content = sum(message.content.texts().map(|text| self.text(text)));
        let names = [&message.name, &message.tool_call_id].into_iter().flatten().map(|name| self.text(name));
        sum([self.message, content, sum(names), sum(message.tool_calls.iter().map(|call| self.call(call)))])
    }

    fn call(&self, call: &ToolCall) -> u64 {
        let texts = [&call.id, &call.function.name, &call.function.arguments];
        sum([self.call, sum(texts.into_iter().map(|text| self.text(text)))])
    }

    fn tool(&self, tool: &Tool) -> u64 {
        let schema = tool.function.parameters.as_ref().map(ToString::to_string);
        let texts = [Some(&tool.function.name), tool.function.description.as_ref(), schema.as_ref()];
        sum([self.tool, sum(texts.into_iter().flatten().map(|text| self.text(text)))])
    }
}

/// A lower bound. A fixed number of bytes a token would not be one: a word in Hindi or the indentation of code is a
/// single token of dozens of bytes. But tokenizers cut at white space before they do anything else, so a word is at
/// least a token; the half is for the cuts that they leave out, which are between signs (`}\n//`).
pub(super) fn tokens_at_least(text: &str) -> u64 {
    let words = u64::try_from(text.split_whitespace().count()).unwrap_or(u64::MAX);
    (words / 2).max(length(text) / LONGEST_TOKEN_BYTES)
}

fn length(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}

fn sum(counts: impl IntoIterator<Item = u64>) -> u64 {
    counts.into_iter().fold(0, u64::saturating_add)
}
