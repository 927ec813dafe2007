//! What a client asks a model, in OpenAI's form and typed throughout: what has no place here reaches no provider. Written as
//! JSON it is what the client said.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What the client asked, as far as providers are concerned.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Prompt {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    pub messages: Vec<Message>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<ToolChoice>,
    /// The end user, opaque, for the provider's abuse tracking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    pub role: Role,
    #[serde(skip_serializing_if = "Content::is_nothing")]
    pub content: Content,
    /// An assistant's calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// On a `tool` message: which call this answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    User,
    Assistant,
    Tool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Content {
    /// Of an assistant's message that only calls tools.
    Nothing,
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part {
    Text {
        text: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<CacheControl>,
    },
    ImageUrl {
        image_url: Picture,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<CacheControl>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Picture {
    /// An address, or a data URI with the picture in it.
    pub url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<Detail>,
    #[serde(skip)]
    pub extent: Extent,
}

/// What is known of a picture's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// It stands in the prompt.
    Inline { width_px: u64, height_px: u64, bytes: u64 },
    /// The provider fetches it.
    Unknown,
}

/// How closely OpenAI's models look at a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Detail {
    Auto,
    Low,
    High,
    Original,
}

/// Asks a provider that writes its cache by order to do so up to here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheControl {
    #[serde(rename = "type")]
    pub kind: Ephemeral,
    /// Left out, it is five minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<CacheLifetime>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ephemeral {
    #[default]
    Ephemeral,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheLifetime {
    #[serde(rename = "5m")]
    FiveMinutes,
    #[serde(rename = "1h")]
    OneHour,
}

/// A function of the client's. What a provider runs itself is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    #[serde(rename = "type", default)]
    pub kind: FunctionKind,
    pub function: Function,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_control: Option<CacheControl>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Function {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// A JSON schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// What all tools and calls say that they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FunctionKind {
    #[default]
    Function,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ToolChoice {
    Mode(ToolMode),
    Named(NamedTool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ToolMode {
    Auto,
    None,
    Required,
}

/// `{"type":"function","function":{"name"}}`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedTool {
    #[serde(rename = "type", default)]
    pub kind: FunctionKind,
    pub function: ToolName,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolName {
    pub name: String,
}

/// `{"id","type":"function","function":{"name","arguments"}}`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolCall {
    pub id: String,
    #[serde(rename = "type", default)]
    pub kind: FunctionKind,
    pub function: CalledFunction,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalledFunction {
    pub name: String,
    /// JSON text.
    #[serde(default, deserialize_with = "json_text")]
    pub arguments: String,
}

impl Content {
    pub fn is_nothing(&self) -> bool {
        *self == Self::Nothing
    }

    /// The parts; a text is none.
    pub fn parts(&self) -> &[Part] {
        match self {
            Self::Parts(parts) => parts,
            Self::Nothing | Self::Text(_) => &[],
        }
    }

    /// Every text in it.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let whole = match self {
            Self::Text(text) => Some(text.as_str()),
            Self::Nothing | Self::Parts(_) => None,
        };
        let of_parts = self.parts().iter().filter_map(|part| match part {
            Part::Text { text, .. } => Some(text.as_str()),
            Part::ImageUrl { .. } => None,
        });
        whole.into_iter().chain(of_parts)
    }
}

impl Part {
    fn cache_control(&self) -> Option<CacheControl> {
        match self {
            Self::Text { cache_control, .. } | Self::ImageUrl { cache_control, .. } => *cache_control,
        }
    }

    pub fn picture(&self) -> Option<&Picture> {
        match self {
            Self::ImageUrl { image_url, .. } => Some(image_url),
            Self::Text { .. } => None,
        }
    }
}

impl Prompt {
    /// The same without what was said so far.
    #[must_use]
    pub fn without_messages(&self) -> Self {
        Self {
            system: self.system.clone(),
            messages: vec![],
            temperature: self.temperature,
            top_p: self.top_p,
            stop: self.stop.clone(),
            tools: self.tools.clone(),
            tool_choice: self.tool_choice.clone(),
            user: self.user.clone(),
        }
    }

    /// Every picture, with the numbers of its message and of its part.
    pub fn pictures(&self) -> impl Iterator<Item = (usize, usize, &Picture)> {
        self.messages.iter().enumerate().flat_map(|(message, said)| {
            let parts = said.content.parts().iter().enumerate();
            parts.filter_map(move |(part, said)| Some((message, part, said.picture()?)))
        })
    }

    /// Whether the provider is asked to keep some of it for an hour.
    pub fn writes_for_an_hour(&self) -> bool {
        let parts = self.messages.iter().flat_map(|message| message.content.parts()).map(Part::cache_control);
        let tools = self.tools.iter().map(|tool| tool.cache_control);
        let mut asked = parts.chain(tools).flatten();
        asked.any(|control| control.ttl == Some(CacheLifetime::OneHour))
    }
}

/// Some clients send the object itself, or nothing where there are no arguments.
fn json_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Null => String::new(),
        Value::String(text) => text,
        other => other.to_string(),
    })
}
