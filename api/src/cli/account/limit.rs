use std::str::FromStr;

use aihub_application::ports::clock::Clock as _;
use aihub_domain::{
    account::{UsageLimits, command::AccountCommand},
    money::Microcredits,
};
use clap::Args;
use uuid::Uuid;

use super::{Ledger, account_name, actor, metadata, show::describe};
use crate::{
    cli::{output::out_line, reason::Reason},
    config::amount::{Credits, InvalidCredits},
};

#[derive(Debug, Args)]
pub struct Limit {
    #[arg(long, value_parser = account_name)]
    account: String,
    /// Credits a UTC day, or `none`; left out, it stays as it is
    #[arg(long, value_name = "CREDITS", required_unless_present = "monthly")]
    daily: Option<Most>,
    /// Credits a UTC month, or `none`; left out, it stays as it is
    #[arg(long, value_name = "CREDITS")]
    monthly: Option<Most>,
    /// Why, for the audit
    #[arg(long)]
    reason: Reason,
    /// Who limits [default: the operating system's user]
    #[arg(long)]
    actor: Option<String>,
}

/// `none`, or credits.
#[derive(Debug, Clone, Copy)]
struct Most(Option<Microcredits>);

impl FromStr for Most {
    type Err = InvalidCredits;

    fn from_str(text: &str) -> Result<Self, InvalidCredits> {
        if text == "none" { Ok(Self(None)) } else { text.parse().map(|Credits(most)| Self(Some(most))) }
    }
}

impl Limit {
    pub async fn run(self, ledger: &Ledger) -> anyhow::Result<()> {
        let now = ledger.accounts.load(&self.account).await?.limits();
        let limits = UsageLimits {
            daily_microcredits: self.daily.map_or(now.daily_microcredits, |most| most.0),
            monthly_microcredits: self.monthly.map_or(now.monthly_microcredits, |most| most.0),
        };
        let actor = actor(self.actor);
        let metadata = metadata(&actor, &Uuid::now_v7().to_string());
        let set_at = ledger.clock.now();
        let command = AccountCommand::SetUsageLimits { limits, reason: self.reason.into(), actor, set_at };
        ledger.accounts.execute(&self.account, &command, &|_| Ok(vec![]), &metadata).await?;
        Ok(out_line(format_args!("limits of {}: {}", self.account, describe(limits)))?)
    }
}
