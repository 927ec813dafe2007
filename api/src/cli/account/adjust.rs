use aihub_application::notes::{Made, NewNote};
use aihub_domain::account::AdjustmentKind;
use clap::{ArgGroup, Args};
use uuid::Uuid;

use super::{Ledger, account_name, actor, metadata};
use crate::{
    cli::{output::out_line, reason::Reason},
    config::amount::Credits,
};

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("kind").required(true).args(["credit", "debit"])))]
pub struct Adjust {
    #[arg(long, value_parser = account_name)]
    account: String,
    /// Give so many spent credits back
    #[arg(long, value_name = "CREDITS")]
    credit: Option<Credits>,
    /// Take so many available credits
    #[arg(long, value_name = "CREDITS")]
    debit: Option<Credits>,
    /// The requests, videos, or positions of their settlements, that were charged wrongly: a credit note gives back at most what
    /// is left of them, one after another, and belongs to their month; a debit note names one
    #[arg(long, value_name = "REQUEST", required = true, num_args = 1..)]
    corrects: Vec<String>,
    /// Why, for the audit
    #[arg(long)]
    reason: Reason,
    /// A name for this note: with the same one it is made once, however often the command runs
    #[arg(long)]
    key: Option<String>,
    /// Who corrects [default: the operating system's user]
    #[arg(long)]
    actor: Option<String>,
}

impl Adjust {
    pub async fn run(self, ledger: &Ledger) -> anyhow::Result<()> {
        let (kind, name, amount) = match (self.credit, self.debit) {
            (Some(Credits(amount)), _) => (AdjustmentKind::CreditNote, "credit note", amount),
            (None, debit) => (AdjustmentKind::DebitNote, "debit note", debit.map(|debit| debit.0).unwrap_or_default()),
        };
        let actor = actor(self.actor);
        let note = NewNote {
            account: self.account,
            key: self.key.unwrap_or_else(|| Uuid::now_v7().to_string()),
            kind,
            amount,
            corrects: self.corrects,
            reason: self.reason.into(),
            actor: actor.clone(),
        };
        let made = ledger.notes().make(&note, &metadata(&actor, &note.key)).await?;
        let NewNote { account, key, .. } = &note;
        Ok(match made {
            Made::Now { available, corrects_month } => {
                let of_month = corrects_month.map(|month| format!(" of {month}")).unwrap_or_default();
                out_line(format_args!(
                    "{name} of {amount} credits for {account}{of_month} (key {key}): {available} are available"
                ))
            }
            Made::Before => out_line(format_args!("the {name} with key {key} was made for {account} before")),
        }?)
    }
}
