//! Work that one process at a time does: a row that says whose it is, until when, and in which session.
//!
//! An advisory lock would do with less, but whoever can connect can take it. Whoever holds a lease has to say so again while it
//! lasts; it is free at once when his session ends. Times are the database's alone.

use std::time::Duration;

use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

/// How long a lease is somebody's who does not say anything.
pub const LEASE: Duration = Duration::from_secs(5);

/// A lease as somebody wants it or has it.
#[derive(Debug, Clone)]
pub struct Lease {
    name: String,
    holder: Uuid,
}

impl Lease {
    /// Nobody's yet.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), holder: Uuid::now_v7() }
    }

    /// Whether nobody has it, so that it is worth a connection to ask for it.
    pub async fn is_free(&self, executor: impl PgExecutor<'_>) -> Result<bool, sqlx::Error> {
        let free = sqlx::query_scalar!(
            r#"SELECT has_left(holder_pid, leased_until) AS "is_free!" FROM leases WHERE name = $1"#,
            self.name
        );
        Ok(free.fetch_optional(executor).await?.unwrap_or(true))
    }

    /// Takes it for the session of `connection`; `false` where somebody else has it.
    pub async fn take(&self, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        let taken = sqlx::query!(
            "INSERT INTO leases AS l (name, holder, holder_pid, leased_until)
             VALUES ($1, $2, pg_backend_pid(), now() + make_interval(secs => $3))
             ON CONFLICT ON CONSTRAINT leases_name DO UPDATE
                 SET holder = excluded.holder, holder_pid = excluded.holder_pid, leased_until = excluded.leased_until
                 WHERE l.holder = excluded.holder OR has_left(l.holder_pid, l.leased_until)",
            self.name,
            self.holder,
            LEASE.as_secs_f64(),
        );
        Ok(taken.execute(connection).await?.rows_affected() == 1)
    }

    /// Keeps it; `false` where it is somebody else's by now.
    pub async fn keep(&self, executor: impl PgExecutor<'_>) -> Result<bool, sqlx::Error> {
        let kept = sqlx::query!(
            "UPDATE leases SET leased_until = now() + make_interval(secs => $3) WHERE name = $1 AND holder = $2",
            self.name,
            self.holder,
            LEASE.as_secs_f64(),
        );
        Ok(kept.execute(executor).await?.rows_affected() == 1)
    }

    pub async fn give_back(&self, executor: impl PgExecutor<'_>) -> Result<(), sqlx::Error> {
        let give_back = sqlx::query!("DELETE FROM leases WHERE name = $1 AND holder = $2", self.name, self.holder);
        give_back.execute(executor).await.map(drop)
    }
}
