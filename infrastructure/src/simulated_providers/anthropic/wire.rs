//! Anthropic's messages and stream events, with the keys in Anthropic's order: readers may rely on `type` coming first.

use serde::Serialize;
use serde_json::Value;

use super::super::respond::to_json;

#[derive(Serialize)]
pub(super) struct Message<'a> {
    pub model: &'a str,
    pub id: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub role: &'static str,
    pub content: Vec<Block<'a>>,
    #[serde(flatten)]
    pub ending: Ending<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// All null until the message ends.
#[derive(Serialize, Default, Clone, Copy)]
#[expect(clippy::struct_field_names, reason = "the names are Anthropic's")]
pub(super) struct Ending<'a> {
    pub stop_reason: Option<&'a str>,
    pub stop_sequence: Option<&'a str>,
    /// Only a refusal has any.
    pub stop_details: Option<()>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Block<'a> {
    Thinking { thinking: &'a str, signature: &'a str },
    Text { text: &'a str },
    ToolUse { id: String, name: &'a str, input: Value, caller: Caller },
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Caller {
    Direct,
}

/// The fields behind `Option` are left out of `message_delta`, which has a shorter form.
#[derive(Serialize, Default, Clone, Copy)]
pub(super) struct Usage {
    pub input_tokens: u32,
    pub cache_creation_input_tokens: u32,
    pub cache_read_input_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_creation: Option<CacheCreation>,
    pub output_tokens: u32,
    /// There only where the message has thinking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens_details: Option<OutputTokensDetails>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inference_geo: Option<&'static str>,
}

#[derive(Serialize, Default, Clone, Copy)]
pub(super) struct CacheCreation {
    pub ephemeral_5m_input_tokens: u32,
    pub ephemeral_1h_input_tokens: u32,
}

#[derive(Serialize, Clone, Copy)]
pub(super) struct OutputTokensDetails {
    pub thinking_tokens: u32,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Event<'a> {
    MessageStart {
        message: Message<'a>,
    },
    ContentBlockStart {
        index: usize,
        content_block: Block<'a>,
    },
    ContentBlockDelta {
        index: usize,
        delta: Delta<'a>,
    },
    ContentBlockStop {
        index: usize,
    },
    MessageDelta {
        delta: Ending<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
    },
    MessageStop,
}

/// Those that are no tokens.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Delta<'a> {
    SignatureDelta { signature: &'a str },
    InputJsonDelta { partial_json: &'a str },
}

impl Event<'_> {
    /// As server-sent event. Anthropic pads its JSON with spaces before the end of the line.
    pub fn to_sse(&self) -> String {
        let name = match self {
            Self::MessageStart { .. } => "message_start",
            Self::ContentBlockStart { .. } => "content_block_start",
            Self::ContentBlockDelta { .. } => "content_block_delta",
            Self::ContentBlockStop { .. } => "content_block_stop",
            Self::MessageDelta { .. } => "message_delta",
            Self::MessageStop => "message_stop",
        };
        format!("event: {name}\ndata: {}    \n\n", to_json(self))
    }
}
