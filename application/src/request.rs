//! What a client asks for, checked field by field: a faulty request is told every fault at once. A part, a tool or an option
//! whose cost has no bound is a fault like any other, under its name.
//!
//! | module | holds |
//! |---|---|
//! | [`messages`] | messages and their parts |
//! | [`pictures`] | how large a picture is, and what it counts for |
//! | [`tokens`] | how many tokens the input has: at least, about, at most |
//! | [`tools`] | tools and which of them to call |

mod messages;
pub mod pictures;
mod tokens;
mod tools;

use std::sync::Arc;

use aihub_domain::request::event::RequestKind;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    error::Faults,
    fields::{Fields, Object},
    ports::provider::prompt::Prompt,
};

pub const AUTO: &str = "auto";
pub const MAX_MESSAGES: usize = 2_000;
pub const MAX_INPUTS: usize = 2_048;
pub const MAX_STOPS: usize = 8;
pub const MAX_TOOLS: usize = 256;
/// Where the messages stand in the JSON of a prompt that has none. It stands nowhere before: there is only text there,
/// whose quotes are escaped.
const NO_MESSAGES: &str = "\"messages\":[]";

/// What two requests have in common that ask for the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// How the numbers of a vector are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// A list of numbers.
    #[default]
    Float,
    /// A text: the numbers as 32 bits each, the lowest byte first, in base64. Half as long, and as `OpenAI` has it.
    Base64,
}

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
    /// An embedding that comes in one message however long it is: `stream: false` was said, and not left out.
    pub in_one_message: bool,
    /// How an embedding's vectors come back.
    pub encoding: Encoding,
    pub max_tokens: Option<u32>,
    /// Whether another provider may answer when the first cannot.
    pub fallback: bool,
    pub idempotency_key: Option<String>,
}

impl AnswerRequest {
    /// Takes the fields of a request frame (without `id` and `type`) apart.
    pub fn from_fields(kind: RequestKind, fields: impl Into<Object>) -> Result<Self, Faults> {
        let mut fields = Fields::new(fields);
        let provider = fields.name("provider").unwrap_or_else(|| AUTO.to_owned());
        let model = fields.model("model");
        let stream: Option<bool> = fields.take("stream");
        let fallback = fields.take("fallback").unwrap_or(true);
        let idempotency_key = fields.name("idempotencyKey");
        let user = fields.name("user");
        let prompt_text: Option<Value> = fields.take("prompt");
        let text_field = match (&prompt_text, kind) {
            (Some(_), _) => "prompt",
            (None, RequestKind::Embedding) => "input",
            (None, _) => "messages",
        };
        let mut encoding = Encoding::default();
        let (prompt, inputs, max_tokens) = if kind == RequestKind::Embedding {
            let inputs = fields.inputs(prompt_text);
            encoding = fields.choice("encoding").unwrap_or_default();
            (Prompt { user, ..Prompt::default() }, inputs, None)
        } else {
            let messages = fields.messages(prompt_text);
            let prompt = Prompt {
                system: fields.take("system"),
                messages,
                temperature: fields.within("temperature", 0.0, 2.0),
                top_p: fields.within("topP", 0.0, 1.0),
                stop: fields.stop(),
                tools: fields.tools(),
                tool_choice: fields.tool_choice(),
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
            stream: stream.unwrap_or_default(),
            in_one_message: kind == RequestKind::Embedding && stream == Some(false),
            encoding,
            max_tokens,
            fallback,
            idempotency_key,
        })
    }

    /// Of everything that it says. A request is compared with one that may have been long ago, and is not kept for that.
    pub fn fingerprint(&self) -> Fingerprint {
        let Self { kind, provider, model, prompt, inputs, encoding, max_tokens, fallback, .. } = self;
        let told = (self.stream, self.in_one_message);
        let mut said = Hashed(Sha256::new());
        // There is nothing in it that has no JSON.
        let written = serde_json::to_writer(
            &mut said,
            &(kind, provider, model, &**prompt, &**inputs, told, encoding, max_tokens, fallback),
        );
        debug_assert!(written.is_ok());
        Fingerprint(said.0.finalize().into())
    }

    /// What is kept of it: everything that the client said, as JSON. In parts, cut between messages and between inputs:
    /// what is sent again with the next request is the same part there.
    pub fn content(&self) -> Result<Vec<String>, serde_json::Error> {
        if self.kind == RequestKind::Embedding {
            let mut parts = list_parts(&self.inputs)?;
            parts.insert(0, "[".to_owned());
            parts.push("]".to_owned());
            return Ok(parts);
        }
        let around = serde_json::to_string(&self.prompt.without_messages())?;
        let (before, after) = around.split_at(around.find(NO_MESSAGES).map_or(0, |at| at + NO_MESSAGES.len() - 1));
        let mut parts = list_parts(&self.prompt.messages)?;
        parts.insert(0, before.to_owned());
        parts.push(after.to_owned());
        Ok(parts)
    }
}
/// Takes what is written into a hash.
struct Hashed(Sha256);

impl std::io::Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The entries of a JSON list, each with the comma in front of it.
fn list_parts(list: &[impl Serialize]) -> Result<Vec<String>, serde_json::Error> {
    let comma = |nth| if nth == 0 { "" } else { "," };
    list.iter().enumerate().map(|(nth, entry)| Ok(comma(nth).to_owned() + &serde_json::to_string(entry)?)).collect()
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
mod tests;
