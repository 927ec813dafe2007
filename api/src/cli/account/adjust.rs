use aihub_application::ports::{clock::Clock as _, event_log::EventLog};
use aihub_domain::{
    account::{
        AdjustmentKind,
        command::{AccountCommand, Adjustment},
        event::AccountEvent,
    },
    period::{Month, Period},
};
use clap::{ArgGroup, Args};
use cqrs_es::Aggregate;
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
    /// The requests, or positions of events, that were charged wrongly
    #[arg(long, value_name = "REQUEST", required = true, num_args = 1..)]
    corrects: Vec<String>,
    /// The closed month that this corrects, like 2026-10
    #[arg(long)]
    month: Option<Month>,
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
        if let Some(month) = self.month {
            // It has one event, its close.
            let closed = ledger.log.load(Period::TYPE, &month.to_string(), 0).await?;
            anyhow::ensure!(
                !closed.is_empty(),
                "{month} is not closed: leave it out, for the note is booked in the open month"
            );
        }
        let adjustment_id = self.key.unwrap_or_else(|| Uuid::now_v7().to_string());
        let actor = actor(self.actor);
        let metadata = metadata(&actor, &adjustment_id);
        let command = AccountCommand::AdjustCredits(Adjustment {
            adjustment_id: adjustment_id.clone(),
            kind,
            amount,
            corrects: self.corrects,
            corrects_month: self.month,
            reason: self.reason.into(),
            actor,
            adjusted_at: ledger.clock.now(),
        });
        let events = ledger.accounts.execute(&self.account, &command, &|_| Ok(vec![]), &metadata).await?;
        let available = events.iter().find_map(|event| match event {
            AccountEvent::CreditsAdjusted { available_microcredits, .. } => Some(available_microcredits),
            _ => None,
        });
        let account = &self.account;
        Ok(match available {
            Some(available) => out_line(format_args!(
                "{name} of {amount} credits for {account} (key {adjustment_id}): {available} are available"
            )),
            None => out_line(format_args!("the {name} with key {adjustment_id} was made for {account} before")),
        }?)
    }
}
