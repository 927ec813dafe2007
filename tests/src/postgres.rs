//! The PostgreSQL of the test process: the embedded one, without durability, in a directory that its watchdog removes
//! when the process ends. Where `AIHUB_TEST_DATABASE_URL` names a server (as a role that may create databases), that
//! one is used.

use std::{env, str::FromStr};

use aihub_infrastructure::embedded_postgres::{EmbeddedPostgres, EmbeddedPostgresOptions};
use sqlx::postgres::PgConnectOptions;
use tokio::sync::OnceCell;

static SERVER: OnceCell<Server> = OnceCell::const_new();

struct Server {
    admin: PgConnectOptions,
    /// Kept for as long as the process lives, and with it the server.
    _embedded: Option<EmbeddedPostgres>,
}

/// How to connect to the server, which is started by the first call.
pub async fn server() -> PgConnectOptions {
    SERVER.get_or_init(start).await.admin.clone()
}

async fn start() -> Server {
    if let Ok(url) = env::var("AIHUB_TEST_DATABASE_URL") {
        return Server { admin: PgConnectOptions::from_str(&url).unwrap().database("postgres"), _embedded: None };
    }
    let options = EmbeddedPostgresOptions { durable: false, ..EmbeddedPostgresOptions::default() };
    let embedded = EmbeddedPostgres::start_temporary(&options).await.unwrap();
    let admin = PgConnectOptions::from_str(embedded.url()).unwrap().database("postgres");
    Server { admin, _embedded: Some(embedded) }
}
