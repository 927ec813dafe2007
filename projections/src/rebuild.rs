//! The views by name, and how one is filled anew.

use std::sync::Arc;

use aihub_infrastructure::event_store::subscription::{self, EventHandler};
use sqlx::PgPool;

use crate::{
    account_balance, credit_ledger, provider_health, request_status, usage_daily, usage_ledger, usage_monthly,
};

/// A view is a handler that can start again from nothing. Its name is that of the table that is read.
pub trait View: EventHandler {
    /// Everything that it writes, in the order in which it first touches them: whoever locks them waits in the same
    /// order.
    fn tables(&self) -> &'static [&'static str];

    /// The events that it is made from. It is given others too, and passes them over.
    fn event_types(&self) -> &'static [&'static str];
}

/// All of them.
pub fn views() -> Vec<Arc<dyn View>> {
    vec![
        Arc::new(account_balance::View),
        Arc::new(credit_ledger::View),
        Arc::new(provider_health::View),
        Arc::new(request_status::View),
        Arc::new(usage_daily::View),
        Arc::new(usage_ledger::View),
        Arc::new(usage_monthly::View),
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
