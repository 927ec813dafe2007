//! A real `PgBouncer` between the service and its database: with sessions for clients all of it works, and with sessions for
//! transactions or statements it is recognised at the start and named.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should say where")]

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    process::Stdio,
    sync::Arc,
};

use aihub_domain::money::Microcredits;
use aihub_infrastructure::database::{Database, DatabaseError, DatabaseOptions};
use aihub_projections::rebuild::{Rebuild, views, working_tables};
use aihub_tests::{
    TestDatabase,
    app::{TestApp, variables},
    client::chat,
    database,
    providers::Providers,
    until,
};
use serde_json::json;
use sqlx::{Executor, postgres::PgConnectOptions};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

/// Ended when it is dropped.
struct PgBouncer {
    /// How the database is reached through it.
    options: DatabaseOptions,
    _process: Child,
    _folder: TempDir,
}

impl PgBouncer {
    /// In front of the server of `database`, for a login with the role of the service, with further settings.
    async fn start(database: &TestDatabase, settings: &str) -> Self {
        let service = database.login("", &["aihub_service"]).await;
        let server: PgConnectOptions = service.url.parse().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = |name: &str| folder.path().join(name);
        // It logs in to the server as whoever has logged in to it.
        let login = service.url.split_once("://").unwrap().1.split_once('@').unwrap().0;
        let (user, password) = login.split_once(':').unwrap();
        fs::write(path("users"), format!("\"{user}\" \"{password}\"\n")).unwrap();
        // It does not run as root.
        let is_root = fs::metadata("/proc/self").unwrap();
        let drop_root = if std::os::unix::fs::MetadataExt::uid(&is_root) == 0 { "user = nobody" } else { "" };
        let config = format!(
            "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = plain\nauth_file = {}\ndefault_pool_size = 80\n{drop_root}\n{settings}\n",
            server.get_host(),
            server.get_port(),
            path("users").display(),
        );
        fs::write(path("ini"), config).unwrap();
        for name in ["users", "ini"] {
            fs::set_permissions(path(name), fs::Permissions::from_mode(0o644)).unwrap();
        }
        let process =
            Command::new("pgbouncer").arg(path("ini")).stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        until("it listens", async || TcpStream::connect(address).await.ok()).await;
        let name = server.get_database().unwrap();
        let url = format!("postgres://{login}@{address}/{name}?sslmode=disable");
        Self { options: DatabaseOptions { url, ..service }, _process: process, _folder: folder }
    }
}

async fn rows(database: &TestDatabase) -> Vec<(String, i64)> {
    let mut rows = Vec::new();
    for view in views() {
        for table in view.tables() {
            let count = format!("SELECT '{table}', count(*) FROM read.{table}");
            rows.push(sqlx::query_as(&count).fetch_one(database.pool()).await.unwrap());
        }
    }
    rows
}

/// The second time it drops start-up options, without which views were found by their names in the wrong schema.
#[tokio::test]
async fn with_sessions_for_clients_everything_is_done_and_a_rebuild_leaves_the_same_rows() {
    for settings in ["", "ignore_startup_parameters = options, extra_float_digits"] {
        let database = Arc::new(database().await);
        let bouncer = PgBouncer::start(&database, &format!("pool_mode = session\n{settings}")).await;
        let providers = Arc::new(Providers::start().await);
        let url = json!(bouncer.options.url);
        let app = TestApp::start_on(&database, &providers, |config| {
            config.database.url = Some(serde_json::from_value(url).unwrap());
        })
        .await;
        app.grant("ann", Microcredits::from_credits(100_000)).await;
        let mut client = app.connect("ann").await;
        client.ask(&chat("a", "Why is the sky blue?")).await.done();
        app.film("ann").await;
        app.stop().await;
        let connected = Database::connect(&bouncer.options).await.unwrap();
        let rebuild = async || {
            for view in views().into_iter().chain(working_tables()) {
                Rebuild::begin(&connected, Arc::default(), view).await.unwrap().run(|_| ()).await.unwrap();
            }
        };
        rebuild().await;
        let before = rows(&database).await;
        assert!(before.iter().any(|(table, count)| table == "request_status_v1" && *count == 1), "{before:?}");
        rebuild().await;
        assert_eq!(rows(&database).await, before);
    }
}

#[tokio::test]
async fn with_sessions_for_transactions_or_statements_it_is_named_and_what_to_do() {
    let database = database().await;
    let providers = Providers::start().await;
    for mode in ["transaction", "statement"] {
        let settings = format!("pool_mode = {mode}\nignore_startup_parameters = options, extra_float_digits");
        let bouncer = PgBouncer::start(&database, &settings).await;
        let refused = Database::connect(&bouncer.options).await.unwrap_err();
        assert!(matches!(refused, DatabaseError::TransactionPooling), "{mode}: {refused}");
        // Others use the pool as well: it has sessions that were somebody else's.
        let busy: PgConnectOptions = bouncer.options.url.parse().unwrap();
        let busy =
            sqlx::postgres::PgPoolOptions::new().max_connections(8).connect_lazy_with(busy.statement_cache_capacity(0));
        for _ in 0..8 {
            busy.execute("SELECT 1").await.unwrap();
        }
        let mut variables = variables(&database, &providers);
        variables.push(("DATABASE_URL".to_owned(), bouncer.options.url.clone()));
        let served = Command::new(env!("CARGO_BIN_EXE_aihub-under-test"))
            .env_clear()
            .envs(variables)
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        let said = String::from_utf8(served.stderr).unwrap();
        assert!(!served.status.success() && said.contains("pool_mode = session"), "{mode}: {said}");
        busy.close().await;
    }
}
