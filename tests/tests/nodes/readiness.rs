//! Ready is who can write down what it takes. It is known within five seconds that a node cannot, and that it can again.

use std::{
    os::unix::fs::MetadataExt,
    process::Stdio,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use aihub_infrastructure::embedded_postgres::{EmbeddedPostgres, EmbeddedPostgresOptions};
use aihub_tests::{
    app::TestApp,
    audit::Audit,
    client::{Answer, Client, chat, open, upgrade},
    database,
    providers::Providers,
    proxy::Proxy,
    until, until_ok,
};
use nix::unistd::Uid;
use serde_json::{Value, json};
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, PgPool, postgres::PgConnectOptions};
use tokio::{process::Command, time::timeout};

/// By then it is known: five seconds are promised, and a busy machine gets some more.
const KNOWN_AFTER: Duration = Duration::from_secs(8);

/// Waits until the node is or is not ready, and returns what it says.
async fn ready(app: &TestApp, expected: u16) -> Value {
    until_ok("readiness says it", async || {
        let (status, _, said) = app.get("/health/ready", None).await;
        if status.as_u16() == expected { Ok(said) } else { Err(said) }
    })
    .await
}

/// The same, not later than it is to be known.
async fn soon_not_ready(app: &TestApp, reason: &str) {
    let since = Instant::now();
    let said = ready(app, 503).await;
    assert!(since.elapsed() < KNOWN_AFTER, "{:?}", since.elapsed());
    assert!(said["reasons"][0].as_str().unwrap().contains(reason), "{said}");
}

/// Is refused in time, typed, and with the advice to come back.
async fn refused(client: &mut Client, id: &str) {
    let since = Instant::now();
    let answer = client.ask(&chat(id, "Why is the sky blue?")).await;
    let error = answer.error("UNAVAILABLE");
    assert!(error["retryAfterMs"].as_u64().is_some(), "{error}");
    assert!(since.elapsed() < KNOWN_AFTER, "{:?}", since.elapsed());
}

async fn ask(client: &mut Client, id: &str) -> Answer {
    client.ask(&chat(id, "Why is the sky blue?")).await
}

/// A server that a test may do to what it likes, and a node on it.
async fn on_a_server_of_its_own() -> (EmbeddedPostgres, TestApp) {
    let postgres = EmbeddedPostgres::start_temporary(&EmbeddedPostgresOptions::default()).await.unwrap();
    let url = json!(postgres.url());
    let app = TestApp::start(|config| config.database.url = Some(serde_json::from_value(url).unwrap())).await;
    (postgres, app)
}

/// Its superuser, who may write whatever is set.
async fn operator(postgres: &EmbeddedPostgres) -> PgConnection {
    let connect = PgConnectOptions::from_str(postgres.url()).unwrap();
    connect.options([("default_transaction_read_only", "off")]).connect().await.unwrap()
}

#[tokio::test]
async fn a_database_that_takes_no_writes_is_told_of_also_where_nobody_asks_and_the_node_comes_back_by_itself() {
    let (postgres, app) = on_a_server_of_its_own().await;
    ready(&app, 200).await;
    let mut operator = operator(&postgres).await;
    let read_only = async |operator: &mut PgConnection, is: &str| {
        operator.execute(&*format!("ALTER SYSTEM SET default_transaction_read_only = {is}")).await.unwrap();
        operator.execute("SELECT pg_reload_conf()").await.unwrap();
    };
    // Nothing was ever appended, and nobody asks for anything.
    read_only(&mut operator, "on").await;
    soon_not_ready(&app, "read-only").await;
    read_only(&mut operator, "off").await;
    ready(&app, 200).await;
    let mut client = app.connect("ann").await;
    ask(&mut client, "a").await.done();

    read_only(&mut operator, "on").await;
    // The server's processes hear of it one by one: what was accepted before ends when it can be written down.
    let mut nth = 0;
    until("it is refused", async || {
        nth += 1;
        let answer = timeout(Duration::from_secs(2), ask(&mut client, &format!("b{nth}"))).await.ok()?;
        (answer.end["error"]["code"] == "UNAVAILABLE").then_some(())
    })
    .await;
    soon_not_ready(&app, "read-only").await;
    refused(&mut client, "c").await;
    let film = json!({ "prompt": "a calm sea", "duration": 4 });
    let (status, problem) = app.post("/api/mcp/sora2/generate", &app.token("ann"), &film).await;
    assert_eq!((status.as_u16(), &problem["code"]), (503, &json!("UNAVAILABLE")), "{problem}");
    assert!(problem["retryAfterMs"].as_u64().is_some(), "{problem}");
    // Whoever comes now is told to come back.
    let (mut newcomer, _) = open(upgrade(app.address, &app.token("ben"))).await.unwrap();
    assert_eq!(newcomer.ready["error"]["code"], "UNAVAILABLE", "{}", newcomer.ready);
    assert_eq!(newcomer.closed().await.0, 1013);
    read_only(&mut operator, "off").await;
    ready(&app, 200).await;
    ask(&mut client, "d").await.done();
    let pool = PgPool::connect(postgres.url()).await.unwrap();
    let audit = Audit::at_rest(&pool).await;
    assert_eq!(audit.accounts["ann"].held(), 0);
    pool.close().await;
    operator.close().await.unwrap();
    app.stop().await;
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_database_that_is_frozen_is_told_of_and_requests_are_refused_in_time_until_it_is_back() {
    let (database, providers) = (Arc::new(database().await), Arc::new(Providers::start().await));
    let proxy = Proxy::start(database.address()).await;
    let url = PgConnectOptions::from_str(&database.options.url).unwrap();
    let url = url.host(&proxy.address.ip().to_string()).port(proxy.address.port()).to_url_lossy().to_string();
    let app = TestApp::start_on(&database, &providers, |config| {
        config.database.url = Some(serde_json::from_value(json!(url)).unwrap());
    })
    .await;
    let mut client = app.connect("ann").await;
    ask(&mut client, "a").await.done();
    ready(&app, 200).await;
    proxy.freeze_all();
    // Before it is known, and when it is.
    refused(&mut client, "b").await;
    soon_not_ready(&app, "does not answer").await;
    refused(&mut client, "c").await;
    proxy.thaw();
    ready(&app, 200).await;
    ask(&mut client, "d").await.done();
    let audit = Audit::at_rest(database.pool()).await;
    assert_eq!(audit.accounts["ann"].held(), 0);
    app.stop().await;
}

/// Lets no file of the server grow beyond so many bytes: what is left of a full disk.
async fn limit_files(postgres: &mut PgConnection, bytes: &str) {
    let folder: String = sqlx::query_scalar("SHOW data_directory").fetch_one(&mut *postgres).await.unwrap();
    let pid = std::fs::read_to_string(format!("{folder}/postmaster.pid")).unwrap();
    let postmaster = pid.lines().next().unwrap().to_owned();
    let backends: Vec<i32> = sqlx::query_scalar("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        .fetch_all(postgres)
        .await
        .unwrap();
    let owner = std::fs::metadata(&folder).unwrap();
    for pid in backends.into_iter().map(|pid| pid.to_string()).chain([postmaster]) {
        let mut limit = Command::new("prlimit");
        limit.args(["--pid", &pid, &format!("--fsize={bytes}:unlimited")]).stderr(Stdio::null());
        // Where the tests run as root the server does not, and only itself may set its limits.
        if Uid::effective().is_root() {
            limit.uid(owner.uid()).gid(owner.gid());
        }
        // One may have ended since.
        limit.status().await.unwrap();
    }
}

#[tokio::test]
async fn a_disk_without_room_is_told_of_and_the_node_comes_back_by_itself_when_there_is_some() {
    let (postgres, app) = on_a_server_of_its_own().await;
    let mut operator = operator(&postgres).await;
    // The log's file is larger than the server's own files, which go on: then only what is appended finds no room.
    let filling =
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
                   SELECT 'filling', nth::text, 1, 'Filling', '1', to_json(repeat('x', 1800)), '{}'
                   FROM generate_series(1, 12000) nth";
    operator.execute(filling).await.unwrap();
    let mut client = app.connect("ann").await;
    ask(&mut client, "first").await.done();
    ready(&app, 200).await;
    let size: i64 = sqlx::query_scalar("SELECT pg_relation_size('events')").fetch_one(&mut operator).await.unwrap();
    assert!(size > 17 << 20, "{size}");
    limit_files(&mut operator, &size.to_string()).await;
    // There is room in the last page yet.
    let mut nth = 0;
    loop {
        nth += 1;
        let since = Instant::now();
        let answer = ask(&mut client, &nth.to_string()).await;
        assert!(since.elapsed() < KNOWN_AFTER, "{:?}", since.elapsed());
        if answer.end["type"] == "error" {
            answer.error("UNAVAILABLE");
            break;
        }
        assert!(nth < 200, "the disk is not full");
    }
    soon_not_ready(&app, "the database").await;
    // It stays so, though nobody appends anything: a look alone does not tell.
    tokio::time::sleep(KNOWN_AFTER).await;
    refused(&mut client, "while").await;
    let (status, _, said) = app.get("/health/ready", None).await;
    assert_eq!(status.as_u16(), 503, "{said}");
    limit_files(&mut operator, "unlimited").await;
    ready(&app, 200).await;
    ask(&mut client, "last").await.done();
    operator.close().await.unwrap();
    app.stop().await;
    postgres.stop().await.unwrap();
}
