//! What can be asked of a request.

use chrono::{DateTime, Utc};

use super::event::{Accepted, CancelReason, Outcome};

#[derive(Debug, Clone, PartialEq)]
pub enum RequestCommand {
    AcceptRequest(Box<Accepted>),
    /// `client_left`: nobody read the answer's end.
    CompleteRequest {
        client_left: bool,
        outcome: Box<Outcome>,
    },
    /// `code` is the error code that the client was told.
    FailRequest {
        code: String,
        outcome: Box<Outcome>,
    },
    CancelRequest {
        reason: CancelReason,
        outcome: Box<Outcome>,
    },
    /// Ends what nobody drives any more: the process that did is gone.
    AbandonRequest {
        reason: String,
        abandoned_at: DateTime<Utc>,
    },
}
