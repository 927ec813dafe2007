//! `aihub audit`: the log, proved. It reads the database alone, whether a service runs or not.
//!
//! Exit codes: 0 intact, 2 tampered, 3 incomplete, 4 unreadable.

mod bundle;
mod change_key;
mod trail;
mod verify;

use aihub_application::ports::clock::SystemClock;
use aihub_infrastructure::{
    audit::{AuditError, checkpoint, note::VerifierKey},
    database::Database,
    database_clock::DatabaseClock,
};
use clap::{Args, Subcommand};
use thiserror::Error;

use super::{
    access::Who,
    database::with_opened,
    output::{out, out_line},
};
use crate::{
    bootstrap::{open_database, signing_key},
    config::Config,
};

#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Check every event, the chain, the streams, the signed checkpoints and the balances
    Verify(verify::Verify),
    /// Sign what the log is now, after verifying what came since the last time, and print it
    Checkpoint(Who),
    /// Print the proof that an event is in the log, for `verify-bundle`
    Prove(bundle::Prove),
    /// Write a stretch of the log into a file that proves itself
    Export(bundle::Export),
    /// Verify what `export` or `prove` wrote; needs no database
    VerifyBundle(bundle::VerifyBundle),
    /// Tell who did what, when, with which model, at which price, and why something was refused
    Trail(trail::Trail),
    /// Print the key that checkpoints are verified with
    Key,
    /// Have the configured key sign checkpoints from now on; `audit.former_signing_key` endorses it
    ChangeKey(change_key::ChangeKey),
}

/// Who may have signed.
#[derive(Debug, Args)]
pub struct Keys {
    /// A verifier key, as `aihub audit key` prints it; may be repeated [default: the configured key's]
    #[arg(long = "key", value_name = "KEY", value_parser = str::parse::<VerifierKey>)]
    given: Vec<VerifierKey>,
}

/// An audit that did not end well.
#[derive(Debug, Error)]
pub enum Finding {
    #[error("tampered: {0}")]
    Tampered(String),
    #[error("incomplete: {0}")]
    Incomplete(String),
    #[error("unreadable: {0}")]
    Unreadable(String),
}

impl Finding {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Tampered(_) => 2,
            Self::Incomplete(_) => 3,
            Self::Unreadable(_) => 4,
        }
    }
}

impl From<AuditError> for Finding {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::Tampered(fault) => Self::Tampered(fault.to_string()),
            AuditError::Incomplete(what) => Self::Incomplete(what),
            other => Self::Unreadable(other.to_string()),
        }
    }
}

impl Audit {
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        match self {
            Self::VerifyBundle(verify) => verify.run(),
            Self::ChangeKey(change) => change.run(config).await,
            Self::Key => Ok(out_line(signing_key(config)?.verifier())?),
            Self::Verify(verify) => with_database(config, async |database| verify.run(config, database).await).await,
            Self::Checkpoint(who) => {
                with_database(config, async |database| make_checkpoint(config, database, who).await).await
            }
            Self::Trail(trail) => with_database(config, async |database| trail.run(database).await).await,
            Self::Prove(prove) => with_database(config, async |database| prove.run(config, database).await).await,
            Self::Export(export) => with_database(config, async |database| export.run(config, database).await).await,
        }
    }
}

impl Keys {
    /// Those that were given, or the one that this machine signs with. None, where it has none.
    fn known(&self, config: &Config) -> anyhow::Result<Vec<VerifierKey>> {
        if !self.given.is_empty() {
            return Ok(self.given.clone());
        }
        if config.is_production() && config.audit.signing_key.is_none() {
            return Ok(vec![]);
        }
        Ok(vec![signing_key(config)?.verifier()])
    }
}

async fn make_checkpoint(config: &Config, database: &Database, who: Who) -> anyhow::Result<()> {
    let clock = DatabaseClock::read(database, SystemClock).await.map_err(AuditError::from).map_err(Finding::from)?;
    let made = checkpoint::make(database, &signing_key(config)?, &clock).await.map_err(Finding::from)?;
    match made {
        Some((_, note)) => {
            who.looks(database, "audit.checkpoint", []).await?;
            Ok(out(note)?)
        }
        None => Err(Finding::Incomplete("the log is empty".to_owned()).into()),
    }
}

/// A database that cannot be reached is a log that cannot be read.
async fn with_database(config: &Config, work: impl AsyncFnOnce(&Database) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let opened = open_database(config).await.map_err(|error| Finding::Unreadable(format!("{error:#}")))?;
    with_opened(opened, work).await
}
