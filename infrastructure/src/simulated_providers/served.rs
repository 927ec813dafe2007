//! The simulator's own count of what it served, kept apart from what it told its callers, so that an audit of the
//! product's bills has something to be held against.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::SimulatedProvider;

pub mod ledger;

/// The ledger lists so many calls; then the oldest are forgotten, and only the counters of [`Summary`] know of them.
/// An entry takes about 200 bytes.
pub const MAX_CALLS: usize = 1_000_000;
/// The longest list in one answer.
pub const MAX_PAGE: usize = 10_000;
/// A longer `x-client-request-id` is cut, in bytes.
pub const MAX_REQUEST_ID_BYTES: usize = 128;

/// How a call ended, as the simulator saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Outcome {
    InProgress,
    /// The last byte was handed to the socket.
    Completed,
    /// An error was answered, instead of the answer or inside it.
    Failed,
    /// Cut by a `tear` knob.
    Torn,
    /// Silent by order of a `hang` knob, whether the client waits on or has left.
    Hung,
    /// The connection went away before the answer was complete.
    ClientLeft,
}

const OUTCOMES: [Outcome; 6] = {
    use Outcome::{ClientLeft, Completed, Failed, Hung, InProgress, Torn};
    [InProgress, Completed, Failed, Torn, Hung, ClientLeft]
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    Chat,
    Messages,
    CountTokens,
    Embeddings,
    /// Creates of videos, by whichever provider, which have no tokens. Their status and content are not in the ledger.
    Videos,
}

/// One call, as it stands now. The JSON of `GET /admin/served`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServedCall {
    /// Counts from 1; also the hexadecimal end of the ids in the answer.
    pub call: u64,
    pub arrived_at: DateTime<Utc>,
    /// The caller's `x-client-request-id`.
    pub client_request_id: Option<String>,
    pub provider: SimulatedProvider,
    pub operation: Operation,
    /// Without knobs; `None` where the simulator has no such model, or was not told.
    pub model: Option<String>,
    pub stream: bool,
    /// 0 until the answer begins: a call that failed, hung or was left before that was not served.
    pub input_tokens: u32,
    /// Handed to the socket so far. A client that left may have read fewer.
    pub output_tokens: u32,
    pub outcome: Outcome,
    /// The HTTP status that was answered, 0 before there is one.
    pub status: u16,
}

/// Sums over all calls, the forgotten ones as well.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// How many of the calls `/admin/served` still lists.
    pub listed_calls: u64,
    pub total: Totals,
    /// Of each model that was called. Calls without a known model are in `total` only.
    pub models: Vec<ModelTotals>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub calls: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub in_progress: u64,
    pub completed: u64,
    pub failed: u64,
    pub torn: u64,
    pub hung: u64,
    pub client_left: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelTotals {
    pub model: String,
    #[serde(flatten)]
    pub totals: Totals,
}

impl Totals {
    fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.input_tokens += other.input_tokens;
        self.output_tokens += other.output_tokens;
        self.in_progress += other.in_progress;
        self.completed += other.completed;
        self.failed += other.failed;
        self.torn += other.torn;
        self.hung += other.hung;
        self.client_left += other.client_left;
    }
}
