//! Jobs, as those who only follow them see them: videos and workflows.

use std::fmt;

use aihub_domain::{video::VideoJob, workflow::Workflow};
use cqrs_es::Aggregate;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobKind {
    Video,
    Workflow,
}

/// What happens to jobs, as it happens, on whichever node. Whoever falls behind, or hears nothing for a while, has to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Something did, and whoever lists jobs has read it.
    Changed { kind: JobKind, id: String, account: String },
    /// Somebody wants the video looked at.
    Nudged { video_id: String },
    /// The database was out of reach: what happened meanwhile is not told.
    Missed,
}

impl JobKind {
    /// Its type in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Video => VideoJob::TYPE,
            Self::Workflow => Workflow::TYPE,
        }
    }

    pub fn parse(aggregate_type: &str) -> Option<Self> {
        [Self::Video, Self::Workflow].into_iter().find(|kind| kind.as_str() == aggregate_type)
    }
}

impl fmt::Display for JobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
