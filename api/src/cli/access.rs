//! Who looks at what on the command line is in the log and in the view `access_log`, as are uses over HTTP.

use std::{sync::Arc, time::Duration};

use aihub_application::{
    access,
    ports::clock::{Clock, SystemClock},
};
use aihub_domain::access::AccessRecord;
use aihub_infrastructure::{
    database::Database,
    event_store::{PostgresEventLog, upcast::Upcasters, writer::WriterOptions},
};
use clap::Args;
use tokio_util::task::TaskTracker;

use super::{
    account::{NODE, actor},
    output::remark,
};

/// Nobody waits longer for an answer because of what cannot be recorded.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub struct Who {
    /// Who looks, for the access log [default: the operating system's user]
    #[arg(long)]
    pub actor: Option<String>,
}

impl Who {
    /// Records what was asked for, before it is shown. Where that cannot be, it is said and shown all the same: whoever has
    /// the database has what is in it, and an auditor's copy may be one that nobody can write to.
    pub async fn looks<'a>(
        self,
        database: &Database,
        action: &str,
        parameters: impl IntoIterator<Item = (&'a str, Option<String>)>,
    ) -> std::io::Result<()> {
        let parameters = parameters.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        let record = AccessRecord {
            user: actor(self.actor),
            account: String::new(),
            action: action.to_owned(),
            parameters,
            accessed_at: SystemClock.now(),
        };
        let options =
            WriterOptions { statement_timeout: PATIENCE, give_up_after: Duration::ZERO, ..WriterOptions::default() };
        let tasks = TaskTracker::new();
        let log = PostgresEventLog::start(database.clone(), options, Arc::new(Upcasters::default()), &tasks);
        let recorded = access::record(&log, record, NODE).await;
        log.close();
        tasks.close();
        tasks.wait().await;
        recorded.or_else(|error| remark(format_args!("this use is not in the access log: {error}")))
    }
}
