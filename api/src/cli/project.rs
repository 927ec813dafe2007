//! `aihub project`: the views in a database of their own, fed from Kafka. For those who query them all day, on another
//! machine than the hub's.

use std::sync::Arc;

use aihub_application::ports::clock::SystemClock;
use aihub_infrastructure::{
    database::{Database, DatabaseOptions},
    event_store::{subscription::EventHandler, upcast::Upcasters},
    kafka::{projector::Projector, reachability::Reachability},
};
use aihub_projections::rebuild::views;
use anyhow::Context;
use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;

use super::{secret_arg::secret, serve::Signals};
use crate::{auth::secret::Secret, config::Config};

/// It applies on a connection of its own; the pool only migrates.
const CONNECTIONS: u32 = 2;

#[derive(Debug, Args)]
pub struct Project {
    /// Where the events come from
    #[arg(long, value_enum)]
    from: Source,
    /// The database that the views are kept in: postgres://user:password@host:port/name, or @FILE where that stands
    #[arg(long, value_name = "URL|@FILE", env = "AIHUB_TARGET_DATABASE_URL", hide_env_values = true, value_parser = secret)]
    database: Secret,
    /// The consumer group that it shows itself to Kafka as
    #[arg(long, value_name = "GROUP", default_value = "aihub-projections")]
    group: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Source {
    /// The topics of `kafka.brokers`
    Kafka,
}

impl Project {
    /// Runs until it is told to stop, or until a view or the chain stops it.
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        let mut signals = Signals::listen()?;
        let Source::Kafka = self.from;
        let cluster = config.kafka.cluster().context("kafka.brokers (KAFKA_BROKERS) is not set")?;
        let options = DatabaseOptions {
            application_name: "aihub-project",
            max_connections: CONNECTIONS,
            ..DatabaseOptions::new(self.database.expose())
        };
        let database = Database::connect(&options).await?;
        if database.migrate().await? {
            config.database.roles().make(&database).await?;
        }
        let projector = Projector {
            cluster,
            group: self.group,
            database,
            views: views().into_iter().map(|view| view as Arc<dyn EventHandler>).collect(),
            upcasters: Arc::new(Upcasters::default()),
            reachability: Reachability::new(Arc::new(SystemClock)),
        };
        let shutdown = CancellationToken::new();
        let running = projector.run(&shutdown);
        Ok(signals.until_done(running, &shutdown).await??)
    }
}
