//! What every repository of events has to do: ours and postgres-es's, on the same tables.

use aihub_infrastructure::event_store::repository::EventRepository;
use aihub_tests::{
    TestDatabase, database,
    log::{Node, sequences, verified},
};
use cqrs_es::persist::{PersistedEventRepository, PersistenceError, ReplayStream, SerializedEvent};
use futures::future::join_all;
use postgres_es::PostgresEventRepository;
use serde_json::{Value, json};

use super::account::{Account, Event};

fn event(id: &str, sequence: usize) -> SerializedEvent {
    SerializedEvent {
        aggregate_id: id.to_owned(),
        sequence,
        aggregate_type: "Account".to_owned(),
        event_type: "Deposited".to_owned(),
        event_version: "1".to_owned(),
        payload: json!({ "Deposited": { "amount": sequence } }),
        metadata: json!({ "actor": "tester" }),
    }
}

/// As they were persisted: the log says of each whose login appended it.
fn as_persisted(mut events: Vec<SerializedEvent>) -> Vec<SerializedEvent> {
    for event in &mut events {
        let login = event.metadata.as_object_mut().unwrap().remove("databaseRole");
        assert!(login.unwrap().is_string());
    }
    events
}

async fn persist<R: PersistedEventRepository>(
    repository: &R,
    id: &str,
    sequences: impl IntoIterator<Item = usize>,
) -> Result<(), PersistenceError> {
    let events: Vec<_> = sequences.into_iter().map(|sequence| event(id, sequence)).collect();
    repository.persist::<Account>(&events, None).await
}

async fn drain(mut stream: ReplayStream) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    while let Some(event) = stream.next::<Account>(&[]).await {
        let event = event.unwrap();
        found.push((event.aggregate_id, event.sequence));
    }
    found
}

async fn what_is_persisted_is_loaded_in_order<R: PersistedEventRepository>(repository: R) {
    assert!(repository.get_events::<Account>("a").await.unwrap().is_empty());
    persist(&repository, "a", [1, 2]).await.unwrap();
    persist(&repository, "b", [1]).await.unwrap();
    persist(&repository, "a", [3]).await.unwrap();
    let expected: Vec<_> = (1..=3).map(|sequence| event("a", sequence)).collect();
    assert_eq!(as_persisted(repository.get_events::<Account>("a").await.unwrap()), expected);
}

async fn the_last_events_are_those_after_a_sequence<R: PersistedEventRepository>(repository: R) {
    persist(&repository, "a", [1, 2, 3]).await.unwrap();
    let expected = vec![event("a", 3)];
    assert_eq!(as_persisted(repository.get_last_events::<Account>("a", 2).await.unwrap()), expected);
    assert!(repository.get_last_events::<Account>("a", 3).await.unwrap().is_empty());
}

async fn a_sequence_that_is_taken_is_an_optimistic_lock_error<R: PersistedEventRepository>(repository: R) {
    persist(&repository, "a", [1, 2]).await.unwrap();
    for refused in [vec![2], vec![2, 3], vec![3, 2]] {
        let outcome = persist(&repository, "a", refused.clone()).await;
        assert!(matches!(outcome, Err(PersistenceError::OptimisticLockError)), "{refused:?}: {outcome:?}");
    }
    assert_eq!(repository.get_events::<Account>("a").await.unwrap().len(), 2);
}

async fn of_many_writers_of_a_sequence_one_wins<R: PersistedEventRepository>(repository: R) {
    let outcomes = join_all((0..8).map(|_| persist(&repository, "a", [1]))).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert_eq!(repository.get_events::<Account>("a").await.unwrap().len(), 1);
}

async fn a_replay_gives_a_stream_or_all_of_a_type<R: PersistedEventRepository>(repository: R) {
    persist(&repository, "a", [1]).await.unwrap();
    persist(&repository, "b", [1, 2]).await.unwrap();
    persist(&repository, "a", 2..=700).await.unwrap();
    let of_a = drain(repository.stream_events::<Account>("a").await.unwrap()).await;
    assert_eq!(of_a, (1..=700).map(|sequence| ("a".to_owned(), sequence)).collect::<Vec<_>>());
    let mut all = drain(repository.stream_all_events::<Account>().await.unwrap()).await;
    all.sort();
    let of_b = (1..=2).map(|sequence| ("b".to_owned(), sequence));
    assert_eq!(all, of_a.into_iter().chain(of_b).collect::<Vec<_>>());
}

async fn the_newest_snapshot_is_read_back<R: PersistedEventRepository>(repository: R) {
    assert_eq!(repository.get_snapshot::<Account>("a").await.unwrap(), None);
    let snapshot = |balance: i64, number| Some(("a".to_owned(), json!({ "balance": balance }), number));
    repository.persist::<Account>(&[event("a", 1)], snapshot(1, 1)).await.unwrap();
    repository.persist::<Account>(&[event("a", 2)], snapshot(3, 2)).await.unwrap();
    let found = repository.get_snapshot::<Account>("a").await.unwrap().unwrap();
    assert_eq!((found.aggregate_id.as_str(), found.current_sequence, found.current_snapshot), ("a", 2, 2));
    assert_eq!(found.aggregate, json!({ "balance": 3 }));
}

/// Each promise, with each repository, on a database of its own, and the log in order afterwards.
macro_rules! contract {
    ($($promise:ident),* $(,)?) => {
        mod of_ours {
            $(#[tokio::test]
            async fn $promise() {
                let database = aihub_tests::database().await;
                super::$promise(super::ours(&database)).await;
                aihub_tests::log::verified(database.pool()).await;
            })*
        }
        mod of_postgres_es {
            $(#[tokio::test]
            async fn $promise() {
                let database = aihub_tests::database().await;
                super::$promise(super::theirs(&database)).await;
                aihub_tests::log::verified(database.pool()).await;
            })*
        }
    };
}

contract!(
    what_is_persisted_is_loaded_in_order,
    the_last_events_are_those_after_a_sequence,
    a_sequence_that_is_taken_is_an_optimistic_lock_error,
    of_many_writers_of_a_sequence_one_wins,
    a_replay_gives_a_stream_or_all_of_a_type,
    the_newest_snapshot_is_read_back,
);

fn ours(database: &TestDatabase) -> EventRepository {
    let node = Node::start(&database.database);
    EventRepository::new(node.log, node.tracker)
}

fn theirs(database: &TestDatabase) -> PostgresEventRepository {
    PostgresEventRepository::new(database.pool().clone())
}

#[tokio::test]
async fn both_repositories_append_to_one_log_and_see_each_other() {
    let database = database().await;
    let (ours, theirs) = (ours(&database), theirs(&database));
    for round in 0..20 {
        let next = 2 * round + 1;
        persist(&ours, "shared", [next]).await.unwrap();
        persist(&theirs, "shared", [next + 1]).await.unwrap();
        let id = |who: &str| format!("{who}-{round}");
        let (our_id, their_id) = (id("ours"), id("theirs"));
        let (one, other) = tokio::join!(persist(&ours, &our_id, [1, 2]), persist(&theirs, &their_id, [1, 2]));
        assert!(one.is_ok() && other.is_ok());
    }
    assert_eq!(
        ours.get_events::<Account>("shared").await.unwrap(),
        theirs.get_events::<Account>("shared").await.unwrap()
    );
    let events = verified(database.pool()).await;
    assert_eq!(events.len(), 120);
    assert_eq!(sequences(&events, "shared"), (1..=40).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_replay_that_the_database_breaks_off_ends_in_an_error_and_not_as_a_short_log() {
    let database = database().await;
    let ours = ours(&database);
    persist(&ours, "a", 1..=2000).await.unwrap();
    let mut stream = ours.stream_all_events::<Account>().await.unwrap();
    assert!(stream.next::<Account>(&[]).await.unwrap().is_ok());
    sqlx::query("ALTER TABLE events RENAME COLUMN payload TO elsewhere").execute(database.pool()).await.unwrap();
    let mut last = None;
    while let Some(event) = stream.next::<Account>(&[]).await {
        last = Some(event);
    }
    assert!(matches!(last, Some(Err(PersistenceError::ConnectionError(_)))), "{last:?}");
}

#[test]
fn the_events_of_the_suite_are_those_of_the_aggregate() {
    let payload: Value = event("a", 7).payload;
    assert_eq!(serde_json::from_value::<Event>(payload).unwrap(), Event::Deposited { amount: 7 });
}
