//! Handlers that stand still although the log goes on, for whatever reason.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use aihub_infrastructure::event_store::{
    decode::LogEntry,
    subscription::{EventHandler, Subscriptions, checkpoint},
    upcast::{Upcasted, Upcasters},
};
use aihub_tests::{
    PATIENCE, TestDatabase,
    app::{auth, http_client, token, variables},
    client::{Client, chat},
    database,
    log::{Node, lone_unit},
    process::Process,
    providers::Providers,
    until, until_ok,
};
use chrono::TimeDelta;
use futures::{FutureExt, future::BoxFuture};
use serde_json::Value;
use sqlx::{Executor, PgTransaction};
use tokio::{process::Command, task::yield_now};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

const NAME: &str = "watched";
/// What stands still for longer is an alarm here; 30 s by default.
const AFTER: Duration = Duration::from_secs(1);

/// What a handler does instead of its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mishap {
    Hangs,
    /// Works without an end, and lets others work meanwhile.
    Spins,
    /// The same, and lets nobody else have its thread.
    Hogs,
}

struct Watched {
    mishap: Mishap,
    /// So often.
    left: AtomicU32,
    /// What hogs a thread does so until then.
    released: AtomicBool,
}

fn watched(mishap: Mishap, times: u32) -> Arc<Watched> {
    Arc::new(Watched { mishap, left: AtomicU32::new(times), released: AtomicBool::new(false) })
}

impl EventHandler for Watched {
    fn name(&self) -> &'static str {
        NAME
    }

    fn apply<'a>(
        &'a self,
        transaction: &'a mut PgTransaction<'_>,
        _events: &'a [Arc<LogEntry>],
    ) -> BoxFuture<'a, anyhow::Result<()>> {
        async move {
            // Something that its connection holds as long as it lives.
            sqlx::query("SELECT pg_advisory_xact_lock(4712)").execute(&mut **transaction).await?;
            let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if left.is_err() {
                return Ok(());
            }
            match self.mishap {
                Mishap::Hangs => pending().await,
                Mishap::Spins => loop {
                    yield_now().await;
                },
                Mishap::Hogs => {
                    while !self.released.load(Ordering::SeqCst) {
                        std::hint::spin_loop();
                    }
                    Ok(())
                }
            }
        }
        .boxed()
    }
}

fn watching(database: &TestDatabase, upcasters: Upcasters) -> (Arc<Subscriptions>, DropGuard) {
    let shutdown = CancellationToken::new();
    let (tracker, database) = (TaskTracker::new(), database.database.clone());
    let subscriptions = Arc::new(Subscriptions::start(database, Arc::new(upcasters), tracker, shutdown.clone()));
    subscriptions.watch(AFTER).unwrap();
    (subscriptions, shutdown.drop_guard())
}

async fn append(database: &TestDatabase, events: usize) {
    let node = Node::start(&database.database);
    for _ in 0..events {
        node.append(lone_unit()).await.unwrap();
    }
    node.stop().await;
}

async fn stands(subscriptions: &Subscriptions) {
    until("it is seen to stand still", async || {
        subscriptions.seen().is_some_and(|seen| seen.standing == [NAME]).then_some(())
    })
    .await;
}

async fn all_is_well(subscriptions: &Subscriptions) {
    until_ok("all is well", async || match subscriptions.seen() {
        Some(seen) if seen.standing.is_empty() && seen.handlers.iter().all(|handler| handler.position == seen.head) => {
            Ok(())
        }
        seen => Err(seen),
    })
    .await;
}

#[tokio::test]
async fn a_handler_that_hangs_or_spins_is_started_anew_and_goes_on() {
    for mishap in [Mishap::Hangs, Mishap::Spins] {
        let database = database().await;
        let (subscriptions, _guard) = watching(&database, Upcasters::default());
        let handler = watched(mishap, 1);
        subscriptions.run(handler.clone());
        append(&database, 3).await;
        subscriptions.wait_for(NAME, 3, PATIENCE).await.unwrap();
        assert_eq!(handler.left.load(Ordering::SeqCst), 0);
        all_is_well(&subscriptions).await;
    }
}

#[tokio::test]
async fn a_handler_that_hangs_again_is_not_started_over_and_over_and_goes_on_being_told_of() {
    let database = database().await;
    let (subscriptions, _guard) = watching(&database, Upcasters::default());
    let handler = watched(Mishap::Hangs, 1_000);
    subscriptions.run(handler.clone());
    append(&database, 3).await;
    let tries = || 1_000 - handler.left.load(Ordering::SeqCst);
    until("it was started anew", async || (tries() == 2).then_some(())).await;
    tokio::time::sleep(3 * AFTER).await;
    stands(&subscriptions).await;
    assert_eq!(tries(), 2);
    let notices = subscriptions.seen().unwrap().notices();
    assert_eq!(notices, [format!("handler {NAME} stands still at position 0 of 3")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_that_takes_a_thread_for_itself_is_told_of_all_the_same() {
    let database = database().await;
    let (subscriptions, _guard) = watching(&database, Upcasters::default());
    let handler = watched(Mishap::Hogs, 1);
    subscriptions.run(handler.clone());
    append(&database, 3).await;
    stands(&subscriptions).await;
    handler.released.store(true, Ordering::SeqCst);
    all_is_well(&subscriptions).await;
}

#[tokio::test]
async fn a_handler_that_is_paused_or_has_nothing_to_do_is_left_alone() {
    let database = database().await;
    let (subscriptions, _guard) = watching(&database, Upcasters::default());
    subscriptions.run(watched(Mishap::Hangs, 0));
    append(&database, 3).await;
    subscriptions.wait_for(NAME, 3, PATIENCE).await.unwrap();
    tokio::time::sleep(2 * AFTER).await;
    all_is_well(&subscriptions).await;
    checkpoint::pause(database.pool(), NAME).await.unwrap();
    append(&database, 1).await;
    tokio::time::sleep(3 * AFTER).await;
    let seen = subscriptions.seen().unwrap();
    assert!(seen.standing.is_empty(), "{seen:?}");
    assert_eq!(seen.notices(), [format!("handler {NAME} is paused")]);
}

#[tokio::test]
async fn a_tail_whose_connection_is_frozen_keeps_no_handler_from_going_on() {
    let database = database().await;
    let (subscriptions, _guard) = watching(&database, Upcasters::default());
    subscriptions.run(watched(Mishap::Hangs, 0));
    append(&database, 1).await;
    subscriptions.wait_for(NAME, 1, PATIENCE).await.unwrap();
    let tail =
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'aihub-tail' AND datname = current_database()";
    let tail: i32 = sqlx::query_scalar(tail).fetch_one(database.pool()).await.unwrap();
    signal("-STOP", tail).await;
    append(&database, 2).await;
    subscriptions.wait_for(NAME, 3, PATIENCE).await.unwrap();
    signal("-CONT", tail).await;
    append(&database, 2).await;
    subscriptions.wait_for(NAME, 5, PATIENCE).await.unwrap();
}

async fn signal(signal: &str, pid: i32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().await.unwrap().success());
}

/// Breaks down once, as who reads the end of the log comes by first.
fn broken_once(payload: Value) -> Vec<Upcasted> {
    static IS_BROKEN: AtomicBool = AtomicBool::new(true);
    assert!(!IS_BROKEN.swap(false, Ordering::SeqCst), "the first time it breaks down");
    vec![Upcasted { event_type: "Upcast".to_owned(), event_version: "2".to_owned(), payload }]
}

#[tokio::test]
async fn a_tail_that_died_is_followed_anew() {
    let database = database().await;
    let upcasters = Upcasters::default().with("CreditsGranted", "1", broken_once);
    let (subscriptions, _guard) = watching(&database, upcasters);
    until("the tail is read", async || subscriptions.seen().is_some().then_some(())).await;
    append(&database, 1).await;
    subscriptions.run(watched(Mishap::Hangs, 0));
    append(&database, 2).await;
    subscriptions.wait_for(NAME, 3, PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_view_that_stands_still_is_in_readiness_and_metrics_and_everything_else_goes_on() {
    let (database, providers) = (database().await, Providers::start().await);
    let mut variables = variables(&database, &providers);
    variables.push(("AIHUB__SERVER__STANDSTILL_MS".to_owned(), "1000".to_owned()));
    let service = Process::start(env!("CARGO_BIN_EXE_aihub-under-test"), &variables).await;
    let mut client = Client::connect(service.address, &token(&auth(), "ann", "acme", TimeDelta::hours(1))).await;
    client.ask(&chat("a", "Why is the sky blue?")).await.done();
    let get = async |path: &str| {
        let response = http_client().get(format!("http://{}{path}", service.address)).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let name = "request_status_v1";
    // Somebody has the table, and does not let go of it.
    let mut holder = database.pool().begin().await.unwrap();
    holder.execute("LOCK TABLE read.request_status_v1 IN ACCESS EXCLUSIVE MODE").await.unwrap();
    client.ask(&chat("b", "Why is the sky blue?")).await.done();
    until_ok("it is told", async || {
        let (status, ready) = get("/health/ready").await;
        let metrics = get("/metrics").await.1;
        let stands = metrics.contains(&format!("subscription_stands_still{{name=\"{name}\"}} 1"));
        let behind =
            metrics.lines().find(|line| line.starts_with(&format!("subscription_behind_events{{name=\"{name}\"}}")));
        let is_behind = behind.is_some_and(|line| !line.ends_with(" 0"));
        let told = ready.contains(&format!("handler {name} stands still at position"));
        if status == 200 && stands && is_behind && told {
            Ok(())
        } else {
            Err((status, ready, behind.map(str::to_owned)))
        }
    })
    .await;
    holder.rollback().await.unwrap();
    until_ok("it goes on", async || {
        let (_, ready) = get("/health/ready").await;
        let metrics = get("/metrics").await.1;
        let is_fine = metrics.contains(&format!("subscription_stands_still{{name=\"{name}\"}} 0"))
            && metrics.contains(&format!("subscription_behind_events{{name=\"{name}\"}} 0"));
        if is_fine && !ready.contains("stands still") { Ok(()) } else { Err(ready) }
    })
    .await;
    service.kill().await;
}
