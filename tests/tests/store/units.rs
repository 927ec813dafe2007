//! Units: whole or not at all, in order, once.

use aihub_application::ports::event_log::{AppendError, Appended, Basis, EventLog, NewEvent, Unit};
use aihub_infrastructure::event_store::writer::WriterOptions;
use aihub_tests::{
    database,
    log::{AGGREGATE, Node, lone_unit, sequences, stream, unit, verified},
};
use serde_json::json;

#[tokio::test]
async fn a_unit_is_read_back_as_it_was_appended() {
    let database = database().await;
    let node = Node::start(&database.database);
    let appended = node.append(unit([stream("a", 0, 2), stream("b", 0, 1)])).await.unwrap();
    assert_eq!(appended, Appended { position: 1, repeated: false });

    let events = verified(database.pool()).await;
    assert_eq!(events.len(), 3);
    assert_eq!((sequences(&events, "a"), sequences(&events, "b")), (vec![1, 2], vec![1]));
    assert_eq!(events[0].payload, r#"{ "nth": 0, "note": "ü€ \" " }"#, "the text is kept to the byte");
    assert!(events[0].command_id.is_some() && events[1].command_id.is_none() && events[2].command_id.is_none());

    let loaded = node.log.load(AGGREGATE, "a", 1).await.unwrap();
    assert_eq!(loaded.len(), 1);
    assert_eq!((loaded[0].sequence, &loaded[0].payload["nth"]), (2, &json!(1)));
}

#[tokio::test]
async fn calls_made_one_after_another_are_appended_in_that_order() {
    let database = database().await;
    let node = Node::start(&database.database);
    let calls: Vec<_> = (0..300).map(|nth| node.log.append(unit([stream("a", nth, 1)]))).collect();
    for (nth, outcome) in futures::future::join_all(calls).await.into_iter().enumerate() {
        assert_eq!(outcome.unwrap(), Appended { position: nth as u64 + 1, repeated: false });
    }
    assert_eq!(sequences(&verified(database.pool()).await, "a"), (1..=300).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_unit_that_lost_the_race_names_the_stream_and_adds_nothing() {
    let database = database().await;
    let node = Node::start(&database.database);
    node.append(unit([stream("b", 0, 1)])).await.unwrap();
    let outcome = node.append(unit([stream("a", 0, 1), stream("b", 0, 1), stream("c", 0, 1)])).await;
    assert!(matches!(outcome, Err(AppendError::Conflict { stream: 1 })), "{outcome:?}");
    assert_eq!(verified(database.pool()).await.len(), 1);
}

#[tokio::test]
async fn a_unit_that_skips_a_sequence_is_a_conflict_so_that_no_stream_gets_a_hole() {
    let database = database().await;
    let node = Node::start(&database.database);
    let outcome = node.append(unit([stream("a", 3, 1)])).await;
    assert!(matches!(outcome, Err(AppendError::Conflict { stream: 0 })), "{outcome:?}");
    assert!(verified(database.pool()).await.is_empty());
}

#[tokio::test]
async fn units_that_build_on_one_that_was_set_aside_are_set_aside_with_it() {
    let database = database().await;
    let (node, other) = (Node::start(&database.database), Node::start(&database.database));
    other.append(unit([stream("a", 0, 1)])).await.unwrap();
    // Queued in one go: three that follow from each other on a state that the other node made stale, and one beside.
    let calls = [
        node.log.append(unit([stream("a", 0, 1)])),
        node.log.append(unit([stream("a", 1, 1), stream("b", 0, 1)])),
        node.log.append(unit([stream("a", 1, 2)])),
        node.log.append(unit([stream("b", 0, 1)])),
        node.log.append(unit([stream("b", 1, 1)])),
    ];
    let outcomes = futures::future::join_all(calls).await;
    assert!(matches!(outcomes[0], Err(AppendError::Conflict { stream: 0 })), "{:?}", outcomes[0]);
    // This one expects what is really there, so it stands.
    assert_eq!(outcomes[1].as_ref().unwrap().position, 2);
    assert!(matches!(outcomes[2], Err(AppendError::Conflict { stream: 0 })), "{:?}", outcomes[2]);
    assert!(matches!(outcomes[3], Err(AppendError::Conflict { stream: 0 })), "{:?}", outcomes[3]);
    assert_eq!(outcomes[4].as_ref().unwrap().position, 4);
    let events = verified(database.pool()).await;
    assert_eq!((sequences(&events, "a"), sequences(&events, "b")), (vec![1, 2], vec![1, 2]));
}

#[tokio::test]
async fn a_command_that_was_committed_answers_with_its_first_position_and_adds_nothing() {
    let database = database().await;
    let node = Node::start(&database.database);
    node.append(lone_unit()).await.unwrap();
    let first = unit([stream("a", 0, 2)]);
    assert_eq!(node.append(first.clone()).await.unwrap(), Appended { position: 2, repeated: false });
    // As it was, and decided anew on what is there now.
    assert_eq!(node.append(first.clone()).await.unwrap(), Appended { position: 2, repeated: true });
    let mut again = unit([stream("a", 2, 1)]);
    again.command_id = first.command_id;
    // Both are queued while the same command is under way: neither is in the same batch as the other.
    let calls = [node.log.append(again.clone()), node.log.append(again)];
    for outcome in futures::future::join_all(calls).await {
        assert_eq!(outcome.unwrap(), Appended { position: 2, repeated: true });
    }
    assert_eq!(verified(database.pool()).await.len(), 3);
}

#[tokio::test]
async fn what_cannot_stand_in_the_log_is_refused_alone() {
    let database = database().await;
    let node = Node::start(&database.database);
    let with_payload = |payload: &str| {
        let mut stream = stream("bad", 0, 1);
        stream.events =
            vec![NewEvent { event_type: "X".to_owned(), event_version: "1".to_owned(), payload: payload.to_owned() }];
        unit([stream])
    };
    let calls = [
        node.log.append(lone_unit()),
        node.log.append(with_payload("{ not json")),
        node.log.append(lone_unit()),
        node.log.append(with_payload("\"a zero \0 byte\"")),
        node.log.append(unit([stream(&"long".repeat(100_000), 0, 1)])),
        node.log.append(lone_unit()),
    ];
    let outcomes = futures::future::join_all(calls).await;
    for (nth, outcome) in outcomes.iter().enumerate() {
        match nth {
            1 | 3 | 4 => assert!(matches!(outcome, Err(AppendError::Malformed(_))), "{nth}: {outcome:?}"),
            _ => assert!(outcome.is_ok(), "{nth}: {outcome:?}"),
        }
    }
    for unit in [unit([]), unit([stream("a", 0, 0)]), unit([stream("a", 0, 1), stream("a", 1, 1)])] {
        assert!(matches!(node.append(unit).await, Err(AppendError::Malformed(_))));
    }
    assert_eq!(verified(database.pool()).await.len(), 3);
}

#[tokio::test]
async fn over_a_limit_a_caller_gets_a_typed_error_at_once() {
    let database = database().await;
    let options = WriterOptions { max_unit_bytes: 1000, max_queued_units: 2, ..WriterOptions::default() };
    let node = Node::start_with(&database.database, options);
    let outcome = node.append(unit([stream("a", 0, 100)])).await;
    assert!(matches!(outcome, Err(AppendError::TooLarge { limit: 1000, .. })), "{outcome:?}");
    // The writer's task has had no chance to run between these calls.
    let calls: Vec<_> = (0..3).map(|_| node.log.append(lone_unit())).collect();
    let outcomes = futures::future::join_all(calls).await;
    assert!(outcomes[0].is_ok() && outcomes[1].is_ok());
    assert!(matches!(outcomes[2], Err(AppendError::Overloaded)), "{:?}", outcomes[2]);
}

#[tokio::test]
async fn what_is_queued_when_the_log_closes_is_appended_and_what_comes_later_is_refused() {
    let database = database().await;
    let node = Node::start(&database.database);
    let calls: Vec<_> = (0..50).map(|_| node.log.append(lone_unit())).collect();
    node.log.close();
    assert!(matches!(node.append(lone_unit()).await, Err(AppendError::Unavailable(_))));
    node.stop().await;
    assert!(futures::future::join_all(calls).await.iter().all(Result::is_ok));
    assert_eq!(verified(database.pool()).await.len(), 50);
}

#[tokio::test]
async fn a_caller_that_no_longer_waits_does_not_take_its_unit_back() {
    let database = database().await;
    let node = Node::start(&database.database);
    drop(node.log.append(lone_unit()));
    node.stop().await;
    assert_eq!(verified(database.pool()).await.len(), 1);
}

#[tokio::test]
async fn the_log_refuses_to_be_changed() {
    let database = database().await;
    let node = Node::start(&database.database);
    node.append(lone_unit()).await.unwrap();
    for statement in ["UPDATE events SET payload = '{}'", "DELETE FROM events", "TRUNCATE events"] {
        let error = sqlx::query(statement).execute(database.pool()).await.unwrap_err();
        assert!(error.to_string().contains("append-only"), "{error}");
    }
    assert_eq!(verified(database.pool()).await.len(), 1);
}

#[tokio::test]
async fn a_unit_decided_on_one_that_was_refused_is_refused_although_its_number_fits() {
    let database = database().await;
    let (node, other) = (Node::start(&database.database), Node::start(&database.database));
    node.append(unit([stream("a", 0, 1)])).await.unwrap();
    // The node decides on event 1; meanwhile somebody else makes event 2.
    other.append(unit([stream("a", 1, 1)])).await.unwrap();
    let basis = Basis::default();
    let decided = |expected| Unit { basis: Some(basis.clone()), ..unit([stream("a", expected, 1)]) };
    let queued = [decided(1), decided(2), decided(3)].map(|unit| node.log.append(unit));
    for outcome in futures::future::join_all(queued).await {
        assert!(matches!(outcome, Err(AppendError::Conflict { .. })), "{outcome:?}");
    }
    let later = node.append(decided(2)).await;
    assert!(matches!(later, Err(AppendError::Conflict { .. })), "{later:?}");
    assert_eq!(sequences(&verified(database.pool()).await, "a"), [1, 2]);
    node.append(unit([stream("a", 2, 1)])).await.unwrap();
}
