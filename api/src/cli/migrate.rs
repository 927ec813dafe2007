//! `aihub migrate`: the schema, before the nodes of a new version start.

use super::output::out_line;
use crate::{bootstrap::open_database, config::Config};

pub async fn run(config: &Config) -> anyhow::Result<()> {
    let (database, embedded) = open_database(config).await?;
    let migrated = database.migrate().await;
    database.pool().close().await;
    if let Some(embedded) = embedded {
        embedded.stop().await?;
    }
    migrated?;
    Ok(out_line("the schema is up to date")?)
}
