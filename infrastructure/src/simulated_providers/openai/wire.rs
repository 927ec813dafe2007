//! OpenAI's completions, with the keys in OpenAI's order.

use serde::Serialize;

use super::super::{answer::Answer, knobs::UsageReport};

#[derive(Serialize)]
pub(super) struct Completion<'a> {
    pub id: String,
    pub object: &'static str,
    /// Unix time in seconds.
    pub created: i64,
    pub model: &'a str,
    pub choices: [Choice<'a>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    pub service_tier: &'static str,
    pub system_fingerprint: &'static str,
}

#[derive(Serialize)]
pub(super) struct Choice<'a> {
    pub index: u32,
    pub message: Message<'a>,
    pub logprobs: Option<()>,
    pub finish_reason: &'static str,
}

#[derive(Serialize)]
pub(super) struct Message<'a> {
    pub role: &'static str,
    /// Null with tool calls.
    pub content: Option<&'a str>,
    /// As vLLM and llama.cpp call shown thinking.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reasoning_content: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall<'a>>,
    pub refusal: Option<()>,
    pub annotations: [(); 0],
}

#[derive(Serialize)]
pub(super) struct ToolCall<'a> {
    /// Only a stream numbers them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    pub id: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub function: Function<'a>,
}

#[derive(Serialize)]
pub(super) struct Function<'a> {
    pub name: &'a str,
    /// JSON.
    pub arguments: &'a str,
}

#[derive(Serialize, Clone, Copy)]
pub(super) struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    prompt_tokens_details: PromptTokensDetails,
    completion_tokens_details: CompletionTokensDetails,
}

#[derive(Serialize, Default, Clone, Copy)]
struct PromptTokensDetails {
    cached_tokens: u32,
    audio_tokens: u32,
}

#[derive(Serialize, Default, Clone, Copy)]
#[expect(clippy::struct_field_names, reason = "the names are OpenAI's")]
struct CompletionTokensDetails {
    reasoning_tokens: u32,
    audio_tokens: u32,
    accepted_prediction_tokens: u32,
    rejected_prediction_tokens: u32,
}

impl Usage {
    fn new(prompt_tokens: u32, completion_tokens: u32, reasoning_tokens: u32) -> Self {
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptTokensDetails::default(),
            completion_tokens_details: CompletionTokensDetails { reasoning_tokens, ..Default::default() },
        }
    }

    /// The counts as they are told, several where a stream tells them several times, and none where it tells nothing.
    pub fn reported(report: UsageReport, prompt_tokens: u32, answer: &Answer) -> Vec<Self> {
        let completion_tokens = answer.output_tokens;
        let reasoning_tokens = answer.hidden_tokens + answer.thinking_tokens;
        let right = Self::new(prompt_tokens, completion_tokens, reasoning_tokens);
        match report {
            UsageReport::Normal => vec![right],
            UsageReport::Missing => vec![],
            UsageReport::Zero => vec![Self::new(0, 0, 0)],
            UsageReport::Repeated => vec![right, right],
            UsageReport::Corrected => vec![Self::new(prompt_tokens / 2, completion_tokens, reasoning_tokens), right],
        }
    }
}
