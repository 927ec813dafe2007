//! `CqrsFramework` on the log.

use std::{collections::HashMap, num::NonZeroU64};

use aihub_infrastructure::event_store::cqrs_store::CqrsStore;
use aihub_tests::{
    TestDatabase, database,
    log::{Node, verified},
};
use cqrs_es::{AggregateContext, AggregateError, CqrsFramework, EventStore};
use serde_json::json;

use super::account::{Account, Command, Event};

fn store(database: &TestDatabase) -> CqrsStore {
    CqrsStore::new(Node::start(&database.database).log, NonZeroU64::new(3).unwrap())
}

async fn balance(store: &CqrsStore) -> i64 {
    let mut loaded = EventStore::<Account>::load_aggregate(store, "a").await.unwrap();
    loaded.aggregate().balance
}

async fn snapshot(database: &TestDatabase) -> Option<(i64, serde_json::Value)> {
    sqlx::query_as("SELECT last_sequence, payload FROM snapshots").fetch_optional(database.pool()).await.unwrap()
}

#[tokio::test]
async fn every_event_is_applied_once_with_and_without_a_snapshot() {
    let database = database().await;
    let cqrs = CqrsFramework::<Account, _>::new(store(&database), vec![], ());
    for deposits in 1..=7 {
        cqrs.execute("a", Command::Deposit(10)).await.unwrap();
        assert_eq!(balance(&store(&database)).await, 10 * deposits);
    }
    assert_eq!(snapshot(&database).await, Some((6, json!({ "balance": 60 }))));
    let refused = cqrs.execute("a", Command::Withdraw(80)).await;
    assert!(matches!(refused, Err(AggregateError::UserError(_))), "{refused:?}");
    cqrs.execute("a", Command::Withdraw(70)).await.unwrap();
    assert_eq!(balance(&store(&database)).await, 0);
    assert_eq!(verified(database.pool()).await.len(), 8);
}

#[tokio::test]
async fn a_snapshot_that_does_not_hold_is_not_believed() {
    let database = database().await;
    let cqrs = CqrsFramework::<Account, _>::new(store(&database), vec![], ());
    for _ in 0..4 {
        cqrs.execute("a", Command::Deposit(10)).await.unwrap();
    }
    for (sequence, state) in [(9, json!({ "balance": 90 })), (3, json!({ "of": "a former shape" }))] {
        sqlx::query("UPDATE snapshots SET last_sequence = $1, payload = $2")
            .bind(sequence)
            .bind(state)
            .execute(database.pool())
            .await
            .unwrap();
        assert_eq!(balance(&store(&database)).await, 40);
    }
}

#[tokio::test]
async fn two_commits_on_one_state_are_a_conflict_and_metadata_is_kept() {
    let database = database().await;
    let store = store(&database);
    let load = || EventStore::<Account>::load_aggregate(&store, "a");
    let (one, other) = (load().await.unwrap(), load().await.unwrap());
    let metadata: HashMap<_, _> = [("correlationId".to_owned(), "c".to_owned())].into();
    let events = || vec![Event::Deposited { amount: 1 }, Event::Deposited { amount: 2 }];
    let committed = store.commit(events(), one, metadata.clone()).await.unwrap();
    assert_eq!(committed.iter().map(|event| event.sequence).collect::<Vec<_>>(), [1, 2]);
    let refused = store.commit(events(), other, HashMap::new()).await;
    assert!(matches!(refused, Err(AggregateError::AggregateConflict)), "{refused:?}");
    let mut loaded = EventStore::<Account>::load_events(&store, "a").await.unwrap();
    assert_eq!(loaded.len(), 2);
    assert!(loaded[1].metadata.remove("databaseRole").is_some(), "whose login appended it");
    assert_eq!((&loaded[1].payload, &loaded[1].metadata), (&Event::Deposited { amount: 2 }, &metadata));
}
