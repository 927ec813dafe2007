//! Up to which position a view is true.

use serde::Serialize;
use sqlx::{PgConnection, PgPool, Transaction};

/// What a view says, and the position up to which it has applied the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AsOf<T> {
    pub position: u64,
    pub value: T,
}

/// A view as it stands at one instant: everything that is read through it is true at `position`.
pub struct Snapshot {
    transaction: Transaction<'static, sqlx::Postgres>,
    position: u64,
}

impl Snapshot {
    /// `name` is that of the view's subscription and of its table.
    pub async fn of(pool: &PgPool, name: &'static str) -> Result<Self, sqlx::Error> {
        // Locked before the snapshot is taken: a TRUNCATE that came in between would empty the table for us too.
        let begin = format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE {name} IN ACCESS SHARE MODE");
        let mut transaction = pool.begin_with(begin).await?;
        let position = applied(&mut transaction, name).await?;
        Ok(Self { transaction, position })
    }

    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    pub async fn close<T>(self, value: T) -> Result<AsOf<T>, sqlx::Error> {
        self.transaction.commit().await?;
        Ok(AsOf { position: self.position, value })
    }
}

async fn applied(connection: &mut PgConnection, name: &str) -> Result<u64, sqlx::Error> {
    let position = sqlx::query_scalar!("SELECT position FROM subscriptions WHERE name = $1", name);
    Ok(position.fetch_optional(connection).await?.unwrap_or(0).cast_unsigned())
}
