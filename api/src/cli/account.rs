//! `aihub account`: grants, limits and balances, on the event log itself. A service that runs beside it sees each change
//! at its next decision on that account.

mod adjust;
mod grant;
mod limit;
mod show;
mod void;

use std::sync::Arc;

use aihub_application::{
    accounts::Accounts,
    notes::Notes,
    ports::{clock::SystemClock, event_log::Metadata},
    principal::{IDENTIFIER_RULE, is_identifier},
};
use aihub_infrastructure::{
    charges::PostgresCharges,
    database::Database,
    database_clock::DatabaseClock,
    embedded_postgres::EmbeddedPostgres,
    event_store::{PostgresEventLog, upcast::Upcasters, writer::WriterOptions},
    os_user::os_user,
};
use clap::Subcommand;
use tokio_util::task::TaskTracker;

use crate::{bootstrap::open_database, config::Config};

/// What the command line is called among the nodes.
pub const NODE: &str = "cli";

#[derive(Debug, Subcommand)]
pub enum Account {
    /// Grant credits; opens the account if it is not open yet
    Grant(grant::Grant),
    /// Take back a grant that was made in error, of which nothing is spent
    Void(void::Void),
    /// Correct what was charged: a credit note gives credits back, a debit note takes some
    Adjust(adjust::Adjust),
    /// Show what an account has
    Show(show::Show),
    /// Limit what an account may spend in a UTC day or month
    Limit(limit::Limit),
}

impl Account {
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        let ledger = Ledger::open(config).await?;
        let done = match self {
            Self::Grant(grant) => grant.run(&ledger).await,
            Self::Void(void) => void.run(&ledger).await,
            Self::Adjust(adjust) => adjust.run(&ledger).await,
            Self::Show(show) => show.run(&ledger).await,
            Self::Limit(limit) => limit.run(&ledger).await,
        };
        let closed = ledger.close().await;
        done.and(closed)
    }
}

/// The accounts, and what has to be closed behind them.
pub struct Ledger {
    pub accounts: Arc<Accounts>,
    pub log: Arc<PostgresEventLog>,
    /// What is written down has the database's time, whatever this machine's clock says.
    pub clock: Arc<DatabaseClock>,
    tasks: TaskTracker,
    pub database: Database,
    embedded: Option<EmbeddedPostgres>,
}

impl Ledger {
    pub async fn open(config: &Config) -> anyhow::Result<Self> {
        let (database, embedded) = open_database(config).await?;
        if embedded.is_some() {
            database.migrate().await?;
        }
        let clock = Arc::new(DatabaseClock::read(&database, SystemClock).await?);
        let tasks = TaskTracker::new();
        let upcasters = Arc::new(Upcasters::default());
        let log = Arc::new(PostgresEventLog::start(database.clone(), WriterOptions::default(), upcasters, &tasks));
        Ok(Self { accounts: Arc::new(Accounts::new(log.clone())), log, clock, tasks, database, embedded })
    }

    pub fn charges(&self) -> Arc<PostgresCharges> {
        Arc::new(PostgresCharges::new(self.database.pool().clone()))
    }

    pub fn notes(&self) -> Notes {
        Notes::new(self.accounts.clone(), self.charges(), self.log.clone(), self.clock.clone())
    }

    pub async fn close(self) -> anyhow::Result<()> {
        self.log.close();
        self.tasks.close();
        self.tasks.wait().await;
        self.database.pool().close().await;
        if let Some(embedded) = self.embedded {
            embedded.stop().await?;
        }
        Ok(())
    }
}

/// Who did this from the command line, in the events' metadata.
pub fn metadata(actor: &str, correlation_id: &str) -> Arc<Metadata> {
    Arc::new(Metadata::from([
        ("actor", actor.to_owned()),
        ("correlationId", correlation_id.to_owned()),
        ("node", NODE.to_owned()),
    ]))
}

/// The person at this machine, as far as it knows.
pub fn actor(named: Option<String>) -> String {
    named.unwrap_or_else(os_user)
}

pub fn account_name(text: &str) -> Result<String, String> {
    if is_identifier(text) { Ok(text.to_owned()) } else { Err(IDENTIFIER_RULE.to_owned()) }
}
