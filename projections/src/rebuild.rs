//! The views by name, and how one is filled anew.

use std::sync::Arc;

use aihub_infrastructure::event_store::subscription::{self, EventHandler};
use sqlx::PgPool;

use crate::{access_log, account_balance, request_status, usage_daily};

/// A view is a handler that can start again from nothing. Its name is that of the table that is read.
pub trait View: EventHandler {
    /// Everything that it has written.
    fn tables(&self) -> &'static [&'static str];
}

/// All of them.
pub fn views() -> Vec<Arc<dyn View>> {
    vec![
        Arc::new(access_log::View),
        Arc::new(account_balance::View),
        Arc::new(request_status::View),
        Arc::new(usage_daily::View),
    ]
}

/// Empties the view and has its subscription begin at the first event again, both in one commit. Whoever runs it, on
/// whichever node, then fills it; until that has caught up, what is read from it states a low position.
pub async fn empty(pool: &PgPool, view: &dyn View) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let truncate = format!("TRUNCATE {}", view.tables().join(", "));
    sqlx::raw_sql(&truncate).execute(&mut *transaction).await?;
    subscription::reset(&mut *transaction, view.name()).await?;
    transaction.commit().await
}
