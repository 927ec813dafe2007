//! What the service works with and can be made from the log again. It is looked through for things to do, and no report is made of
//! it; what else stands in the database says something that is not in the log, and is never made anew:
//!
//! | handler | what is made anew | what stays |
//! |---|---|---|
//! | `orphaned-requests` | the open requests, and what clients asked for under names of their own | |
//! | `expiring-grants` | the grants that will expire | |
//! | `open-videos` | the queue, whose turn it is, which provider's job is which, kept media, and files left behind, which are then looked for once more | seats: who was let in and is not in the log |
//! | `open-workflows` | the workflows | seats |
//! | `webhook-deliveries` | the jobs whose end is to be told, and deliveries of the last 30 days that are missing | deliveries that there are, with what became of them |
//! | `erasures` | nothing has to be made: what was erased is erased again, as after a backup of the keys was restored | |

use std::sync::Arc;

use aihub_infrastructure::{
    due_grants::ExpiringGrants, open_workflows::OpenWorkflows, orphaned_requests::OpenRequests,
    vault::erasure::Erasures, video_queue::OpenVideos, webhooks::deliveries::WebhookDeliveries,
};

use super::View;

/// All of them.
pub fn working_tables() -> Vec<Arc<dyn View>> {
    vec![
        Arc::new(OpenRequests),
        Arc::new(OpenVideos),
        Arc::new(WebhookDeliveries),
        Arc::new(OpenWorkflows),
        Arc::new(ExpiringGrants),
        Arc::new(Erasures),
    ]
}

/// `schema()` and `keeps_rows()` are the same for all: a row goes when there is nothing left to do.
macro_rules! working_table {
    ($handler:ty, tables: $tables:expr, event_types: $event_types:expr) => {
        impl View for $handler {
            fn schema(&self) -> &'static str {
                "work"
            }

            fn keeps_rows(&self) -> bool {
                false
            }

            fn tables(&self) -> &'static [&'static str] {
                $tables
            }

            fn event_types(&self) -> &'static [&'static str] {
                $event_types
            }
        }
    };
}

working_table!(
    OpenRequests,
    tables: &["open_requests", "client_requests"],
    event_types: &["RequestAccepted", "RequestCompleted", "RequestFailed", "RequestCancelled", "RequestAbandoned"]
);
working_table!(
    ExpiringGrants,
    tables: &["expiring_grants"],
    event_types: &["CreditsGranted", "GrantVoided", "CreditsExpired"]
);
working_table!(
    OpenVideos,
    tables: &["video_submissions", "kept_media", "open_videos", "media_leftovers", "video_turns"],
    event_types: &[
        "VideoRequested", "SubmissionStarted", "SubmissionRefused", "SubmissionDoubted", "SubmissionDenied", "VideoSubmitted",
        "VideoProgressed", "VideoStored", "VideoCompleted", "VideoFailed", "VideoCancelled", "VideoExpired", "MediaErased",
    ]
);
working_table!(
    OpenWorkflows,
    tables: &["workflows"],
    event_types: &["WorkflowStarted", "WorkflowCompleted", "WorkflowFailed", "WorkflowCancelled"]
);
working_table!(
    WebhookDeliveries,
    tables: &["awaited_webhooks"],
    event_types: &[
        "VideoRequested", "VideoCompleted", "VideoFailed", "VideoCancelled", "VideoExpired",
        "WorkflowStarted", "WorkflowCompleted", "WorkflowFailed", "WorkflowCancelled",
    ]
);
working_table!(
    Erasures,
    tables: &[],
    event_types: &["SubjectErased", "ContentExpired"]
);
