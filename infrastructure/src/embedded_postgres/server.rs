//! The server process: started under its watchdog, waited for, and stopped where an earlier one was left behind.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    net::{Ipv4Addr, TcpListener},
    path::Path,
    str::FromStr,
    time::Duration,
};

use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions};
use tokio::{
    process::{Child, Command},
    time::{sleep, timeout},
};

use super::{
    binaries::Binaries,
    cluster::{self, ROLE},
    directory::{Directory, Presence},
    error::{EmbeddedPostgresError, at},
    server_user::ServerUser,
};

const WATCHDOG: &str = include_str!("watchdog.sh");
/// Recovery after a power cut replays what was written since the last checkpoint, which may be a gigabyte.
const READY_DEADLINE: Duration = Duration::from_mins(5);
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// What a server answers while it starts, recovers or shuts down.
const CANNOT_CONNECT_NOW: &str = "57P03";
const PORT_CONFLICT_DEADLINE: Duration = Duration::from_secs(5);
const CONNECT_INTERVAL: Duration = Duration::from_millis(20);
/// The watchdog asks for a fast shutdown, and after 20 s for an immediate one.
pub(super) const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// Between the pick of a free port and its use, another process may take it.
const PORT_ATTEMPTS: u32 = 5;
const LOG_TAIL_BYTES: u64 = 1000;

/// A server that accepts connections.
pub(super) struct Server {
    pub(super) address: Address,
    pub(super) connection: PgConnection,
    pub(super) presence: Presence,
    /// The watchdog, if this process started it.
    pub(super) child: Option<Child>,
}

/// Where a server of ours is, and the key to it.
pub(super) struct Address {
    port: u16,
    password: String,
}

impl Address {
    /// The password is Base64 for URLs, so nothing in it needs escaping.
    pub(super) fn url(&self, database: &str) -> String {
        format!("postgres://{ROLE}:{}@127.0.0.1:{}/{database}?sslmode=disable", self.password, self.port)
    }

    /// Tries until the server of `data` accepts the connection; the caller sets the end. Another one may have the port, and
    /// even know the password, if its data was copied from here or the other way round.
    async fn connect(&self, data: &Path) -> Result<PgConnection, sqlx::Error> {
        let options = PgConnectOptions::from_str(&self.url("postgres"))?;
        loop {
            match timeout(CONNECT_DEADLINE, connect_to(&options, data)).await {
                Ok(Err(sqlx::Error::Database(error))) if error.code().as_deref() != Some(CANNOT_CONNECT_NOW) => {
                    return Err(sqlx::Error::Database(error));
                }
                Ok(Ok(Some(connection))) => return Ok(connection),
                _ => sleep(CONNECT_INTERVAL).await,
            }
        }
    }
}

/// `None` if it is the server of other data.
async fn connect_to(options: &PgConnectOptions, data: &Path) -> Result<Option<PgConnection>, sqlx::Error> {
    let mut connection = options.connect().await?;
    let its: String = sqlx::query_scalar("SELECT current_setting('data_directory')").fetch_one(&mut connection).await?;
    let is_same = fs::canonicalize(its).is_ok_and(|its| fs::canonicalize(data).is_ok_and(|data| its == data));
    Ok(is_same.then_some(connection))
}

/// How a server is to run.
pub(super) struct Launch<'a> {
    pub(super) directory: &'a Directory,
    pub(super) binaries: &'a Binaries,
    pub(super) user: ServerUser,
    pub(super) durable: bool,
    /// Whether the watchdog removes the directory at the end.
    pub(super) temporary: bool,
}

impl Launch<'_> {
    /// Starts the server, on the port that it had the last time if that is free: whoever lost it looks for it there. The
    /// caller holds `server_lock`, so nothing else runs on the data.
    pub(super) async fn start(&self, server_lock: &File) -> Result<Server, EmbeddedPostgresError> {
        // A crash leaves it behind, and postgres would take any process that has the id by now for its predecessor.
        let _ = fs::remove_file(self.directory.data().join("postmaster.pid"));
        let mut last = self.directory.last_port();
        let mut attempt = 1;
        loop {
            let port = match last.take() {
                Some(port) => port,
                None => free_port(self.directory.path())?,
            };
            match self.start_on(port, server_lock).await {
                Err(EmbeddedPostgresError::Ended { tail, .. })
                    if tail.contains("could not bind") && attempt < PORT_ATTEMPTS =>
                {
                    attempt += 1;
                }
                Ok(server) => {
                    self.directory.keep_port(port)?;
                    return Ok(server);
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn start_on(&self, port: u16, server_lock: &File) -> Result<Server, EmbeddedPostgresError> {
        let log = self.directory.open_log()?;
        let log_start = log.metadata().map_err(at("read", self.directory.log()))?.len();
        let (presence, for_watchdog) = self.directory.found()?;
        let mut command = self.user.command("/bin/sh");
        command.args(["-c", WATCHDOG, "aihub-postgres"]);
        command.arg(if self.temporary { self.directory.path() } else { Path::new("") });
        command.arg(self.binaries.postgres()).arg("-D").arg(self.directory.data());
        for setting in settings(port, self.durable) {
            command.args(["-c", &setting]);
        }
        let shared = server_lock.try_clone().map_err(at("share", self.directory.path()))?;
        command.stdin(for_watchdog).stdout(shared).stderr(log);
        let mut child = Command::from(command).spawn().map_err(at("run", self.binaries.postgres()))?;

        let address = Address { port, password: cluster::password(self.directory)? };
        let data = self.directory.data();
        let refused = tokio::select! {
            connected = timeout(READY_DEADLINE, address.connect(&data)) => match connected {
                Ok(Ok(connection)) => return Ok(Server { address, connection, presence, child: Some(child) }),
                Ok(Err(error)) => Some(error),
                Err(_) => None,
            },
            _ = child.wait() => None,
        };
        // A refusal may come from another server that was faster to the port; then ours ends, since it cannot have it.
        let ended = timeout(PORT_CONFLICT_DEADLINE, child.wait()).await;
        let (log, tail) = (self.directory.log(), self.log_since(log_start));
        Err(match (ended, refused) {
            (Ok(status), _) => {
                let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                EmbeddedPostgresError::Ended { status, log, tail }
            }
            (Err(_), Some(error)) => error.into(),
            (Err(_), None) => EmbeddedPostgresError::NotReady { after: READY_DEADLINE, log, tail },
        })
    }

    /// The last lines of what the log got since it had `start` bytes.
    fn log_since(&self, start: u64) -> String {
        let read = || {
            let mut log = File::open(self.directory.log())?;
            let length = log.metadata()?.len();
            log.seek(SeekFrom::Start(start.max(length.saturating_sub(LOG_TAIL_BYTES))))?;
            let mut tail = Vec::new();
            log.take(LOG_TAIL_BYTES).read_to_end(&mut tail)?;
            std::io::Result::Ok(String::from_utf8_lossy(&tail).trim().to_owned())
        };
        read().unwrap_or_else(|error| format!("(unreadable: {error})"))
    }
}

/// Joins the server that runs in `directory`. `None` if it is ending or has lost its watchdog.
pub(super) async fn join(directory: &Directory) -> Result<Option<Server>, EmbeddedPostgresError> {
    let data = directory.data();
    let (Some(presence), Some(PidFile { port, .. })) = (directory.join()?, PidFile::read(&data)) else {
        return Ok(None);
    };
    let address = Address { port, password: cluster::password(directory)? };
    let connected = tokio::select! {
        // What another process started is ready, unless that process was killed before it was.
        connected = timeout(READY_DEADLINE, address.connect(&data)) => connected,
        ended = directory.server_lock(READY_DEADLINE) => return ended.map(|_| None),
    };
    match connected {
        Ok(connection) => Ok(Some(Server { connection: connection?, address, presence, child: None })),
        Err(_) => Ok(None),
    }
}

/// Ends a server whose watchdog was killed, and waits for one that is ending. Returns the lock that they held.
pub(super) async fn stop_left_behind(directory: &Directory, user: ServerUser) -> Result<File, EmbeddedPostgresError> {
    // One that was told to end needs no second word, and it takes a tenth of a second.
    if let Some(lock) = directory.server_lock(Duration::from_secs(1)).await? {
        return Ok(lock);
    }
    for (signal, deadline) in [("INT", 20), ("QUIT", 10), ("KILL", 5)] {
        if let Some(PidFile { pid, .. }) = PidFile::read(&directory.data()).filter(|file| file.is_of(&directory.data()))
        {
            tracing::warn!(process.pid = pid, signal, "stopping a PostgreSQL that was left behind");
            user.signal(signal, pid).map_err(at("signal the PostgreSQL in", directory.path()))?;
        }
        if let Some(lock) = directory.server_lock(Duration::from_secs(deadline)).await? {
            return Ok(lock);
        }
    }
    Err(EmbeddedPostgresError::NotStopped { path: directory.path().to_owned(), after: Duration::from_secs(36) })
}

fn free_port(directory: &Path) -> Result<u16, EmbeddedPostgresError> {
    let picked = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    Ok(picked.map_err(at("pick a port for the PostgreSQL in", directory))?.port())
}

fn settings(port: u16, durable: bool) -> Vec<String> {
    let mut settings = vec![
        "listen_addresses=127.0.0.1".to_owned(),
        format!("port={port}"),
        "unix_socket_directories=".to_owned(),
        "max_connections=400".to_owned(),
        "shared_buffers=128MB".to_owned(),
        "timezone=UTC".to_owned(),
        "log_timezone=UTC".to_owned(),
        // Errors of statements are aihub's to report. Here they would be quoted, with the values of the row, and would
        // fill the disk; what is left are starts, stops, crashes and refused connections.
        "log_min_messages=log".to_owned(),
        "log_min_error_statement=panic".to_owned(),
        "log_error_verbosity=terse".to_owned(),
        "log_checkpoints=off".to_owned(),
        "log_autovacuum_min_duration=-1".to_owned(),
        "logging_collector=off".to_owned(),
        "log_line_prefix=%m [%p] ".to_owned(),
    ];
    if !durable {
        settings.extend(["fsync=off", "synchronous_commit=off", "full_page_writes=off"].map(str::to_owned));
    }
    settings
}

/// What a running postmaster says about itself in `postmaster.pid`.
struct PidFile {
    pid: u32,
    port: u16,
}

impl PidFile {
    fn read(data: &Path) -> Option<Self> {
        let file = fs::read_to_string(data.join("postmaster.pid")).ok()?;
        let mut lines = file.lines();
        let pid = lines.next()?.parse().ok()?;
        Some(Self { pid, port: lines.nth(2)?.parse().ok()? })
    }

    /// Whether the process with that id is the postmaster of `data`, as far as the system tells: a postmaster works in
    /// its data directory.
    fn is_of(&self, data: &Path) -> bool {
        fs::read_link(format!("/proc/{}/cwd", self.pid)).map_or(!Path::new("/proc/self").exists(), |cwd| cwd == data)
    }
}
