//! What a client asked for lately, on whichever node.

use futures::future::BoxFuture;
use uuid::Uuid;

/// Where that is looked up. What it says is as good as the log's readers are up to date, so it waits for them.
pub trait ClientRequests: Send + Sync {
    /// The requests that were accepted under this key, see [`client_key`](crate::lost_answers::client_key): of each connection, or
    /// of this one, the latest. With no connection, only those count whose answers can still be gone on with.
    fn find(&self, key: Uuid, connection: Option<Uuid>) -> BoxFuture<'_, anyhow::Result<Vec<String>>>;

    /// The same for all connections, of what the log's readers have read by now.
    fn find_read(&self, key: Uuid) -> BoxFuture<'_, anyhow::Result<Vec<String>>>;

    /// Whether the node has been heard of within its time.
    fn is_alive<'a>(&'a self, node: &'a str) -> BoxFuture<'a, anyhow::Result<bool>>;
}
