//! The schema: whether it is that of this version, and what makes it so.
//!
//! The service asks first and changes nothing where it is: so it needs no right to, and nobody can keep it waiting.

use std::sync::LazyLock;

use sqlx::{
    Connection, Executor, PgConnection,
    migrate::{Migrate, MigrateError, Migrator},
};

use super::{Database, DatabaseError};

/// The schema, in steps. Until the first release they may be edited in place; after it they are only ever added.
///
/// The migrator's own lock is an advisory one, which anybody could hold.
pub static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrations = sqlx::migrate!("../migrations");
    migrations.set_locking(false);
    migrations
});

/// How long a step waits for those who read what it changes, while others wait behind it.
const LOCK_TIMEOUT: &str = "10s";
/// Two who make the migrator's table at the same time.
const IS_THERE_ALREADY: [&str; 3] = ["23505", "42P07", "42710"];

/// What there is of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaState {
    /// All steps of this version and no others.
    Current,
    /// So many steps are still to be applied.
    Behind(usize),
    /// A step of another version, or one that was applied in another form.
    Another(i64),
}

impl Database {
    /// Brings the schema up to date where it is not; whether it was not. Several may do so at once: they wait for each other.
    pub async fn migrate(&self) -> Result<bool, DatabaseError> {
        let mut connection = self.migrator(LOCK_TIMEOUT).await?;
        if state(&mut connection).await? == SchemaState::Current {
            return Ok(false);
        }
        if !may_migrate(&mut connection).await.map_err(DatabaseError::Unreachable)? {
            let found = match state(&mut connection).await? {
                SchemaState::Behind(steps) => format!("{steps} steps are missing"),
                SchemaState::Another(version) => format!("step {version} is not one of this version"),
                SchemaState::Current => return Ok(false),
            };
            return Err(DatabaseError::NotMigrated { found, login: self.login().to_owned() });
        }
        let mut guard = self.migrator("0").await?;
        make_table(&mut guard).await?;
        let mut turn = guard.begin().await.map_err(DatabaseError::Unreachable)?;
        // The steps write into the table, which this mode allows, and nobody else takes it meanwhile. It takes a right to the
        // table.
        turn.execute("LOCK TABLE _sqlx_migrations IN SHARE UPDATE EXCLUSIVE MODE")
            .await
            .map_err(DatabaseError::Unreachable)?;
        MIGRATIONS.run(&mut connection).await?;
        turn.rollback().await.map_err(DatabaseError::Unreachable)?;
        Ok(true)
    }

    async fn migrator(&self, lock_timeout: &str) -> Result<PgConnection, DatabaseError> {
        let settings = [("lock_timeout", lock_timeout.to_owned())];
        self.dedicated("aihub-migrate", &settings).await.map_err(DatabaseError::Unreachable)
    }
}

async fn state(connection: &mut PgConnection) -> Result<SchemaState, DatabaseError> {
    let there = sqlx::query_scalar::<_, bool>("SELECT to_regclass('public._sqlx_migrations') IS NOT NULL");
    let applied = if there.fetch_one(&mut *connection).await.map_err(DatabaseError::Unreachable)? {
        connection.list_applied_migrations().await?
    } else {
        vec![]
    };
    let ours = |version: i64| MIGRATIONS.iter().find(|migration| migration.version == version);
    let other = applied.iter().find(|of| ours(of.version).is_none_or(|ours| ours.checksum != of.checksum));
    Ok(match other {
        Some(other) => SchemaState::Another(other.version),
        None if applied.len() == MIGRATIONS.iter().count() => SchemaState::Current,
        None => SchemaState::Behind(MIGRATIONS.iter().count() - applied.len()),
    })
}

/// Whether the login may make tables, and owns those that there are.
async fn may_migrate(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT has_schema_privilege('public', 'CREATE')
            AND coalesce((SELECT pg_has_role(c.relowner, 'USAGE') FROM pg_class c
                          WHERE c.oid = to_regclass('public._sqlx_migrations')), true)",
    )
    .fetch_one(connection)
    .await
}

async fn make_table(connection: &mut PgConnection) -> Result<(), MigrateError> {
    for _ in 0..3 {
        match connection.ensure_migrations_table().await {
            Err(MigrateError::Execute(error))
                if error
                    .as_database_error()
                    .is_some_and(|error| error.code().is_some_and(|code| IS_THERE_ALREADY.contains(&&*code))) => {}
            done => return done,
        }
    }
    connection.ensure_migrations_table().await
}
