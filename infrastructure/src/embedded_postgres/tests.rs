//! The promises of the embedded PostgreSQL, on the one that it fetches.

use std::{
    fs::{self, Permissions},
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use nix::unistd::Uid;
use sqlx::{Connection, Executor, PgConnection};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    EmbeddedPostgres, EmbeddedPostgresError, EmbeddedPostgresOptions,
    directory::Directory,
    fetch::{FETCHED, default_cache_dir},
    server_user::{ServerUser, has_name},
};

const LONG: Duration = Duration::from_mins(1);

/// What is installed on this machine must not matter, and a power cut is not tested.
fn fetched_only() -> EmbeddedPostgresOptions {
    EmbeddedPostgresOptions { search_dirs: Vec::new(), durable: false, ..EmbeddedPostgresOptions::default() }
}

/// One that PostgreSQL's user may enter when the tests run as root.
fn temporary_dir() -> TempDir {
    tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap()
}

async fn connect(postgres: &EmbeddedPostgres) -> PgConnection {
    PgConnection::connect(postgres.url()).await.unwrap()
}

async fn write_mark(postgres: &EmbeddedPostgres) {
    let mut connection = connect(postgres).await;
    connection.execute("CREATE TABLE mark (text text PRIMARY KEY); INSERT INTO mark VALUES ('kept')").await.unwrap();
}

async fn read_mark(postgres: &EmbeddedPostgres) -> String {
    sqlx::query_scalar("SELECT text FROM mark").fetch_one(&mut connect(postgres).await).await.unwrap()
}

/// Waits until no process of the server in `path` lives.
async fn await_end(path: &Path) {
    let directory = Directory::prepare(path, ServerUser::of(path).unwrap(), Path::new("/nonexistent")).unwrap();
    assert!(directory.server_lock(LONG).await.unwrap().is_some(), "the server should have ended");
}

/// A process that starts the server in `path`, writes the mark, and lives until it is killed.
fn start_helper(path: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "embedded_postgres::tests::helper_that_waits_to_be_killed", "--nocapture"]);
    command.env("AIHUB_TEST_HELPER_DIR", path).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut helper = command.spawn().unwrap();
    let mut lines = BufReader::new(helper.stdout.as_mut().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("the helper is ready")), "the helper should have started");
    helper
}

#[tokio::test]
async fn helper_that_waits_to_be_killed() {
    let Some(path) = std::env::var_os("AIHUB_TEST_HELPER_DIR") else { return };
    let postgres = EmbeddedPostgres::start(Path::new(&path), &fetched_only()).await.unwrap();
    write_mark(&postgres).await;
    writeln!(std::io::stdout(), "the helper is ready").unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn it_starts_from_an_empty_directory_and_keeps_its_data_over_a_restart() {
    let dir = temporary_dir();
    let path = dir.path().join(".aihub/postgres");
    let options = EmbeddedPostgresOptions { durable: true, ..fetched_only() };
    let first = EmbeddedPostgres::start(&path, &options).await.unwrap();
    assert!(FETCHED.version.starts_with(first.version()), "{}", first.version());
    write_mark(&first).await;
    first.stop().await.unwrap();
    let second = EmbeddedPostgres::start(&path, &options).await.unwrap();
    assert_eq!(read_mark(&second).await, "kept");
    second.stop().await.unwrap();
    let mode = fs::metadata(path.join("password")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn one_that_was_killed_is_there_again_where_it_was_while_somebody_keeps_it() {
    let dir = temporary_dir();
    let path = dir.path().join("postgres");
    let options = EmbeddedPostgresOptions { durable: true, ..fetched_only() };
    // One of the two has started it, and both find it gone.
    let postgres = EmbeddedPostgres::start(&path, &options).await.unwrap();
    let joined = EmbeddedPostgres::start(&path, &options).await.unwrap();
    write_mark(&postgres).await;
    let (url, stop) = (postgres.url().to_owned(), CancellationToken::new());
    let tasks = TaskTracker::new();
    let kept = [postgres, joined].map(|postgres| tasks.spawn(postgres.keep(stop.clone())));
    // Whether it has time to tidy up or not.
    for signal in ["-KILL", "-INT", "-KILL"] {
        let mut before = PgConnection::connect(&url).await.unwrap();
        let sent = Command::new("kill").args([signal, &postmaster(&path)]).status().unwrap();
        assert!(sent.success());
        while before.ping().await.is_ok() {}
        // Not with a pool, which gives up when one that is just ending resets the connection.
        let found = async {
            loop {
                match PgConnection::connect(&url).await {
                    Ok(connection) => break connection,
                    Err(_) => sleep(Duration::from_millis(20)).await,
                }
            }
        };
        let mut found = timeout(LONG, found).await.expect("it is started again");
        let mark: String = sqlx::query_scalar("SELECT text FROM mark").fetch_one(&mut found).await.unwrap();
        assert_eq!(mark, "kept");
    }
    stop.cancel();
    for kept in kept {
        kept.await.unwrap().stop().await.unwrap();
    }
    await_end(&path).await;
}

#[tokio::test]
async fn a_copy_of_its_directory_has_a_server_of_its_own_also_while_the_first_one_runs() {
    let dir = temporary_dir();
    let (path, copy) = (dir.path().join("postgres"), dir.path().join("copy"));
    let first = EmbeddedPostgres::start(&path, &fetched_only()).await.unwrap();
    write_mark(&first).await;
    first.stop().await.unwrap();
    assert!(Command::new("cp").arg("-a").args([&path, &copy]).status().unwrap().success());
    let first = EmbeddedPostgres::start(&path, &fetched_only()).await.unwrap();
    let second = EmbeddedPostgres::start(&copy, &fetched_only()).await.unwrap();
    assert_ne!(second.url(), first.url());
    let mut connection = PgConnection::connect(second.url()).await.unwrap();
    connection.execute("UPDATE mark SET text = 'the copy''s'").await.unwrap();
    connection.close().await.unwrap();
    assert_eq!([read_mark(&first).await, read_mark(&second).await], ["kept", "the copy's"]);
    second.stop().await.unwrap();
    first.stop().await.unwrap();
}

#[tokio::test]
async fn it_is_durable_in_utf8_and_listens_on_the_loopback_with_a_password_only() {
    let dir = temporary_dir();
    let options = EmbeddedPostgresOptions { durable: true, ..fetched_only() };
    let postgres = EmbeddedPostgres::start(&dir.path().join("postgres"), &options).await.unwrap();
    let mut connection = connect(&postgres).await;
    for (setting, value) in [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("data_checksums", "on"),
        ("server_encoding", "UTF8"),
        ("timezone", "UTC"),
        ("listen_addresses", "127.0.0.1"),
        ("unix_socket_directories", ""),
        ("max_connections", "400"),
    ] {
        let shown: String =
            sqlx::query_scalar("SELECT current_setting($1)").bind(setting).fetch_one(&mut connection).await.unwrap();
        assert_eq!(shown, value, "{setting}");
    }
    let (before, after) = postgres.url().split_once('@').unwrap();
    let role = before.rsplit_once(':').unwrap().0;
    let refused = PgConnection::connect(&format!("{role}:guessed@{after}")).await.unwrap_err();
    assert!(refused.to_string().contains("password authentication failed"), "{refused}");
}

#[tokio::test]
async fn whoever_comes_while_it_runs_uses_the_same_one_and_it_ends_with_the_last() {
    let dir = temporary_dir();
    let path = dir.path().join("postgres");
    let options = fetched_only();
    let (first, second) =
        tokio::join!(EmbeddedPostgres::start(&path, &options), EmbeddedPostgres::start(&path, &options));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.url(), second.url());
    write_mark(&first).await;
    first.stop().await.unwrap();
    assert_eq!(read_mark(&second).await, "kept");
    second.stop().await.unwrap();
    await_end(&path).await;
}

#[tokio::test]
async fn whoever_uses_it_keeps_it_when_the_process_that_started_it_is_killed() {
    let dir = temporary_dir();
    let path = dir.path().join("postgres");
    let mut helper = start_helper(&path);
    let joined = EmbeddedPostgres::start(&path, &fetched_only()).await.unwrap();
    let mut connection = connect(&joined).await;
    helper.kill().unwrap();
    helper.wait().unwrap();
    // A shutdown would cut this connection, as it does below, and let nobody else in.
    assert_eq!(read_mark(&joined).await, "kept");
    connection.ping().await.unwrap();
    joined.stop().await.unwrap();
    connection.ping().await.unwrap_err();
}

#[tokio::test]
async fn it_shuts_down_when_its_last_user_was_killed_and_the_data_is_kept() {
    let dir = temporary_dir();
    let path = dir.path().join("postgres");
    let mut helper = start_helper(&path);
    helper.kill().unwrap();
    helper.wait().unwrap();
    await_end(&path).await;
    assert!(!path.join("data/postmaster.pid").exists(), "it should have been a shutdown, not a crash");
    let next = EmbeddedPostgres::start(&path, &fetched_only()).await.unwrap();
    assert_eq!(read_mark(&next).await, "kept");
    next.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_whose_watchdog_was_killed_too_is_stopped_before_the_next_starts() {
    let dir = temporary_dir();
    let path = dir.path().join("postgres");
    let mut helper = start_helper(&path);
    let postmaster = postmaster(&path);
    for pid in process_group_of(&postmaster) {
        if pid != postmaster {
            kill(&pid);
        }
    }
    helper.kill().unwrap();
    helper.wait().unwrap();
    let next = EmbeddedPostgres::start(&path, &fetched_only()).await.unwrap();
    assert_eq!(read_mark(&next).await, "kept");
    next.stop().await.unwrap();
}

/// The id of the server's first process.
fn postmaster(path: &Path) -> String {
    fs::read_to_string(path.join("data/postmaster.pid")).unwrap().lines().next().unwrap().to_owned()
}

/// Kills it, and waits until it holds nothing open any more.
fn kill(pid: &str) {
    assert!(Command::new("kill").args(["-KILL", pid]).status().unwrap().success());
    // `17 (postgres) Z …`: whether somebody asks how it ended is of no interest.
    let is_dead = || match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])),
        Err(_) => true,
    };
    while !is_dead() {
        thread::yield_now();
    }
}

/// The ids in the process group that `pid` is in; empty where there is no `/proc` to tell.
fn process_group_of(pid: &str) -> Vec<String> {
    // `17 (postgres) S PARENT GROUP …`
    let group = |pid: &str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(2).map(str::to_owned)
    };
    let wanted = group(pid);
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    pids.filter(|pid| wanted.is_some() && group(pid) == wanted).collect()
}

#[tokio::test]
async fn a_pid_file_that_a_power_cut_left_does_not_block_even_if_the_id_is_in_use() {
    let dir = temporary_dir();
    let path = dir.path().join("postgres");
    let options = fetched_only();
    EmbeddedPostgres::start(&path, &options).await.unwrap().stop().await.unwrap();
    let stale = format!("{}\n{}\n0\n5432\n\n127.0.0.1\n0 0\nready\n", std::process::id(), path.join("data").display());
    fs::write(path.join("data/postmaster.pid"), stale).unwrap();
    EmbeddedPostgres::start(&path, &options).await.unwrap().stop().await.unwrap();
}

#[tokio::test]
async fn data_of_another_major_version_is_refused_by_name_and_left_alone() {
    let dir = temporary_dir();
    let path = dir.path().join("postgres");
    fs::create_dir_all(path.join("data")).unwrap();
    fs::write(path.join("data/PG_VERSION"), "16\n").unwrap();
    let refused = EmbeddedPostgres::start(&path, &fetched_only()).await.unwrap_err();
    assert!(matches!(&refused, EmbeddedPostgresError::OtherMajor { data: 16, .. }), "{refused}");
    let sentence = refused.to_string();
    assert!(sentence.contains("PostgreSQL 16") && sentence.contains(FETCHED.version), "{sentence}");
    assert!(sentence.contains(path.join("data").to_str().unwrap()), "{sentence}");
    assert_eq!(fs::read_dir(path.join("data")).unwrap().count(), 1);
}

#[tokio::test]
async fn where_it_cannot_be_fetched_an_installed_one_is_used() {
    EmbeddedPostgres::start_temporary(&fetched_only()).await.unwrap().stop().await.unwrap();
    let dir = temporary_dir();
    let installed = default_cache_dir().join("postgresql").join(FETCHED.version).join("bin");
    let options = EmbeddedPostgresOptions {
        fetch: false,
        cache_dir: dir.path().join("empty"),
        search_dirs: vec![PathBuf::from("/nonexistent"), installed],
        durable: false,
    };
    let postgres = EmbeddedPostgres::start(&dir.path().join("postgres"), &options).await.unwrap();
    assert!(FETCHED.version.starts_with(postgres.version()));
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn where_there_is_none_at_all_one_sentence_says_what_to_do() {
    let dir = temporary_dir();
    let cache_dir = dir.path().join("empty");
    let options = EmbeddedPostgresOptions { fetch: false, cache_dir, ..fetched_only() };
    let refused = EmbeddedPostgres::start(&dir.path().join("postgres"), &options).await.unwrap_err();
    assert!(matches!(&refused, EmbeddedPostgresError::NoPostgres { .. }), "{refused}");
    let sentence = refused.to_string();
    assert!(sentence.contains("fetching is switched off") && sentence.contains("install PostgreSQL"), "{sentence}");
    assert!(!sentence.contains('\n'));
}

#[tokio::test]
async fn when_it_cannot_start_the_end_of_its_log_is_quoted() {
    let dir = temporary_dir();
    let path = dir.path().join("postgres");
    EmbeddedPostgres::start(&path, &fetched_only()).await.unwrap().stop().await.unwrap();
    fs::remove_file(path.join("data/global/pg_control")).unwrap();
    let ended = EmbeddedPostgres::start(&path, &fetched_only()).await.unwrap_err();
    assert!(ended.to_string().contains("could not find the database system"), "{ended}");
}

#[tokio::test]
async fn its_log_tells_of_no_statement_and_no_value() {
    let dir = temporary_dir();
    let path = dir.path().join("postgres");
    let postgres = EmbeddedPostgres::start(&path, &fetched_only()).await.unwrap();
    write_mark(&postgres).await;
    let mut connection = connect(&postgres).await;
    connection.execute("INSERT INTO mark VALUES ('kept')").await.unwrap_err();
    connection.execute("INSERT INTO mark VALUES ('secret'), (NULL)").await.unwrap_err();
    drop(connection);
    postgres.stop().await.unwrap();
    let log = fs::read_to_string(path.join("postgres.log")).unwrap();
    assert!(log.contains("ready to accept connections"), "{log}");
    assert!(!log.contains("secret") && !log.contains("kept") && !log.contains("INSERT"), "{log}");
}

#[tokio::test]
async fn a_temporary_one_leaves_nothing_behind() {
    let postgres = EmbeddedPostgres::start_temporary(&fetched_only()).await.unwrap();
    let path = postgres.place.directory.path().to_owned();
    write_mark(&postgres).await;
    postgres.stop().await.unwrap();
    assert!(!path.exists());
}

#[test]
fn for_root_a_directory_that_postgres_may_not_enter_is_kept_elsewhere_and_linked() {
    let dir = temporary_dir();
    let closed = dir.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
    let (path, relocated) = (closed.join(".aihub/postgres"), dir.path().join("elsewhere"));
    let user = ServerUser::of(&path).unwrap();
    let directory = Directory::prepare(&path, user, &relocated).unwrap();
    assert_eq!(
        directory.path().starts_with(fs::canonicalize(dir.path()).unwrap().join("elsewhere")),
        Uid::effective().is_root()
    );
    assert_eq!(Directory::prepare(&path, user, &relocated).unwrap().path(), directory.path());
    if Uid::effective().is_root() {
        fs::remove_dir_all(directory.path()).unwrap();
        let refused = Directory::prepare(&path, user, &relocated).unwrap_err();
        assert!(matches!(refused, EmbeddedPostgresError::DanglingLink { .. }), "{refused}");
    }
}

#[test]
fn a_user_without_a_name_is_told_what_postgres_wants() {
    assert!(has_name(Uid::effective()).is_ok());
    let refused = has_name(Uid::from_raw(4_123_456_789)).unwrap_err().to_string();
    assert!(refused.contains("4123456789") && refused.contains("/etc/passwd"), "{refused}");
}
