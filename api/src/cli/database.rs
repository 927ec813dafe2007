//! The database of a command, which is closed behind it.

use aihub_infrastructure::{database::Database, embedded_postgres::EmbeddedPostgres};

use crate::{bootstrap::open_database, config::Config};

pub type Opened = (Database, Option<EmbeddedPostgres>);

pub async fn with_database<T>(
    config: &Config,
    work: impl AsyncFnOnce(&Database) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    with_opened(open_database(config).await?, work).await
}

pub async fn with_opened<T>(
    (database, embedded): Opened,
    work: impl AsyncFnOnce(&Database) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let done = work(&database).await;
    database.pool().close().await;
    if let Some(embedded) = embedded {
        let stopped = embedded.stop().await;
        // What failed first is what is told.
        return done.and_then(|done| stopped.map(|()| done).map_err(Into::into));
    }
    done
}
