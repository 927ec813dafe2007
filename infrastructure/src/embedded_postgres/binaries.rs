//! Which PostgreSQL to run: the fetched one, else the newest installed one that fits the data.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use super::{
    EmbeddedPostgresOptions,
    error::EmbeddedPostgresError,
    fetch::{self, FETCHED},
    server_user::ServerUser,
};

const OLDEST_MAJOR: u32 = 15;

/// A `postgres` that was run once to ask its version, with `initdb` beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binaries {
    dir: PathBuf,
    /// As it says itself, e.g. `18.6` or `17beta1`.
    pub(super) version: String,
    pub(super) major: u32,
}

impl Binaries {
    /// `None` where `dir` has no PostgreSQL that `user` can run here: none at all, one for another libc, one that only
    /// root may reach.
    pub(super) fn probe(dir: &Path, user: ServerUser) -> Option<Self> {
        let dir = fs::canonicalize(dir).ok()?;
        if !dir.join("initdb").is_file() || !dir.join("postgres").is_file() {
            return None;
        }
        let output = user.command(dir.join("postgres")).arg("--version").stderr(Stdio::null()).output().ok()?;
        // `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`
        let version = String::from_utf8(output.stdout).ok()?.split_whitespace().nth(2)?.to_owned();
        let digits = version.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(version.len());
        let major = version[..digits].parse().ok()?;
        Some(Self { dir, version, major })
    }

    pub(super) fn initdb(&self) -> PathBuf {
        self.dir.join("initdb")
    }

    pub(super) fn postgres(&self) -> PathBuf {
        self.dir.join("postgres")
    }
}

/// Finds what can run `data_dir`, which is of major version `data_major` if it has been written to already.
pub(super) async fn find(
    options: &EmbeddedPostgresOptions,
    data_dir: &Path,
    data_major: Option<u32>,
    user: ServerUser,
) -> Result<Binaries, EmbeddedPostgresError> {
    let not_fetched = if data_major.is_none_or(|major| major == FETCHED.major) {
        match fetch::cached_or_fetched(options, user).await {
            Ok(binaries) => return Ok(binaries),
            Err(error) => Some(format!("PostgreSQL {} could not be fetched: {error}", FETCHED.version)),
        }
    } else {
        None
    };
    let installed = installed(options, user);
    let fitting = installed.iter().find(|binaries| data_major.is_none_or(|major| major == binaries.major));
    if let Some(binaries) = fitting {
        tracing::warn!(
            postgres.version = %binaries.version, postgres.dir = %binaries.dir.display(),
            reason = not_fetched.as_deref().unwrap_or("the data is of its major version"),
            "running an installed PostgreSQL"
        );
        return Ok(binaries.clone());
    }
    Err(match (data_major, not_fetched, installed.first()) {
        (Some(data), Some(reason), Some(newest)) => {
            let found = format!("{} ({reason})", newest.version);
            EmbeddedPostgresError::OtherMajor { path: data_dir.to_owned(), data, found }
        }
        (Some(data), None, _) => {
            EmbeddedPostgresError::OtherMajor { path: data_dir.to_owned(), data, found: FETCHED.version.to_owned() }
        }
        (_, not_fetched, _) => EmbeddedPostgresError::NoPostgres { not_fetched: not_fetched.unwrap_or_default() },
    })
}

/// What is installed, and what was fetched by other versions of aihub; the newest first.
fn installed(options: &EmbeddedPostgresOptions, user: ServerUser) -> Vec<Binaries> {
    let fetched = fetch::all_cached(options);
    let dirs = fetched.iter().chain(&options.search_dirs);
    let mut found: Vec<_> = dirs.filter_map(|dir| Binaries::probe(dir, user)).collect();
    found.retain(|binaries| binaries.major >= OLDEST_MAJOR);
    found.sort_by_key(|binaries| std::cmp::Reverse(numbers(&binaries.version)));
    found
}

fn numbers(version: &str) -> Vec<u32> {
    version.split(|letter: char| !letter.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// Where installers put `postgres`: the `PATH`, and the directories of the distributions that are not in it.
pub(super) fn installed_dirs() -> Vec<PathBuf> {
    let mut dirs: Vec<_> = env::var_os("PATH").iter().flat_map(env::split_paths).collect();
    for (parent, prefix, below) in [
        ("/usr/lib/postgresql", "", "bin"),          // Debian, Ubuntu
        ("/usr", "pgsql-", "bin"),                   // Red Hat, SUSE, from postgresql.org
        ("/usr/libexec", "postgresql", ""),          // Alpine
        ("/usr/local", "pgsql", "bin"),              // from source
        ("/opt/homebrew/opt", "postgresql@", "bin"), // macOS on arm64
        ("/usr/local/opt", "postgresql@", "bin"),    // macOS on amd64
    ] {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        let matching = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
        dirs.extend(matching.map(|entry| entry.path().join(below)));
    }
    dirs
}
