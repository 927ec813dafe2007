use aihub_application::ports::clock::Clock as _;
use aihub_domain::account::{command::AccountCommand, event::AccountEvent};
use clap::Args;

use super::{Ledger, account_name, actor, metadata};
use crate::cli::{output::out_line, reason::Reason};

#[derive(Debug, Args)]
pub struct Void {
    #[arg(long, value_parser = account_name)]
    account: String,
    /// The grant's key, which was told when it was made and stands in the credit ledger
    #[arg(long, value_name = "KEY")]
    grant: String,
    /// Why, for the audit
    #[arg(long)]
    reason: Reason,
    /// Who takes it back [default: the operating system's user]
    #[arg(long)]
    actor: Option<String>,
}

impl Void {
    pub async fn run(self, ledger: &Ledger) -> anyhow::Result<()> {
        let actor = actor(self.actor);
        let metadata = metadata(&actor, &self.grant);
        let command = AccountCommand::VoidGrant {
            grant_id: self.grant.clone(),
            reason: self.reason.into(),
            actor,
            voided_at: ledger.clock.now(),
        };
        let events = ledger.accounts.execute(&self.account, &command, &|_| Ok(vec![]), &metadata).await?;
        let (account, grant) = (&self.account, &self.grant);
        let voided = events.iter().find_map(|event| match event {
            AccountEvent::GrantVoided { amount_microcredits, available_microcredits, .. } => {
                Some((amount_microcredits, available_microcredits))
            }
            _ => None,
        });
        Ok(match voided {
            Some((amount, available)) => out_line(format_args!(
                "{account}'s grant {grant} of {amount} credits is void: {available} are available"
            )),
            None => out_line(format_args!("{account}'s grant {grant} was taken back before")),
        }?)
    }
}
