//! From a prompt in OpenAI's form to what is sent to `/v1/messages`.

use std::borrow::Cow;

use aihub_application::ports::provider::{
    GenerateCall,
    prompt::{CacheControl, Content, Message, Part, Prompt, Role, Tool, ToolCall, ToolChoice, ToolMode},
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::AnthropicVersion;

/// Anthropic's temperatures end here, those of others at 2.
const HOTTEST: f64 = 1.0;
/// Makes ids that Anthropic takes out of others.
const CALL_NAMESPACE: Uuid = Uuid::from_u128(0x6d0a_41c5_9a7e_4c0b_8f2d_51b6_3e9c_77a4);

#[derive(Debug, Serialize)]
pub(super) struct MessagesRequest<'a> {
    model: &'a str,
    max_tokens: u32,
    stream: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    system: Vec<Value>,
    messages: Vec<Turn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop_sequences: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata<'a>>,
}

#[derive(Debug, Serialize)]
struct Turn {
    role: &'static str,
    content: Vec<Value>,
}

#[derive(Debug, Serialize)]
struct Metadata<'a> {
    user_id: &'a str,
}

impl<'a> MessagesRequest<'a> {
    pub(super) fn new(call: &'a GenerateCall, version: AnthropicVersion) -> Self {
        let prompt = &*call.prompt;
        let takes_sampling = version == AnthropicVersion::V2023_06_01;
        let (mut system, mut messages) = (system(prompt), turns(&prompt.messages));
        // Orders alone are refused; whoever gives nothing else has said them.
        if messages.is_empty() {
            messages.push(Turn { role: "user", content: std::mem::take(&mut system) });
        }
        Self {
            model: &call.model,
            max_tokens: call.max_output_tokens,
            stream: call.stream,
            system,
            messages,
            temperature: prompt.temperature.filter(|_| takes_sampling).map(|temperature| temperature.min(HOTTEST)),
            top_p: prompt.top_p.filter(|_| takes_sampling),
            stop_sequences: &prompt.stop,
            tools: prompt.tools.iter().map(tool).collect(),
            // Refused without tools, and means nothing then.
            tool_choice: prompt.tool_choice.as_ref().filter(|_| !prompt.tools.is_empty()).map(tool_choice),
            metadata: prompt.user.as_deref().map(|user_id| Metadata { user_id }),
        }
    }
}

/// The prompt's own system text and that of all `system` messages, wherever they stand.
fn system(prompt: &Prompt) -> Vec<Value> {
    let own = prompt.system.iter().map(|text| text_block(text, None));
    let messages = prompt.messages.iter().filter(|message| message.role == Role::System);
    own.chain(messages.flat_map(|message| blocks(&message.content))).collect()
}

/// Messages as turns of `user` and `assistant`. Neighbours of one role become one turn: the results of parallel tool
/// calls must stand together, and with them what the user says next.
fn turns(messages: &[Message]) -> Vec<Turn> {
    let mut turns: Vec<Turn> = Vec::new();
    for message in messages {
        let (role, content) = match message.role {
            Role::System => continue,
            Role::User => ("user", blocks(&message.content)),
            Role::Tool => ("user", vec![tool_result(message)]),
            Role::Assistant => {
                let said = blocks(&message.content).into_iter();
                ("assistant", said.chain(message.tool_calls.iter().map(tool_use)).collect())
            }
        };
        match turns.last_mut() {
            Some(last) if last.role == role => last.content.extend(content),
            // A turn that says nothing is refused.
            _ if content.is_empty() => {}
            _ => turns.push(Turn { role, content }),
        }
    }
    // An answer that is begun must not end in white space.
    if let Some(Turn { role: "assistant", content }) = turns.last_mut()
        && let Some(Value::String(text)) = content.last_mut().and_then(|block| block.get_mut("text"))
    {
        text.truncate(text.trim_end().len());
    }
    turns
}

/// Content as blocks. Text of nothing but white space is left out, since Anthropic refuses it.
fn blocks(content: &Content) -> Vec<Value> {
    match content {
        Content::Nothing => Vec::new(),
        Content::Text(text) if text.trim().is_empty() => Vec::new(),
        Content::Text(text) => vec![text_block(text, None)],
        Content::Parts(parts) => parts.iter().filter_map(block).collect(),
    }
}

fn block(part: &Part) -> Option<Value> {
    match part {
        Part::Text { text, .. } if text.trim().is_empty() => None,
        Part::Text { text, cache_control } => Some(text_block(text, *cache_control)),
        Part::ImageUrl { image_url, cache_control } => {
            let source = match image_url.url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,")) {
                Some(("image/jpg", data)) => json!({ "type": "base64", "media_type": "image/jpeg", "data": data }),
                Some((media_type, data)) => json!({ "type": "base64", "media_type": media_type, "data": data }),
                None => json!({ "type": "url", "url": image_url.url }),
            };
            Some(cached(json!({ "type": "image", "source": source }), *cache_control))
        }
    }
}

fn text_block(text: &str, cache_control: Option<CacheControl>) -> Value {
    cached(json!({ "type": "text", "text": text }), cache_control)
}

/// With the order to write the cache up to here, where there is one.
fn cached(mut block: Value, cache_control: Option<CacheControl>) -> Value {
    if let Some(control) = cache_control {
        block["cache_control"] = json!(control);
    }
    block
}

fn tool_result(message: &Message) -> Value {
    let mut block = json!({ "type": "tool_result", "tool_use_id": message.tool_call_id.as_deref().map(call_id) });
    let content = blocks(&message.content);
    if !content.is_empty() {
        block["content"] = Value::Array(content);
    }
    block
}

/// Arguments that are no JSON object, as a model wrote them, go along as a text: what it did is part of the history.
fn tool_use(call: &ToolCall) -> Value {
    let (name, arguments) = (&call.function.name, &call.function.arguments);
    let input: Map<String, Value> = match serde_json::from_str(arguments) {
        Ok(input) => input,
        Err(_) if arguments.trim().is_empty() => Map::new(),
        Err(_) => Map::from_iter([("arguments".to_owned(), json!(arguments))]),
    };
    json!({ "type": "tool_use", "id": call_id(&call.id), "name": name, "input": input })
}

/// An id of another provider's in Anthropic's alphabet (`^[a-zA-Z0-9_-]+$`); the same for the call and for its result. Two that
/// differ stay apart.
fn call_id(id: &str) -> Cow<'_, str> {
    let is_taken = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !id.is_empty() && id.bytes().all(is_taken) {
        return Cow::Borrowed(id);
    }
    Cow::Owned(format!("call_{}", Uuid::new_v5(&CALL_NAMESPACE, id.as_bytes()).simple()))
}

fn tool(tool: &Tool) -> Value {
    let function = &tool.function;
    let schema = function.parameters.as_ref().filter(|schema| schema.is_object()).cloned();
    let mut wire = json!({
        "name": function.name,
        "input_schema": schema.unwrap_or_else(|| json!({ "type": "object", "properties": {} })),
    });
    if let Some(description) = &function.description {
        wire["description"] = json!(description);
    }
    cached(wire, tool.cache_control)
}

fn tool_choice(choice: &ToolChoice) -> Value {
    match choice {
        ToolChoice::Mode(ToolMode::Auto) => json!({ "type": "auto" }),
        ToolChoice::Mode(ToolMode::None) => json!({ "type": "none" }),
        ToolChoice::Mode(ToolMode::Required) => json!({ "type": "any" }),
        ToolChoice::Named(named) => json!({ "type": "tool", "name": named.function.name }),
    }
}

#[cfg(test)]
mod tests;
