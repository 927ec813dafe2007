//! Anthropic's messages request, as far as the simulator minds it.

use axum::{body::Bytes, extract::rejection::BytesRejection, http::StatusCode};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use super::{
    super::{
        answer::{CacheLifetime, Question, Tool, ToolChoice},
        models::{Model, Use},
        text,
    },
    Version,
    error::AnthropicError,
};

/// The least that `thinking.budget_tokens` may be.
const MIN_THINKING_TOKENS: u32 = 1_024;

#[derive(Deserialize)]
pub(super) struct MessagesRequest {
    pub model: Option<String>,
    messages: Option<Vec<Message>>,
    system: Option<Content>,
    max_tokens: Option<u32>,
    pub stream: Option<bool>,
    #[serde(default)]
    stop_sequences: Vec<String>,
    #[serde(default)]
    tools: Vec<ToolDefinition>,
    tool_choice: Option<ToolChoiceJson>,
    thinking: Option<Thinking>,
    temperature: Option<IgnoredAny>,
    top_p: Option<IgnoredAny>,
    top_k: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: Content,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Blocks(Vec<Block>),
}

#[derive(Deserialize)]
struct Block {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
    /// Of a `tool_result`.
    content: Option<Box<Content>>,
    citations: Option<Value>,
    cache_control: Option<CacheControl>,
}

#[derive(Deserialize)]
struct CacheControl {
    ttl: Option<String>,
}

#[derive(Deserialize)]
struct ToolDefinition {
    name: String,
    #[serde(default)]
    input_schema: Value,
    cache_control: Option<CacheControl>,
}

#[derive(Deserialize)]
struct ToolChoiceJson {
    #[serde(rename = "type")]
    kind: String,
    name: Option<String>,
    disable_parallel_tool_use: Option<bool>,
}

#[derive(Deserialize)]
struct Thinking {
    #[serde(rename = "type")]
    kind: String,
    budget_tokens: Option<u32>,
}

pub(super) fn parse(body: Result<Bytes, BytesRejection>) -> Result<MessagesRequest, AnthropicError> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => AnthropicError::too_large(),
        _ => AnthropicError::invalid_request(rejection.body_text()),
    })?;
    serde_json::from_slice(&body)
        .map_err(|error| AnthropicError::invalid_request(format!("Invalid request body: {error}")))
}

impl MessagesRequest {
    /// Checks what both endpoints ask for, and counts.
    pub fn to_counted(&self, model: &Model, version: Version) -> Result<Question, AnthropicError> {
        let invalid = |message: String| Err(AnthropicError::invalid_request(message));
        let Some(messages) = &self.messages else { return invalid("messages: Field required".to_owned()) };
        if messages.is_empty() {
            return invalid("messages: at least one message is required".to_owned());
        }
        let sampling = [("temperature", &self.temperature), ("top_p", &self.top_p), ("top_k", &self.top_k)];
        if version == Version::V2026_10_21
            && let Some((name, _)) = sampling.iter().find(|(_, value)| value.is_some())
        {
            return invalid(format!("{name}: Extra inputs are not permitted"));
        }
        let mut question = Question::default();
        if let Some(system) = &self.system {
            question.count_message(system.count_words());
        }
        for (index, message) in messages.iter().enumerate() {
            message.check(index, version)?;
            question.count_message(message.content.count_words());
            question.answers_a_tool = message.content.blocks().iter().any(|block| block.kind == "tool_result");
            if message.role == "user" && !question.answers_a_tool {
                question.prompt = message.content.text();
            }
        }
        let blocks = messages.iter().flat_map(|message| message.content.blocks());
        let controls =
            blocks.map(|block| &block.cache_control).chain(self.tools.iter().map(|tool| &tool.cache_control));
        question.cache = controls.flatten().map(CacheControl::lifetime).max();
        if question.input_tokens > model.max_input_tokens {
            return Err(AnthropicError::context_length(model.max_input_tokens, question.input_tokens));
        }
        Ok(question)
    }

    /// Checks what only an answer needs, on top of [`Self::to_counted`].
    pub fn into_question(self, model: &Model, version: Version) -> Result<Question, AnthropicError> {
        let invalid = |message: String| Err(AnthropicError::invalid_request(message));
        let mut question = self.to_counted(model, version)?;
        let Some(max_tokens) = self.max_tokens else { return invalid("max_tokens: Field required".to_owned()) };
        if let Use::Chat { max_output_tokens } = model.use_
            && max_tokens > max_output_tokens
        {
            let name = model.name;
            return invalid(format!(
                "max_tokens: {max_tokens} > {max_output_tokens}, which is the maximum allowed number of output tokens for {name}"
            ));
        }
        question.max_output_tokens = max_tokens;
        question.thinks = match &self.thinking {
            Some(thinking) => thinking.is_on(max_tokens)?,
            None => false,
        };
        question.stop = self.stop_sequences;
        question.tools = self
            .tools
            .into_iter()
            .map(|ToolDefinition { name, input_schema: schema, .. }| Tool { name, schema })
            .collect();
        if let Some(choice) = self.tool_choice {
            question.one_tool_only = choice.disable_parallel_tool_use.unwrap_or_default();
            question.tool_choice = choice.read(&question.tools)?;
        }
        Ok(question)
    }
}

impl Message {
    fn check(&self, index: usize, version: Version) -> Result<(), AnthropicError> {
        let invalid = |message: String| Err(AnthropicError::invalid_request(message));
        if !["user", "assistant", "system"].contains(&self.role.as_str()) {
            return invalid(format!("messages.{index}.role: Input should be 'user', 'assistant' or 'system'"));
        }
        if version == Version::V2023_06_01 {
            return Ok(());
        }
        let blocks = self.content.blocks();
        if self.role == "assistant" && blocks.iter().any(|block| block.kind == "document") {
            return invalid(format!(
                "messages.{index}.content: document blocks are not permitted in assistant messages"
            ));
        }
        let is_cited = |block: &Block| {
            block.kind == "text"
                && block.citations.as_ref().is_some_and(|list| *list != Value::Array(vec![]) && !list.is_null())
        };
        if self.role == "user" && blocks.iter().any(is_cited) {
            return invalid(format!(
                "messages.{index}.content: citations are not permitted on text blocks in user messages"
            ));
        }
        Ok(())
    }
}

impl Content {
    fn blocks(&self) -> &[Block] {
        match self {
            Self::Text(_) => &[],
            Self::Blocks(blocks) => blocks,
        }
    }

    fn count_words(&self) -> u32 {
        let count_block = |block: &Block| {
            let nested = block.content.as_ref().map_or(0, |content| content.count_words());
            block.text.as_deref().map_or(0, text::count_words).saturating_add(nested)
        };
        match self {
            Self::Text(text) => text::count_words(text),
            Self::Blocks(blocks) => blocks.iter().map(count_block).fold(0, u32::saturating_add),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Blocks(blocks) => {
                let texts: Vec<&str> = blocks.iter().filter_map(|block| block.text.as_deref()).collect();
                texts.join("\n")
            }
        }
    }
}

impl CacheControl {
    fn lifetime(&self) -> CacheLifetime {
        if self.ttl.as_deref() == Some("1h") { CacheLifetime::OneHour } else { CacheLifetime::FiveMinutes }
    }
}

impl ToolChoiceJson {
    fn read(self, tools: &[Tool]) -> Result<ToolChoice, AnthropicError> {
        match (self.kind.as_str(), self.name) {
            ("auto", _) => Ok(ToolChoice::Auto),
            ("none", _) => Ok(ToolChoice::None),
            ("any", _) => Ok(ToolChoice::Required),
            ("tool", Some(name)) if tools.iter().any(|tool| tool.name == name) => Ok(ToolChoice::Named(name)),
            ("tool", Some(name)) => {
                Err(AnthropicError::invalid_request(format!("tool_choice: Tool '{name}' not found in provided tools")))
            }
            ("tool", None) => Err(AnthropicError::invalid_request("tool_choice.tool.name: Field required".to_owned())),
            (kind, _) => Err(AnthropicError::invalid_request(format!(
                "tool_choice: Input tag '{kind}' does not match any of the expected tags: 'any', 'auto', 'none', 'tool'"
            ))),
        }
    }
}

impl Thinking {
    fn is_on(&self, max_tokens: u32) -> Result<bool, AnthropicError> {
        let invalid = |message: String| Err(AnthropicError::invalid_request(message));
        match (self.kind.as_str(), self.budget_tokens) {
            ("disabled", _) => Ok(false),
            ("enabled", None) => invalid("thinking.enabled.budget_tokens: Field required".to_owned()),
            ("enabled", Some(budget)) if budget < MIN_THINKING_TOKENS => invalid(format!(
                "thinking.enabled.budget_tokens: Input should be greater than or equal to {MIN_THINKING_TOKENS}"
            )),
            ("enabled", Some(budget)) if budget >= max_tokens => {
                invalid("`max_tokens` must be greater than `thinking.budget_tokens`".to_owned())
            }
            ("enabled" | "adaptive", _) => Ok(true),
            (kind, _) => invalid(format!("thinking: Input tag '{kind}' is not known")),
        }
    }
}
