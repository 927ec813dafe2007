//! What a client asked for lately, on whichever node.

use futures::future::BoxFuture;
use uuid::Uuid;

/// Where that is looked up. What it says is as good as the log's readers are up to date, so it waits for them.
pub trait ClientRequests: Send + Sync {
    /// The request that was accepted last under this key, see [`client_key`](crate::lost_answers::client_key); `None` where none
    /// is known, or none any more.
    fn find(&self, key: Uuid) -> BoxFuture<'_, anyhow::Result<Option<String>>>;

    /// Whether the node has been heard of within its time.
    fn is_alive<'a>(&'a self, node: &'a str) -> BoxFuture<'a, anyhow::Result<bool>>;
}
