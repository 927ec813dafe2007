//! A session is what we stated, whatever a database or a login was given as defaults, and one that can only read is not kept.

use std::{sync::Arc, time::Duration};

use aihub_domain::money::Microcredits;
use aihub_infrastructure::{
    database::{Database, DatabaseError, DatabaseOptions},
    embedded_postgres::{EmbeddedPostgres, EmbeddedPostgresOptions},
    roles::RoleNames,
};
use aihub_projections::rebuild::{Rebuild, views, working_tables};
use aihub_tests::{
    TestDatabase,
    app::TestApp,
    client::chat,
    database,
    log::{Node, lone_unit, verified},
    providers::Providers,
    until,
};
use reqwest::Method;
use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};

/// What would change what is done. The times are long enough for the one statement that states ours.
const HOSTILE: [(&str, &str); 14] = [
    ("statement_timeout", "500ms"),
    ("lock_timeout", "500ms"),
    ("idle_in_transaction_session_timeout", "500ms"),
    ("idle_session_timeout", "500ms"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_deferrable", "on"),
    ("search_path", "pg_catalog"),
    ("TimeZone", "Asia/Kolkata"),
    ("DateStyle", "German"),
    ("IntervalStyle", "sql_standard"),
    ("bytea_output", "escape"),
    ("extra_float_digits", "-15"),
    ("standard_conforming_strings", "off"),
    ("synchronous_commit", "off"),
];

/// Gives `what` (`DATABASE x`, `ROLE y`) all of them.
async fn harass(database: &TestDatabase, what: &str) {
    let mut admin = database.admin().await;
    for (name, value) in HOSTILE {
        admin.execute(&*format!("ALTER {what} SET {name} = '{value}'")).await.unwrap();
    }
    let version: i32 =
        sqlx::query_scalar("SELECT current_setting('server_version_num')::int").fetch_one(&mut admin).await.unwrap();
    if version >= 170_000 {
        admin.execute(&*format!("ALTER {what} SET transaction_timeout = '500ms'")).await.unwrap();
    }
}

async fn name(database: &TestDatabase) -> String {
    sqlx::query_scalar("SELECT current_database()").fetch_one(database.pool()).await.unwrap()
}

#[tokio::test]
async fn defaults_of_the_database_and_of_the_login_change_nothing_that_is_done() {
    let database = Arc::new(database().await);
    let service = database.login("", &["aihub_service", "aihub_finance"]).await;
    harass(&database, &format!("DATABASE {}", name(&database).await)).await;
    let login = service.url.split_once("://").unwrap().1.split_once(':').unwrap().0.to_owned();
    harass(&database, &format!("ROLE {login}")).await;
    database.admin().await.execute(&*format!("ALTER ROLE {login} SET role = 'aihub_finance'")).await.unwrap();

    let providers = Arc::new(Providers::start().await);
    let url = json!(service.url);
    let app = TestApp::start_on(&database, &providers, |config| {
        config.database.url = Some(serde_json::from_value(url).unwrap());
    })
    .await;
    app.grant("ann", Microcredits::from_credits(100_000)).await;
    let mut client = app.connect("ann").await;
    client.ask(&chat("a", "Why is the sky blue?")).await.done();
    app.film("ann").await;
    let connected = Database::connect(&service).await.unwrap();
    let mut dedicated = connected.dedicated("a test", &[]).await.unwrap();
    for (name, hostile) in HOSTILE {
        let found = sqlx::query_scalar("SELECT current_setting($1)").bind(name).fetch_one(&mut dedicated);
        let found: String = found.await.unwrap();
        assert_ne!(found, hostile, "{name}");
        let found: String =
            sqlx::query_scalar("SELECT current_setting($1)").bind(name).fetch_one(connected.pool()).await.unwrap();
        assert_ne!(found, hostile, "{name}");
    }
    for view in views().into_iter().chain(working_tables()) {
        Rebuild::begin(&connected, Arc::default(), view).await.unwrap().run(|_| ()).await.unwrap();
    }
    let rows: i64 =
        sqlx::query_scalar("SELECT count(*) FROM request_status_v1").fetch_one(connected.pool()).await.unwrap();
    assert_eq!(rows, 1);
    app.stop().await;
    verified(connected.pool()).await;
}

#[tokio::test]
async fn a_database_with_such_defaults_is_migrated() {
    let database = database().await;
    let empty = format!("{}_empty", name(&database).await);
    database.admin().await.execute(&*format!("CREATE DATABASE {empty}")).await.unwrap();
    harass(&database, &format!("DATABASE {empty}")).await;
    let url = database.options.url.replace(&name(&database).await, &empty);
    let fresh = Database::connect(&DatabaseOptions { url, ..database.options.clone() }).await.unwrap();
    assert!(fresh.migrate().await.unwrap());
    RoleNames::with_prefix("aihub").make(&fresh).await.unwrap();
    Node::start(&fresh).append(lone_unit()).await.unwrap();
    assert_eq!(verified(fresh.pool()).await.len(), 1);
    fresh.pool().close().await;
    database.admin().await.execute(&*format!("DROP DATABASE {empty} WITH (FORCE)")).await.unwrap();
}

#[tokio::test]
async fn a_session_in_which_the_logs_triggers_do_not_run_is_refused_by_name() {
    let database = database().await;
    let name = name(&database).await;
    database
        .admin()
        .await
        .execute(&*format!("ALTER DATABASE {name} SET session_replication_role = replica"))
        .await
        .unwrap();
    let options = DatabaseOptions { acquire_timeout: Duration::from_secs(1), ..database.options.clone() };
    let refused = Database::connect(&options).await.unwrap_err();
    assert!(matches!(&refused, DatabaseError::Setting { name, .. } if name == "session_replication_role"), "{refused}");
}

/// As a failover makes it behind a proxy: sessions from before can only read, new ones can write.
#[tokio::test]
async fn a_connection_of_the_pool_that_turned_read_only_is_dropped_also_while_it_is_busy() {
    let postgres = EmbeddedPostgres::start_temporary(&EmbeddedPostgresOptions::default()).await.unwrap();
    let options = DatabaseOptions { max_connections: 4, ..DatabaseOptions::new(postgres.url()) };
    let database = Database::connect(&options).await.unwrap();
    database.migrate().await.unwrap();
    let node = Node::start(&database);
    node.append(lone_unit()).await.unwrap();
    let write = "INSERT INTO snapshots VALUES ('a', gen_random_uuid()::text, 1, 1, '{}')";
    database.pool().execute(write).await.unwrap();

    let mut admin = PgConnection::connect(postgres.url()).await.unwrap();
    admin.execute("ALTER DATABASE aihub SET default_transaction_read_only = off").await.unwrap();
    admin.execute("ALTER SYSTEM SET default_transaction_read_only = on").await.unwrap();
    admin.execute("SELECT pg_reload_conf()").await.unwrap();
    until("the pool's connections can only read", async || database.pool().execute(write).await.err()).await;
    // Never idle for long enough to be looked at for that reason.
    let busy = async {
        loop {
            let _ = database.pool().execute("SELECT 1").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let recovered = async {
        node.append(lone_unit()).await.unwrap();
        until("the pool writes again", async || database.pool().execute(write).await.ok()).await;
        for _ in 0..8 {
            database.pool().execute(write).await.unwrap();
        }
    };
    tokio::select! {
        () = busy => {}
        () = recovered => {}
    }
    database.pool().close().await;
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn after_such_a_failover_films_are_made_and_their_webhooks_are_sent() {
    let postgres = EmbeddedPostgres::start_temporary(&EmbeddedPostgresOptions::default()).await.unwrap();
    let url = json!(postgres.url());
    let app = TestApp::start(|config| {
        config.database.url = Some(serde_json::from_value(url).unwrap());
        config.webhooks.allow_private = true;
    })
    .await;
    let token = app.token("ann");
    let film = async |key: &str| {
        let asked = json!({ "prompt": "a calm sea", "duration": 4, "webhookUrl": "http://127.0.0.1:1/" });
        let key = [("idempotency-key", key)];
        let (status, queued) = app.send(Method::POST, "/api/mcp/sora2/generate", &token, Some(&asked), &key).await;
        (status.as_u16() == 202).then(|| queued["videoId"].as_str().unwrap().to_owned())
    };
    film("before").await.unwrap();
    let mut admin = PgConnection::connect(postgres.url()).await.unwrap();
    admin.execute("ALTER DATABASE aihub SET default_transaction_read_only = off").await.unwrap();
    admin.execute("ALTER SYSTEM SET default_transaction_read_only = on").await.unwrap();
    admin.execute("SELECT pg_reload_conf()").await.unwrap();
    let id = until("a film is taken", async || film("after").await).await;
    until("it is made", async || {
        let (_, _, shown) = app.get(&format!("/api/mcp/sora2/status/{id}"), Some(&token)).await;
        (shown["status"] == "completed").then_some(())
    })
    .await;
    // The webhook of its end was tried, which is written down.
    until("it is told", async || {
        let tried: i64 =
            sqlx::query_scalar("SELECT count(*) FROM webhook_deliveries WHERE job_id = $1 AND attempts > 0")
                .bind(&id)
                .fetch_one(&mut admin)
                .await
                .unwrap();
        (tried > 0).then_some(())
    })
    .await;
    app.stop().await;
    postgres.stop().await.unwrap();
}
