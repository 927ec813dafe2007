//! Who looks at what on the command line is in the log and in the view `access_log`, as are uses over HTTP.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aihub_application::{
    access,
    ports::clock::{Clock as _, SystemClock},
};
use aihub_domain::access::AccessRecord;
use aihub_infrastructure::{
    database::Database,
    database_clock::DatabaseClock,
    event_store::{PostgresEventLog, reader, upcast::Upcasters, writer::WriterOptions},
    os_user::os_user,
};
use clap::Args;
use tokio_util::task::TaskTracker;

use super::{account::NODE, output::remark};

/// Nobody waits longer for an answer because of what cannot be recorded.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub struct Who {
    /// Who looks, for the access log, which has the operating system's user in any case
    #[arg(long)]
    pub actor: Option<String>,
}

impl Who {
    /// Records what was asked for, before it is shown. Where that cannot be, it is said and shown all the same: whoever has
    /// the database has what is in it, and an auditor's copy may be one that nobody can write to. And a look is not to make
    /// a log where there is none, nor to give another end to one that has lost its own.
    pub async fn looks<'a>(
        self,
        database: &Database,
        action: &str,
        parameters: impl IntoIterator<Item = (&'a str, Option<String>)>,
    ) -> std::io::Result<()> {
        let refused =
            |error: &dyn std::fmt::Display| remark(format_args!("this use is not in the access log: {error}"));
        match reader::can_go_on(database.pool()).await {
            Ok(true) => {}
            Ok(false) => return refused(&"the log is not in this database, or not up to where others have seen it"),
            Err(error) => return refused(&error),
        }
        let clock = match DatabaseClock::read(database, SystemClock).await {
            Ok(clock) => clock,
            Err(error) => return refused(&error),
        };
        let parameters = parameters.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let mut parameters: BTreeMap<String, String> = parameters.collect();
        let user = match self.actor {
            // Anybody can say a name.
            Some(actor) => {
                parameters.insert("osUser".to_owned(), os_user());
                actor
            }
            None => os_user(),
        };
        let record = AccessRecord {
            user,
            account: String::new(),
            action: action.to_owned(),
            parameters,
            accessed_at: clock.now(),
        };
        let options =
            WriterOptions { statement_timeout: PATIENCE, give_up_after: Duration::ZERO, ..WriterOptions::default() };
        let tasks = TaskTracker::new();
        let log = PostgresEventLog::start(database.clone(), options, Arc::new(Upcasters::default()), &tasks);
        let recorded = access::record(&log, record, NODE).await;
        log.close();
        tasks.close();
        tasks.wait().await;
        recorded.or_else(|error| refused(&error))
    }
}
