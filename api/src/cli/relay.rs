//! `aihub relay`: events go to Kafka once more, for a cluster that lost some, that is new, or that takes what it refused
//! before. Readers pass over what they have.

use aihub_infrastructure::kafka::relay;
use anyhow::{Context, ensure};
use clap::Args;

use super::{database::with_database, output::out_line};
use crate::config::Config;

#[derive(Debug, Args)]
pub struct Relay {
    /// The first position that is published again; 1 is everything
    #[arg(long, value_name = "POSITION", value_parser = clap::value_parser!(u64).range(1..))]
    from: u64,
}

impl Relay {
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        let moved = with_database(config, async |database| {
            let moved = relay::publish_again_from(database.pool(), self.from).await;
            moved.context("the relay's checkpoint was not moved")
        });
        ensure!(moved.await?, "position {} is not published yet, so it cannot be published again", self.from);
        Ok(out_line(format_args!("a hub that is told of Kafka publishes everything from position {} on", self.from))?)
    }
}
