//! What a session of the database relies on: stated after it was made, and then looked at.
//!
//! Start-up options would be one round trip less, but poolers drop them, and what a database or role was given with
//! `ALTER DATABASE … SET` would be in force for everything that is not among them.

use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection, Row};
use tokio::time::timeout;
use uuid::Uuid;

use super::DatabaseError;

/// In force for every session that says nothing else. `role` comes first: the others are then set with our own rights.
const COMMON: [(&str, &str); 20] = [
    ("role", "none"),
    // Tables are named without their schema, so that a rebuild can fill copies in another, and so that an auditor, who does not
    // see the schema public, finds what is his to read.
    ("search_path", "public, read, work, audit"),
    // The log's functions need each statement to see what was committed before it.
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    // From PostgreSQL 17 on.
    ("transaction_timeout", "0"),
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    ("client_encoding", "UTF8"),
    ("standard_conforming_strings", "on"),
    // Both ends give a peer up that is gone without a word: the server drops what holds locks.
    ("tcp_user_timeout", "10000"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "2"),
];
/// Of a setting: not every version has all of them.
const KNOWN: &str = "(current_setting(name, true) IS NOT NULL OR name LIKE 'aihub.%')";
/// Names the settings that a session was given: another one's are not ours.
const MARK: &str = "aihub.session";
/// For a look at a session that should be answered at once.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// The settings of sessions of one kind.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    settings: Vec<(String, String)>,
    mark: String,
}

/// What was found when a session was looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It is as it was left, and can write.
    AsLeft,
    /// The server is a standby, or was set to be read only. Another session may be better off, behind a proxy for instance.
    ReadOnly,
    /// Its settings are not ours: something gave us another session of the server.
    Another,
}

impl SessionSettings {
    /// The common ones, and `own`, which have the last word.
    pub fn new<'s>(own: impl IntoIterator<Item = (&'s str, &'s str)>) -> Self {
        let mut settings: Vec<(String, String)> =
            COMMON.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        for (name, value) in own {
            match settings.iter_mut().find(|(known, _)| known == name) {
                Some((_, common)) => value.clone_into(common),
                None => settings.push((name.to_owned(), value.to_owned())),
            }
        }
        let mark = Uuid::now_v7().simple().to_string();
        settings.push((MARK.to_owned(), mark.clone()));
        Self { settings, mark }
    }

    /// States them, and asks what is in force then: one message, two statements.
    pub async fn apply(&self, connection: &mut PgConnection) -> Result<(), DatabaseError> {
        let told = rows(connection, &self.statement()).await.map_err(pooled)?;
        let (stated, found) = told.split_at(told.len() / 2);
        for ((name, stated), (_, found)) in stated.iter().zip(found) {
            if stated != found {
                let (name, stated, found) = (name.clone(), stated.clone(), found.clone());
                return Err(DatabaseError::Setting { name, stated, found });
            }
        }
        Ok(())
    }

    /// The simple protocol, which needs no prepared statement: a pooler may have some of others. What only a superuser may set is
    /// compared: in another session than one of origin the triggers that keep the log do not run.
    fn statement(&self) -> String {
        let list = |one: fn(&(String, String)) -> String| self.settings.iter().map(one).collect::<Vec<_>>().join(", ");
        let values = list(|(name, value)| format!("({}, {})", literal(name), literal(value)));
        let names = list(|(name, _)| format!("({})", literal(name)));
        // A server may be set to wait for its standbys too, which is left alone, but for less than its own disk only where that
        // is said here.
        let says_what_is_durable = self.settings.iter().any(|(name, _)| name == "synchronous_commit");
        format!(
            "SELECT name, set_config(name, value, false) FROM (VALUES {values}) AS s (name, value) WHERE {KNOWN} \
             UNION ALL SELECT 'session_replication_role', 'origin' \
             UNION ALL SELECT 'synchronous_commit', CASE current_setting('synchronous_commit') \
                 WHEN 'off' THEN set_config('synchronous_commit', 'on', false) \
                 ELSE current_setting('synchronous_commit') END WHERE NOT {says_what_is_durable}; \
             SELECT name, current_setting(name) FROM (VALUES {names}) AS s (name) WHERE {KNOWN} \
             UNION ALL SELECT 'session_replication_role', current_setting('session_replication_role') \
             UNION ALL SELECT 'synchronous_commit', current_setting('synchronous_commit') \
             WHERE NOT {says_what_is_durable}"
        )
    }

    /// Whether the session can be used as it is.
    pub async fn look(&self, connection: &mut PgConnection) -> Result<Found, sqlx::Error> {
        let ask = format!(
            "SELECT coalesce(current_setting('{MARK}', true), ''), \
             CASE WHEN pg_is_in_recovery() THEN 'on' ELSE current_setting('transaction_read_only') END"
        );
        let answer = timeout(LOOK_TIMEOUT, rows(connection, &ask)).await;
        let rows = answer.unwrap_or_else(|late| Err(sqlx::Error::Io(late.into())))?;
        Ok(match rows.first() {
            Some((mark, _)) if *mark != self.mark => Found::Another,
            Some((_, read_only)) if read_only == "on" => Found::ReadOnly,
            _ => Found::AsLeft,
        })
    }
}

/// Finds out whether two connections have sessions of their own for longer than a transaction. A pooler that gives sessions
/// for no longer has given the second one what the first one has just used, and has to find another for the first.
pub async fn check_own_sessions(one: &mut PgConnection, other: &mut PgConnection) -> Result<(), DatabaseError> {
    let probe = Uuid::now_v7().simple().to_string();
    let state = format!("SELECT set_config('aihub.probe', '{probe}', false)");
    one.execute(&*state).await.map_err(pooled)?;
    let transaction = other.begin().await.map_err(pooled)?;
    let looked = rows(one, "SELECT '', coalesce(current_setting('aihub.probe', true), '')").await;
    transaction.rollback().await.map_err(pooled)?;
    let kept = looked.map_err(pooled)?.iter().all(|(_, found)| *found == probe);
    if kept { Ok(()) } else { Err(DatabaseError::TransactionPooling) }
}

/// What a pooler says that has no session for us: a statement of another client's, none of ours, or no transactions.
pub fn pooled(error: sqlx::Error) -> DatabaseError {
    let says = |code: &str| error.as_database_error().is_some_and(|error| error.code().is_some_and(|is| is == code));
    let is_statement_pooling =
        error.as_database_error().is_some_and(|error| error.message().contains("not allowed in statement pooling"));
    if says("42P05") || says("26000") || is_statement_pooling {
        DatabaseError::TransactionPooling
    } else {
        DatabaseError::Unreachable(error)
    }
}

async fn rows(connection: &mut PgConnection, sql: &str) -> Result<Vec<(String, String)>, sqlx::Error> {
    let rows = connection.fetch_all(sql).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_session_states_itself_has_the_last_word_and_stands_once() {
        let settings = SessionSettings::new([("search_path", "read_next, public"), ("jit", "off")]);
        let of = |name: &str| {
            let found: Vec<_> = settings.settings.iter().filter(|(known, _)| known == name).collect();
            assert_eq!(found.len(), 1, "{name}");
            found[0].1.clone()
        };
        assert_eq!(
            (of("search_path"), of("jit"), of("TimeZone")),
            ("read_next, public".into(), "off".into(), "UTC".into())
        );
    }

    #[test]
    fn a_literal_holds_whatever_it_is_given() {
        assert_eq!(literal("it's"), "'it''s'");
    }
}
