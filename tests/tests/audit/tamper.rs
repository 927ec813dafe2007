//! Whoever may write to the database may do all of this. Each is found, by the chain, by a signed checkpoint, or, where
//! checkpoints are gone as well, by one that was saved elsewhere.

use aihub_infrastructure::{
    audit::{
        scan,
        verify::{Scope, Verdict},
    },
    event_store::{
        chain::ChainHead,
        reader::{self, RecordedEvent},
    },
};
use aihub_tests::TestDatabase;
use chrono::DateTime;
use sqlx::Executor;

use super::{a_log, report, sign, signing_key, verdict, whole_log};

/// Lets everything be changed, as a superuser can, and keeps what was there.
async fn open_up(database: &TestDatabase) {
    let pool = database.pool();
    pool.execute(
        "ALTER TABLE events DISABLE TRIGGER ALL; ALTER TABLE checkpoints DISABLE TRIGGER ALL;
         ALTER TABLE events DROP CONSTRAINT events_position, DROP CONSTRAINT events_stream_sequence,
                            DROP CONSTRAINT events_sequence_not_negative, ALTER position DROP NOT NULL,
                            ALTER leaf_hash DROP NOT NULL;
         DROP INDEX events_command_id;
         CREATE TABLE original AS SELECT * FROM events; CREATE TABLE original_view AS SELECT * FROM account_balance_v1;
         CREATE TABLE original_handlers AS SELECT * FROM subscriptions",
    )
    .await
    .unwrap();
}

async fn restore(database: &TestDatabase) {
    database
        .pool()
        .execute(
            "DELETE FROM events; INSERT INTO events SELECT * FROM original;
             DELETE FROM account_balance_v1; INSERT INTO account_balance_v1 SELECT * FROM original_view;
             DELETE FROM subscriptions; INSERT INTO subscriptions SELECT * FROM original_handlers",
        )
        .await
        .unwrap();
}

fn tampered_at(verdict: &Verdict) -> Option<u64> {
    if let Verdict::Tampered(fault) = verdict { Some(fault.position) } else { None }
}

/// The whole log, changed, with every hash computed anew, and the handlers' memories of them.
async fn rechain(database: &TestDatabase, change: impl Fn(&mut Vec<RecordedEvent>)) {
    let mut connection = scan::connect(&database.database).await.unwrap();
    let mut snapshot = scan::snapshot(&mut connection).await.unwrap();
    let mut events = Vec::new();
    {
        let mut scan = scan::events(&mut snapshot, 1, None).await.unwrap();
        while let Some(event) = scan.next().await.unwrap() {
            events.push(event);
        }
    }
    snapshot.commit().await.unwrap();
    change(&mut events);
    let mut head = ChainHead::GENESIS;
    database.pool().execute("DELETE FROM events").await.unwrap();
    for event in &mut events {
        event.position = head.position + 1;
        event.leaf_hash = event.leaf().hash();
        event.chain_hash = head.next_hash(event.recorded_at, &event.leaf_hash);
        head = ChainHead { position: event.position, chain_hash: event.chain_hash };
        sqlx::query("INSERT INTO events VALUES ($1, $2, $3, $4, $5, $6::json, $7::json, $8, $9, $10, $11, $12)")
            .bind(&event.aggregate_type)
            .bind(&event.aggregate_id)
            .bind(event.sequence.cast_signed())
            .bind(&event.event_type)
            .bind(&event.event_version)
            .bind(&event.payload)
            .bind(&event.metadata)
            .bind(event.position.cast_signed())
            .bind(event.recorded_at)
            .bind(event.command_id)
            .bind(event.leaf_hash.as_slice())
            .bind(event.chain_hash.as_slice())
            .execute(database.pool())
            .await
            .unwrap();
    }
    database
        .pool()
        .execute("UPDATE subscriptions s SET chain_hash = e.chain_hash FROM events e WHERE e.position = s.position")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_change_of_any_column_is_found_where_it_was_made() {
    let (database, _books) = a_log().await;
    sign(&database).await;
    assert_eq!(verdict(&database).await, Verdict::Intact);
    open_up(&database).await;
    let changes = [
        "aggregate_type = aggregate_type || 'x'",
        "aggregate_id = aggregate_id || 'x'",
        "aggregate_id = ''",
        "sequence = sequence + 1",
        "event_type = lower(event_type)",
        "event_version = event_version || '0'",
        "payload = (payload::text || ' ')::json",
        "payload = replace(payload::text, '0', '1')::json",
        "metadata = (' ' || metadata::text)::json",
        "recorded_at = recorded_at + interval '1 microsecond'",
        "command_id = CASE WHEN command_id IS NULL THEN '00000000-0000-0000-0000-000000000000'::uuid END",
        "leaf_hash = set_byte(leaf_hash, 31, get_byte(leaf_hash, 31) # 1)",
        "leaf_hash = substr(leaf_hash, 1, 31)",
        "leaf_hash = NULL",
        "chain_hash = set_byte(chain_hash, 0, get_byte(chain_hash, 0) # 128)",
    ];
    for change in changes {
        for position in [1, 2, 14, 33] {
            let update = format!("UPDATE events SET {change} WHERE position = {position}");
            database.pool().execute(&*update).await.unwrap();
            assert_eq!(tampered_at(&verdict(&database).await), Some(position), "{update}");
            restore(&database).await;
        }
    }
    assert_eq!(verdict(&database).await, Verdict::Intact);
}

#[tokio::test]
async fn a_flip_of_any_byte_of_an_event_is_found() {
    let (database, _books) = a_log().await;
    open_up(&database).await;
    let bytes: i32 = sqlx::query_scalar("SELECT octet_length(payload::text) FROM events WHERE position = 3")
        .fetch_one(database.pool())
        .await
        .unwrap();
    let mut found = 0;
    for (column, bytes) in [("payload", bytes), ("leaf_hash", 32), ("chain_hash", 32)] {
        for nth in 0..bytes {
            let flipped = match column {
                "payload" => "convert_from(set_byte(b, nth, get_byte(b, nth) # 1), 'UTF8')::json".to_owned(),
                hash => format!("set_byte({hash}, nth, get_byte({hash}, nth) # 1)"),
            };
            let flip = format!(
                "UPDATE events SET {column} = {flipped}
                 FROM (SELECT {nth} AS nth, convert_to(payload::text, 'UTF8') AS b FROM events WHERE position = 3) AS t
                 WHERE position = 3"
            );
            // What is no JSON any more cannot stand in the column.
            if database.pool().execute(&*flip).await.is_ok() {
                found += 1;
                assert_eq!(tampered_at(&verdict(&database).await), Some(3), "{flip}");
                database.pool().execute(&*flip).await.unwrap();
            }
        }
    }
    assert_eq!(verdict(&database).await, Verdict::Intact);
    assert!(found > 100, "{found}");
}

#[tokio::test]
async fn a_row_that_is_dropped_inserted_or_moved_is_found() {
    let (database, _books) = a_log().await;
    sign(&database).await;
    open_up(&database).await;
    let copy = |position: &str| {
        format!(
            "INSERT INTO events SELECT aggregate_type, aggregate_id, sequence, event_type, event_version, payload,
                 metadata, {position}, recorded_at, command_id, leaf_hash, chain_hash FROM events WHERE position = 5"
        )
    };
    for (change, found_at) in [
        ("DELETE FROM events WHERE position = 1".to_owned(), 1),
        ("DELETE FROM events WHERE position = 9".to_owned(), 9),
        ("UPDATE events SET position = CASE position WHEN 7 THEN 8 ELSE 7 END WHERE position IN (7, 8)".to_owned(), 7),
        ("UPDATE events SET position = 1000 WHERE position = 7".to_owned(), 7),
        (copy("5"), 6),
        (copy("0"), 1),
        (copy("-1"), 1),
        (copy("NULL"), 40),
        (copy("(SELECT max(position) + 1 FROM events)"), 40),
    ] {
        database.pool().execute(&*change).await.unwrap();
        let verdict = verdict(&database).await;
        assert_eq!(tampered_at(&verdict), Some(found_at), "{change}: {verdict}");
        restore(&database).await;
    }
}

#[tokio::test]
async fn a_tail_that_was_cut_off_is_missed_by_whoever_saw_it() {
    let (database, _books) = a_log().await;
    let saved = sign(&database).await;
    open_up(&database).await;
    let pool = database.pool();
    pool.execute("DELETE FROM events WHERE position > 20").await.unwrap();
    assert!(matches!(verdict(&database).await, Verdict::Incomplete(_)), "the checkpoint is of a later position");
    pool.execute("DELETE FROM checkpoints").await.unwrap();
    assert!(matches!(verdict(&database).await, Verdict::Incomplete(_)), "a view has applied what is gone");
    pool.execute(
        "UPDATE subscriptions SET position = 20, chain_hash = (SELECT chain_hash FROM events WHERE position = 20)",
    )
    .await
    .unwrap();
    let with_saved = Scope { saved: Some(saved), ..whole_log() };
    let verdict = report(&database, &with_saved).await.verdict;
    assert!(matches!(verdict, Verdict::Incomplete(_)), "the saved checkpoint is of a later position: {verdict}");
}

#[tokio::test]
async fn a_log_that_was_chained_anew_after_a_change_is_not_the_one_that_was_signed() {
    let (database, _books) = a_log().await;
    let saved = sign(&database).await;
    open_up(&database).await;
    rechain(&database, |events| events[3].metadata = r#"{"actor":"nobody"}"#.to_owned()).await;
    let found = verdict(&database).await;
    assert!(matches!(&found, Verdict::Tampered(fault) if fault.what.contains("signed checkpoint")), "{found}");

    database.pool().execute("DELETE FROM checkpoints").await.unwrap();
    assert_eq!(verdict(&database).await, Verdict::Intact, "whoever removed the checkpoints as well has another log");
    let with_saved = Scope { saved: Some(saved), ..whole_log() };
    let found = report(&database, &with_saved).await.verdict;
    assert!(matches!(&found, Verdict::Tampered(fault) if fault.what.contains("saved checkpoint")), "{found}");

    // What another key than the log's signs is not believed.
    let forged = signing_key(2).sign(reader::head(database.pool()).await.unwrap(), [0; 32], DateTime::UNIX_EPOCH);
    let insert = "INSERT INTO checkpoints (position, note, frontier) SELECT max(position), $1, '' FROM events";
    sqlx::query(insert).bind(forged).execute(database.pool()).await.unwrap();
    let found = verdict(&database).await;
    assert!(matches!(&found, Verdict::Tampered(fault) if fault.found.contains("no signature")), "{found}");
}

#[tokio::test]
async fn a_hole_in_a_stream_and_a_balance_that_does_not_add_up_are_found_even_where_all_hashes_are_right() {
    let (database, _books) = a_log().await;
    open_up(&database).await;
    rechain(&database, |events| {
        let nth = events.iter().position(|event| event.event_type == "RequestFailed").unwrap();
        events[nth - 1].sequence += 1;
    })
    .await;
    let found = verdict(&database).await;
    assert!(matches!(&found, Verdict::Tampered(fault) if fault.what.contains("a hole")), "{found}");
    restore(&database).await;

    rechain(&database, |events| {
        let grant = events.iter_mut().find(|event| event.event_type == "CreditsGranted").unwrap();
        grant.payload = grant.payload.replace("10000", "20000");
    })
    .await;
    let found = verdict(&database).await;
    assert!(matches!(&found, Verdict::Tampered(fault) if fault.what.contains("add up to")), "{found}");
    restore(&database).await;

    let more = "UPDATE account_balance_v1 SET granted_microcredits = granted_microcredits + 1,
                available_microcredits = available_microcredits + 1 WHERE account = 'acme'";
    for change in [more, "DELETE FROM account_balance_v1 WHERE account = 'acme'"] {
        database.pool().execute(change).await.unwrap();
        let found = verdict(&database).await;
        assert!(matches!(&found, Verdict::Tampered(fault) if fault.what.contains("account acme")), "{found}");
        restore(&database).await;
    }
    assert_eq!(verdict(&database).await, Verdict::Intact);
}
