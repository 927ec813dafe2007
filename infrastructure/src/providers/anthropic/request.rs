//! From a prompt in OpenAI's form to what is sent to `/v1/messages`.

use aihub_application::ports::provider::{GenerateCall, Message, Prompt, ProviderError, Role};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::AnthropicVersion;
use crate::providers::errors;

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
    /// Fails on a tool call whose arguments are not a JSON object, which Anthropic's form has no place for.
    pub(super) fn new(call: &'a GenerateCall, version: AnthropicVersion) -> Result<Self, ProviderError> {
        let prompt = &*call.prompt;
        let takes_sampling = version == AnthropicVersion::V2023_06_01;
        Ok(Self {
            model: &call.model,
            max_tokens: call.max_output_tokens,
            stream: call.stream,
            system: system(prompt),
            messages: turns(&prompt.messages)?,
            temperature: prompt.temperature.filter(|_| takes_sampling),
            top_p: prompt.top_p.filter(|_| takes_sampling),
            stop_sequences: &prompt.stop,
            tools: prompt.tools.iter().map(tool).collect(),
            // Refused without tools, and means nothing then.
            tool_choice: prompt.tool_choice.as_ref().filter(|_| !prompt.tools.is_empty()).map(tool_choice),
            metadata: prompt.user.as_deref().map(|user_id| Metadata { user_id }),
        })
    }
}

/// The prompt's own system text and that of all `system` messages, wherever they stand.
fn system(prompt: &Prompt) -> Vec<Value> {
    let own = prompt.system.iter().map(|text| text_block(text));
    let messages = prompt.messages.iter().filter(|message| message.role == Role::System);
    own.chain(messages.flat_map(|message| blocks(&message.content))).collect()
}

/// Messages as turns of `user` and `assistant`. Neighbours of one role become one turn: the results of parallel tool
/// calls must stand together, and with them what the user says next.
fn turns(messages: &[Message]) -> Result<Vec<Turn>, ProviderError> {
    let mut turns: Vec<Turn> = Vec::new();
    for message in messages {
        let (role, content) = match message.role {
            Role::System => continue,
            Role::User => ("user", blocks(&message.content)),
            Role::Tool => ("user", vec![tool_result(message)]),
            Role::Assistant => {
                let mut content = blocks(&message.content);
                for call in &message.tool_calls {
                    content.push(tool_use(call)?);
                }
                ("assistant", content)
            }
        };
        match turns.last_mut() {
            Some(last) if last.role == role => last.content.extend(content),
            // A turn that says nothing is refused.
            _ if content.is_empty() => {}
            _ => turns.push(Turn { role, content }),
        }
    }
    Ok(turns)
}

/// A string or a list of parts as content blocks. Empty text is left out, since Anthropic refuses it.
fn blocks(content: &Value) -> Vec<Value> {
    match content {
        Value::Null => Vec::new(),
        Value::String(text) if text.is_empty() => Vec::new(),
        Value::String(text) => vec![text_block(text)],
        Value::Array(parts) => parts.iter().filter(|part| part["text"] != "").map(block).collect(),
        other => vec![other.clone()],
    }
}

fn text_block(text: &str) -> Value {
    json!({ "type": "text", "text": text })
}

/// An image by data URI or address becomes an `image` block; what Anthropic calls the same (`text`) or we do not know
/// stays as it is.
fn block(part: &Value) -> Value {
    let image = &part["image_url"];
    let Some(url) = image.as_str().or_else(|| image["url"].as_str()) else {
        return part.clone();
    };
    let source = match url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,")) {
        Some((media_type, data)) => json!({ "type": "base64", "media_type": media_type, "data": data }),
        None => json!({ "type": "url", "url": url }),
    };
    json!({ "type": "image", "source": source })
}

fn tool_result(message: &Message) -> Value {
    let mut block = json!({ "type": "tool_result", "tool_use_id": message.tool_call_id });
    let content = blocks(&message.content);
    if !content.is_empty() {
        block["content"] = Value::Array(content);
    }
    block
}

fn tool_use(call: &Value) -> Result<Value, ProviderError> {
    let function = &call["function"];
    let Some(name) = function["name"].as_str() else {
        return Ok(call.clone());
    };
    let input = match &function["arguments"] {
        Value::String(arguments) if !arguments.trim().is_empty() => {
            serde_json::from_str::<Map<String, Value>>(arguments).map(Value::Object).map_err(|_| {
                errors::invalid_request(&format!("the arguments of a call of tool {name:?} are not a JSON object"))
            })?
        }
        Value::Object(arguments) => Value::Object(arguments.clone()),
        _ => Value::Object(Map::new()),
    };
    Ok(json!({ "type": "tool_use", "id": call["id"], "name": name, "input": input }))
}

/// A function becomes a tool with a schema; any other (the provider's own tools) stays as it is.
fn tool(tool: &Value) -> Value {
    let function = &tool["function"];
    if !function["name"].is_string() {
        return tool.clone();
    }
    let schema = Some(&function["parameters"]).filter(|schema| schema.is_object()).cloned();
    let mut wire = json!({
        "name": function["name"],
        "input_schema": schema.unwrap_or_else(|| json!({ "type": "object", "properties": {} })),
    });
    if function["description"].is_string() {
        wire["description"] = function["description"].clone();
    }
    wire
}

fn tool_choice(choice: &Value) -> Value {
    match choice.as_str() {
        Some("required") => json!({ "type": "any" }),
        Some(choice) => json!({ "type": choice }),
        None if choice["function"]["name"].is_string() => {
            json!({ "type": "tool", "name": choice["function"]["name"] })
        }
        None => choice.clone(),
    }
}

#[cfg(test)]
mod tests;
