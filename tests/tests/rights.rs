//! Rights inside the database: who may only read stops nothing, who may append is named, and a session is what we stated.

mod appends;
mod connections;
mod locks;
mod migrating;
mod roles;
mod sessions;

use aihub_infrastructure::database::{DatabaseOptions, session::SessionSettings};
use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions};

/// A plain session, as `psql` has it.
async fn connect(options: &DatabaseOptions) -> PgConnection {
    options.url.parse::<PgConnectOptions>().unwrap().connect().await.unwrap()
}

/// A session that finds tables as the service's do.
async fn connect_like_us(options: &DatabaseOptions) -> PgConnection {
    let mut connection = connect(options).await;
    SessionSettings::new([]).apply(&mut connection).await.unwrap();
    connection
}
