//! Connections that are cut, killed and frozen while the writer is at work: nothing is lost, nothing is doubled, and
//! nobody holds the log's lock.

use std::{collections::HashSet, time::Duration};

use aihub_application::ports::event_log::{AppendError, Appended, EventLog, Unit};
use aihub_infrastructure::event_store::writer::WriterOptions;
use aihub_tests::{
    TestDatabase, database,
    log::{Node, lone_unit, sequences, stream, unit, verified},
    proxy::Proxy,
};
use futures::future::join_all;
use rand::RngExt;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// A node that finds out soon that its connection is frozen.
async fn behind(proxy: &Proxy, database: &TestDatabase) -> Node {
    let options = WriterOptions { call_timeout: Duration::from_millis(300), ..WriterOptions::default() };
    Node::start_with(&database.through(proxy.address).await, options)
}

#[tokio::test]
async fn a_connection_cut_before_the_reply_leaves_each_unit_in_the_log_once() {
    let database = database().await;
    let proxy = Proxy::start(database.address()).await;
    let node = behind(&proxy, &database).await;
    node.append(unit([stream("a", 0, 1)])).await.unwrap();
    for round in 0..10 {
        proxy.cut_next_reply();
        let calls = [
            node.append(unit([stream("a", 2 * round + 1, 1)])),
            node.append(unit([stream("a", 2 * round + 2, 1)])),
            node.append(unit([stream("a", 0, 1)])),
        ];
        let outcomes = join_all(calls).await;
        for (nth, outcome) in outcomes.iter().take(2).enumerate() {
            // It is an answer to this very call, so it is no repetition to the caller.
            let position = 2 * round + 2 + nth as u64;
            assert_eq!(*outcome.as_ref().unwrap(), Appended { position, repeated: false });
        }
        assert!(matches!(outcomes[2], Err(AppendError::Conflict { stream: 0 })), "{:?}", outcomes[2]);
    }
    assert_eq!(sequences(&verified(database.pool()).await, "a"), (1..=21).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_command_of_another_unit_is_a_repetition_even_if_the_reply_was_lost() {
    let database = database().await;
    let proxy = Proxy::start(database.address()).await;
    let node = behind(&proxy, &database).await;
    let first = unit([stream("a", 0, 1)]);
    node.append(first.clone()).await.unwrap();
    let mut other = unit([stream("a", 1, 1)]);
    other.command_id = first.command_id;
    proxy.cut_next_reply();
    assert_eq!(node.append(other).await.unwrap(), Appended { position: 1, repeated: true });
}

#[tokio::test]
async fn a_node_frozen_at_any_byte_of_a_call_keeps_nobody_else_waiting() {
    let database = database().await;
    let proxy = Proxy::start(database.address()).await;
    let (node, other) = (behind(&proxy, &database).await, Node::start(&database.database));
    node.append(lone_unit()).await.unwrap();
    proxy.take_bytes_sent();
    node.append(lone_unit()).await.unwrap();
    let call = proxy.take_bytes_sent();
    // The last five bytes are the message that commits an ordinary statement: without them, the statement has been
    // worked on and its transaction is open.
    let steps = [0, 1, call / 3, call / 2, call - 20, call - 6, call - 5, call - 4, call - 1];
    for bytes in steps {
        // The connection that took the last call is up and its statement is prepared.
        node.append(lone_unit()).await.unwrap();
        proxy.freeze_after(bytes);
        let frozen = node.append(lone_unit());
        let beside = async {
            let started = Instant::now();
            while started.elapsed() < Duration::from_millis(250) {
                timeout(Duration::from_secs(3), other.append(lone_unit())).await.expect("the lock is free").unwrap();
                sleep(Duration::from_millis(5)).await;
            }
        };
        let (outcome, ()) = tokio::join!(frozen, beside);
        assert!(!outcome.unwrap().repeated, "frozen after {bytes} of {call} bytes");
    }
    let events = verified(database.pool()).await;
    let ids: HashSet<_> = events.iter().map(|event| &event.aggregate_id).collect();
    assert_eq!(ids.len(), events.len(), "no event is doubled");
}

#[tokio::test]
async fn writers_killed_at_random_instants_lose_nothing_and_double_nothing() {
    let database = database().await;
    let nodes = [Node::start(&database.database), Node::start(&database.database)];
    let done = CancellationToken::new();
    let kill = async {
        while !done.is_cancelled() {
            let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                        WHERE application_name = 'aihub-writer' AND datname = current_database() AND random() < 0.7";
            sqlx::query(kill).execute(database.pool()).await.unwrap();
            let pause = rand::rng().random_range(1..40);
            sleep(Duration::from_millis(pause)).await;
        }
    };
    let append = async {
        let callers = (0..16).map(|caller| {
            let node = &nodes[caller % 2];
            async move {
                for sequence in 0..40 {
                    let id = format!("{caller}");
                    let outcome = node.append(unit([stream(&id, sequence, 1)])).await.unwrap();
                    assert!(!outcome.repeated);
                }
            }
        });
        join_all(callers).await;
        done.cancel();
    };
    tokio::join!(kill, append);
    let events = verified(database.pool()).await;
    for caller in 0..16 {
        assert_eq!(sequences(&events, &caller.to_string()), (1..=40).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_log_that_cannot_be_reached_is_unavailable_within_the_stated_time() {
    let database = database().await;
    let proxy = Proxy::start(database.address()).await;
    let options = WriterOptions {
        call_timeout: Duration::from_millis(100),
        give_up_after: Duration::from_millis(300),
        ..WriterOptions::default()
    };
    let node = Node::start_with(&database.through(proxy.address).await, options);
    until_available(&node, lone_unit()).await;
    proxy.freeze_all();
    let started = Instant::now();
    let first = unit([stream("a", 0, 1)]);
    let outcomes = join_all([node.log.append(first.clone()), node.log.append(lone_unit())]).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(AppendError::Unavailable(_)))), "{outcomes:?}");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());

    proxy.thaw();
    // What became of it is learned by appending it again.
    let again = until_available(&node, first).await;
    assert_eq!(sequences(&verified(database.pool()).await, "a"), [1]);
    assert!(again.position > 1);
}

/// The times above are short; a busy machine may need several of them.
async fn until_available(node: &Node, unit: Unit) -> Appended {
    loop {
        match node.append(unit.clone()).await {
            Err(AppendError::Unavailable(_)) => {}
            outcome => return outcome.unwrap(),
        }
    }
}
