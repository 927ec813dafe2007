//! One PostgreSQL for the test process, and in it a database for each test.
//!
//! It is the embedded one, without durability, in a directory that its watchdog removes when the process ends. Where
//! `AIHUB_TEST_DATABASE_URL` names a server (as a role that may create databases), that one is used.

use std::{env, str::FromStr};

use aihub_infrastructure::embedded_postgres::{EmbeddedPostgres, EmbeddedPostgresOptions};
use anyhow::Context;
use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};
use tokio::sync::OnceCell;
use uuid::Uuid;

static SERVER: OnceCell<Server> = OnceCell::const_new();

struct Server {
    admin: PgConnectOptions,
    /// Kept for as long as the process lives, and with it the server.
    embedded: Option<EmbeddedPostgres>,
}

/// An empty database that only its test uses. One on a server that outlives the tests is dropped with this.
pub struct TestDatabase {
    pub url: String,
    name: String,
    drop_from: Option<PgConnectOptions>,
}

/// A fresh database on the server of the test process, which is started by the first call.
pub async fn database() -> anyhow::Result<TestDatabase> {
    let Server { admin, embedded } = SERVER.get_or_try_init(start).await?;
    let name = format!("test_{}", Uuid::now_v7().simple());
    let mut connection = admin.connect().await?;
    sqlx::query(&format!("CREATE DATABASE {name}")).execute(&mut connection).await?;
    connection.close().await?;
    let url = admin.clone().database(&name).to_url_lossy().into();
    Ok(TestDatabase { url, name, drop_from: embedded.is_none().then(|| admin.clone()) })
}

async fn start() -> anyhow::Result<Server> {
    if let Ok(url) = env::var("AIHUB_TEST_DATABASE_URL") {
        let admin = PgConnectOptions::from_str(&url).context("AIHUB_TEST_DATABASE_URL")?;
        return Ok(Server { admin, embedded: None });
    }
    let options = EmbeddedPostgresOptions { durable: false, ..EmbeddedPostgresOptions::default() };
    let embedded = EmbeddedPostgres::start_temporary(&options).await?;
    Ok(Server { admin: PgConnectOptions::from_str(embedded.url())?, embedded: Some(embedded) })
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let Some(admin) = self.drop_from.take() else { return };
        let statement = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        // A drop cannot wait on the runtime that it may be running in.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut connection: PgConnection = admin.connect().await?;
                sqlx::query(&statement).execute(&mut connection).await?;
                connection.close().await
            })
        });
        let _ = dropping.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn tables(database: &TestDatabase) -> i64 {
        let mut connection = PgConnection::connect(&database.url).await.unwrap();
        let count = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
        sqlx::query_scalar(count).fetch_one(&mut connection).await.unwrap()
    }

    #[tokio::test]
    async fn each_test_has_a_database_of_its_own() {
        let (first, second) = (database().await.unwrap(), database().await.unwrap());
        let mut connection = PgConnection::connect(&first.url).await.unwrap();
        sqlx::query("CREATE TABLE mark ()").execute(&mut connection).await.unwrap();
        assert_eq!((tables(&first).await, tables(&second).await), (1, 0));
    }
}
