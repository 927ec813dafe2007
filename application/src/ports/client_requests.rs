//! What a client asked for lately, on whichever node.

use futures::future::BoxFuture;
use uuid::Uuid;

/// Where that is looked up. What it says is as good as the log's readers are up to date, so it waits for them.
pub trait ClientRequests: Send + Sync {
    /// The requests that were accepted lately under this key, see [`client_key`](crate::lost_answers::client_key): of each
    /// connection, or of this one, the latest. Those count as well whose answers cannot be gone on with any more: whoever
    /// comes back late for one must not be given another.
    fn find(&self, key: Uuid, connection: Option<Uuid>) -> BoxFuture<'_, anyhow::Result<Vec<String>>>;

    /// Whether the node has been heard of within its time.
    fn is_alive<'a>(&'a self, node: &'a str) -> BoxFuture<'a, anyhow::Result<bool>>;
}
