//! Why there is no embedded PostgreSQL to work with.

use std::{io, path::PathBuf, time::Duration};

/// Each message is one sentence that names the path or version it is about and, where one exists, the way out.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedPostgresError {
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },

    #[error(
        "there is no PostgreSQL to start: {not_fetched}, and no installed PostgreSQL of version 15 or later was found; \
         go online once, install PostgreSQL, or configure the URL of a running one"
    )]
    NoPostgres { not_fetched: String },

    #[error(
        "the data in {} belongs to PostgreSQL {data}, and the one at hand is {found}: install PostgreSQL {data} to use it \
         or to dump it for the other, or move the directory away to begin with an empty database",
        path.display()
    )]
    OtherMajor { path: PathBuf, data: u32, found: String },

    #[error("{} does not name a major version of PostgreSQL: the data directory is damaged", path.display())]
    NoDataVersion { path: PathBuf },

    #[error(
        "{} is missing, and without the password in it the data beside it cannot be opened: restore it together with \
         the data, or move the directory away to begin with an empty database",
        path.display()
    )]
    NoPassword { path: PathBuf },

    #[error(
        "this process runs as the user {uid}, who has no name on this machine, and PostgreSQL wants one: configure the URL of a \
         running PostgreSQL, run as a user that has a name, or add a line for {uid} to /etc/passwd"
    )]
    NamelessUser { uid: u32 },

    #[error("initdb failed: {output}")]
    Initdb { output: String },

    #[error("PostgreSQL ended while it started ({status}); the end of its log {}: {tail}", log.display())]
    Ended { status: String, log: PathBuf, tail: String },

    #[error("PostgreSQL was not ready within {} s; the end of its log {}: {tail}", after.as_secs(), log.display())]
    NotReady { after: Duration, log: PathBuf, tail: String },

    #[error("the PostgreSQL in {} did not stop within {} s", path.display(), after.as_secs())]
    NotStopped { path: PathBuf, after: Duration },

    #[error("another process has been starting or stopping the PostgreSQL in {} for {} s", path.display(), after.as_secs())]
    Busy { path: PathBuf, after: Duration },

    #[error(
        "PostgreSQL refuses to run as root, and there is neither a user `postgres` nor a user `nobody` to run it as: \
         create one, or start as an ordinary user"
    )]
    NoUnprivilegedUser,

    #[error(
        "PostgreSQL runs as user id {uid}, which may not enter {}: move the directory, or start as the user it belongs to",
        path.display()
    )]
    NotTraversable { path: PathBuf, uid: u32 },

    #[error(
        "{} is a link to {}, which does not exist: restore the data there, or remove the link to begin with an empty \
         database",
        link.display(),
        target.display()
    )]
    DanglingLink { link: PathBuf, target: PathBuf },

    #[error("PostgreSQL started, but setting it up failed")]
    Database(#[from] sqlx::Error),
}

/// `map_err` for an I/O error at `path`.
pub(super) fn at(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> EmbeddedPostgresError {
    let path = path.into();
    move |source| EmbeddedPostgresError::Io { action, path, source }
}
