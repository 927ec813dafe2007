//! The log's order under everything at once: nodes in batches, foreign programs in open transactions that roll back,
//! and readers that poll.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aihub_application::ports::event_log::AppendError;
use aihub_infrastructure::event_store::reader::{self, ReadLimit};
use aihub_tests::{
    TestDatabase, database,
    log::{AGGREGATE, Node, stream, unit, verified},
};
use futures::future::join_all;
use rand::RngExt;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const CALLERS_A_NODE: usize = 12;
const UNITS_A_CALLER: u64 = 60;
const FOREIGN_TRANSACTIONS: usize = 60;

/// Appends units of one or two streams, some of them on streams that others write to as well; the command ids and
/// positions of those that were accepted.
async fn call(node: &Node, caller: &str, accepted: &Mutex<HashMap<Uuid, u64>>) {
    let mut own = 0;
    for nth in 0..UNITS_A_CALLER {
        let mut streams = vec![stream(caller, own, 1 + usize::from(nth % 3 == 0))];
        if nth % 4 == 0 {
            // Mostly lost to somebody else.
            streams.push(stream(&format!("hot-{}", nth % 8), nth / 4, 1));
        }
        let events = streams[0].events.len() as u64;
        let unit = unit(streams);
        let command_id = unit.command_id;
        match node.append(unit).await {
            Ok(appended) => {
                own += events;
                accepted.lock().unwrap().insert(command_id, appended.position);
            }
            Err(AppendError::Conflict { stream: 1 }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// A program that knows nothing of positions: several statements a transaction, of which two in five roll back.
async fn write_like_a_foreigner(database: &TestDatabase, name: &str, committed: &AtomicU64) {
    for nth in 0..FOREIGN_TRANSACTIONS {
        let rows: i64 = rand::rng().random_range(1..4);
        let mut transaction = database.pool().begin().await.unwrap();
        for sequence in 1..=rows {
            sqlx::query(
                "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
                 VALUES ($1, $2, $3, 'Imported', '1', '{ \"from\" : \"elsewhere\" }', '{}')",
            )
            .bind(AGGREGATE)
            .bind(format!("{name}-{nth}"))
            .bind(sequence)
            .execute(&mut *transaction)
            .await
            .unwrap();
        }
        let (pause, rolls_back) = (rand::rng().random_range(0..3), rand::rng().random_ratio(2, 5));
        sleep(Duration::from_millis(pause)).await;
        if rolls_back {
            transaction.rollback().await.unwrap();
        } else {
            transaction.commit().await.unwrap();
            committed.fetch_add(rows.cast_unsigned(), Ordering::SeqCst);
        }
    }
}

/// Polls for what comes after the last position it saw; every position it was given.
async fn poll(database: &TestDatabase, all_written: &CancellationToken) -> u64 {
    let mut last = 0;
    loop {
        let is_last_look = all_written.is_cancelled();
        let events = reader::events_from(database.pool(), last + 1, ReadLimit { events: 50, bytes: 1 << 20 });
        let events = events.await.unwrap();
        for event in &events {
            assert_eq!(event.position, last + 1, "a position was skipped, or is not there yet");
            last = event.position;
        }
        if events.is_empty() && is_last_look {
            return last;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_reader_skips_an_event_whoever_writes_and_whatever_is_rolled_back() {
    let database = database().await;
    let nodes = [Node::start(&database.database), Node::start(&database.database), Node::start(&database.database)];
    let (accepted, foreign) = (Mutex::new(HashMap::new()), AtomicU64::new(0));
    let all_written = CancellationToken::new();
    let write = async {
        let callers = nodes.iter().enumerate().flat_map(|(node_index, node)| {
            let accepted = &accepted;
            (0..CALLERS_A_NODE).map(move |caller| async move {
                call(node, &format!("{node_index}-{caller}"), accepted).await;
            })
        });
        let foreigners = ["import", "cron", "repair"].map(|name| write_like_a_foreigner(&database, name, &foreign));
        tokio::join!(join_all(callers), join_all(foreigners));
        all_written.cancel();
    };
    let (seen, again, ()) = tokio::join!(poll(&database, &all_written), poll(&database, &all_written), write);

    let events = verified(database.pool()).await;
    assert_eq!((seen, again), (events.len() as u64, events.len() as u64), "none was missed");
    let accepted = accepted.into_inner().unwrap();
    let in_log: HashMap<_, _> = events.iter().filter_map(|event| Some((event.command_id?, event.position))).collect();
    assert_eq!(accepted, in_log, "what was accepted is in the log, once and where the caller was told");
    let imported = events.iter().filter(|event| event.event_type == "Imported").count() as u64;
    assert_eq!(imported, foreign.load(Ordering::SeqCst));
    let mut streams: HashMap<&str, u64> = HashMap::new();
    for event in &events {
        let last = streams.entry(&event.aggregate_id).or_default();
        *last += 1;
        assert_eq!(event.sequence, *last, "the stream {} has a hole", event.aggregate_id);
    }
}

#[tokio::test]
async fn a_foreign_transaction_that_sits_idle_on_the_lock_is_ended() {
    let database = database().await;
    let node = Node::start(&database.database);
    let mut transaction = database.pool().begin().await.unwrap();
    let insert =
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
                  VALUES ('Account', 'a', 1, 'Imported', '1', '{}', '{}')";
    sqlx::query(insert).execute(&mut *transaction).await.unwrap();
    // Everyone waits, but not for longer than the server lets it sit there.
    let appended = node.append(unit([stream("a", 0, 1)])).await.unwrap();
    assert_eq!(appended.position, 1);
    assert!(transaction.commit().await.is_err());
    assert_eq!(verified(database.pool()).await.len(), 1);
}
