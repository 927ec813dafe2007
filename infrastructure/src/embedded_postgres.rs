//! A private PostgreSQL, so that `aihub` starts with nothing else installed.
//!
//! It is a real one, fetched once ([`fetch`]) or found installed ([`binaries`]), run as an unprivileged user
//! ([`server_user`]) on a directory of its own ([`directory`], [`cluster`]). Whichever process needs it first starts it;
//! others that come while it runs (`aihub account grant` beside `aihub serve`) use the same one. It has no owner: it
//! lives as long as any process uses it, and a watchdog ([`server`]) shuts it down after the last one, also when that
//! one was killed.

mod binaries;
mod cluster;
mod directory;
mod error;
mod fetch;
mod server;
mod server_user;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::Connection;
use tokio::{
    process::Child,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    cluster::DATABASE,
    directory::{Directory, Presence, RELOCATED},
    server::{Launch, STOP_DEADLINE, Server},
    server_user::ServerUser,
};

pub use self::error::EmbeddedPostgresError;

/// How often a server that another process started is looked for, and one that did not start is tried again.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Where PostgreSQL may come from, and how it runs.
#[derive(Debug, Clone)]
pub struct EmbeddedPostgresOptions {
    /// Whether it may be fetched from the registry when it is not in `cache_dir`.
    pub fetch: bool,
    /// Where the fetched one is kept, for all projects of one user.
    pub cache_dir: PathBuf,
    /// Directories in which an installed `postgres` is looked for, with `initdb` beside it, if none can be fetched.
    pub search_dirs: Vec<PathBuf>,
    /// Whether a commit survives a power cut. Without it a start and a commit are several times faster.
    pub durable: bool,
}

impl Default for EmbeddedPostgresOptions {
    fn default() -> Self {
        let (cache_dir, search_dirs) = (fetch::default_cache_dir(), binaries::installed_dirs());
        Self { fetch: true, cache_dir, search_dirs, durable: true }
    }
}

/// The use of a PostgreSQL. It shuts down when the last use of it ends: by [`stop`](Self::stop), which waits for it, by
/// being dropped, or by the death of the process.
pub struct EmbeddedPostgres {
    url: String,
    version: String,
    place: Place,
    presence: Presence,
    child: Option<Child>,
}

/// Where it runs, and how.
#[derive(Debug, Clone)]
struct Place {
    directory: Directory,
    user: ServerUser,
    options: EmbeddedPostgresOptions,
    /// Removed at the end.
    temporary: bool,
}

impl std::fmt::Debug for EmbeddedPostgres {
    /// Without the URL, for the password is in it.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { version, place, .. } = self;
        formatter
            .debug_struct("EmbeddedPostgres")
            .field("version", version)
            .field("dir", &place.directory)
            .finish_non_exhaustive()
    }
}

impl EmbeddedPostgres {
    /// Uses the PostgreSQL in `dir` (such as `.aihub/postgres`), which is made and started if need be. On return it
    /// accepts connections and has the database `aihub`.
    pub async fn start(dir: &Path, options: &EmbeddedPostgresOptions) -> Result<Self, EmbeddedPostgresError> {
        let user = ServerUser::of(&dir.join("data"))?;
        let directory = Directory::prepare(dir, user, Path::new(RELOCATED))?;
        Place { directory, user, options: options.clone(), temporary: false }.start().await
    }

    /// A fresh one in a directory of its own below the system's for temporary files, which is removed at the end,
    /// however that comes. For tests.
    pub async fn start_temporary(options: &EmbeddedPostgresOptions) -> Result<Self, EmbeddedPostgresError> {
        let name = format!("aihub-postgres-{}", uuid::Uuid::now_v7());
        let user = ServerUser::of(Path::new(""))?;
        // Root's own may be closed to PostgreSQL's user.
        let parent = if user.is_switched_to() { PathBuf::from("/tmp") } else { std::env::temp_dir() };
        let dir = parent.join(name);
        let directory = Directory::prepare(&dir, user, Path::new(RELOCATED))?;
        user.own(directory.path()).map_err(error::at("give away", directory.path()))?;
        let started = Place { directory, user, options: options.clone(), temporary: true }.start().await;
        if started.is_err() {
            let _ = std::fs::remove_dir_all(&dir);
        }
        started
    }

    /// What to connect to, with the password: `postgres://aihub:…@127.0.0.1:PORT/aihub?sslmode=disable`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// As the server says it, such as `18.6`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Sees to it until `stop` that the server runs: one that was killed is started again where it was, so that whoever
    /// lost a connection finds it there.
    pub async fn keep(mut self, stop: CancellationToken) -> Self {
        while stop.run_until_cancelled(self.ended()).await.is_some() {
            tracing::warn!(data = %self.place.directory.path().display(), "PostgreSQL has ended: starting it again");
            let again = self.place.clone().start();
            match stop.run_until_cancelled(again).await {
                Some(Ok(again)) => {
                    if again.url != self.url {
                        tracing::error!(
                            "PostgreSQL's port was taken, and nobody here looks for it on another one: start aihub again"
                        );
                    }
                    self = again;
                }
                Some(Err(error)) => {
                    tracing::error!(error.message = %error, "PostgreSQL does not start; trying again");
                    let _ = stop.run_until_cancelled(sleep(RETRY_AFTER)).await;
                }
                None => break,
            }
        }
        self
    }

    /// Resolves when nothing of the server is left.
    async fn ended(&mut self) {
        if let Some(watchdog) = &mut self.child {
            let _ = watchdog.wait().await;
        }
        while !matches!(self.place.directory.server_lock(Duration::ZERO).await, Ok(Some(_))) {
            sleep(LOOK_EVERY).await;
        }
    }

    /// Ends the use. If it was the last one, this waits until PostgreSQL has shut down: all connections are cut, what was
    /// committed is on disk. Close the pools before.
    pub async fn stop(self) -> Result<(), EmbeddedPostgresError> {
        let Self { place: Place { directory, .. }, presence, child, .. } = self;
        // While this is held nobody joins a server that is about to end.
        let _change = directory.lock_for_change().await?;
        // Opened before the use ends: a temporary directory is being removed soon after, and a file that is made in it then
        // would keep it.
        let (users, server) = (directory.users()?, directory.server()?);
        drop(presence);
        if users.acquire(Duration::ZERO).await?.is_none() {
            return Ok(());
        }
        if server.acquire(STOP_DEADLINE).await?.is_none() {
            return Err(EmbeddedPostgresError::NotStopped { path: directory.path().to_owned(), after: STOP_DEADLINE });
        }
        if let Some(mut watchdog) = child {
            // It may be removing a temporary directory.
            let _ = timeout(STOP_DEADLINE, watchdog.wait()).await;
        }
        Ok(())
    }
}

impl Place {
    /// Starts the server, or joins the one that runs.
    async fn start(self) -> Result<EmbeddedPostgres, EmbeddedPostgresError> {
        let Self { directory, user, options, temporary } = &self;
        let (user, durable, temporary) = (*user, options.durable, *temporary);
        let _change = directory.lock_for_change().await?;
        let server_lock = if let Some(free) = directory.server_lock(Duration::ZERO).await? {
            free
        } else if let Some(server) = server::join(directory).await? {
            return self.open(server).await;
        } else {
            server::stop_left_behind(directory, user).await?
        };
        let data_major = cluster::data_major(&directory.data())?;
        let binaries = binaries::find(options, &directory.data(), data_major, user).await?;
        if data_major.is_none() {
            cluster::create(directory, &binaries, user, durable).await?;
        }
        let launch = Launch { directory, binaries: &binaries, user, durable, temporary };
        let server = launch.start(&server_lock).await?;
        self.open(server).await
    }

    async fn open(self, server: Server) -> Result<EmbeddedPostgres, EmbeddedPostgresError> {
        let Server { address, mut connection, presence, child } = server;
        let version = sqlx::query_scalar("SELECT split_part(current_setting('server_version'), ' ', 1)");
        let version: String = version.fetch_one(&mut connection).await?;
        let exists = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)").bind(DATABASE);
        if !exists.fetch_one(&mut connection).await? {
            sqlx::query(&format!("CREATE DATABASE {DATABASE}")).execute(&mut connection).await?;
        }
        connection.close().await?;
        Ok(EmbeddedPostgres { url: address.url(DATABASE), version, place: self, presence, child })
    }
}
