//! OpenAI's chat request, as far as the simulator minds it.

use axum::{body::Bytes, extract::rejection::BytesRejection, http::StatusCode};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    super::{
        answer::{Question, Tool, ToolChoice},
        models::{Model, Use},
        text,
    },
    error::OpenAiError,
};

/// OpenAI takes at most so many stop sequences.
const MAX_STOPS: usize = 4;

#[derive(Deserialize)]
pub(super) struct ChatRequest {
    pub model: Option<String>,
    messages: Option<Vec<Message>>,
    #[serde(default)]
    pub stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    stop: Option<OneOrMany>,
    tools: Option<Vec<ToolDefinition>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    temperature: Option<f64>,
    n: Option<u32>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: Option<Content>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// Only texts count; images and audio do not.
#[derive(Deserialize)]
struct Part {
    text: Option<String>,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct ToolDefinition {
    function: FunctionDefinition,
}

#[derive(Deserialize)]
struct FunctionDefinition {
    name: String,
    #[serde(default)]
    parameters: Value,
}

/// Reads a body of either endpoint.
pub(super) fn parse<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, OpenAiError> {
    let body = body.map_err(|rejection| {
        let message = format!("Request body could not be read: {}", rejection.body_text());
        let too_large = rejection.status() == StatusCode::PAYLOAD_TOO_LARGE;
        let error = OpenAiError::invalid_request(message);
        if too_large { error.with_status(StatusCode::PAYLOAD_TOO_LARGE) } else { error }
    })?;
    serde_json::from_slice(&body).map_err(|error| {
        OpenAiError::invalid_request(format!("We could not parse the JSON body of your request. (HINT: {error})"))
    })
}

impl ChatRequest {
    pub fn includes_usage(&self) -> bool {
        self.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or_default()
    }

    /// Checks the request for `model` and takes it apart.
    pub fn into_question(self, model: &Model) -> Result<Question, OpenAiError> {
        let Use::Chat { max_output_tokens } = model.use_ else {
            let message =
                "This is not a chat model and thus not supported in the v1/chat/completions endpoint.".to_owned();
            return Err(OpenAiError::invalid_request(message).with_status(StatusCode::NOT_FOUND).with_param("model"));
        };
        self.check()?;
        let mut question = Question { max_output_tokens, ..Question::default() };
        let messages = self.messages.unwrap_or_default();
        question.answers_a_tool = messages.last().is_some_and(|last| last.role == "tool");
        for message in messages {
            let text = message.content.map(Content::into_text).unwrap_or_default();
            question.count_message(text::count_words(&text));
            if message.role == "user" {
                question.prompt = text;
            }
        }
        if question.input_tokens > model.max_input_tokens {
            return Err(OpenAiError::context_length(model.max_input_tokens, question.input_tokens));
        }
        if let Some(limit) = self.max_completion_tokens.or(self.max_tokens) {
            question.max_output_tokens = limit.min(max_output_tokens);
        }
        question.stop = match self.stop {
            Some(OneOrMany::One(stop)) => vec![stop],
            Some(OneOrMany::Many(stops)) => stops,
            None => vec![],
        };
        let tools = self.tools.unwrap_or_default().into_iter().map(|tool| tool.function);
        question.tools =
            tools.map(|FunctionDefinition { name, parameters }| Tool { name, schema: parameters }).collect();
        question.tool_choice = tool_choice(self.tool_choice.as_ref(), &question.tools)?;
        question.one_tool_only = self.parallel_tool_calls == Some(false);
        Ok(question)
    }

    fn check(&self) -> Result<(), OpenAiError> {
        let invalid = |param: &'static str, code: &'static str, message: String| {
            Err(OpenAiError::invalid_request(message).with_param(param).with_code(code))
        };
        let Some(messages) = &self.messages else { return Err(OpenAiError::missing_parameter("messages")) };
        if messages.is_empty() {
            let message = "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty \
                           array instead.";
            return invalid("messages", "empty_array", message.to_owned());
        }
        let roles = ["developer", "system", "user", "assistant", "tool", "function"];
        if let Some(message) = messages.iter().find(|message| !roles.contains(&message.role.as_str())) {
            let message = format!("Invalid value: '{}'. Supported values are: {roles:?}.", message.role);
            return invalid("messages", "invalid_value", message);
        }
        if self.max_completion_tokens.or(self.max_tokens) == Some(0) {
            let param = if self.max_completion_tokens.is_some() { "max_completion_tokens" } else { "max_tokens" };
            let message =
                format!("Invalid '{param}': integer below minimum value. Expected a value >= 1, but got 0 instead.");
            return invalid(param, "integer_below_min_value", message);
        }
        if self.temperature.is_some_and(|temperature| !(0.0..=2.0).contains(&temperature)) {
            let message = "Invalid 'temperature': Expected a value between 0 and 2.".to_owned();
            return invalid("temperature", "decimal_above_max_value", message);
        }
        if self.n.is_some_and(|n| n != 1) {
            return invalid("n", "unsupported_value", "The simulator answers with one choice only.".to_owned());
        }
        if let Some(OneOrMany::Many(stops)) = &self.stop
            && stops.len() > MAX_STOPS
        {
            let message =
                format!("Invalid 'stop': array too long. Expected at most {MAX_STOPS}, but got {}.", stops.len());
            return invalid("stop", "array_above_max_length", message);
        }
        if self.stream_options.is_some() && self.stream != Some(true) {
            let message = "The 'stream_options' parameter is only allowed when 'stream' is enabled.".to_owned();
            return Err(OpenAiError::invalid_request(message).with_param("stream_options"));
        }
        Ok(())
    }
}

impl Content {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Parts(parts) => {
                let texts: Vec<String> = parts.into_iter().filter_map(|part| part.text).collect();
                texts.join("\n")
            }
        }
    }
}

fn tool_choice(choice: Option<&Value>, tools: &[Tool]) -> Result<ToolChoice, OpenAiError> {
    let invalid = |message: String| Err(OpenAiError::invalid_request(message).with_param("tool_choice"));
    let Some(choice) = choice.filter(|choice| !choice.is_null()) else { return Ok(ToolChoice::Auto) };
    if tools.is_empty() && choice != "none" {
        return invalid(
            "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified.".to_owned(),
        );
    }
    match (choice.as_str(), choice["function"]["name"].as_str()) {
        (Some("auto"), _) => Ok(ToolChoice::Auto),
        (Some("none"), _) => Ok(ToolChoice::None),
        (Some("required"), _) => Ok(ToolChoice::Required),
        (_, Some(name)) if tools.iter().any(|tool| tool.name == name) => Ok(ToolChoice::Named(name.to_owned())),
        (_, Some(name)) => invalid(format!("Tool choice '{name}' not found in 'tools' parameter.")),
        _ => invalid("Invalid value for 'tool_choice'.".to_owned()),
    }
}
