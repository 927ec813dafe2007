//! What happened to a workflow. What the client wrote and what models made of it is only named,
//! see [`crate::content`]; everything else is in clear.

use chrono::{DateTime, Utc};
use cqrs_es::DomainEvent;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    content::ContentRef,
    money::Microcredits,
    video::{
        event::Priority,
        format::{AspectRatio, Resolution},
    },
};

/// Each end says again whose the workflow was, so that no reader has to keep that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum WorkflowEvent {
    WorkflowStarted(Box<WorkflowRequest>),
    StepStarted {
        step: String,
        /// Counts from 1.
        attempt: u32,
        /// Of a text: what its request is called, if it comes to one.
        request_id: Option<String>,
        node: String,
        started_at: DateTime<Utc>,
    },
    /// A video was asked for, or found to have been asked for.
    ShotRequested {
        step: String,
        /// Counts from 0.
        shot: u32,
        video_id: String,
        recorded_at: DateTime<Utc>,
    },
    StepCompleted {
        step: String,
        /// Of a text: the JSON object that was asked for.
        output: Option<ContentRef>,
        request_id: Option<String>,
        videos: Vec<String>,
        /// For all attempts at it.
        charged_microcredits: Microcredits,
        completed_at: DateTime<Utc>,
    },
    StepFailed {
        step: String,
        attempt: u32,
        code: String,
        /// For people, without content.
        reason: String,
        request_id: Option<String>,
        /// For all attempts so far.
        charged_microcredits: Microcredits,
        will_retry: bool,
        failed_at: DateTime<Utc>,
    },
    WorkflowCompleted {
        asked: Asked,
        completed_at: DateTime<Utc>,
    },
    /// What the steps before made stays.
    WorkflowFailed {
        asked: Asked,
        step: String,
        code: String,
        reason: String,
        failed_at: DateTime<Utc>,
    },
    WorkflowCancelled {
        asked: Asked,
        actor: String,
        cancelled_at: DateTime<Utc>,
    },
}

/// Everything that was asked for, and how it will be done; it never changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkflowRequest {
    pub account: String,
    pub user: String,
    /// The caller's, who is acted for: what they grant is looked up for every step.
    pub roles: Vec<String>,
    pub workflow_type: String,
    /// As they were configured then.
    pub steps: Vec<Step>,
    pub video: VideoParameters,
    /// Whether the client is to be told of the end; where, is in the content.
    pub has_webhook: bool,
    /// `{"prompt", "style", "webhookUrl", "language"}`
    pub content: ContentRef,
    pub started_at: DateTime<Utc>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub name: String,
    pub work: Work,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// A model is asked for a JSON object.
    Text {
        /// `auto` or a provider's name.
        provider: String,
        model: Option<String>,
        /// What it is told, with placeholders.
        template: String,
        /// The JSON Schema of the object.
        output: Value,
        max_tokens: u32,
    },
    /// Videos are made: one, or one for each entry of a list.
    Make {
        /// The prompt, with placeholders.
        template: String,
        /// The list: a step of texts, and a field of what it made.
        shots: Option<(String, String)>,
    },
}

/// What each video is to be, beside its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VideoParameters {
    /// As the client asked: `auto` or a provider's name.
    pub provider: String,
    pub model: Option<String>,
    pub seconds: u32,
    pub resolution: Resolution,
    pub aspect_ratio: AspectRatio,
    pub priority: Priority,
    pub fallback: bool,
    pub session_id: Option<String>,
}

/// Whose a workflow is, and what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    pub account: String,
    pub user: String,
    pub workflow_type: String,
}

impl WorkflowRequest {
    pub fn asked(&self) -> Asked {
        let Self { account, user, workflow_type, .. } = self;
        Asked { account: account.clone(), user: user.clone(), workflow_type: workflow_type.clone() }
    }
}

impl Work {
    /// `text` or `make`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Text { .. } => "text",
            Self::Make { .. } => "make",
        }
    }
}

impl WorkflowEvent {
    /// Whose the workflow was that this ends, and when; `None` on everything else.
    pub fn ended(&self) -> Option<(&Asked, DateTime<Utc>)> {
        match self {
            Self::WorkflowCompleted { asked, completed_at: at }
            | Self::WorkflowFailed { asked, failed_at: at, .. }
            | Self::WorkflowCancelled { asked, cancelled_at: at, .. } => Some((asked, *at)),
            _ => None,
        }
    }
}

impl DomainEvent for WorkflowEvent {
    fn event_type(&self) -> String {
        match self {
            Self::WorkflowStarted(_) => "WorkflowStarted",
            Self::StepStarted { .. } => "StepStarted",
            Self::ShotRequested { .. } => "ShotRequested",
            Self::StepCompleted { .. } => "StepCompleted",
            Self::StepFailed { .. } => "StepFailed",
            Self::WorkflowCompleted { .. } => "WorkflowCompleted",
            Self::WorkflowFailed { .. } => "WorkflowFailed",
            Self::WorkflowCancelled { .. } => "WorkflowCancelled",
        }
        .to_owned()
    }

    fn event_version(&self) -> String {
        "1.0".to_owned()
    }
}
