//! From a question to an answer, in terms that both providers share.

use serde_json::{Map, Value, json};

use super::{
    knobs::{CapKnob, ThinkingKnob, WorkKnobs},
    text,
};

/// The longest list among the arguments of a tool, whatever the schema asks for.
const MAX_ITEMS: u64 = 100;

/// What a caller asks, read out of either provider's request.
#[derive(Default)]
pub(super) struct Question {
    pub input_tokens: u32,
    /// The text of the last message of the user.
    pub prompt: String,
    /// Whether the conversation ends with a tool's result, which is answered in words.
    pub answers_a_tool: bool,
    pub tools: Vec<Tool>,
    pub tool_choice: ToolChoice,
    pub one_tool_only: bool,
    pub stop: Vec<String>,
    pub max_output_tokens: u32,
    pub thinks: bool,
    /// For how long its input is to be kept.
    pub cache: Option<CacheLifetime>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CacheLifetime {
    FiveMinutes,
    OneHour,
}

#[derive(Clone)]
pub(super) struct Tool {
    pub name: String,
    /// JSON schema of the arguments.
    pub schema: Value,
}

#[derive(Default, PartialEq, Eq)]
pub(super) enum ToolChoice {
    /// Calls the tools whose names the prompt has in it.
    #[default]
    Auto,
    None,
    Required,
    Named(String),
}

pub(super) struct Answer {
    pub thinking: String,
    pub text: String,
    pub calls: Vec<ToolCall>,
    pub finish: Finish,
    /// Of the thinking, which `output_tokens` includes.
    pub thinking_tokens: u32,
    /// Of reasoning that is not shown, which `output_tokens` includes.
    pub hidden_tokens: u32,
    pub output_tokens: u32,
}

pub(super) struct ToolCall {
    pub name: String,
    /// JSON, cut where the answer reached its limit.
    pub arguments: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finish {
    Stop,
    StopSequence(String),
    Length,
    ToolCalls,
}

impl Question {
    /// Counts a message's text in; see the token rule in `simulated_providers`.
    pub fn count_message(&mut self, words: u32) {
        self.input_tokens = self.input_tokens.saturating_add(words).saturating_add(3);
    }

    /// The answer, of `tokens` tokens where that is given, within the question's own limits.
    pub fn answer(&self, tokens: Option<u32>, work: WorkKnobs) -> Answer {
        let left = if work.cap == Some(CapKnob::Ignored) { u32::MAX } else { self.max_output_tokens };
        let mut budget = Budget { left, used: 0, is_short: false };
        let hidden_tokens = budget.spend(work.hidden_tokens.unwrap_or_default());
        let thinks = self.thinks || work.thinking == Some(ThinkingKnob::Shown);
        let thinking = if thinks { budget.take(text::thinking(&self.prompt)) } else { String::new() };
        let thinking_tokens = budget.used - hidden_tokens;
        let mut answer = Answer {
            thinking,
            text: String::new(),
            calls: Vec::new(),
            finish: Finish::Stop,
            thinking_tokens,
            hidden_tokens,
            output_tokens: 0,
        };
        let called = self.called_tools();
        if called.is_empty() {
            let (text, finish) = self.stopped(text::answer(&self.prompt, tokens));
            answer.text = budget.take(text);
            answer.finish = finish;
        } else {
            answer.finish = Finish::ToolCalls;
            for tool in called {
                let arguments = budget.take(spaced_json(&arguments(&tool.schema, &self.prompt)));
                answer.calls.push(ToolCall { name: tool.name.clone(), arguments });
                if budget.is_short {
                    break;
                }
            }
        }
        if budget.is_short {
            answer.finish = Finish::Length;
        }
        answer.output_tokens = budget.used;
        answer
    }

    /// The text up to the first stop sequence.
    fn stopped(&self, mut text: String) -> (String, Finish) {
        let found = self.stop.iter().filter(|stop| !stop.is_empty());
        match found.filter_map(|stop| text.find(stop.as_str()).map(|at| (at, stop))).min() {
            Some((at, stop)) => {
                text.truncate(at);
                (text, Finish::StopSequence(stop.clone()))
            }
            None => (text, Finish::Stop),
        }
    }

    fn called_tools(&self) -> Vec<&Tool> {
        let mut called: Vec<&Tool> = match &self.tool_choice {
            ToolChoice::None => Vec::new(),
            ToolChoice::Named(name) => self.tools.iter().filter(|tool| tool.name == *name).collect(),
            ToolChoice::Auto if self.answers_a_tool => Vec::new(),
            ToolChoice::Auto | ToolChoice::Required => {
                let prompt = self.prompt.to_lowercase();
                self.tools.iter().filter(|tool| is_named_in(&prompt, &tool.name)).collect()
            }
        };
        if called.is_empty() && self.tool_choice == ToolChoice::Required {
            called.extend(self.tools.first());
        }
        if self.one_tool_only {
            called.truncate(1);
        }
        called
    }
}

/// `get_weather` is named as it stands, with spaces and with hyphens.
fn is_named_in(prompt: &str, tool: &str) -> bool {
    let tool = tool.to_lowercase();
    prompt.contains(&tool) || prompt.contains(&tool.replace('_', " ")) || prompt.contains(&tool.replace('_', "-"))
}

struct Budget {
    left: u32,
    used: u32,
    is_short: bool,
}

impl Budget {
    /// Tokens of nothing that is said, as far as they go.
    fn spend(&mut self, tokens: u32) -> u32 {
        let spent = tokens.min(self.left);
        self.left -= spent;
        self.used += spent;
        spent
    }

    fn take(&mut self, mut text: String) -> String {
        let (taken, tokens) = text::cut(&text, self.left);
        let length = taken.len();
        self.is_short |= length < text.len();
        self.left -= tokens;
        self.used += tokens;
        text.truncate(length);
        text
    }
}

/// Arguments that fit the schema: all properties, lists as short as it allows, and for a text the prompt's last longer word.
fn arguments(schema: &Value, prompt: &str) -> Value {
    if let Some(first) = schema["enum"].as_array().and_then(|values| values.first()) {
        return first.clone();
    }
    if let Some(constant) = schema.get("const") {
        return constant.clone();
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str());
    match kind {
        Some("string") => json!(format!("simulated {}", text::topic(prompt))),
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or(json!(1)),
        Some("boolean") => json!(true),
        Some("array") => {
            let count = schema["minItems"].as_u64().unwrap_or(1).clamp(1, MAX_ITEMS);
            (0..count).map(|_| arguments(&schema["items"], prompt)).collect()
        }
        Some("null") => Value::Null,
        _ => {
            let properties = schema["properties"].as_object().into_iter().flatten();
            let filled: Map<String, Value> =
                properties.map(|(name, schema)| (name.clone(), arguments(schema, prompt))).collect();
            Value::Object(filled)
        }
    }
}

/// JSON with spaces after colons and commas, as models write it. Where it is cut into tokens there is more than one.
fn spaced_json(value: &Value) -> String {
    let list = |items: Vec<String>| items.join(", ");
    match value {
        Value::Object(map) => {
            let fields =
                map.iter().map(|(name, value)| format!("{}: {}", Value::from(name.as_str()), spaced_json(value)));
            format!("{{{}}}", list(fields.collect()))
        }
        Value::Array(items) => format!("[{}]", list(items.iter().map(spaced_json).collect())),
        scalar => scalar.to_string(),
    }
}
