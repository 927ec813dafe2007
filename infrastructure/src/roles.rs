//! Who may do what in the database: four groups that logins are put into, made and given their rights by whoever migrates.
//!
//! | role | what it is for |
//! |---|---|
//! | `<prefix>_service` | the service: appends through the log's functions, reads the log, works with its own tables |
//! | `<prefix>_finance` | reads the views in the schema `read` |
//! | `<prefix>_auditor` | reads the log and what proves it, in the schema `audit`, and the views; no key |
//! | `<prefix>_writer` | a program that uses cqrs-es on its own, and inserts events that the log's trigger puts in place |
//!
//! The owner is whoever migrates: what he makes is his. What each role may is in `migrations/0010_roles.sql`.

use sqlx::PgConnection;

use crate::database::{Database, DatabaseError};

/// What the roles are called. They belong to the whole server: several databases share them, or have a prefix each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleNames {
    pub service: String,
    pub finance: String,
    pub auditor: String,
    pub writer: String,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Made {
    /// Roles that there are not, and that the login may not make.
    pub missing: Vec<String>,
    /// Logins that read the views, have no limits, and that the login may not limit.
    pub unlimited: Vec<String>,
}

impl RoleNames {
    pub fn with_prefix(prefix: &str) -> Self {
        let name = |role: &str| format!("{prefix}_{role}");
        Self { service: name("service"), finance: name("finance"), auditor: name("auditor"), writer: name("writer") }
    }

    /// Makes those that are missing, gives each its rights, and limits those who read the views. Run again it changes nothing.
    pub async fn make(&self, database: &Database) -> Result<Made, DatabaseError> {
        let connection = database.dedicated("aihub-migrate", &[("lock_timeout", "10s".to_owned())]).await;
        let mut connection = connection.map_err(DatabaseError::Unreachable)?;
        self.make_with(&mut connection).await.map_err(DatabaseError::Roles)
    }

    async fn make_with(&self, connection: &mut PgConnection) -> Result<Made, sqlx::Error> {
        let mut made = Made::default();
        let mut there = Vec::new();
        for role in [&self.service, &self.finance, &self.auditor, &self.writer] {
            let is_there: bool =
                sqlx::query_scalar("SELECT make_role($1)").bind(role).fetch_one(&mut *connection).await?;
            if !is_there {
                made.missing.push(role.clone());
            }
            there.push(is_there.then_some(role));
        }
        let mut grant = sqlx::query("SELECT grant_rights($1, $2, $3, $4)");
        for role in there {
            grant = grant.bind(role);
        }
        grant.execute(&mut *connection).await?;
        if !made.missing.contains(&self.finance) {
            let limit = sqlx::query_scalar("SELECT login FROM limit_readers($1, $2, $3)");
            made.unlimited =
                limit.bind(&self.finance).bind(&self.auditor).bind(&self.service).fetch_all(connection).await?;
        }
        Ok(made)
    }
}

/// What the login may that the service does not need, in words; `None` where that is nothing.
pub async fn needless_rights(database: &Database) -> Result<Option<String>, sqlx::Error> {
    let rights = sqlx::query!(
        r#"SELECT r.rolsuper AS "is_superuser!", pg_has_role(c.relowner, 'USAGE') AS "is_owner!",
                  has_any_column_privilege(c.oid, 'INSERT') OR has_table_privilege(c.oid, 'UPDATE, DELETE, TRUNCATE')
                      AS "writes!"
           FROM pg_class c, pg_roles r WHERE c.oid = 'events'::regclass AND r.rolname = current_user"#
    );
    let rights = rights.fetch_one(database.pool()).await?;
    let what = if rights.is_superuser {
        "is a superuser"
    } else if rights.is_owner {
        "owns the tables"
    } else if rights.writes {
        "may write into the log past its functions"
    } else {
        return Ok(None);
    };
    Ok(Some(format!("the database login {} {what}", database.login())))
}
