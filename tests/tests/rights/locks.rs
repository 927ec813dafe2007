//! Whoever may only connect or read stops nothing: neither with locks nor with notifications nor with transactions that he leaves
//! open.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aihub_tests::{
    TestDatabase,
    app::TestApp,
    client::{Client, chat},
    until,
};
use futures::future::join_all;
use serde_json::Value;
use sqlx::{Connection, Executor, PgConnection};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::connect;

/// The keys that locks of ours had in former versions, and what the migrator of sqlx takes.
const FORMER_KEYS: [&str; 9] = [
    "418380281186",
    "107195480105315",
    "7020664785170064235",
    "110386622325861",
    "1818583396, hashtext('videos')",
    "1634300021, hashtext('usage_daily_v1')",
    "1634300021, hashtext('orphaned-requests')",
    "1634300018, hashtext('usage_daily_v1')",
    "1936023924, hashtext('video')",
];
const MODES: [&str; 8] = [
    "ACCESS EXCLUSIVE",
    "EXCLUSIVE",
    "SHARE ROW EXCLUSIVE",
    "SHARE",
    "SHARE UPDATE EXCLUSIVE",
    "ROW EXCLUSIVE",
    "ROW SHARE",
    "ACCESS SHARE",
];

/// Everything that the login can hold, held until this is dropped.
struct Held {
    _open: Vec<PgConnection>,
}

/// Takes every lock that it can get, on everything that there is, each in a session of its own kind, and keeps it.
async fn hold_everything(database: &TestDatabase, role: &str) -> Held {
    let options = database.login("", &[role]).await;
    let mut advisory = connect(&options).await;
    for key in FORMER_KEYS {
        advisory.execute(&*format!("SELECT pg_try_advisory_lock({key})")).await.unwrap();
    }
    let mut relations = connect(&options).await;
    let names = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE n.nspname IN ('public', 'read', 'read_next', 'work', 'rows', 'audit') AND c.relkind IN ('r', 'v', 'S')";
    let names: Vec<String> = sqlx::query_scalar(names).fetch_all(database.pool()).await.unwrap();
    relations.execute("SET idle_in_transaction_session_timeout = 0; SET statement_timeout = 0; BEGIN").await.unwrap();
    for name in &names {
        for mode in MODES {
            let lock = format!("SAVEPOINT one; LOCK TABLE {name} IN {mode} MODE NOWAIT");
            if relations.execute(&*lock).await.is_err() {
                relations.execute("ROLLBACK TO one").await.unwrap();
            } else {
                assert_eq!(mode, "ACCESS SHARE", "{role} can hold {name} in {mode} mode");
                assert!(name.starts_with("read.") || name.starts_with("audit."), "{role} can hold {name}");
            }
        }
        for strength in ["UPDATE", "SHARE", "KEY SHARE"] {
            let lock = format!("SAVEPOINT one; SELECT FROM {name} LIMIT 1 FOR {strength}");
            assert!(relations.execute(&*lock).await.is_err(), "{role} locks rows of {name}");
            relations.execute("ROLLBACK TO one").await.unwrap();
        }
    }
    let mut open = vec![advisory, relations];
    // PostgreSQL waits for an exclusive lock for this before it looks whether it is allowed, and whoever comes behind waits for that.
    // What it reaches in the schema `read` are the views of finance itself.
    for name in names.iter().filter(|name| !name.starts_with("read.")) {
        let mut session = connect(&options).await;
        let mine = format!("CREATE RULE mine AS ON INSERT TO {name} DO INSTEAD NOTHING");
        match tokio::time::timeout(Duration::from_millis(50), session.execute(&*mine)).await {
            Ok(refused) => assert!(refused.is_err(), "{role} makes a rule of {name}"),
            Err(_waits) => {
                assert!(name.starts_with("audit."), "{role} waits for {name} in front of everybody else");
                open.push(session);
            }
        }
    }
    Held { _open: open }
}

/// `NOTIFY` on every channel that was ever listened to, by four sessions without a pause, until the guard is dropped.
async fn flood(database: &TestDatabase) -> (Arc<AtomicBool>, DropGuard) {
    let (stop, has_begun) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
    let options = database.login("", &["aihub_finance"]).await;
    for _ in 0..4 {
        let (mut finance, stop, has_begun) = (connect(&options).await, stop.clone(), has_begun.clone());
        TaskTracker::new().spawn(async move {
            let flood = async {
                loop {
                    let notify = "NOTIFY events, '9000000000000000000'; NOTIFY jobs, 'video x y'; NOTIFY erasures, ''";
                    finance.execute(notify).await.unwrap();
                    has_begun.store(true, Ordering::SeqCst);
                }
            };
            stop.run_until_cancelled(flood).await;
        });
    }
    (has_begun, stop.drop_guard())
}

async fn is_served(app: &TestApp, client: &mut Client, id: &str) {
    client.ask(&chat(id, "Why is the sky blue?")).await.done();
    app.film("ann").await;
    let head: i64 =
        sqlx::query_scalar("SELECT max(position) FROM events").fetch_one(app.database.pool()).await.unwrap();
    until("every handler has read that", async || {
        let behind = "SELECT count(*) FROM subscriptions WHERE position < $1";
        let behind: i64 = sqlx::query_scalar(behind).bind(head).fetch_one(app.database.pool()).await.unwrap();
        (behind == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn no_role_that_may_only_read_holds_a_lock_that_the_service_waits_for() {
    let app = TestApp::start(|_| {}).await;
    app.grant("ann", aihub_domain::money::Microcredits::from_credits(100_000)).await;
    let _finance = hold_everything(&app.database, "aihub_finance").await;
    let _auditor = hold_everything(&app.database, "aihub_auditor").await;
    let mut client = app.connect("ann").await;
    is_served(&app, &mut client, "a").await;
    // A node that starts meanwhile migrates, takes turns and leads like any other.
    let other = TestApp::start_on(&app.database, &app.providers, |_| {}).await;
    app.stop().await;
    let mut client = other.connect("ann").await;
    is_served(&other, &mut client, "b").await;
    other.stop().await;
}

#[tokio::test]
async fn a_migration_waits_for_nobody_who_may_only_connect() {
    let database = aihub_tests::database().await;
    let stranger = database.login("", &[]).await;
    let mut stranger = connect(&stranger).await;
    // The migrator's own key: 0x3d32ad9e times the CRC-32 of the database's name, whatever that is.
    for key in FORMER_KEYS {
        stranger.execute(&*format!("SELECT pg_advisory_lock({key})")).await.unwrap();
    }
    assert!(!database.database.migrate().await.unwrap(), "there is nothing to do, and nobody is waited for");
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid <> $1
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut stranger).await.unwrap();
    let locks: i64 = sqlx::query_scalar(locks).bind(pid).fetch_one(database.pool()).await.unwrap();
    assert_eq!(locks, 0);
}

#[tokio::test]
async fn the_service_holds_no_advisory_lock_and_listens_to_nobody() {
    let app = TestApp::start(|_| {}).await;
    app.grant("ann", aihub_domain::money::Microcredits::from_credits(100_000)).await;
    let mut client = app.connect("ann").await;
    is_served(&app, &mut client, "a").await;
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let held: i64 = sqlx::query_scalar(held).fetch_one(app.database.pool()).await.unwrap();
    assert_eq!(held, 0);
    let notifying = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
                     AND (prosrc ILIKE '%pg_notify%' OR prosrc ILIKE '%advisory%')";
    let notifying: i64 = sqlx::query_scalar(notifying).fetch_one(app.database.pool()).await.unwrap();
    assert_eq!(notifying, 0, "a function of ours does so");
    app.stop().await;
}

/// Statements that were committed or rolled back in the database, by whomever.
async fn transactions(connection: &mut PgConnection) -> i64 {
    connection.execute("SELECT pg_stat_clear_snapshot()").await.unwrap();
    let count = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()";
    sqlx::query_scalar(count).fetch_one(connection).await.unwrap()
}

#[tokio::test]
async fn whatever_is_announced_the_service_does_not_get_busy() {
    let app = TestApp::start(|_| {}).await;
    let mut client = app.connect("ann").await;
    client.ask(&chat("a", "Why is the sky blue?")).await.done();
    let mut watcher = app.database.admin().await;
    watcher.execute("NOTIFY events, '9000000000000000000'").await.unwrap();
    watcher.execute("NOTIFY events, '9223372036854775807'").await.unwrap();
    let seconds = 3;
    // The statistics come a second late at most.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = transactions(&mut watcher).await;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let rate = (transactions(&mut watcher).await - before) / i64::try_from(seconds).unwrap();
    // 40 looks at the log's end, and what 17 handlers, two leaders and the housekeeping ask every second.
    assert!(rate < 250, "{rate} transactions a second");
    app.stop().await;
}

#[tokio::test]
async fn a_flood_of_notifications_keeps_no_request_waiting() {
    let app = TestApp::start(|_| {}).await;
    let mut clients = join_all(["ann", "bob", "eve"].map(|user| app.connect(user))).await;
    // Whoever listens and does not read keeps what was notified in the server's queue.
    let listener = app.database.login("", &["aihub_finance"]).await;
    let mut listener = connect(&listener).await;
    listener.execute("LISTEN events").await.unwrap();
    let mut open = listener.begin().await.unwrap();
    sqlx::query("SELECT 1").execute(&mut *open).await.unwrap();
    let (has_begun, flood) = flood(&app.database).await;
    until("the flood has begun", async || has_begun.load(Ordering::SeqCst).then_some(())).await;
    for nth in 0..10 {
        let asked = clients.iter_mut().map(|client| async move {
            let answer: Value = client.ask(&chat(&nth.to_string(), "Why is the sky blue?")).await.done().clone();
            answer
        });
        join_all(asked).await;
    }
    drop(flood);
    app.audit().await;
    app.stop().await;
}

#[tokio::test]
async fn who_reads_the_views_has_limits_and_whoever_migrates_gives_them_to_new_readers() {
    let database = aihub_tests::database().await;
    let reader = database.login("", &["aihub_finance"]).await;
    let own = database.login("CONNECTION LIMIT 2", &["aihub_finance"]).await;
    let mut admin = database.admin().await;
    let own_login = own.url.split_once("://").unwrap().1.split_once(':').unwrap().0.to_owned();
    admin.execute(&*format!("ALTER ROLE {own_login} SET statement_timeout = '5min'")).await.unwrap();
    aihub_infrastructure::roles::RoleNames::with_prefix("aihub").make(&database.database).await.unwrap();
    let settings = async |options: &_| -> (String, String, String, i32) {
        let limits = "SELECT current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout'),
                             current_setting('lock_timeout'), (SELECT rolconnlimit FROM pg_roles WHERE rolname = session_user)";
        sqlx::query_as(limits).fetch_one(&mut connect(options).await).await.unwrap()
    };
    let of = |statement: &str, connections| (statement.to_owned(), "1min".to_owned(), "5s".to_owned(), connections);
    assert_eq!(settings(&reader).await, of("1min", 10));
    assert_eq!(settings(&own).await, of("5min", 2), "what an operator has decided stays");
}
