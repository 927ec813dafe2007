//! What the events of Anthropic's streams, and its messages in one body, mean.

use std::{borrow::Cow, collections::VecDeque};

use aihub_application::ports::provider::{Delta, FailureKind, Flaw, ProviderError};

use crate::providers::{
    answer::{Decode, SECOND_MESSAGE},
    calls::{Arguments, CallPiece},
    errors,
    json::{Fields, Json},
    meaning::Meaning,
    usage::UsageSoFar,
};

const EVENTS: &[&str] = &[
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
    "error",
];

/// Remembers what earlier events of one answer said.
pub(crate) struct MessageDecoder {
    meaning: Meaning,
    has_begun: bool,
    has_stopped: bool,
}

impl Default for MessageDecoder {
    fn default() -> Self {
        Self { meaning: Meaning::new(UsageSoFar::of_anthropic()), has_begun: false, has_stopped: false }
    }
}

impl Decode for MessageDecoder {
    fn piece(&mut self, name: Option<&str>, json: Json<'_>, out: &mut VecDeque<Delta>) -> Result<(), ProviderError> {
        let event = json.fields();
        let kind = event.text("type").unwrap_or_else(|| Cow::Borrowed(name.unwrap_or_default()));
        if name == Some("error") || kind == "error" || event.get("error").is_some_and(Json::is_object) {
            return Err(errors::in_answer(json.raw().as_bytes()));
        }
        self.meaning.calls.begin_event();
        match &*kind {
            "message_start" => {
                if let Some(message) = event.get("message") {
                    self.begin()?;
                    self.message(&message.fields(), out)?;
                }
            }
            "content_block_start" => {
                if let Some(block) = event.get("content_block") {
                    self.block(index(&event), block, out);
                }
            }
            "content_block_delta" => {
                if let Some(delta) = event.get("delta") {
                    self.block_delta(index(&event), &delta.fields(), out);
                }
            }
            "message_delta" => {
                let delta = event.get("delta").map(Json::fields);
                for place in [Some(&event), delta.as_ref()].into_iter().flatten() {
                    self.usage(place, out);
                    self.reason(place)?;
                }
            }
            "message_stop" => {
                self.has_stopped = true;
                self.meaning.end_sign();
            }
            _ if kind == "message" || event.get("content").is_some_and(Json::is_list) => {
                self.begin()?;
                self.message(&event, out)?;
                if !event.has("stop_reason") {
                    self.meaning.end_sign();
                }
            }
            // Blocks that end, `ping`, and what is still to come.
            _ if EVENTS.contains(&&*kind) || kind == "ping" => {}
            _ => self.meaning.words(json.raw()),
        }
        Ok(())
    }

    fn knows(&self, name: &str) -> bool {
        EVENTS.contains(&name)
    }

    fn is_over(&self) -> bool {
        self.has_stopped
    }

    /// Nothing of Anthropic's. Proxies put it in the place of `message_stop`, behind the reason.
    fn done(&mut self) {}

    fn meaning(&mut self) -> &mut Meaning {
        &mut self.meaning
    }
}

fn index(event: &Fields<'_>) -> Option<u64> {
    event.get("index").and_then(Json::count)
}

impl MessageDecoder {
    /// A second message in the midst is that of another stream.
    fn begin(&mut self) -> Result<(), ProviderError> {
        if self.has_begun && (self.meaning.has_spoken() || self.meaning.is_complete()) {
            return Err(errors::of_stream(
                FailureKind::Malformed,
                "a second message began in the midst of the provider's answer",
                Flaw { class: SECOND_MESSAGE.into(), field: Some("message".into()), offset: None },
            ));
        }
        self.has_begun = true;
        Ok(())
    }

    /// The beginning of a stream, with no content yet, or a whole answer.
    fn message(&mut self, message: &Fields<'_>, out: &mut VecDeque<Delta>) -> Result<(), ProviderError> {
        self.meaning.model(message.text("model"), out);
        let content = message.get("content");
        if let Some(text) = content.and_then(Json::wtf8) {
            self.meaning.text(text, out);
        }
        for block in content.map(Json::items).unwrap_or_default() {
            self.block(None, block, out);
        }
        self.usage(message, out);
        self.reason(message)
    }

    /// In blocks of other kinds the same names may mean anything.
    fn block(&mut self, index: Option<u64>, block: Json<'_>, out: &mut VecDeque<Delta>) {
        let fields = block.fields();
        match fields.text("type").as_deref() {
            Some("text") => self.visible(&fields, out),
            // The second is thinking that Anthropic encrypted.
            Some("thinking" | "redacted_thinking") => self.thinking(&fields, out),
            Some("tool_use") => {
                let input = fields.get("input").filter(|input| input.is_object() && !input.fields().is_empty());
                let arguments = input.map(|input| Arguments::Unless(input.raw()));
                let (id, name) = (fields.text("id"), fields.text("name"));
                self.meaning.call(CallPiece { index, id, name, arguments }, out);
            }
            _ => {}
        }
    }

    fn block_delta(&mut self, index: Option<u64>, delta: &Fields<'_>, out: &mut VecDeque<Delta>) {
        self.visible(delta, out);
        self.thinking(delta, out);
        let Some(json) = delta.get("partial_json").and_then(Json::wtf8).filter(|json| !json.is_empty()) else {
            return;
        };
        if self.meaning.calls.has(index) {
            let arguments = Some(Arguments::Text(json));
            self.meaning.call(CallPiece { index, arguments, ..CallPiece::default() }, out);
        } else {
            // The input of a tool that the provider runs itself: not for the client, but paid for like thinking.
            self.meaning.thinking(json.len(), out);
        }
    }

    fn visible(&mut self, fields: &Fields<'_>, out: &mut VecDeque<Delta>) {
        if let Some(text) = fields.get("text").and_then(Json::wtf8) {
            self.meaning.text(text, out);
        }
    }

    fn thinking(&mut self, fields: &Fields<'_>, out: &mut VecDeque<Delta>) {
        let thought = fields.text("thinking").or_else(|| fields.text("data"));
        self.meaning.thinking(thought.map_or(0, |text| text.len()), out);
    }

    fn usage(&mut self, place: &Fields<'_>, out: &mut VecDeque<Delta>) {
        if let Some(usage) = place.get("usage") {
            self.meaning.usage(usage, out);
        }
    }

    fn reason(&mut self, place: &Fields<'_>) -> Result<(), ProviderError> {
        let word = place.text("stop_reason").unwrap_or_default();
        self.meaning.reason(&word).map_err(|kind| errors::reason_of_error(kind, &word))
    }
}

#[cfg(test)]
mod tests;
