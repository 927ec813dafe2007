//! Subscriptions: every event applied exactly once, in order, by whichever node; or a stop that says why.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aihub_infrastructure::{
    database::Database,
    event_store::{
        decode::LogEntry,
        reader::RecordedEvent,
        subscription::{self, EventHandler, SubscriptionError, Subscriptions, TryAgain, checkpoint},
        upcast::{Upcasted, Upcasters},
    },
};
use aihub_tests::{
    TestDatabase, database,
    log::{Node, lone_unit, stream, unit},
    proxy::Proxy,
};
use futures::{FutureExt, future::BoxFuture};
use serde_json::json;
use sqlx::PgTransaction;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

const PATIENCE: Duration = Duration::from_secs(20);
const NAME: &str = "applied";

type Mishap = Box<dyn Fn(&RecordedEvent) -> anyhow::Result<()> + Send + Sync>;

/// Writes down each event that it applies, unless there is a mishap.
struct Applied(Mishap);

impl EventHandler for Applied {
    fn name(&self) -> &'static str {
        NAME
    }

    fn apply<'a>(
        &'a self,
        transaction: &'a mut PgTransaction<'_>,
        events: &'a [Arc<LogEntry>],
    ) -> BoxFuture<'a, anyhow::Result<()>> {
        async move {
            for event in events {
                sqlx::query("INSERT INTO applied (position, event_type) VALUES ($1, $2)")
                    .bind(event.position.cast_signed())
                    .bind(&event.event_type)
                    .execute(&mut **transaction)
                    .await?;
                (self.0)(event)?;
            }
            Ok(())
        }
        .boxed()
    }
}

fn applied() -> Arc<Applied> {
    Arc::new(Applied(Box::new(|_| Ok(()))))
}

fn applied_with(mishap: impl Fn(&RecordedEvent) -> anyhow::Result<()> + Send + Sync + 'static) -> Arc<Applied> {
    Arc::new(Applied(Box::new(mishap)))
}

/// A database with a table to write down what was applied, in the order it was.
async fn fixture() -> TestDatabase {
    let database = database().await;
    sqlx::query("CREATE TABLE applied (nth bigserial, position bigint NOT NULL, event_type text NOT NULL)")
        .execute(database.pool())
        .await
        .unwrap();
    database
}

/// A node's subscriptions, until the guard is dropped.
fn subscriptions(database: &TestDatabase) -> (Subscriptions, DropGuard) {
    subscriptions_with(database, Upcasters::default())
}

fn subscriptions_with(database: &TestDatabase, upcasters: Upcasters) -> (Subscriptions, DropGuard) {
    subscriptions_on(database.database.clone(), upcasters)
}

fn subscriptions_on(database: Database, upcasters: Upcasters) -> (Subscriptions, DropGuard) {
    let shutdown = CancellationToken::new();
    let subscriptions = Subscriptions::start(database, Arc::new(upcasters), TaskTracker::new(), shutdown.clone());
    (subscriptions, shutdown.drop_guard())
}

async fn append(database: &TestDatabase, events: u64) {
    let node = Node::start(&database.database);
    let calls: Vec<_> = (0..events).map(|_| node.append(lone_unit())).collect();
    assert!(futures::future::join_all(calls).await.iter().all(Result::is_ok));
}

async fn positions(database: &TestDatabase) -> Vec<i64> {
    sqlx::query_scalar("SELECT position FROM applied ORDER BY nth").fetch_all(database.pool()).await.unwrap()
}

/// Ends the connections of whoever has the handler's turn.
async fn kill_runners(database: &TestDatabase) {
    let killed = "SELECT pg_terminate_backend(runner_pid) FROM subscriptions WHERE runner_pid IS NOT NULL";
    sqlx::query(killed).execute(database.pool()).await.unwrap();
}

#[tokio::test]
async fn each_event_is_applied_once_in_order_while_two_nodes_compete_and_their_connections_are_killed() {
    let database = fixture().await;
    let ((one, _one), (other, _other)) = (subscriptions(&database), subscriptions(&database));
    one.run(applied());
    other.run(applied());
    for round in 1..=5 {
        append(&database, 200).await;
        kill_runners(&database).await;
        append(&database, 100).await;
        one.wait_for(NAME, 300 * round, PATIENCE).await.unwrap();
    }
    other.wait_for(NAME, 1500, PATIENCE).await.unwrap();
    assert_eq!(positions(&database).await, (1..=1500).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_node_that_freezes_gives_its_turn_to_another_and_applies_nothing_when_it_thaws() {
    let database = fixture().await;
    let proxy = Proxy::start(database.address()).await;
    let behind_proxy = database.through(proxy.address).await;
    let (frozen, _frozen) = subscriptions_on(behind_proxy, Upcasters::default());
    let (other, _other) = subscriptions(&database);
    append(&database, 10).await;
    frozen.run(applied());
    other.wait_for(NAME, 10, PATIENCE).await.unwrap();
    // One that froze while it was connecting would keep the server waiting for a minute.
    connected(&database, &["aihub-subscription", "aihub-tail"]).await;
    proxy.freeze_all();
    other.run(applied());
    append(&database, 10).await;
    other.wait_for(NAME, 20, PATIENCE).await.unwrap();
    proxy.thaw();
    append(&database, 10).await;
    other.wait_for(NAME, 30, PATIENCE).await.unwrap();
    assert_eq!(positions(&database).await, (1..=30).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_append_is_seen_by_every_node() {
    let database = fixture().await;
    append(&database, 3).await;
    let (subscriptions, _guard) = subscriptions(&database);
    let mut head = subscriptions.head();
    assert_eq!(*head.wait_for(|head| *head > 0).await.unwrap(), 3, "what was there before is known");
    append(&database, 2).await;
    head.wait_for(|head| *head == 5).await.unwrap();
}

#[tokio::test]
async fn a_handler_that_fails_stops_at_the_event_at_fault_and_goes_on_from_there_when_mended() {
    let database = fixture().await;
    append(&database, 100).await;
    let (node, _guard) = subscriptions(&database);
    node.run(applied_with(|event| match event.position {
        57 => anyhow::bail!("no price for model x"),
        _ => Ok(()),
    }));
    let stopped = node.wait_for(NAME, 57, PATIENCE).await;
    assert!(matches!(&stopped, Err(SubscriptionError::Stopped { position: 57, .. })), "{stopped:?}");
    let status = node.statuses().await.unwrap().remove(0);
    assert_eq!((status.name.as_str(), status.position), (NAME, 56));
    assert_eq!(status.failure.unwrap().error, "no price for model x");
    assert_eq!(positions(&database).await, (1..=56).collect::<Vec<_>>(), "all in front of it is applied");

    node.run_until(applied(), 100).await.unwrap();
    assert_eq!(node.statuses().await.unwrap().remove(0).failure, None);
    assert_eq!(positions(&database).await, (1..=100).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_handler_that_panics_stops_like_one_that_fails() {
    let database = fixture().await;
    append(&database, 3).await;
    let (node, _guard) = subscriptions(&database);
    let outcome = node.run_until(applied_with(|event| panic!("at {}", event.position)), 3).await;
    assert!(matches!(&outcome, Err(SubscriptionError::Stopped { position: 1, .. })), "{outcome:?}");
    assert!(positions(&database).await.is_empty());
}

#[tokio::test]
async fn a_handler_that_asks_to_try_again_is_tried_until_it_succeeds() {
    let database = fixture().await;
    append(&database, 3).await;
    let (node, _guard) = subscriptions(&database);
    let is_away = AtomicBool::new(true);
    let handler = applied_with(move |_| {
        if is_away.swap(false, Ordering::SeqCst) {
            return Err(TryAgain("the broker is away".to_owned()).into());
        }
        Ok(())
    });
    node.run_until(handler, 3).await.unwrap();
    assert_eq!(positions(&database).await, [1, 2, 3]);
}

#[tokio::test]
async fn a_log_with_another_history_is_not_followed() {
    let changes = [
        // As on a standby that was promoted without the last commits: other events came to the same positions ...
        ("UPDATE subscriptions SET chain_hash = sha256('another history')", "another history"),
        // ... or none did yet.
        ("UPDATE subscriptions SET position = 9", "position 9, which was there, is gone"),
    ];
    for (change, reason) in changes {
        let database = fixture().await;
        append(&database, 5).await;
        let (node, _guard) = subscriptions(&database);
        node.run_until(applied(), 5).await.unwrap();
        sqlx::query(change).execute(database.pool()).await.unwrap();
        append(&database, 3).await;
        let outcome = node.run_until(applied(), 10).await;
        assert!(matches!(&outcome, Err(SubscriptionError::Stopped { .. })), "{outcome:?}");
        assert!(outcome.unwrap_err().to_string().contains(reason));
        assert_eq!(positions(&database).await.len(), 5);
        let failure = node.statuses().await.unwrap().remove(0).failure.unwrap();
        assert!(failure.error.contains(reason), "{failure:?}");
    }
}

#[tokio::test]
async fn a_view_that_is_reset_is_rebuilt_from_the_first_event_while_its_runner_is_at_work() {
    let database = fixture().await;
    append(&database, 20).await;
    let (node, _guard) = subscriptions(&database);
    node.run(applied());
    node.wait_for(NAME, 20, PATIENCE).await.unwrap();
    let mut transaction = database.pool().begin().await.unwrap();
    subscription::reset(&mut *transaction, NAME).await.unwrap();
    sqlx::query("DELETE FROM applied").execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    append(&database, 5).await;
    wait_for_count(&database, 25).await;
    assert_eq!(positions(&database).await, (1..=25).collect::<Vec<_>>());
}

/// Waits until there is a connection of each name.
async fn connected(database: &TestDatabase, names: &[&str]) {
    let count = "SELECT count(DISTINCT application_name) FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name = ANY($1)";
    let connected = async {
        while sqlx::query_scalar::<_, i64>(count).bind(names).fetch_one(database.pool()).await.unwrap()
            < i64::try_from(names.len()).unwrap()
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, connected).await.unwrap();
}

async fn wait_for_count(database: &TestDatabase, count: usize) {
    let counted = async {
        while positions(database).await.len() < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.unwrap();
}

#[tokio::test]
async fn former_versions_are_read_as_todays_by_handlers_and_loads() {
    let database = fixture().await;
    let node = Node::start(&database.database);
    node.append(unit([stream("a", 0, 1)])).await.unwrap();
    // One event of version 1 is two of version 2 today, of which one was renamed in version 3.
    let upcasters = Upcasters::default()
        .with("CreditsGranted", "1", |payload| {
            let of = |event_type: &str| Upcasted {
                event_type: event_type.to_owned(),
                event_version: "2".to_owned(),
                payload: payload.clone(),
            };
            vec![of("AccountOpened"), of("CreditsGranted")]
        })
        .with("CreditsGranted", "2", |_| {
            let (event_type, event_version) = ("CreditsAdded".to_owned(), "3".to_owned());
            vec![Upcasted { event_type, event_version, payload: json!({ "credits": 1 }) }]
        });
    let (subscriptions, _guard) = subscriptions_with(&database, upcasters);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let handler = {
        let seen = seen.clone();
        applied_with(move |event| {
            seen.lock().unwrap().push((event.position, event.event_type.clone(), event.payload.clone()));
            Ok(())
        })
    };
    subscriptions.run_until(handler, 1).await.unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!((seen[0].0, seen[0].1.as_str()), (1, "AccountOpened"));
    assert_eq!(seen[1], (1, "CreditsAdded".to_owned(), r#"{"credits":1}"#.to_owned()));
}

#[tokio::test]
async fn who_waits_for_a_handler_that_does_not_come_is_told() {
    let database = fixture().await;
    let (node, _guard) = subscriptions(&database);
    let outcome = node.wait_for(NAME, 1, Duration::from_millis(50)).await;
    assert!(matches!(outcome, Err(SubscriptionError::Behind { position: 1, .. })), "{outcome:?}");
}

#[tokio::test]
async fn a_handler_that_is_paused_applies_nothing_until_it_is_resumed() {
    let database = fixture().await;
    append(&database, 5).await;
    let (node, _guard) = subscriptions(&database);
    node.run(applied());
    node.wait_for(NAME, 5, PATIENCE).await.unwrap();
    assert!(checkpoint::pause(database.pool(), NAME).await.unwrap());
    append(&database, 5).await;
    let (another, _guard) = subscriptions(&database);
    another.run(applied());
    let behind = node.wait_for(NAME, 6, Duration::from_secs(2)).await;
    assert!(matches!(behind, Err(SubscriptionError::Behind { .. })), "{behind:?}");
    assert!(node.statuses().await.unwrap().remove(0).paused_at.is_some());

    assert!(checkpoint::resume(database.pool(), NAME).await.unwrap());
    node.wait_for(NAME, 10, PATIENCE).await.unwrap();
    assert_eq!(positions(&database).await, (1..=10).collect::<Vec<_>>());
    assert!(!checkpoint::pause(database.pool(), "unheard of").await.unwrap());
}

#[tokio::test]
async fn a_handler_that_failed_tries_again_when_it_is_resumed() {
    let database = fixture().await;
    append(&database, 5).await;
    let (node, _guard) = subscriptions(&database);
    let is_mended = Arc::new(AtomicBool::new(false));
    let mended = is_mended.clone();
    node.run(applied_with(move |event| {
        anyhow::ensure!(event.position != 3 || mended.load(Ordering::SeqCst), "no price for model x");
        Ok(())
    }));
    let stopped = node.wait_for(NAME, 3, PATIENCE).await;
    assert!(matches!(&stopped, Err(SubscriptionError::Stopped { position: 3, .. })), "{stopped:?}");
    is_mended.store(true, Ordering::SeqCst);
    assert!(checkpoint::resume(database.pool(), NAME).await.unwrap());
    node.wait_for(NAME, 5, PATIENCE).await.unwrap();
    assert_eq!(positions(&database).await, (1..=5).collect::<Vec<_>>());
}
