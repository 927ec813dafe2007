//! Every accepted request has one end, also when the process that drove it is gone.

use std::{sync::Arc, time::Duration};

use aihub_application::{
    policies::expire_requests::{OrphanedRequests, expire_requests},
    ports::clock::SystemClock,
};
use aihub_domain::{
    account::Account,
    money::Microcredits,
    request::{Request, event::RequestEvent},
};
use aihub_infrastructure::{
    database::Database,
    database_clock::DatabaseClock,
    event_store::{
        decode::{entries, events_of},
        reader,
        subscription::Subscriptions,
        upcast::Upcasters,
    },
    nodes::{self, NodeOptions, settings::Settings},
    notices::Notices,
    orphaned_requests::{OpenRequests, PostgresOrphanedRequests},
};
use aihub_tests::{
    TestDatabase,
    books::{Books, End, accepted, now, outcome},
    database,
    log::{Node, verified},
    proxy::Proxy,
};
use chrono::TimeDelta;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

const PATIENCE: Duration = Duration::from_secs(20);
const NODE_TIMEOUT: Duration = Duration::from_millis(1_500);

/// A process that says that it is alive.
struct Alive {
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Alive {
    async fn start(database: &Database, node: &str) -> Self {
        let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
        let clock = Arc::new(DatabaseClock::read(database, SystemClock).await.unwrap());
        let options = NodeOptions {
            node: node.to_owned(),
            name: None,
            timeout: NODE_TIMEOUT,
            settings: Settings::default(),
            allow_other_prices: false,
        };
        nodes::join(database.clone(), clock, options, Notices::default(), &tracker, stop.clone()).await.unwrap();
        Self { stop, tracker }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

fn books(database: &TestDatabase) -> Books {
    Books::open(Node::start(&database.database))
}

fn search(database: &TestDatabase, node: &str) -> PostgresOrphanedRequests {
    PostgresOrphanedRequests::new(database.pool().clone(), node.to_owned(), Duration::from_secs(1))
}

/// Brings `open_requests` up to date, as a node does all the time.
async fn catch_up(database: &TestDatabase) {
    let (subscriptions, _guard) = subscriptions(database);
    let head = reader::head(database.pool()).await.unwrap().position;
    subscriptions.run_until(Arc::new(OpenRequests), head).await.unwrap();
}

fn subscriptions(database: &TestDatabase) -> (Subscriptions, DropGuard) {
    let shutdown = CancellationToken::new();
    let upcasters = Arc::new(Upcasters::default());
    let subscriptions =
        Subscriptions::start(database.database.clone(), upcasters, TaskTracker::new(), shutdown.clone());
    (subscriptions, shutdown.drop_guard())
}

async fn found(search: &PostgresOrphanedRequests) -> Vec<String> {
    search.find().await.unwrap().into_iter().map(|orphan| orphan.request_id).collect()
}

/// Until the search finds exactly these.
async fn eventually_found(search: &PostgresOrphanedRequests, expected: &[&str]) {
    let finding = async {
        while found(search).await != expected {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, finding).await.unwrap();
}

async fn account(books: &Books, account: &str) -> Account {
    books.accounts.load(account).await.unwrap()
}

#[tokio::test]
async fn the_requests_of_a_node_that_fell_silent_are_ended_once_and_those_of_the_living_are_left_alone() {
    let database = database().await;
    let proxy = Proxy::start(database.address()).await;
    let _silent = Alive::start(&database.through(proxy.address).await, "silent").await;
    let (_one, _other) =
        (Alive::start(&database.database, "one").await, Alive::start(&database.database, "other").await);
    let (one, other) = (books(&database), books(&database));
    one.grant("acme", 1_000).await;
    one.accept("lost-1", accepted("acme", "ann", "silent", 100)).await;
    one.accept("lost-2", accepted("acme", "ann", "silent", 50)).await;
    one.accept("running", accepted("acme", "ann", "other", 10)).await;
    one.accept("done", accepted("acme", "ann", "silent", 30)).await;
    one.end("acme", "done", End::Completed(outcome(0, 20))).await.unwrap();
    proxy.freeze_all();

    // Both nodes look for orphans all the time, with everything else going on beside it.
    let (subscriptions, _guard) = subscriptions(&database);
    subscriptions.run(Arc::new(OpenRequests));
    let stopping = CancellationToken::new();
    let (search_one, search_other) = (search(&database, "one"), search(&database, "other"));
    let policies = async {
        while !stopping.is_cancelled() {
            let (by_one, by_other) = tokio::join!(
                expire_requests(&one.accounts, &*one.node.log, &search_one, "one"),
                expire_requests(&other.accounts, &*other.node.log, &search_other, "other"),
            );
            assert!(by_one.is_ok() && by_other.is_ok());
        }
    };
    let released = async {
        while account(&one, "acme").await.held() != Microcredits(10) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stopping.cancel();
    };
    tokio::time::timeout(PATIENCE, async { tokio::join!(policies, released) }).await.unwrap();

    assert_eq!(account(&other, "acme").await.available(), Microcredits(1_000 - 20 - 10));
    let log = entries(verified(database.pool()).await);
    let ends = |request_id: &str| {
        let changes = events_of::<Request>(&log).map(Result::unwrap);
        changes
            .filter(|(event, _)| event.aggregate_id == request_id && event.sequence > 1)
            .map(|(_, end)| end)
            .collect::<Vec<_>>()
    };
    for request_id in ["lost-1", "lost-2"] {
        assert!(
            matches!(&ends(request_id)[..], [RequestEvent::RequestAbandoned { reason, .. }] if reason.contains("silent"))
        );
    }
    assert!(ends("running").is_empty());
    // The living one ends its own as if nothing had been.
    one.end("acme", "running", End::Completed(outcome(0, 5))).await.unwrap();
    assert_eq!(account(&one, "acme").await.held(), Microcredits(0));
}

#[tokio::test]
async fn two_nodes_that_find_the_same_orphan_end_it_once() {
    let database = database().await;
    let (one, other) = (books(&database), books(&database));
    one.grant("acme", 1_000).await;
    for nth in 0..20 {
        let mut request = accepted("acme", "ann", "gone", 10);
        request.deadline_at = now() - TimeDelta::minutes(1);
        one.accept(&format!("lost-{nth}"), request).await;
    }
    catch_up(&database).await;
    let search = search(&database, "one");
    let (ended_by_one, ended_by_other) = tokio::join!(
        expire_requests(&one.accounts, &*one.node.log, &search, "one"),
        expire_requests(&other.accounts, &*other.node.log, &search, "other"),
    );
    assert_eq!(ended_by_one.unwrap() + ended_by_other.unwrap(), 20);
    assert_eq!(account(&one, "acme").await.held(), Microcredits(0));
    catch_up(&database).await;
    assert!(found(&search).await.is_empty());
}

#[tokio::test]
async fn a_request_whose_deadline_has_long_passed_is_an_orphan_although_its_node_lives() {
    let database = database().await;
    let _alive = Alive::start(&database.database, "one").await;
    let books = books(&database);
    books.grant("acme", 1_000).await;
    for (request_id, overdue) in [("just-due", TimeDelta::zero()), ("overdue", TimeDelta::seconds(30))] {
        let mut request = accepted("acme", "ann", "one", 10);
        request.deadline_at = now() - overdue;
        books.accept(request_id, request).await;
    }
    catch_up(&database).await;
    let patient = PostgresOrphanedRequests::new(database.pool().clone(), "one".to_owned(), Duration::from_secs(20));
    // It has just been heard of for the first time, or again: it may still be at work on what it could not end.
    assert!(found(&patient).await.is_empty());
    sqlx::query("UPDATE nodes SET beating_since = now() - interval '1 minute'").execute(database.pool()).await.unwrap();
    assert_eq!(found(&patient).await, ["overdue"]);
}

#[tokio::test]
async fn a_node_that_says_goodbye_is_gone_and_what_it_left_is_found() {
    let database = database().await;
    let _one = Alive::start(&database.database, "one").await;
    let leaving = Alive::start(&database.database, "leaving").await;
    let books = books(&database);
    books.grant("acme", 1_000).await;
    books.accept("left", accepted("acme", "ann", "leaving", 10)).await;
    catch_up(&database).await;
    leaving.stop().await;
    let nodes: Vec<String> =
        sqlx::query_scalar("SELECT node FROM nodes ORDER BY node").fetch_all(database.pool()).await.unwrap();
    assert_eq!(nodes, ["one"]);
    eventually_found(&search(&database, "one"), &["left"]).await;
}

#[tokio::test]
async fn whoever_was_cut_off_itself_calls_nobody_dead_until_it_has_listened_long_enough() {
    let database = database().await;
    let proxy = Proxy::start(database.address()).await;
    let _one = Alive::start(&database.through(proxy.address).await, "one").await;
    let books = books(&database);
    books.grant("acme", 1_000).await;
    books.accept("elsewhere", accepted("acme", "ann", "away", 10)).await;
    catch_up(&database).await;
    eventually_found(&search(&database, "one"), &["elsewhere"]).await;
    assert!(found(&search(&database, "never announced")).await.is_empty());

    proxy.freeze_all();
    eventually_found(&search(&database, "one"), &[]).await;
    // It comes back, on a new connection, and is heard of again; only a timeout later it may judge.
    proxy.thaw();
    let back: &str = "SELECT heartbeat_at > now() - interval '200 ms' FROM nodes WHERE node = 'one'";
    let heard = async {
        while !sqlx::query_scalar::<_, bool>(back).fetch_one(database.pool()).await.unwrap() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.unwrap();
    assert!(found(&search(&database, "one")).await.is_empty());
    eventually_found(&search(&database, "one"), &["elsewhere"]).await;
}
