//! What is sent to `/chat/completions`.

use aihub_application::ports::provider::{
    GenerateCall,
    prompt::{Content, Function, FunctionKind, Message, Part, Picture, Role, Tool, ToolCall, ToolChoice},
};
use serde::Serialize;

use super::{MaxTokensField, OpenAiOptions};

/// The prompt is in OpenAI's form already, so this borrows all of it but what is for other providers.
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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<WireTool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<&'a ToolChoice>,
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
    content: Option<WireContent<'a>>,
    #[serde(skip_serializing_if = "<[ToolCall]>::is_empty")]
    tool_calls: &'a [ToolCall],
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum WireContent<'a> {
    Text(&'a str),
    Parts(Vec<WirePart<'a>>),
}

/// Its cache is written without being told to.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum WirePart<'a> {
    Text { text: &'a str },
    ImageUrl { image_url: &'a Picture },
}

#[derive(Debug, Serialize)]
struct WireTool<'a> {
    #[serde(rename = "type")]
    kind: FunctionKind,
    function: &'a Function,
}

impl<'a> ChatRequest<'a> {
    pub(super) fn new(call: &'a GenerateCall, options: OpenAiOptions) -> Self {
        let prompt = &*call.prompt;
        // What is left of the context, the server counts better; it ends the answer there by itself.
        let limit = Some(call.max_output_tokens).filter(|_| !call.is_capped_by_context);
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
            tools: prompt.tools.iter().map(|Tool { kind, function, .. }| WireTool { kind: *kind, function }).collect(),
            tool_choice: prompt.tool_choice.as_ref(),
            user: prompt.user.as_deref(),
        }
    }
}

impl<'a> WireMessage<'a> {
    fn system(text: &'a str) -> Self {
        let content = Some(WireContent::Text(text));
        Self { role: Role::System, content, tool_calls: &[], tool_call_id: None, name: None }
    }

    fn new(message: &'a Message) -> Self {
        Self {
            role: message.role,
            content: match &message.content {
                Content::Nothing => None,
                Content::Text(text) => Some(WireContent::Text(text)),
                Content::Parts(parts) => Some(WireContent::Parts(parts.iter().map(WirePart::new).collect())),
            },
            tool_calls: &message.tool_calls,
            tool_call_id: message.tool_call_id.as_deref(),
            name: message.name.as_deref(),
        }
    }
}

impl<'a> WirePart<'a> {
    fn new(part: &'a Part) -> Self {
        match part {
            Part::Text { text, .. } => Self::Text { text },
            Part::ImageUrl { image_url, .. } => Self::ImageUrl { image_url },
        }
    }
}
