//! What a client asks for, checked field by field.

use crate::{
    error::Faults,
    fields::{Fields, Object},
    request::AUTO,
};
use aihub_domain::video::{
    event::Priority,
    format::{AspectRatio, Resolution},
    price::MAX_SECONDS,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// In characters; what the providers take at most is about that.
pub const MAX_PROMPT_CHARS: usize = 8_000;
pub const MAX_STYLE_CHARS: usize = 200;
const MAX_URL_BYTES: usize = 2_048;

/// A request that is well formed. Whether anybody can make it is for the catalog to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVideo {
    /// A configured video provider's name, or [`AUTO`].
    pub provider: String,
    pub model: Option<String>,
    /// At least; a part of one counts as a whole one.
    pub seconds: u32,
    pub resolution: Resolution,
    pub aspect_ratio: AspectRatio,
    pub priority: Priority,
    /// Whether another provider may make it when the first cannot.
    pub fallback: bool,
    pub session_id: Option<String>,
    pub content: VideoContent,
}

/// What is sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VideoContent {
    pub prompt: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub style: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_url: Option<String>,
}

impl NewVideo {
    /// Takes the fields of a body apart. `user` is the caller: a `userId` that names somebody else is a fault.
    pub fn from_fields(fields: impl Into<Object>, user: &str) -> Result<Self, Faults> {
        let mut fields = Fields::new(fields);
        let prompt = fields.text("prompt", MAX_PROMPT_CHARS);
        if prompt.is_none() && !fields.is_faulty("prompt") {
            fields.fault("prompt", "is required: what the video is to show");
        }
        let video = Self {
            provider: fields.name("provider").unwrap_or_else(|| AUTO.to_owned()),
            model: fields.model("model"),
            seconds: fields.seconds(),
            resolution: fields.parsed("resolution").unwrap_or(Resolution::P720),
            aspect_ratio: fields.parsed("aspectRatio").unwrap_or_default(),
            priority: fields.choice("priority").unwrap_or_default(),
            fallback: fields.take("fallback").unwrap_or(true),
            session_id: fields.name("sessionId"),
            content: VideoContent {
                prompt: prompt.unwrap_or_default(),
                style: fields.text("style", MAX_STYLE_CHARS),
                webhook_url: fields.url("webhookUrl"),
            },
        };
        if fields.name("userId").is_some_and(|named| named != user) {
            fields.fault("userId", "is not the user of the token; it can be left out");
        }
        fields.finish()?;
        Ok(video)
    }
}

impl Fields {
    pub(crate) fn text(&mut self, field: &str, most_chars: usize) -> Option<String> {
        let text: String = self.take(field)?;
        if text.trim().is_empty() || text.chars().count() > most_chars {
            self.fault(field, format!("must have 1 to {most_chars} characters"));
            return None;
        }
        Some(text)
    }

    fn seconds(&mut self) -> u32 {
        let Some(duration) = self.take::<Value>("duration") else {
            self.fault("duration", "is required, in seconds");
            return 0;
        };
        let seconds = duration.as_f64().filter(|seconds| (1.0..=f64::from(MAX_SECONDS)).contains(seconds));
        let Some(seconds) = seconds else {
            self.fault("duration", format!("must be a number of seconds from 1 to {MAX_SECONDS}"));
            return 0;
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within the bounds")]
        let whole = seconds.ceil() as u32;
        whole
    }

    fn parsed<T: std::str::FromStr<Err: ToString>>(&mut self, field: &str) -> Option<T> {
        let text: String = self.take(field)?;
        text.parse().map_err(|error: T::Err| self.fault(field, error.to_string())).ok()
    }

    fn url(&mut self, field: &str) -> Option<String> {
        let url: String = self.take(field)?;
        if url.is_empty() || url.len() > MAX_URL_BYTES {
            self.fault(field, format!("must be a URL of at most {MAX_URL_BYTES} bytes"));
            return None;
        }
        Some(url)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(body: &Value) -> Result<NewVideo, Vec<String>> {
        NewVideo::from_fields(body.as_object().unwrap().clone(), "ada")
            .map_err(|faults| faults.told().iter().map(|fault| fault.field.clone()).collect())
    }

    #[test]
    fn a_prompt_and_a_duration_are_enough() {
        let video = parse(&json!({"prompt": "a calm sea", "duration": 8, "userId": "ada"})).unwrap();
        assert_eq!(
            (video.provider.as_str(), video.resolution, video.aspect_ratio),
            (AUTO, Resolution::P720, AspectRatio::Wide)
        );
        assert_eq!((video.priority, video.fallback, video.content.style), (Priority::Standard, true, None));
    }

    #[test]
    fn a_length_may_be_any_number_and_no_text_and_what_it_may_be_is_said_in_words() {
        let with = |duration: Value| {
            let body = json!({"prompt": "a calm sea", "duration": duration});
            NewVideo::from_fields(body.as_object().unwrap().clone(), "ada")
        };
        for (asked, seconds) in [(json!(4.0), 4), (json!(2.5), 3), (json!(1), 1)] {
            assert_eq!(with(asked).unwrap().seconds, seconds);
        }
        for (asked, said) in [(json!("urgent"), "must be one of `"), (json!({}), "must be a text, and is an object")] {
            let body = json!({"prompt": "a calm sea", "duration": 4, "priority": asked});
            let faults = NewVideo::from_fields(body.as_object().unwrap().clone(), "ada").unwrap_err();
            assert!(faults.told()[0].reason.starts_with(said), "{}", faults.told()[0].reason);
        }
        for asked in [json!("4"), json!(0.5), json!(1e30), json!([4])] {
            let faults = with(asked).unwrap_err();
            assert_eq!(faults.told()[0].reason, format!("must be a number of seconds from 1 to {MAX_SECONDS}"));
        }
    }

    #[test]
    fn every_faulty_field_is_named_at_once() {
        let mut faults = parse(&json!({
            "prompt": " ", "duration": 0, "resolution": "8K", "aspectRatio": "wide", "style": 1, "priority": "urgent",
            "webhookUrl": "", "sessionId": "", "userId": "bob", "seconds": 4,
        }))
        .unwrap_err();
        faults.sort();
        assert_eq!(
            faults,
            [
                "aspectRatio",
                "duration",
                "priority",
                "prompt",
                "resolution",
                "seconds",
                "sessionId",
                "style",
                "userId",
                "webhookUrl"
            ]
        );
        assert_eq!(parse(&json!({})).unwrap_err(), ["prompt", "duration"]);
    }
}
