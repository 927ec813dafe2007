//! Jobs, as those who only follow them see them: videos and workflows.

use std::{fmt, future::pending};

use aihub_domain::{video::VideoJob, workflow::Workflow};
use cqrs_es::Aggregate;
use tokio::sync::broadcast::{Receiver, error::RecvError};

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
    /// The database was out of reach: what happened meanwhile is not told.
    Missed,
}

/// Waits for the next news that `is_about` says yes to. [`News::Missed`] it is also where the listener fell behind: whoever
/// waits has to look then.
pub async fn news_about(news: &mut Receiver<News>, is_about: impl Fn(&News) -> bool) -> News {
    loop {
        match news.recv().await {
            Ok(told) if told == News::Missed || is_about(&told) => return told,
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => return News::Missed,
            // The service ends.
            Err(RecvError::Closed) => return pending().await,
        }
    }
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
