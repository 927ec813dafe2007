//! `aihub keys`: the keys that content is sealed with.

use aihub_infrastructure::vault::rotation::rotate;
use anyhow::bail;
use clap::Subcommand;

use super::{
    database::with_database,
    output::{out_line, progress, progress_done},
};
use crate::{bootstrap::master_keys, config::Config};

#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Wrap every subject's key with `content.master_key` that is wrapped with one of `content.former_master_keys`
    Rotate,
}

impl Keys {
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        let Self::Rotate = self;
        let masters = master_keys(config)?;
        with_database(config, async |database| {
            let rotated = rotate(database, &masters, |keys| progress(format_args!("{keys} keys"))).await;
            progress_done();
            let rotated = rotated?;
            out_line(format_args!("{} keys are wrapped anew with {}", rotated.keys, masters.current.id()))?;
            if rotated.unreadable > 0 {
                bail!(
                    "{} keys are wrapped with a master key that is not configured: add it to `content.former_master_keys`",
                    rotated.unreadable
                );
            }
            Ok(())
        })
        .await
    }
}
