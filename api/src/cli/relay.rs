//! `aihub relay`: events go to Kafka once more, for a cluster that lost some, that is new, or that takes what it refused
//! before. Readers pass over what they have.

use aihub_infrastructure::kafka::relay;
use anyhow::{Context, ensure};
use clap::Args;

use super::output::out_line;
use crate::{bootstrap::open_database, config::Config};

#[derive(Debug, Args)]
pub struct Relay {
    /// The first position that is published again; 1 is everything
    #[arg(long, value_name = "POSITION", value_parser = clap::value_parser!(u64).range(1..))]
    from: u64,
}

impl Relay {
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        let (database, embedded) = open_database(config).await?;
        let moved = relay::publish_again_from(database.pool(), self.from).await;
        database.pool().close().await;
        if let Some(embedded) = embedded {
            embedded.stop().await?;
        }
        ensure!(
            moved.context("the relay's checkpoint was not moved")?,
            "position {} is not published yet, so it cannot be published again",
            self.from
        );
        Ok(out_line(format_args!("a hub that is told of Kafka publishes everything from position {} on", self.from))?)
    }
}
