//! The directory of one embedded PostgreSQL, and who holds what in it.
//!
//! | file | is |
//! |---|---|
//! | `data/` | PostgreSQL's own, for its user only |
//! | `port` | that the server had the last time |
//! | `password` | of the role `aihub`, mode 0600 |
//! | `postgres.log`, `postgres.log.1` | what the server said, and what it said before |
//! | `change` | locked by the one process that starts, joins or leaves just now |
//! | `users` | locked, shared, by every process that uses the server |
//! | `server` | locked by PostgreSQL's own processes: as long as one of them lives, whatever else died |
//! | `alive` | a FIFO that every user holds open and the watchdog reads: it ends with the last user |

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use nix::{libc, sys::stat::Mode, unistd::mkfifo};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep};

use super::{
    error::{EmbeddedPostgresError, at},
    server_user::ServerUser,
};

/// Where root keeps the data of a directory that PostgreSQL's user may not enter.
pub(super) const RELOCATED: &str = "/var/lib/aihub";
/// Another process may be fetching PostgreSQL over a slow line, or recovering a large database.
const CHANGE_DEADLINE: Duration = Duration::from_mins(15);
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// When the log is larger than this at a start, it becomes the one before.
const LOG_BYTES: u64 = 1 << 20;

#[derive(Debug, Clone)]
pub(super) struct Directory {
    path: PathBuf,
}

/// What a process holds while it uses the server. When it is dropped by the last user, PostgreSQL shuts down.
#[derive(Debug)]
pub(super) struct Presence {
    _users: File,
    _alive: File,
}

/// A file that can be locked, and not locked by us yet.
pub(super) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// The locked file; `None` if somebody else has it at the deadline.
    pub(super) async fn acquire(self, deadline: Duration) -> Result<Option<File>, EmbeddedPostgresError> {
        let end = Instant::now() + deadline;
        loop {
            match self.file.try_lock() {
                Ok(()) => return Ok(Some(self.file)),
                Err(TryLockError::WouldBlock) if Instant::now() >= end => return Ok(None),
                // A lock cannot be awaited with an end, other than by asking again.
                Err(TryLockError::WouldBlock) => sleep(POLL_INTERVAL).await,
                Err(TryLockError::Error(error)) => return Err(at("lock", self.path)(error)),
            }
        }
    }
}

impl Directory {
    /// Creates `path` where it does not exist. If PostgreSQL's user could not reach it (root's home has mode 0700), it
    /// becomes a link to a directory under `relocated`.
    pub(super) fn prepare(path: &Path, user: ServerUser, relocated: &Path) -> Result<Self, EmbeddedPostgresError> {
        let path = std::path::absolute(path).map_err(at("resolve", path))?;
        if !path.exists() {
            if path.is_symlink() {
                let target = fs::read_link(&path).map_err(at("read the link", &path))?;
                return Err(EmbeddedPostgresError::DanglingLink { link: path, target });
            }
            let parent = path.parent().unwrap_or(Path::new("/"));
            fs::create_dir_all(parent).map_err(at("create", parent))?;
            if user.may_enter(parent).map_err(at("enter", parent))? {
                create(&path, user)?;
            } else {
                relocate(&path, user, relocated)?;
            }
        }
        let path = fs::canonicalize(&path).map_err(at("resolve", &path))?;
        if !user.may_enter(&path).map_err(at("enter", &path))? {
            return Err(EmbeddedPostgresError::NotTraversable { path, uid: user.uid });
        }
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path.join("postgres.log")
    }

    /// The port that the server had the last time.
    pub(super) fn last_port(&self) -> Option<u16> {
        fs::read_to_string(self.path.join("port")).ok()?.trim().parse().ok()
    }

    pub(super) fn keep_port(&self, port: u16) -> Result<(), EmbeddedPostgresError> {
        let mut file = self.open("port", OpenOptions::new().write(true).truncate(true))?;
        writeln!(file, "{port}").map_err(at("write", self.path.join("port")))
    }

    /// Waits for its turn to start, join or leave.
    pub(super) async fn lock_for_change(&self) -> Result<File, EmbeddedPostgresError> {
        let busy = || EmbeddedPostgresError::Busy { path: self.path.clone(), after: CHANGE_DEADLINE };
        self.lock("change")?.acquire(CHANGE_DEADLINE).await?.ok_or_else(busy)
    }

    /// The lock that PostgreSQL's processes hold, as soon as the last one has gone; `None` if one still lives at the
    /// deadline. Free at once where nothing runs.
    pub(super) async fn server_lock(&self, deadline: Duration) -> Result<Option<File>, EmbeddedPostgresError> {
        self.lock("server")?.acquire(deadline).await
    }

    /// What the users of the server hold, this process included while its [`Presence`] lives.
    pub(super) fn users(&self) -> Result<Lock, EmbeddedPostgresError> {
        self.lock("users")
    }

    /// What PostgreSQL's processes hold; see [`Self::server_lock`].
    pub(super) fn server(&self) -> Result<Lock, EmbeddedPostgresError> {
        self.lock("server")
    }

    /// Joins the users of the server that runs; `None` where no watchdog listens, since it ended or was killed.
    pub(super) fn join(&self) -> Result<Option<Presence>, EmbeddedPostgresError> {
        let path = self.path.join("alive");
        match OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(&path) {
            Ok(alive) => Ok(Some(Presence { _users: self.lock_shared()?, _alive: alive })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            Err(error) => Err(at("open", path)(error)),
        }
    }

    /// Becomes the first user; the other end is for the watchdog to read.
    pub(super) fn found(&self) -> Result<(Presence, File), EmbeddedPostgresError> {
        let path = self.path.join("alive");
        if !fs::symlink_metadata(&path).is_ok_and(|file| file.file_type().is_fifo()) {
            // A copy of the directory may have made a plain file of it.
            let _ = fs::remove_file(&path);
            mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|errno| at("create", &path)(errno.into()))?;
        }
        // Opening a FIFO waits for the other end, but not while a reader that did not wait keeps it open.
        let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(&path).and_then(|reader| {
            let writer = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(&path)?;
            let for_watchdog = File::open(&path)?;
            self.hand_over(&reader)?;
            Ok((writer, for_watchdog))
        });
        let (alive, for_watchdog) = opened.map_err(at("open", path))?;
        Ok((Presence { _users: self.lock_shared()?, _alive: alive }, for_watchdog))
    }

    /// The log, for appending; a large one is put aside, in place of the one before it. Only starts, stops, crashes and
    /// refused connections are written there.
    pub(super) fn open_log(&self) -> Result<File, EmbeddedPostgresError> {
        let path = self.log();
        if fs::metadata(&path).is_ok_and(|log| log.len() > LOG_BYTES) {
            let previous = self.path.join("postgres.log.1");
            fs::rename(&path, previous).map_err(at("rotate", &path))?;
        }
        self.open("postgres.log", OpenOptions::new().append(true))
    }

    /// Opens a file that belongs to whom the directory belongs to. Links are not followed: a directory of an ordinary
    /// user must not make root write elsewhere.
    pub(super) fn open(&self, name: &str, options: &mut OpenOptions) -> Result<File, EmbeddedPostgresError> {
        let path = self.path.join(name);
        let file = options.create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(&path);
        file.and_then(|file| self.hand_over(&file).map(|()| file)).map_err(at("open", path))
    }

    fn lock_shared(&self) -> Result<File, EmbeddedPostgresError> {
        let users = self.open("users", OpenOptions::new().read(true).write(true))?;
        users.lock_shared().map_err(at("lock", self.path.join("users")))?;
        Ok(users)
    }

    fn lock(&self, name: &str) -> Result<Lock, EmbeddedPostgresError> {
        let file = self.open(name, OpenOptions::new().read(true).write(true))?;
        Ok(Lock { file, path: self.path.join(name) })
    }

    fn hand_over(&self, file: &File) -> io::Result<()> {
        let owner = fs::metadata(&self.path)?;
        if file.metadata()?.uid() == owner.uid() { Ok(()) } else { fchown(file, Some(owner.uid()), Some(owner.gid())) }
    }
}

/// The mode is set after the creation, since a umask of 077 would shut out PostgreSQL's user.
fn create(path: &Path, user: ServerUser) -> Result<(), EmbeddedPostgresError> {
    DirBuilder::new().mode(0o700).create(path).map_err(at("create", path))?;
    let mode = if user.is_switched_to() { 0o711 } else { 0o700 };
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(at("set the mode of", path))
}

fn relocate(link: &Path, user: ServerUser, relocated: &Path) -> Result<(), EmbeddedPostgresError> {
    let name = URL_SAFE_NO_PAD.encode(&Sha256::digest(link.as_os_str().as_encoded_bytes())[..12]);
    let target = relocated.join(name);
    if !relocated.exists() {
        fs::create_dir_all(relocated).map_err(at("create", relocated))?;
        let open = Permissions::from_mode(0o755);
        fs::set_permissions(relocated, open).map_err(at("set the mode of", relocated))?;
    }
    if !target.exists() {
        create(&target, user)?;
    }
    symlink(&target, link).map_err(at("create the link", link))?;
    tracing::info!(
        link = %link.display(), data = %target.display(), user.id = user.uid,
        "PostgreSQL's user may not enter the directory of its data: it is kept elsewhere, and linked"
    );
    Ok(())
}
