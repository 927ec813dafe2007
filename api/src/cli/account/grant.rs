use aihub_application::ports::clock::Clock as _;
use aihub_domain::account::{command::AccountCommand, event::AccountEvent};
use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use clap::Args;
use uuid::Uuid;

use super::{Ledger, account_name, actor, metadata};
use crate::{
    cli::{output::out_line, reason::Reason},
    config::amount::Credits,
};

#[derive(Debug, Args)]
pub struct Grant {
    #[arg(long, value_parser = account_name)]
    account: String,
    /// How many, with at most six decimals
    #[arg(long)]
    credits: Credits,
    /// Why, for the audit
    #[arg(long)]
    reason: Reason,
    /// A name for this grant: with the same one it is made once, however often the command runs
    #[arg(long)]
    key: Option<String>,
    /// When what is left of it expires: a UTC day, which it still lasts, or a time like 2026-12-31T12:00:00Z; left out,
    /// it never does
    #[arg(long, value_name = "WHEN", value_parser = expiry)]
    expires: Option<DateTime<Utc>>,
    /// Who grants [default: the operating system's user]
    #[arg(long)]
    actor: Option<String>,
}

impl Grant {
    pub async fn run(self, ledger: &Ledger) -> anyhow::Result<()> {
        let grant_id = self.key.unwrap_or_else(|| Uuid::now_v7().to_string());
        let actor = actor(self.actor);
        let metadata = metadata(&actor, &grant_id);
        let now = ledger.clock.now();
        let command = AccountCommand::GrantCredits {
            grant_id: grant_id.clone(),
            amount: self.credits.0,
            expires_at: self.expires,
            reason: self.reason.into(),
            actor,
            granted_at: now,
        };
        // The same grant once more is told so, however late.
        let is_made =
            ledger.accounts.load(&self.account).await?.decide(command.clone()).is_ok_and(|more| more.is_empty());
        if let Some(expires) = self.expires.filter(|expires| *expires <= now && !is_made) {
            anyhow::bail!("nobody could spend a grant that has expired already, at {expires}");
        }
        let events = ledger.accounts.execute(&self.account, &command, &|_| Ok(vec![]), &metadata).await?;
        let available = events.iter().find_map(|event| match event {
            AccountEvent::CreditsGranted { available_microcredits, .. } => Some(available_microcredits),
            _ => None,
        });
        let (account, credits) = (&self.account, self.credits.0);
        Ok(match available {
            Some(available) => out_line(format_args!(
                "granted {credits} credits to {account} (key {grant_id}): {available} are available"
            )),
            None => out_line(format_args!("{credits} credits were granted to {account} before with key {grant_id}")),
        }?)
    }
}

fn expiry(text: &str) -> Result<DateTime<Utc>, String> {
    let day_after = |day: NaiveDate| day.checked_add_days(Days::new(1));
    match text.parse::<NaiveDate>().ok().and_then(day_after) {
        Some(day_after) => Ok(day_after.and_time(NaiveTime::MIN).and_utc()),
        None => text.parse().map_err(|_| "it has to look like 2026-12-31 or 2026-12-31T12:00:00Z".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_over_at_its_end() {
        assert_eq!(expiry("2026-12-31"), Ok("2027-01-01T00:00:00Z".parse().unwrap()));
        assert_eq!(expiry("2026-12-31T12:00:00Z"), Ok("2026-12-31T12:00:00Z".parse().unwrap()));
        assert!(expiry("soon").is_err());
    }
}
