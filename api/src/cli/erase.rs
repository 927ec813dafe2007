//! `aihub erase`: the content of a subject is gone for good, and the log says so. Running it again does no harm, and
//! finishes what a crash had left.

use aihub_application::{
    erasure::{Erasure, erase_subject},
    ports::clock::Clock as _,
};
use aihub_domain::subject::SubjectCommand;
use aihub_infrastructure::vault::erasure::{destroy_subject, keys_of};
use clap::Args;
use uuid::Uuid;

use super::{
    account::{Ledger, account_name, actor, metadata},
    output::out_line,
    reason::Reason,
};
use crate::config::Config;

#[derive(Debug, Args)]
pub struct Erase {
    /// Whose prompts and answers: an account
    #[arg(long, value_parser = account_name)]
    subject: String,
    /// Why, for the audit
    #[arg(long)]
    reason: Reason,
    /// Who erases [default: the operating system's user]
    #[arg(long)]
    actor: Option<String>,
}

impl Erase {
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        let ledger = Ledger::open(config).await?;
        let done = self.erase(&ledger).await;
        let closed = ledger.close().await;
        done.and(closed)
    }

    async fn erase(self, ledger: &Ledger) -> anyhow::Result<()> {
        let (subject, actor) = (self.subject, actor(self.actor));
        let metadata = metadata(&actor, &Uuid::now_v7().to_string());
        let key_ids = keys_of(ledger.database.pool(), &subject).await?;
        let keys = key_ids.len();
        let is_known = keys > 0 || ledger.accounts.load(&subject).await?.is_open();
        anyhow::ensure!(is_known, "there is no account {subject}, and no content of it: nothing was erased");
        let now = ledger.clock.now();
        let command = SubjectCommand::EraseSubject { reason: self.reason.into(), actor, key_ids, erased_at: now };
        let erasure = erase_subject(&*ledger.log, &subject, &command, &metadata).await?;
        let erased_at = if let Erasure::Before { erased_at } = erasure { erased_at } else { now };
        // A service that runs does it as well, when it reads the event, and may be first.
        let mut transaction = ledger.database.pool().begin().await?;
        destroy_subject(&mut transaction, &subject, erased_at).await?;
        transaction.commit().await?;
        Ok(match erasure {
            Erasure::Recorded { position } => out_line(format_args!(
                "the content of {subject} is erased: {keys} keys destroyed, recorded at position {position}"
            )),
            Erasure::Before { .. } => {
                out_line(format_args!("the content of {subject} was erased at {erased_at}; {keys} keys destroyed now"))
            }
        }?)
    }
}
