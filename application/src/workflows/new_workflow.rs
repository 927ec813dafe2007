//! What a client asks for: a video's fields, and how to come by it.

use aihub_domain::workflow::event::VideoParameters;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    error::Faults,
    fields::{Fields, Object},
    videos::new_video::{NewVideo, VideoContent},
};

/// The names of languages are short: `English`, `pt-BR`.
const MAX_LANGUAGE_CHARS: usize = 60;
pub const DEFAULT_LANGUAGE: &str = "English";

/// A request that is well formed. Whether there is such a type, and who can make its videos, is for others to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewWorkflow {
    pub workflow_type: String,
    pub language: Option<String>,
    /// With the client's own prompt. Each video of the workflow is like it.
    pub video: NewVideo,
}

/// What is sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkflowContent {
    #[serde(flatten)]
    pub video: VideoContent,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
}

impl NewWorkflow {
    /// Takes the fields of a body apart. `user` is the caller: a `userId` that names somebody else is a fault.
    pub fn from_fields(fields: impl Into<Object>, user: &str) -> Result<Self, Faults> {
        let mut fields = fields.into();
        let own = ["workflowType", "language"].map(|name| (name.to_owned(), fields.remove(name).unwrap_or_default()));
        let mut own = Fields::new(Map::<String, Value>::from_iter(own));
        let workflow_type = own.name("workflowType");
        if workflow_type.is_none() && !own.is_faulty("workflowType") {
            own.fault("workflowType", "is required: how the video is to be made");
        }
        let language = own.text("language", MAX_LANGUAGE_CHARS);
        let (own, video) = (own.finish(), NewVideo::from_fields(fields, user));
        match (own, video) {
            (Ok(()), Ok(video)) => Ok(Self { workflow_type: workflow_type.unwrap_or_default(), language, video }),
            (own, video) => Err(own.err().unwrap_or_default().and(video.err().unwrap_or_default())),
        }
    }

    pub fn content(&self) -> WorkflowContent {
        WorkflowContent { video: self.video.content.clone(), language: self.language.clone() }
    }

    pub fn parameters(&self) -> VideoParameters {
        let NewVideo { provider, model, seconds, resolution, aspect_ratio, priority, fallback, session_id, .. } =
            self.video.clone();
        VideoParameters { provider, model, seconds, resolution, aspect_ratio, priority, fallback, session_id }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn faults_of_the_workflow_and_of_its_video_are_told_together() {
        let body = json!({ "prompt": " ", "language": 7, "steps": [] });
        let faults = NewWorkflow::from_fields(body.as_object().unwrap().clone(), "ada").unwrap_err();
        let named: Vec<_> = faults.told().iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(named, ["workflowType", "language", "prompt", "duration", "steps"]);
    }

    #[test]
    fn a_workflow_takes_every_field_of_a_video() {
        let body = json!({
            "workflowType": "enhance", "language": "German", "prompt": "a calm sea", "duration": 8, "style": "film",
            "webhookUrl": "https://example.com/hook", "sessionId": "s",
        });
        let new = NewWorkflow::from_fields(body.as_object().unwrap().clone(), "ada").unwrap();
        assert_eq!((new.parameters().seconds, new.language.as_deref()), (8, Some("German")));
        let sealed = serde_json::to_value(new.content()).unwrap();
        assert_eq!(
            sealed,
            json!({ "prompt": "a calm sea", "style": "film", "webhookUrl": "https://example.com/hook", "language": "German" })
        );
    }
}
