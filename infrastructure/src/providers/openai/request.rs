//! What is sent to `/chat/completions`.

use aihub_application::ports::provider::{GenerateCall, Message, Role};
use serde::Serialize;
use serde_json::Value;

use super::{MaxTokensField, OpenAiOptions};

/// The prompt is in OpenAI's form already, so this borrows all of it, unknown parts included.
#[derive(Debug, Serialize)]
pub(super) struct ChatRequest<'a> {
    model: &'a str,
    messages: Vec<WireMessage<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop: &'a [String],
    #[serde(skip_serializing_if = "<[Value]>::is_empty")]
    tools: &'a [Value],
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Debug, Serialize)]
struct WireMessage<'a> {
    role: Role,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Content<'a>>,
    #[serde(skip_serializing_if = "<[Value]>::is_empty")]
    tool_calls: &'a [Value],
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(&'a str),
    Any(&'a Value),
}

impl<'a> ChatRequest<'a> {
    pub(super) fn new(call: &'a GenerateCall, options: OpenAiOptions) -> Self {
        let prompt = &*call.prompt;
        let limit = Some(call.max_output_tokens);
        let (max_completion_tokens, max_tokens) = match options.max_tokens_field {
            MaxTokensField::MaxCompletionTokens => (limit, None),
            MaxTokensField::MaxTokens => (None, limit),
        };
        let system = prompt.system.as_deref().map(WireMessage::system);
        Self {
            model: &call.model,
            messages: system.into_iter().chain(prompt.messages.iter().map(WireMessage::new)).collect(),
            max_completion_tokens,
            max_tokens,
            stream: call.stream,
            stream_options: (call.stream && options.include_usage).then_some(StreamOptions { include_usage: true }),
            temperature: prompt.temperature,
            top_p: prompt.top_p,
            stop: &prompt.stop,
            tools: &prompt.tools,
            tool_choice: prompt.tool_choice.as_ref(),
            user: prompt.user.as_deref(),
        }
    }
}

impl<'a> WireMessage<'a> {
    fn system(text: &'a str) -> Self {
        let content = Some(Content::Text(text));
        Self { role: Role::System, content, tool_calls: &[], tool_call_id: None, name: None }
    }

    fn new(message: &'a Message) -> Self {
        Self {
            role: message.role,
            content: Some(&message.content).filter(|content| !content.is_null()).map(Content::Any),
            tool_calls: &message.tool_calls,
            tool_call_id: message.tool_call_id.as_deref(),
            name: message.name.as_deref(),
        }
    }
}
