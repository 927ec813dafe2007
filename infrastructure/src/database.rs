//! The way to PostgreSQL: one pool for short statements, and dedicated connections for what must not queue for one
//! or holds a session's state (the log's writer, subscriptions).

use std::{str::FromStr, time::Duration};

use sqlx::{
    ConnectOptions, Connection, PgConnection, PgPool,
    migrate::{MigrateError, Migrator},
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use thiserror::Error;
use tokio::time::timeout;

/// The schema, in steps. Until the first release they may be edited in place; after it they are only ever added.
pub static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// For connections that live long and find everything by its key. Plans are made once, when a table may be empty, and
/// kept: without these the server takes a sequential scan (under the log's lock even a hash join over one), and keeps
/// it while the table grows.
pub const KEPT_PLANS: [(&str, &str); 6] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_bitmapscan", "off"),
    ("jit", "off"),
];

/// A pooled connection that was used so short a time ago is not tested before it is used again.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

/// How the database is reached.
#[derive(Debug, Clone)]
pub struct DatabaseOptions {
    /// `postgres://user:password@host:port/name`.
    pub url: String,
    /// What the pool's connections are called in `pg_stat_activity`.
    pub application_name: &'static str,
    pub max_connections: u32,
    /// How long a caller waits for a connection of the pool.
    pub acquire_timeout: Duration,
    /// How long one statement on the pool may run.
    pub statement_timeout: Duration,
}

#[derive(Debug, Error)]
pub enum DatabaseError {
    #[error("the database URL is not of the form postgres://user:password@host:port/name: {0}")]
    Url(sqlx::Error),
    #[error("the database cannot be reached: {0}")]
    Unreachable(sqlx::Error),
    #[error("the database schema cannot be brought up to date: {0}")]
    Migration(#[from] MigrateError),
}

/// A database and its pool. Cloning it is cheap and shares the pool.
#[derive(Debug, Clone)]
pub struct Database {
    pool: PgPool,
    connect: PgConnectOptions,
}

impl DatabaseOptions {
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            application_name: "aihub",
            max_connections: 16,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
        }
    }
}

impl Database {
    /// Connects once, so that a wrong address or password is known at the start.
    pub async fn connect(options: &DatabaseOptions) -> Result<Self, DatabaseError> {
        let connect = PgConnectOptions::from_str(&options.url)
            .map_err(DatabaseError::Url)?
            // Both ends give a peer up that is gone without a word: the server drops what holds locks.
            .options([
                // The views are named without their schema, so that a rebuild can fill copies in another.
                ("search_path", "public,read"),
                ("tcp_user_timeout", "10000"),
                ("tcp_keepalives_idle", "10"),
                ("tcp_keepalives_interval", "5"),
                ("tcp_keepalives_count", "2"),
            ])
            .log_slow_statements(tracing::log::LevelFilter::Warn, Duration::from_secs(5));
        let pooled = connect.clone().application_name(options.application_name).options([
            ("statement_timeout", millis(options.statement_timeout)),
            ("idle_in_transaction_session_timeout", millis(options.statement_timeout)),
        ]);
        let pool_options = PgPoolOptions::new()
            .max_connections(options.max_connections)
            .acquire_timeout(options.acquire_timeout)
            // A round trip before each use finds the dead ones. One that was in use just now is hardly dead. The error is
            // given on: without it the pool says good-bye to a dead connection, and waits for an answer.
            .test_before_acquire(false)
            .before_acquire(|connection, pooled| {
                Box::pin(async move {
                    if pooled.idle_for >= TRUSTED_FOR {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            });
        let pool = match pool_options.clone().connect_with(pooled.clone()).await {
            // The pool does not say what kept it waiting, a connection does.
            Err(waited @ sqlx::Error::PoolTimedOut) => match timeout(options.acquire_timeout, pooled.connect()).await {
                Ok(Ok(_)) => pool_options.connect_lazy_with(pooled),
                Ok(Err(reason)) => return Err(DatabaseError::Unreachable(reason)),
                Err(_) => return Err(DatabaseError::Unreachable(waited)),
            },
            pool => pool.map_err(DatabaseError::Unreachable)?,
        };
        Ok(Self { pool, connect })
    }

    /// Applies the migrations that are missing, on a connection without a statement timeout. Several nodes may do so
    /// at once: they wait for each other.
    pub async fn migrate(&self) -> Result<(), DatabaseError> {
        let mut connection = self.dedicated("aihub-migrate", &[]).await.map_err(DatabaseError::Unreachable)?;
        MIGRATIONS.run(&mut connection).await?;
        Ok(())
    }

    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// A connection outside the pool, with settings of its own. It closes when it is dropped.
    pub async fn dedicated(
        &self,
        application_name: &str,
        settings: &[(&str, String)],
    ) -> Result<PgConnection, sqlx::Error> {
        let settings = settings.iter().map(|(name, value)| (*name, value.as_str()));
        self.connect.clone().application_name(application_name).options(settings).connect().await
    }

    /// A connection that hears notifications.
    pub async fn listener(&self) -> Result<PgListener, sqlx::Error> {
        let connect = self.connect.clone().application_name("aihub-listener");
        let of_its_own = PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None);
        PgListener::connect_with(&of_its_own.connect_with(connect).await?).await
    }
}

/// A duration as PostgreSQL's settings take it.
pub fn millis(duration: Duration) -> String {
    duration.as_millis().max(1).to_string()
}

/// Whether the same statement may well succeed later or on another connection: nothing is wrong with what it says.
pub fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        // Connection, read-only (a standby), rollback by the server, resources, lock timeout, operator, system.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["08", "25006", "40", "53", "55P03", "57", "58"].iter().any(|class| code.starts_with(class))
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_database_that_nobody_listens_for_is_told_of_once_and_with_the_reason() {
        // One that is free: the listener is gone at the end of the line.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let url = format!("postgres://somebody@127.0.0.1:{port}/something");
        let options = DatabaseOptions { acquire_timeout: Duration::from_millis(200), ..DatabaseOptions::new(url) };
        let error = anyhow::Error::from(Database::connect(&options).await.unwrap_err());
        assert_eq!(format!("{error:#}").matches("refused").count(), 1, "{error:#}");
    }
}
