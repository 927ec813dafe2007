//! What is left of a grant expires when its time is over; what of it is held then, when it comes free.

use std::sync::Arc;

use aihub_domain::account::command::AccountCommand;
use chrono::{DateTime, Utc};
use futures::future::BoxFuture;

use crate::{accounts::Accounts, error::Outside as _, ports::event_log::Metadata};

/// A grant whose time is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueGrant {
    pub account: String,
    pub grant_id: String,
    /// When it was found to be due.
    pub found_at: DateTime<Utc>,
}

/// Where such grants are found. What it says may be behind the log: what is gone already is left alone.
pub trait DueGrants: Send + Sync {
    /// Some of them, those due for longest first.
    fn find(&self) -> BoxFuture<'_, anyhow::Result<Vec<DueGrant>>>;
}

/// Expires what is left of every due grant that is found. Returns of how many something expired or ended.
pub async fn expire_credits(accounts: &Accounts, due: &dyn DueGrants, node: &str) -> anyhow::Result<usize> {
    let mut expired = 0;
    for DueGrant { account, grant_id, found_at } in due.find().await? {
        let metadata = Arc::new(Metadata::from([
            ("actor", "expire_credits".to_owned()),
            ("correlationId", grant_id.clone()),
            ("node", node.to_owned()),
        ]));
        let expire = AccountCommand::ExpireCredits { grant_id: grant_id.clone(), expired_at: found_at };
        match accounts.execute(&account, &expire, &|_| Ok(vec![]), &metadata).await {
            // All of it is held: it is looked at again.
            Ok(events) if events.is_empty() => {}
            Ok(_) => expired += 1,
            Err(error) if error.is_outage() => return Err(error.into()),
            // One that cannot expire does not keep the others from it.
            Err(error) => {
                tracing::error!(account.id = %account, grant.id = %grant_id, error.message = %error, "a grant cannot expire");
            }
        }
    }
    Ok(expired)
}
