//! The workflows, as they are read from the log. What it says may be behind: a workflow itself has the last word.

use futures::future::BoxFuture;

/// One of somebody's workflows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub workflow_id: String,
    /// Of its start, in the log.
    pub position: u64,
}

pub trait WorkflowList: Send + Sync {
    /// Those that have not ended, oldest first.
    fn running(&self) -> BoxFuture<'_, anyhow::Result<Vec<String>>>;

    /// A user's that have not ended, oldest first.
    fn running_of<'a>(&'a self, account: &'a str, user: &'a str) -> BoxFuture<'a, anyhow::Result<Vec<String>>>;

    /// A user's, latest first, those that began before the position `before`.
    fn of_user<'a>(
        &'a self,
        account: &'a str,
        user: &'a str,
        before: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'a, anyhow::Result<Vec<Listed>>>;
}
