//! `aihub token`: a token on stdout and nothing else, for `TOKEN=$(aihub token --sub ann)`.

use aihub_application::ports::clock::{Clock, SystemClock};
use anyhow::Context;
use chrono::TimeDelta;
use clap::Args;

use super::output::out_line;
use crate::{
    auth::{
        AuthSettings,
        mint::{MintError, NewToken, mint},
    },
    bootstrap::auth_settings,
    config::Config,
};

#[derive(Debug, Args)]
pub struct Token {
    /// The user
    #[arg(long)]
    sub: String,
    /// Who pays [default: the user]
    #[arg(long)]
    account: Option<String>,
    /// What the user may do, once for each role
    #[arg(long = "role", value_name = "ROLE", default_value = "user")]
    roles: Vec<String>,
    /// How long it is valid: a number and s, m, h or d
    #[arg(long, default_value = "1h", value_parser = duration)]
    ttl: TimeDelta,
}

impl Token {
    pub fn run(self, config: &Config) -> anyhow::Result<()> {
        let settings = auth_settings(config)?;
        let token = NewToken {
            sub: &self.sub,
            account: self.account.as_deref(),
            roles: &self.roles,
            ttl: self.ttl,
            now: SystemClock.now(),
        };
        Ok(out_line(mint(&settings, &token).context("no token")?)?)
    }
}

/// A token for the person at this machine, who may do everything.
pub fn developers_token(settings: &AuthSettings) -> Result<String, MintError> {
    let roles = ["admin".to_owned()];
    let new = NewToken { sub: "dev", account: None, roles: &roles, ttl: TimeDelta::hours(24), now: SystemClock.now() };
    mint(settings, &new)
}

/// `90s`, `15m`, `1h`, `30d`.
fn duration(text: &str) -> Result<TimeDelta, String> {
    let parse = || {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let number: i64 = number.parse().ok().filter(|number| *number > 0)?;
        match unit {
            "s" => TimeDelta::try_seconds(number),
            "m" => TimeDelta::try_minutes(number),
            "h" => TimeDelta::try_hours(number),
            "d" => TimeDelta::try_days(number),
            _ => None,
        }
    };
    parse().ok_or_else(|| "must be a number above 0 and s, m, h or d, such as 90s, 15m, 1h, 30d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_number_and_a_unit() {
        assert_eq!(duration("90s"), Ok(TimeDelta::seconds(90)));
        assert_eq!(duration("1h"), Ok(TimeDelta::hours(1)));
        assert_eq!(duration("30d"), Ok(TimeDelta::days(30)));
        for text in ["", "h", "1", "0s", "-1h", "1w", "1.5h", "1€", "9223372036854775807d"] {
            duration(text).unwrap_err();
        }
    }
}
