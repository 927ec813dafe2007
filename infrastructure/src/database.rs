//! The way to PostgreSQL: one pool for short statements, and dedicated connections for what must not queue for one
//! or holds a session's state (the log's writer, subscriptions).
//!
//! | module | holds |
//! |---|---|
//! | [`schema`] | the migrations, and whether they are applied |
//! | [`session`] | what each session relies on |

pub mod schema;
pub mod session;

use std::{
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sqlx::{
    ConnectOptions, PgConnection, PgPool,
    migrate::MigrateError,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use thiserror::Error;
use tokio::time::{Instant, timeout};

use self::session::{Found, SessionSettings, check_own_sessions, pooled};

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

/// A pooled connection that was used so short a time ago is not looked at before it is used again.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// How long every connection is looked at once one was found that can only read.
const DISTRUSTED_FOR: Duration = Duration::from_secs(10);

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
    #[error(
        "between this process and the database is a pooler that gives sessions for a transaction or a statement only \
         (PgBouncer's `pool_mode = transaction`). What is done here needs sessions of its own: set \
         `pool_mode = session` for this database, or name PostgreSQL itself in DATABASE_URL"
    )]
    TransactionPooling,
    #[error("the database does not keep to {name} = {stated:?}, it has {found:?}")]
    Setting { name: String, stated: String, found: String },
    #[error("the database schema cannot be brought up to date: {0}")]
    Migration(#[from] MigrateError),
    #[error(
        "the database schema is not that of this version ({found}), and the login {login} may not change it: run \
         `aihub migrate` with the owner's DATABASE_URL"
    )]
    NotMigrated { found: String, login: String },
    #[error("the roles cannot be given their rights: {0}")]
    Roles(sqlx::Error),
}

/// A database and its pool. Cloning it is cheap and shares the pool.
#[derive(Debug, Clone)]
pub struct Database {
    pool: PgPool,
    connect: PgConnectOptions,
    login: Arc<str>,
    distrusted_until: Arc<Mutex<Option<Instant>>>,
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
    /// Connects at once, so that a wrong address or password is known at the start, and a pooler that does not fit.
    pub async fn connect(options: &DatabaseOptions) -> Result<Self, DatabaseError> {
        let connect = PgConnectOptions::from_str(&options.url)
            .map_err(DatabaseError::Url)?
            // It is stated like everything else: poolers refuse a start-up parameter that they do not know.
            .extra_float_digits(None)
            .log_slow_statements(tracing::log::LevelFilter::Warn, Duration::from_secs(5));
        let statement_timeout = millis(options.statement_timeout);
        let settings = SessionSettings::new([
            ("statement_timeout", statement_timeout.as_str()),
            ("idle_in_transaction_session_timeout", statement_timeout.as_str()),
        ]);
        let distrusted_until = Arc::<Mutex<Option<Instant>>>::default();
        let pooled_connect = connect.clone().application_name(options.application_name);
        let pool = pool_options(options, &settings, &distrusted_until).connect_with(pooled_connect.clone()).await;
        let pool = match pool {
            // The pool does not say what kept it waiting, a connection does.
            Err(waited @ sqlx::Error::PoolTimedOut) => {
                let alone = async { settings.apply(&mut pooled_connect.connect().await.map_err(pooled)?).await };
                match timeout(options.acquire_timeout, alone).await {
                    Ok(Ok(())) => pool_options(options, &settings, &distrusted_until).connect_lazy_with(pooled_connect),
                    Ok(Err(reason)) => return Err(reason),
                    Err(_) => return Err(DatabaseError::Unreachable(waited)),
                }
            }
            pool => pool.map_err(pooled)?,
        };
        let mut one = pool.acquire().await.map_err(pooled)?;
        if options.max_connections > 1 {
            let mut other = pool.acquire().await.map_err(pooled)?;
            check_own_sessions(&mut one, &mut other).await?;
        }
        let login: String =
            sqlx::query_scalar("SELECT session_user::text").fetch_one(&mut *one).await.map_err(pooled)?;
        drop(one);
        Ok(Self { pool, connect, login: login.into(), distrusted_until })
    }

    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Who the server takes us for.
    pub fn login(&self) -> &str {
        &self.login
    }

    /// A connection outside the pool, with settings of its own. It closes when it is dropped.
    pub async fn dedicated(
        &self,
        application_name: &str,
        settings: &[(&str, String)],
    ) -> Result<PgConnection, sqlx::Error> {
        let settings = SessionSettings::new(settings.iter().map(|(name, value)| (*name, value.as_str())));
        let mut connection = self.connect.clone().application_name(application_name).connect().await?;
        settings.apply(&mut connection).await.map_err(into_sqlx)?;
        Ok(connection)
    }

    /// Somebody found a session that can only read, or one that he did not have before: for a while each connection of the pool
    /// is looked at before it is used, and dropped where it is like that.
    pub fn distrust(&self) {
        let until = Instant::now() + DISTRUSTED_FOR;
        *self.distrusted_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }
}

fn pool_options(
    options: &DatabaseOptions,
    settings: &SessionSettings,
    distrusted_until: &Arc<Mutex<Option<Instant>>>,
) -> PgPoolOptions {
    let (stated, looked_for, distrusted_until) = (settings.clone(), settings.clone(), distrusted_until.clone());
    PgPoolOptions::new()
        .max_connections(options.max_connections)
        .acquire_timeout(options.acquire_timeout)
        .after_connect(move |connection, _| {
            let stated = stated.clone();
            Box::pin(async move { stated.apply(connection).await.map_err(into_sqlx) })
        })
        // A round trip before each use finds the dead ones. One that was in use just now is hardly dead. The error is
        // given on: without it the pool says good-bye to a dead connection, and waits for an answer.
        .test_before_acquire(false)
        .before_acquire(move |connection, pooled| {
            let looked_for = looked_for.clone();
            let distrusted_until = *distrusted_until.lock().unwrap_or_else(PoisonError::into_inner);
            let is_distrusted = distrusted_until.is_some_and(|until| Instant::now() < until);
            Box::pin(async move {
                if pooled.idle_for < TRUSTED_FOR && !is_distrusted {
                    return Ok(true);
                }
                Ok(looked_for.look(connection).await? == Found::AsLeft)
            })
        })
}

/// For callers who tell by the kind of the failure whether to try again.
fn into_sqlx(error: DatabaseError) -> sqlx::Error {
    match error {
        DatabaseError::Unreachable(error) => error,
        other => sqlx::Error::Protocol(other.to_string()),
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
            ["08", READ_ONLY, "40", "53", "55P03", "57", "58"].iter().any(|class| code.starts_with(class))
        }),
        _ => false,
    }
}

/// The code of what is said to whoever writes where nobody can.
const READ_ONLY: &str = "25006";

pub fn is_read_only(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.code().is_some_and(|code| code == READ_ONLY))
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
