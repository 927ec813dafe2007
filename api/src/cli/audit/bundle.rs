use std::{fs::File, io::BufReader, path::PathBuf};

use aihub_infrastructure::{
    audit::{
        AuditError, checkpoint,
        file::{BundleReport, verify_bundle, write_bundle},
    },
    database::Database,
};
use anyhow::Context;
use clap::Args;

use super::{Finding, Keys};
use crate::{
    cli::{
        access::Who,
        output::{out_line, remark},
    },
    config::Config,
};

#[derive(Debug, Args)]
pub struct Prove {
    /// The event's position
    position: u64,
    #[command(flatten)]
    keys: Keys,
    #[command(flatten)]
    who: Who,
}

#[derive(Debug, Args)]
pub struct Export {
    /// The first position
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// The last position [default: the last one that a checkpoint covers]
    #[arg(long)]
    to: Option<u64>,
    /// Is made; one that exists is left alone
    file: PathBuf,
    #[command(flatten)]
    keys: Keys,
    #[command(flatten)]
    who: Who,
}

#[derive(Debug, Args)]
pub struct VerifyBundle {
    file: PathBuf,
    #[command(flatten)]
    keys: Keys,
}

impl Prove {
    pub async fn run(self, config: &Config, database: &Database) -> anyhow::Result<()> {
        let keys = self.keys.known(config)?;
        self.who.looks(database, "audit.prove", [("position", Some(self.position.to_string()))]).await?;
        let stretch = (self.position, self.position);
        write_bundle(database, stretch, keys.first(), tokio::io::stdout()).await.map_err(Finding::from)?;
        Ok(())
    }
}

impl Export {
    pub async fn run(self, config: &Config, database: &Database) -> anyhow::Result<()> {
        let keys = self.keys.known(config)?;
        let to = if let Some(to) = self.to {
            to
        } else {
            let latest = checkpoint::latest(database.pool()).await.map_err(Finding::from)?;
            latest.map_or(0, |(checkpoint, _)| checkpoint.head.position)
        };
        let asked = [("from", Some(self.from.to_string())), ("to", Some(to.to_string()))];
        self.who.looks(database, "audit.export", asked).await?;
        let file = tokio::fs::File::create_new(&self.file).await.with_context(|| self.file.display().to_string())?;
        match write_bundle(database, (self.from, to), keys.first(), file).await {
            Ok((checkpoint, contents)) => {
                remark(format_args!(
                    "positions {} to {to} are in {}, proved by the checkpoint of position {}",
                    self.from,
                    self.file.display(),
                    checkpoint.head.position
                ))?;
                Ok(remark(format_args!("of the content that they name {contents}"))?)
            }
            Err(error) => {
                // Half a bundle proves nothing.
                std::fs::remove_file(&self.file)?;
                Err(Finding::from(error).into())
            }
        }
    }
}

impl VerifyBundle {
    pub fn run(self) -> anyhow::Result<()> {
        let file = File::open(&self.file).map_err(|error| Finding::from(AuditError::from(error)))?;
        let report =
            verify_bundle(BufReader::with_capacity(256 << 10, file), &self.keys.given).map_err(Finding::from)?;
        let BundleReport { from, to, contents, streams, checkpoint, key, is_own_key } = report;
        let (position, at) = (checkpoint.head.position, checkpoint.signed_at);
        out_line(format_args!("{:<17} {from} to {to}, contiguous, with the hashes that were recorded", "events"))?;
        out_line(format_args!("{:<17} {contents} pieces, as the events name them", "content"))?;
        out_line(format_args!("{:<17} {streams}, each without a hole and in order", "streams"))?;
        out_line(format_args!("{:<17} the last leads to the root of position {position}, signed {at}", "inclusion"))?;
        out_line(format_args!("{:<17} {key}", "signed by"))?;
        if is_own_key {
            remark("the key is the bundle's own: compare it with one that you have from elsewhere, or give --key")?;
        }
        Ok(out_line("intact")?)
    }
}
