//! What is appended says which login did it, in bytes that the chain covers; and only the service, and who was given that right,
//! can append at all.

use aihub_application::ports::event_log::{Metadata, NewEvent};
use aihub_infrastructure::{database::Database, event_store::still_log::LogStopper};
use aihub_tests::{
    TestDatabase, database,
    log::{Node, lone_unit, stream, unit, verified},
};
use serde_json::Value;
use sqlx::{Executor, PgConnection, error::DatabaseError};

use super::connect_like_us;

const INSERT: &str =
    "INSERT INTO public.events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
     VALUES ('account', 'acme', 1, 'CreditsGranted', '1', '{}', '{\"actor\": \"somebody\"}')";

fn login_of(url: &str) -> &str {
    url.split_once("://").unwrap().1.split_once(':').unwrap().0
}

/// The login in the metadata of each event of the log, which verifies.
async fn logins(database: &TestDatabase) -> Vec<String> {
    let events = verified(database.pool()).await;
    let login = |metadata: &str| {
        let metadata: Value = serde_json::from_str(metadata).unwrap();
        metadata["databaseRole"].as_str().unwrap().to_owned()
    };
    events.iter().map(|event| login(&event.metadata)).collect()
}

async fn is_denied(connection: &mut PgConnection, sql: &str) {
    let error = connection.execute(sql).await.unwrap_err();
    let code = error.as_database_error().and_then(DatabaseError::code).unwrap_or_default().into_owned();
    assert_eq!(code, "42501", "{sql}: {error}");
}

#[tokio::test]
async fn every_event_says_which_login_appended_it_whatever_role_was_set() {
    let database = database().await;
    let service = database.login("", &["aihub_service"]).await;
    let writer = database.login("", &["aihub_writer", "aihub_service"]).await;
    let node = Node::start(&Database::connect(&service).await.unwrap());
    node.append(unit([stream("a", 0, 2)])).await.unwrap();
    let mut foreign = connect_like_us(&writer).await;
    foreign.execute("SET ROLE aihub_writer").await.unwrap();
    foreign.execute(INSERT).await.unwrap();
    let (service, writer) = (login_of(&service.url), login_of(&writer.url));
    assert_eq!(logins(&database).await, [service, service, writer]);
    let said: Value = serde_json::from_str(&verified(database.pool()).await[2].metadata).unwrap();
    assert_eq!(said["actor"], "somebody", "what the program said itself stays");
}

#[tokio::test]
async fn what_has_to_be_the_very_next_event_is_appended_with_the_rights_of_the_service() {
    let database = database().await;
    let options = database.login("", &["aihub_service"]).await;
    let service = Database::connect(&options).await.unwrap();
    Node::start(&service).append(lone_unit()).await.unwrap();
    let event = NewEvent { event_type: "X".to_owned(), event_version: "1".to_owned(), payload: "{}".to_owned() };
    let metadata = Metadata::from([("actor", "ann".to_owned())]);
    let mut stopper = LogStopper::connect(&service).await.unwrap();
    let still = stopper.stop().await.unwrap();
    assert_eq!(still.head.position, 1);
    assert_eq!(still.append_first("period", "2026-10", &event, &metadata).await.unwrap(), 2);
    assert_eq!(logins(&database).await, [service.login(), service.login()]);
}

#[tokio::test]
async fn nobody_appends_in_the_name_of_another_login() {
    let database = database().await;
    let options = database.login("", &["aihub_service"]).await;
    let service = Database::connect(&options).await.unwrap();
    let mut connection = connect_like_us(&options).await;
    let forged = [
        r"{}",
        r#"{"databaseRole":"postgres"}"#,
        // What it says last is inside of something else.
        r#"{"a\"databaseRole":"LOGIN"}"#,
        r#"{"databaseRole":"LOGIN","databaseRole":"postgres"}"#,
    ];
    for metadata in forged {
        let metadata = metadata.replace("LOGIN", service.login());
        let call = format!(
            "CALL append_events('{{1}}', '{{-1}}', '{{1}}', '{{0}}', '{{1}}', '{{account}}', '{{acme}}', '{{0}}', false,
                 '{{1}}', '{{1}}', '{{CreditsGranted}}', '{{1}}', ARRAY['{{}}'::json], ARRAY['{metadata}'::json],
                 ARRAY[gen_random_uuid()], ARRAY[sha256('x')],
                 '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', NULL, NULL, NULL, NULL)"
        );
        is_denied(&mut connection, &call).await;
    }
    assert!(verified(database.pool()).await.is_empty());
}

#[tokio::test]
async fn the_service_reaches_the_log_through_its_functions_alone() {
    let database = database().await;
    let options = database.login("", &["aihub_service"]).await;
    let node = Node::start(&Database::connect(&options).await.unwrap());
    node.append(lone_unit()).await.unwrap();
    let mut service = connect_like_us(&options).await;
    for sql in [
        INSERT,
        "UPDATE events SET payload = '{}'",
        "DELETE FROM events",
        "TRUNCATE events",
        "ALTER TABLE events DISABLE TRIGGER ALL",
        "DROP TABLE events",
        "UPDATE checkpoints SET note = ''",
        "DELETE FROM checkpoints",
        "INSERT INTO contents VALUES ('acme', 'chat', '2026-11-01', '', '')",
        "UPDATE contents SET bytes = ''",
        "UPDATE _sqlx_migrations SET success = false",
        "DO $$ BEGIN LOCK TABLE log_lock IN ACCESS SHARE MODE; END $$",
        "DO $$ BEGIN LOCK TABLE events IN EXCLUSIVE MODE; END $$",
        "CREATE TABLE public.mine ()",
        "CREATE SCHEMA mine",
        "SELECT copy_table('public', 'events')",
        "SELECT replace_table('public', 'events', 0)",
        "SET session_replication_role = replica",
    ] {
        is_denied(&mut service, sql).await;
    }
    assert_eq!(verified(database.pool()).await.len(), 1);
}

/// With E20's event, which is not what it says: it never comes into the log.
#[tokio::test]
async fn the_door_for_other_programs_is_closed_to_everybody_who_was_not_given_it() {
    let database = database().await;
    for role in ["aihub_service", "aihub_finance", "aihub_auditor"] {
        let mut connection = connect_like_us(&database.login("", &[role]).await).await;
        is_denied(&mut connection, INSERT).await;
    }
    let mut writer = connect_like_us(&database.login("", &["aihub_writer"]).await).await;
    let placed = INSERT.replace("metadata)", "metadata, position, recorded_at, leaf_hash, chain_hash)");
    let placed = placed.replace("}')", "}', 1, now(), sha256('a'), sha256('b'))");
    is_denied(&mut writer, &placed).await;
    for sql in
        ["UPDATE events SET payload = '{}'", "DELETE FROM events", "SELECT lock_log()", "SELECT * FROM subject_keys"]
    {
        is_denied(&mut writer, sql).await;
    }
    let no_object = INSERT.replace("{\"actor\": \"somebody\"}", "[]");
    assert!(writer.execute(&*no_object).await.unwrap_err().to_string().contains("is a JSON object"));
    writer.execute(INSERT).await.unwrap();
    assert_eq!(verified(database.pool()).await.len(), 1);
}
