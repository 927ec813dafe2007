//! What a client asks for, checked field by field: a faulty request is told every fault at once.

use std::sync::Arc;

use aihub_domain::request::event::RequestKind;
use serde_json::{Map, Value};

use crate::{
    error::FaultyField,
    fields::Fields,
    ports::provider::{Message, Prompt, Role},
};

pub const AUTO: &str = "auto";
pub const MAX_MESSAGES: usize = 2_000;
pub const MAX_INPUTS: usize = 2_048;
pub const MAX_STOPS: usize = 8;
pub const MAX_TOOLS: usize = 256;
/// What an image counts for in the hold; what it really took comes with the provider's usage.
const TOKENS_PER_IMAGE: u64 = 2_000;
/// The longest token of the tokenizers that are published, a run of spaces (`o200k_base`, Llama 3).
const LONGEST_TOKEN_BYTES: u64 = 128;

/// A request that is well formed. Whether it may be served is for the gateway to say.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerRequest {
    pub kind: RequestKind,
    /// A configured provider's name, or [`AUTO`].
    pub provider: String,
    /// `None`: the provider's default model for this kind.
    pub model: Option<String>,
    pub prompt: Arc<Prompt>,
    /// An embedding's texts; empty otherwise.
    pub inputs: Arc<Vec<String>>,
    /// Where the client put its text: `messages`, `prompt` or `input`.
    pub text_field: &'static str,
    pub stream: bool,
    pub max_tokens: Option<u32>,
    /// Whether another provider may answer when the first cannot.
    pub fallback: bool,
    pub idempotency_key: Option<String>,
}

impl AnswerRequest {
    /// Takes the fields of a request frame (without `id` and `type`) apart.
    pub fn from_fields(kind: RequestKind, fields: Map<String, Value>) -> Result<Self, Vec<FaultyField>> {
        let mut fields = Fields::new(fields);
        let provider = fields.name("provider").unwrap_or_else(|| AUTO.to_owned());
        let model = fields.name("model");
        let stream = fields.take("stream").unwrap_or(false);
        let fallback = fields.take("fallback").unwrap_or(true);
        let idempotency_key = fields.name("idempotencyKey");
        let user = fields.name("user");
        let prompt_text: Option<Value> = fields.take("prompt");
        let text_field = match (&prompt_text, kind) {
            (Some(_), _) => "prompt",
            (None, RequestKind::Embedding) => "input",
            (None, _) => "messages",
        };
        let (prompt, inputs, max_tokens) = if kind == RequestKind::Embedding {
            let inputs = fields.inputs(prompt_text);
            if stream {
                fields.fault("stream", "an embedding is not streamed");
            }
            (Prompt { user, ..Prompt::default() }, inputs, None)
        } else {
            let messages = fields.messages(prompt_text);
            let prompt = Prompt {
                system: fields.take("system"),
                messages,
                temperature: fields.within("temperature", 0.0, 2.0),
                top_p: fields.within("topP", 0.0, 1.0),
                stop: fields.stop(),
                tools: fields.list("tools", MAX_TOOLS),
                tool_choice: fields.take("toolChoice"),
                user,
            };
            (prompt, vec![], fields.max_tokens())
        };
        fields.finish()?;
        Ok(Self {
            kind,
            provider,
            model,
            prompt: Arc::new(prompt),
            inputs: Arc::new(inputs),
            text_field,
            stream,
            max_tokens,
            fallback,
            idempotency_key,
        })
    }

    /// How many tokens the input may have, for the hold. A third of its bytes is above what tokenizers make of
    /// prose and code in most scripts; where it is not, the settlement covers the difference.
    pub fn input_tokens_estimate(&self) -> u64 {
        let prompt = &self.prompt;
        let mut tokens = tokens_of(prompt.system.as_deref().unwrap_or_default());
        for message in &prompt.messages {
            tokens += 8 + message.content.as_str().map_or_else(|| part_tokens(&message.content), tokens_of);
            tokens += message.tool_calls.iter().map(serialised_tokens).sum::<u64>();
            tokens += [&message.name, &message.tool_call_id].into_iter().flatten().map(|id| tokens_of(id)).sum::<u64>();
        }
        tokens += prompt.tools.iter().chain(&prompt.tool_choice).map(serialised_tokens).sum::<u64>();
        tokens += prompt.stop.iter().map(|stop| tokens_of(stop)).sum::<u64>();
        tokens += self.inputs.iter().map(|input| tokens_of(input)).sum::<u64>();
        tokens.max(1)
    }

    /// How many tokens certainly have to fit into a context at once: those of all messages, or of an embedding's
    /// longest text. What providers rewrite or drop (tools, images, names) is not counted.
    pub fn input_tokens_at_least(&self) -> u64 {
        let text = |part: &Value| part.as_str().map_or(0, tokens_at_least);
        let of_message = |message: &Message| match &message.content {
            Value::Array(parts) => parts.iter().filter_map(|part| part.get("text")).map(text).sum(),
            content => text(content),
        };
        let system = self.prompt.system.as_deref().map_or(0, tokens_at_least);
        let messages: u64 = self.prompt.messages.iter().map(of_message).sum();
        let longest_input = self.inputs.iter().map(|input| tokens_at_least(input)).max().unwrap_or_default();
        system + messages + longest_input
    }

    /// What is sealed into the log: everything that the client said, as JSON.
    pub fn content(&self) -> Result<Vec<u8>, serde_json::Error> {
        if self.kind == RequestKind::Embedding {
            serde_json::to_vec(&*self.inputs)
        } else {
            serde_json::to_vec(&*self.prompt)
        }
    }
}

fn tokens_of(text: &str) -> u64 {
    (text.len() as u64).div_ceil(3)
}

fn serialised_tokens(value: &Value) -> u64 {
    tokens_of(&value.to_string())
}

/// A lower bound. A fixed number of bytes a token would not be one: a word in Hindi or the indentation of code is a
/// single token of dozens of bytes. But tokenizers cut at white space before they do anything else, so a word is at
/// least a token; the half is for the cuts that they leave out, which are between signs (`}\n//`).
fn tokens_at_least(text: &str) -> u64 {
    let words = text.split_whitespace().count() as u64;
    (words / 2).max(text.len() as u64 / LONGEST_TOKEN_BYTES)
}

/// What is not known for a text or an image counts with all that it says.
fn part_tokens(content: &Value) -> u64 {
    let Some(parts) = content.as_array() else {
        return if content.is_null() { 0 } else { serialised_tokens(content) };
    };
    parts
        .iter()
        .map(|part| match part.get("text").and_then(Value::as_str) {
            text if part.get("image_url").is_some() => TOKENS_PER_IMAGE + text.map_or(0, tokens_of),
            Some(text) if part.get("type").is_none_or(|kind| kind == "text") => tokens_of(text),
            _ => serialised_tokens(part),
        })
        .sum()
}

impl Fields {
    fn max_tokens(&mut self) -> Option<u32> {
        let max_tokens: u32 = self.take("maxTokens")?;
        if max_tokens == 0 {
            self.fault("maxTokens", "must be at least 1");
        }
        Some(max_tokens)
    }

    fn stop(&mut self) -> Vec<String> {
        let Some(stop) = self.take("stop") else { return vec![] };
        self.texts("stop", stop, MAX_STOPS)
    }

    fn messages(&mut self, prompt: Option<Value>) -> Vec<Message> {
        let messages: Vec<Message> = self.list("messages", MAX_MESSAGES);
        match (prompt, messages.is_empty()) {
            (Some(_), false) => self.fault("prompt", "give `messages` or `prompt`, not both"),
            (Some(Value::String(text)), true) if !text.is_empty() => {
                return vec![Message {
                    role: Role::User,
                    content: Value::String(text),
                    tool_calls: vec![],
                    tool_call_id: None,
                    name: None,
                }];
            }
            (Some(_), true) => self.fault("prompt", "must be a text that is not empty"),
            (None, true) => {
                if !self.is_faulty("messages") {
                    self.fault("messages", "one of `messages` and `prompt` is required");
                }
            }
            (None, false) => {}
        }
        messages
    }

    fn inputs(&mut self, prompt: Option<Value>) -> Vec<String> {
        let input: Option<Value> = self.take("input");
        let (field, value) = match (input, prompt) {
            (Some(_), Some(_)) => {
                self.fault("prompt", "give `input` or `prompt`, not both");
                return vec![];
            }
            (Some(input), None) => ("input", input),
            (None, Some(prompt)) => ("prompt", prompt),
            (None, None) => {
                self.fault("input", "one of `input` and `prompt` is required");
                return vec![];
            }
        };
        let inputs = self.texts(field, value, MAX_INPUTS);
        if inputs.is_empty() || inputs.iter().any(String::is_empty) {
            self.fault(field, "must be a text or a list of texts, none of them empty");
        }
        inputs
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(kind: RequestKind, fields: &Value) -> Result<AnswerRequest, Vec<FaultyField>> {
        AnswerRequest::from_fields(kind, fields.as_object().unwrap().clone())
    }

    fn faults(kind: RequestKind, fields: &Value) -> Vec<String> {
        parse(kind, fields).unwrap_err().into_iter().map(|fault| fault.field).collect()
    }

    #[test]
    fn a_prompt_is_one_message_of_the_user() {
        let request = parse(RequestKind::Chat, &json!({"prompt": "hi", "model": null})).unwrap();
        assert_eq!(request.prompt.messages[0].content, json!("hi"));
        assert_eq!((request.provider.as_str(), request.stream, request.fallback), (AUTO, false, true));
    }

    #[test]
    fn everything_that_goes_into_the_prompt_counts_for_the_hold() {
        let estimate = |message: Value, more: Value| {
            let mut fields = json!({ "messages": [message] });
            fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            parse(RequestKind::Chat, &fields).unwrap().input_tokens_estimate()
        };
        let long = "x".repeat(300);
        let (role, plain) = ("user", estimate(json!({"role": "user", "content": "hi"}), json!({})));
        let image = json!({"type": "image_url", "text": "", "image_url": {"url": "data:"}});
        assert!(estimate(json!({"role": role, "content": [image]}), json!({})) >= TOKENS_PER_IMAGE);
        for (message, more) in [
            (json!({"role": role, "content": {"text": long}}), json!({})),
            (json!({"role": role, "content": [{"type": "file", "text": "", "file": long}]}), json!({})),
            (json!({"role": role, "content": "hi", "name": long}), json!({})),
            (json!({"role": role, "content": "hi"}), json!({"toolChoice": {"function": {"name": long}}})),
            (json!({"role": role, "content": "hi"}), json!({"stop": [long]})),
        ] {
            assert!(estimate(message.clone(), more) >= plain + 99, "{message}");
        }
    }

    #[test]
    fn every_faulty_field_is_named_at_once() {
        let fields = json!({
            "prompt": "", "temperature": 3, "topP": "high", "maxTokens": 0, "max_tokens": 5, "stream": 1, "provider": "",
        });
        let mut named = faults(RequestKind::Chat, &fields);
        named.sort();
        assert_eq!(named, ["maxTokens", "max_tokens", "prompt", "provider", "stream", "temperature", "topP"]);
    }

    #[test]
    fn messages_and_prompt_exclude_each_other_and_one_is_required() {
        let messages = json!([{"role": "user", "content": "x"}]);
        assert_eq!(faults(RequestKind::Chat, &json!({"messages": messages, "prompt": "y"})), ["prompt"]);
        assert_eq!(faults(RequestKind::Completion, &json!({})), ["messages"]);
        assert_eq!(faults(RequestKind::Chat, &json!({"messages": [{"role": "nobody"}]})), ["messages"]);
    }

    #[test]
    fn an_embedding_takes_a_text_or_a_list_of_texts_and_is_not_streamed() {
        assert_eq!(*parse(RequestKind::Embedding, &json!({"input": ["a", "b"]})).unwrap().inputs, ["a", "b"]);
        assert_eq!(*parse(RequestKind::Embedding, &json!({"prompt": "a"})).unwrap().inputs, ["a"]);
        assert_eq!(faults(RequestKind::Embedding, &json!({"input": ["a", ""]})), ["input"]);
        assert_eq!(faults(RequestKind::Embedding, &json!({"input": "a", "stream": true})), ["stream"]);
    }

    #[test]
    fn a_text_is_never_said_to_have_more_tokens_than_it_can_have() {
        // With the fewest tokens that a tokenizer can make of it.
        for (text, tokens) in [
            ("hello world", 2),
            ("नमस्ते मेरा नाम", 3),
            (&" ".repeat(1_280), 10),
            (&"{\n                                        \"a\": 1 }\n".repeat(10), 40),
            (&"}\n//\n".repeat(100), 100),
        ] {
            assert!(tokens_at_least(text) <= tokens, "{text}");
        }
        assert_eq!(tokens_at_least(&"word ".repeat(1_000)), 500);
        assert_eq!(tokens_at_least(&"x".repeat(128_000)), 1_000);
    }

    #[test]
    fn messages_need_room_together_and_the_texts_of_an_embedding_each_by_itself() {
        let text = "word ".repeat(100);
        let parts = json!([{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": text}}]);
        let messages = json!([{"role": "user", "content": text}, {"role": "user", "content": parts}]);
        let chat = parse(RequestKind::Chat, &json!({"system": text, "messages": messages})).unwrap();
        assert_eq!((chat.input_tokens_at_least(), chat.text_field), (150, "messages"));
        let embedding = parse(RequestKind::Embedding, &json!({"input": [text, "short", text]})).unwrap();
        assert_eq!((embedding.input_tokens_at_least(), embedding.text_field), (50, "input"));
        assert_eq!(parse(RequestKind::Embedding, &json!({"prompt": "a"})).unwrap().text_field, "prompt");
    }
}
