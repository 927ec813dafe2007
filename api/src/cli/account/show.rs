use aihub_domain::{account::UsageLimits, money::Microcredits};
use anyhow::bail;
use clap::Args;

use super::{Ledger, account_name};
use crate::cli::{access::Who, output::out};

#[derive(Debug, Args)]
pub struct Show {
    #[arg(long, value_parser = account_name)]
    account: String,
    #[command(flatten)]
    who: Who,
}

impl Show {
    pub async fn run(self, ledger: &Ledger) -> anyhow::Result<()> {
        self.who.looks(&ledger.database, "account.show", [("account", Some(self.account.clone()))]).await?;
        let account = ledger.accounts.load(&self.account).await?;
        if !account.is_open() {
            bail!("account {} is not open: a grant of credits opens it", self.account);
        }
        Ok(out(format_args!(
            "account    {}\ngranted    {}\navailable  {}\nheld       {}\nspent      {}\nexpired    {}\nlimits     {}\n",
            self.account,
            account.granted(),
            account.available(),
            account.held(),
            account.spent(),
            account.expired(),
            describe(account.limits()),
        ))?)
    }
}

/// `5 a day, none a month`.
pub fn describe(limits: UsageLimits) -> String {
    let limit = |limit: Option<Microcredits>| limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
    format!("{} a day, {} a month", limit(limits.daily_microcredits), limit(limits.monthly_microcredits))
}
