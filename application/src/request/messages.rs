//! Messages, part by part. A part is of a kind whose cost has a bound, or it is refused under its kind's name, with what to do
//! instead: what comes in by address, or is taken apart by the provider, could cost anything.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{MAX_MESSAGES, pictures};
use crate::{
    fields::{Fields, words::in_words},
    ports::provider::prompt::{CacheControl, Content, Detail, Message, Part, Picture, Role},
};

/// The longest name of an unknown kind that is repeated to the client.
const MAX_KIND_BYTES: usize = 40;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TextFields {
    text: String,
    cache_control: Option<CacheControl>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PictureFields {
    image_url: Value,
    cache_control: Option<CacheControl>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Address {
    url: String,
    detail: Option<Detail>,
}

impl Fields {
    pub(super) fn messages(&mut self, prompt: Option<Value>) -> Vec<Message> {
        let messages: Vec<Value> = self.list("messages", MAX_MESSAGES);
        match (prompt, messages.is_empty()) {
            (Some(_), false) => self.fault("prompt", "give `messages` or `prompt`, not both"),
            (Some(Value::String(text)), true) if !text.is_empty() => return vec![Message::of_user(text)],
            (Some(_), true) => self.fault("prompt", "must be a text that is not empty"),
            (None, true) => {
                if !self.is_faulty("messages") {
                    self.fault("messages", "one of `messages` and `prompt` is required");
                }
            }
            (None, false) => {}
        }
        let read =
            messages.into_iter().enumerate().map(|(nth, message)| self.message(&format!("messages[{nth}]"), message));
        read.flatten().collect()
    }

    /// `None` where it is faulty.
    fn message(&mut self, at: &str, message: Value) -> Option<Message> {
        let Value::Object(mut message) = message else {
            self.fault(at, "must be an object with a `role`");
            return None;
        };
        let role = message.remove("role").and_then(|role| serde_json::from_value::<Role>(role).ok());
        if role.is_none() {
            self.fault(&format!("{at}.role"), "must be `system`, `user`, `assistant` or `tool`");
        }
        let content = self.content(&format!("{at}.content"), message.remove("content").unwrap_or_default());
        let calls = ["toolCalls", "tool_calls"].map(|name| message.remove(name));
        let calls = calls.into_iter().flatten().find(|calls| !calls.is_null());
        let call_id = ["toolCallId", "tool_call_id"].map(|name| message.remove(name));
        let call_id = call_id.into_iter().flatten().find(|id| !id.is_null());
        let message_read = Message {
            role: role.unwrap_or(Role::User),
            content: content.unwrap_or(Content::Nothing),
            tool_calls: self.read(&format!("{at}.tool_calls"), calls).unwrap_or_default(),
            tool_call_id: self.read(&format!("{at}.tool_call_id"), call_id),
            name: self.read(&format!("{at}.name"), message.remove("name")),
        };
        // What clients repeat of an answer that had none of it is nothing.
        for (name, value) in message {
            if !is_empty(&value) {
                self.fault(&format!("{at}.{}", named(&name)), "is not a field of a message");
            }
        }
        role.map(|_| message_read)
    }

    fn content(&mut self, at: &str, content: Value) -> Option<Content> {
        match content {
            Value::Null => Some(Content::Nothing),
            Value::String(text) => Some(Content::Text(text)),
            Value::Array(parts) => {
                let parts = parts.into_iter().enumerate().map(|(nth, part)| self.part(&format!("{at}[{nth}]"), part));
                Some(Content::Parts(parts.flatten().collect()))
            }
            _ => {
                self.fault(at, "must be a text or a list of parts");
                None
            }
        }
    }

    fn part(&mut self, at: &str, part: Value) -> Option<Part> {
        let Value::Object(mut part) = part else {
            self.fault(at, "must be an object with a `type`");
            return None;
        };
        let kind = match part.remove("type") {
            Some(Value::String(kind)) => kind,
            None if part.contains_key("text") && !part.contains_key("image_url") => "text".to_owned(),
            None if part.contains_key("image_url") => "image_url".to_owned(),
            _ => {
                self.fault(&format!("{at}.type"), "must be `text` or `image_url`");
                return None;
            }
        };
        match kind.as_str() {
            "text" => {
                let TextFields { text, cache_control } = self.read_object(at, part)?;
                Some(Part::Text { text, cache_control })
            }
            "image_url" => {
                let PictureFields { image_url, cache_control } = self.read_object(at, part)?;
                let image_url = self.picture(&format!("{at}.image_url"), image_url)?;
                Some(Part::ImageUrl { image_url, cache_control })
            }
            other => {
                self.fault(&format!("{at}.{}", named(other)), why_not(other));
                None
            }
        }
    }

    fn picture(&mut self, at: &str, picture: Value) -> Option<Picture> {
        let Address { url, detail } = match picture {
            Value::String(url) => Address { url, detail: None },
            picture => self.read(at, Some(picture))?,
        };
        match pictures::extent(&url) {
            Ok(extent) => Some(Picture { url, detail, extent }),
            Err(reason) => {
                self.fault(at, reason);
                None
            }
        }
    }

    fn read_object<T: DeserializeOwned>(&mut self, at: &str, object: Map<String, Value>) -> Option<T> {
        self.read(at, Some(Value::Object(object)))
    }

    /// A missing field and `null` are the same.
    pub(super) fn read<T: DeserializeOwned>(&mut self, at: &str, value: Option<Value>) -> Option<T> {
        let value = value.filter(|value| !value.is_null())?;
        serde_json::from_value(value).map_err(|error| self.fault(at, in_words(&error.to_string()))).ok()
    }
}

impl Message {
    /// One that the user says.
    pub fn of_user(text: String) -> Self {
        Self { role: Role::User, content: Content::Text(text), tool_calls: vec![], tool_call_id: None, name: None }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// A name that the client gave, where it looks like one.
pub(super) fn named(name: &str) -> &str {
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if is_name && (1..=MAX_KIND_BYTES).contains(&name.len()) { name } else { "type" }
}

fn why_not(kind: &str) -> &'static str {
    match kind {
        "document" | "file" | "input_file" | "search_result" | "container_upload" => {
            "what a document costs is not known before it is read: send its text, or its pages as pictures"
        }
        "input_audio" | "audio" | "audio_url" => "what a recording costs has no bound: send its transcript",
        "video" | "video_url" | "input_video" => "what a video costs has no bound: send pictures of it",
        "image" | "input_image" | "image_file" => "pictures are given as `image_url`, best with a data URI",
        "input_text" | "output_text" | "refusal" => "texts are given as `text`",
        "tool_use" | "function_call" => "calls are given as `tool_calls` of an assistant's message",
        "tool_result" | "function_call_output" => "results are given as messages of the role `tool`",
        _ => "is not a kind of part that is known here: `text` and `image_url` are",
    }
}
