//! The chain: what was recorded cannot be changed, dropped or reordered unseen.

use aihub_infrastructure::event_store::{
    chain::{ChainError, ChainHead, verify},
    reader::RecordedEvent,
};
use aihub_tests::{
    database,
    log::{Node, lone_unit, stream, unit, verified},
};
use chrono::TimeDelta;
use uuid::Uuid;

/// Events of ours and of a program that leaves position and hashes to the database.
async fn recorded() -> Vec<RecordedEvent> {
    let database = database().await;
    let node = Node::start(&database.database);
    node.append(unit([stream("a", 0, 2), stream("b", 0, 1)])).await.unwrap();
    sqlx::query(
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
         VALUES ('Konto', 'ü€\\u0001', 1, 'Importé', '1', '{ \"a\" : \"ü\\u00fc\", \"a\": 1e0 }', ' {} ')",
    )
    .execute(database.pool())
    .await
    .unwrap();
    node.append(lone_unit()).await.unwrap();
    verified(database.pool()).await
}

#[tokio::test]
async fn a_changed_byte_a_dropped_event_and_a_new_order_are_each_found() {
    let events = recorded().await;
    assert_eq!(verify(ChainHead::GENESIS, &events).unwrap().position, 5);

    let changes: [fn(&mut RecordedEvent); 12] = [
        |event| event.aggregate_type.push('x'),
        |event| event.aggregate_id.push('x'),
        |event| event.sequence += 1,
        |event| event.event_type.push('x'),
        |event| event.event_version.push('x'),
        |event| event.payload.push(' '),
        |event| event.metadata.push(' '),
        |event| event.command_id = if event.command_id.is_none() { Some(Uuid::nil()) } else { None },
        |event| event.leaf_hash[31] ^= 1,
        |event| event.chain_hash[31] ^= 1,
        |event| event.recorded_at += TimeDelta::microseconds(1),
        // The same bytes, cut elsewhere.
        |event| event.aggregate_id.insert(0, event.aggregate_type.pop().unwrap()),
    ];
    for nth in 0..events.len() {
        for change in changes {
            let mut events = events.clone();
            change(&mut events[nth]);
            assert!(verify(ChainHead::GENESIS, &events).is_err(), "at {nth}: {:?}", events[nth]);
        }
        let mut dropped = events.clone();
        dropped.remove(nth);
        let outcome = verify(ChainHead::GENESIS, &dropped);
        let (expected, found) = (nth as u64 + 1, nth as u64 + 2);
        let at_the_end = nth + 1 == events.len();
        assert_eq!(outcome.err(), (!at_the_end).then_some(ChainError::Gap { expected, found }));
    }
    let mut swapped = events.clone();
    swapped.swap(1, 2);
    let (one, other) = (swapped[1].position, swapped[2].position);
    (swapped[1].position, swapped[2].position) = (other, one);
    assert!(matches!(verify(ChainHead::GENESIS, &swapped), Err(ChainError::Link { position: 2, .. })));
}

#[tokio::test]
async fn a_stretch_verifies_from_the_head_before_it_and_from_no_other() {
    let events = recorded().await;
    let head = verify(ChainHead::GENESIS, &events[..2]).unwrap();
    assert_eq!(verify(head, &events[2..]).unwrap().chain_hash, events[4].chain_hash);
    let other = ChainHead { chain_hash: [7; 32], ..head };
    assert!(matches!(verify(other, &events[2..]), Err(ChainError::Link { position: 3, .. })));
}

#[tokio::test]
async fn time_does_not_run_back_although_a_clock_does() {
    let database = database().await;
    let node = Node::start(&database.database);
    // As a machine wrote it whose clock was ahead.
    sqlx::query(
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata,
                             position, recorded_at, leaf_hash, chain_hash)
         SELECT 'T', 'a', 1, 'X', '1', '{}', '{}', 1, '2100-01-01T00:00:00Z', leaf,
                sha256(decode(repeat('00', 32), 'hex') || int8send(1)
                       || int8send((extract(epoch FROM '2100-01-01T00:00:00Z'::timestamptz) * 1000000)::bigint) || leaf)
         FROM event_leaf_hash('T', 'a', 1, 'X', '1', '{}', '{}', NULL) AS leaf",
    )
    .execute(database.pool())
    .await
    .unwrap();
    node.append(lone_unit()).await.unwrap();
    sqlx::query(
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
         VALUES ('T', 'a', 2, 'X', '1', '{}', '{}')",
    )
    .execute(database.pool())
    .await
    .unwrap();
    let events = verified(database.pool()).await;
    assert_eq!(events.len(), 3);
    assert!(events.iter().all(|event| event.recorded_at == events[0].recorded_at));
}
