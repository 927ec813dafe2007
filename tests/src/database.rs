//! A fresh, migrated database for each test, copied from a template that is made once for a state of the migrations.

use std::{net::SocketAddr, str::FromStr, sync::Mutex, thread, time::Duration};

use aihub_infrastructure::{
    database::{Database, DatabaseOptions, schema::MIGRATIONS},
    roles::{Made, RoleNames},
};
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, PgPool, postgres::PgConnectOptions};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::{logging, postgres::server, until};

/// A database that is dropped with this value.
pub struct TestDatabase {
    pub database: Database,
    pub options: DatabaseOptions,
    /// What its services keep beside it.
    pub folder: TempDir,
    name: String,
    server: PgConnectOptions,
    /// Logins that were made for it.
    logins: Mutex<Vec<String>>,
}

pub async fn database() -> TestDatabase {
    static TEMPLATE: OnceCell<String> = OnceCell::const_new();
    logging::install();
    let template = TEMPLATE.get_or_init(template).await;
    let name = format!("aihub_test_{}", Uuid::now_v7().simple());
    let server = server().await;
    let mut connection = server.connect().await.unwrap();
    connection.execute(&*format!("CREATE DATABASE {name} TEMPLATE {template}")).await.unwrap();
    connection.close().await.unwrap();
    let options = options(&server, &name);
    // However busy the machine is: no test is about how long this took.
    let patient = DatabaseOptions { acquire_timeout: Duration::from_mins(1), ..options.clone() };
    let database = Database::connect(&patient).await.unwrap();
    TestDatabase { database, options, folder: tempfile::tempdir().unwrap(), name, server, logins: Mutex::default() }
}

/// The name of the template. Other processes may want the same one at the same time.
async fn template() -> String {
    let checksums: Vec<u8> = MIGRATIONS.iter().flat_map(|migration| migration.checksum.iter().copied()).collect();
    // A name has at most 63 bytes, however many migrations there are.
    let name = format!("aihub_template_{}", Uuid::new_v5(&Uuid::NAMESPACE_OID, &checksums).simple());
    let admin = server().await;
    let mut server = admin.connect().await.unwrap();
    sqlx::query("SELECT pg_advisory_lock(4711)").execute(&mut server).await.unwrap();
    if !exists(&mut server, &name).await {
        let unfinished = format!("{name}_unfinished");
        server.execute(&*format!("DROP DATABASE IF EXISTS {unfinished} WITH (FORCE)")).await.unwrap();
        server.execute(&*format!("CREATE DATABASE {unfinished}")).await.unwrap();
        let database = Database::connect(&options(&admin, &unfinished)).await.unwrap();
        assert!(database.migrate().await.unwrap());
        assert_eq!(RoleNames::with_prefix("aihub").make(&database).await.unwrap(), Made::default());
        database.pool().close().await;
        // The connection that migrated is gone on this side; the server may need a moment longer.
        until("the template is finished", async || {
            server.execute(&*format!("ALTER DATABASE {unfinished} RENAME TO {name}")).await.ok()
        })
        .await;
    }
    server.close().await.unwrap();
    name
}

async fn exists(server: &mut PgConnection, name: &str) -> bool {
    let found = sqlx::query("SELECT 1 FROM pg_database WHERE datname = $1").bind(name).fetch_optional(server);
    found.await.unwrap().is_some()
}

fn options(server: &PgConnectOptions, name: &str) -> DatabaseOptions {
    let url = server.clone().database(name).to_url_lossy().to_string();
    DatabaseOptions { max_connections: 8, ..DatabaseOptions::new(url) }
}

impl TestDatabase {
    pub fn pool(&self) -> &PgPool {
        self.database.pool()
    }

    pub fn address(&self) -> SocketAddr {
        let url = PgConnectOptions::from_str(&self.options.url).unwrap();
        format!("{}:{}", url.get_host(), url.get_port()).parse().unwrap()
    }

    /// As the owner of the server, outside the pool and without its settings.
    pub async fn admin(&self) -> PgConnection {
        self.server.clone().database(&self.name).connect().await.unwrap()
    }

    /// A new login with these attributes and roles: how the database is reached as it.
    pub async fn login(&self, attributes: &str, roles: &[&str]) -> DatabaseOptions {
        let login = format!("login_{}", Uuid::now_v7().simple());
        let mut admin = self.admin().await;
        admin.execute(&*format!("CREATE ROLE {login} LOGIN PASSWORD 'secret' {attributes}")).await.unwrap();
        for role in roles {
            admin.execute(&*format!("GRANT {role} TO {login}")).await.unwrap();
        }
        self.logins.lock().unwrap().push(login.clone());
        self.options_as(&login)
    }

    fn options_as(&self, login: &str) -> DatabaseOptions {
        let url = self.server.clone().database(&self.name).username(login).password("secret");
        DatabaseOptions { url: url.to_url_lossy().to_string(), ..self.options.clone() }
    }

    /// The same database by way of a proxy.
    pub async fn through(&self, proxy: SocketAddr) -> Database {
        let url = PgConnectOptions::from_str(&self.options.url).unwrap();
        let url = url.host(&proxy.ip().to_string()).port(proxy.port()).to_url_lossy().to_string();
        Database::connect(&DatabaseOptions { url, ..self.options.clone() }).await.unwrap()
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let logins = std::mem::take(self.logins.get_mut().unwrap());
        let server = self.server.clone();
        // Not waited for: the server drops the database when nobody is connecting to it any more, and whoever still is
        // goes on after this. A database that is left behind at the end spoils nothing.
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut server = server.connect().await?;
                server.execute(&*drop).await?;
                for login in logins {
                    server.execute(&*format!("DROP ROLE IF EXISTS {login}")).await?;
                }
                server.close().await?;
                anyhow::Ok(())
            })
        });
    }
}
