//! Views that are fed from Kafka have the rows of those that are fed from the log.

use std::{future::ready, sync::Arc};

use aihub_infrastructure::{
    event_store::{
        decode::LogEntry,
        reader::{self, RecordedEvent},
        subscription::{self, EventHandler},
    },
    kafka::{cloud_event, cluster::Cluster},
};
use aihub_projections::rebuild::views;
use aihub_tests::{
    PATIENCE, TestDatabase,
    app::variables,
    books::Books,
    database,
    kafka::{MockKafka, caught_up, from_log, projector, publish, published, rows},
    log::{Node, verified},
    providers::Providers,
    until,
};
use anyhow::anyhow;
use futures::{FutureExt, future::BoxFuture};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use rdkafka::{
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use sqlx::PgTransaction;
use tokio::{process::Command, task::JoinHandle, time::timeout};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::audit::cli::{aihub, done};

async fn open_books(database: &TestDatabase) -> Books {
    let books = Books::open(Node::start(&database.database));
    for account in ["acme", "globex", "initech"] {
        books.grant(account, 100_000).await;
    }
    books
}

async fn head(database: &TestDatabase) -> u64 {
    reader::head(database.pool()).await.unwrap().position
}

/// A process that feeds the views, until the guard is dropped.
fn project(database: &TestDatabase, cluster: &Cluster) -> (JoinHandle<Result<(), String>>, DropGuard) {
    let (projector, shutdown) = (projector(database, cluster), CancellationToken::new());
    let guard = shutdown.clone().drop_guard();
    let running = async move { projector.run(&shutdown).await.map_err(|stopped| stopped.to_string()) };
    (TaskTracker::new().spawn(running), guard)
}

async fn ended(running: JoinHandle<Result<(), String>>) -> Result<(), String> {
    timeout(PATIENCE, running).await.expect("it ends").unwrap()
}

/// Puts events into the topics, each into the partition that is given.
async fn put(cluster: &Cluster, events: impl IntoIterator<Item = (&RecordedEvent, i32)>) {
    let producer: FutureProducer = cluster.client().create().unwrap();
    let topics = cluster.topics();
    let mut deliveries = Vec::new();
    for (event, partition) in events {
        let message = cloud_event::encode("/aihub", event).unwrap();
        let position = event.position.to_string();
        let record = FutureRecord::to(topics.of(&event.aggregate_type))
            .key(&event.aggregate_id)
            .payload(&message)
            .partition(partition)
            .headers(OwnedHeaders::new().insert(Header { key: "position", value: Some(&position) }));
        deliveries.push(producer.send_result(record).map_err(|(error, _)| error).unwrap());
    }
    for delivery in deliveries {
        delivery.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn views_fed_from_kafka_have_the_rows_of_those_fed_from_the_log() {
    let (source, target, kafka) = (database().await, database().await, MockKafka::start());
    let books = open_books(&source).await;
    books.trade(0..60).await;
    let (_relay, _, _guard) = publish(&source, &kafka.cluster);
    let (running, stop) = project(&target, &kafka.cluster);
    caught_up(&target, head(&source).await).await;
    // While it runs, too.
    books.trade(60..100).await;
    let head = head(&source).await;
    caught_up(&target, head).await;
    assert_eq!(rows(&target).await, from_log(&source, head).await);
    assert_eq!(reader::head(target.pool()).await.unwrap().position, 0, "its log stays empty");
    drop(stop);
    ended(running).await.unwrap();
}

#[tokio::test]
async fn duplicates_and_any_order_across_partitions_and_topics_make_no_difference() {
    let (source, target, kafka) = (database().await, database().await, MockKafka::start());
    open_books(&source).await.trade(0..50).await;
    let head = head(&source).await;
    let events = verified(source.pool()).await;
    let (running, stop) = project(&target, &kafka.cluster);
    let mut random = StdRng::seed_from_u64(4);
    // Each twice, in disorder, and in no particular partition.
    let mut shuffled: Vec<&RecordedEvent> = events.iter().chain(&events).collect();
    for batch in shuffled.chunks_mut(60) {
        batch.shuffle(&mut random);
        put(&kafka.cluster, batch.iter().map(|event| (*event, random.random_range(0..3)))).await;
    }
    caught_up(&target, head).await;
    assert_eq!(rows(&target).await, from_log(&source, head).await);
    drop(stop);
    ended(running).await.unwrap();
}

#[tokio::test]
async fn a_consumer_that_is_killed_is_followed_by_one_that_stands_by() {
    let (source, target, kafka) = (database().await, database().await, MockKafka::start());
    let books = open_books(&source).await;
    let (_relay, _, _guard) = publish(&source, &kafka.cluster);
    let providers = Providers::start().await;
    let mut variables = variables(&source, &providers);
    variables.push(("KAFKA_BROKERS".to_owned(), kafka.cluster.brokers.clone()));
    variables.push(("AIHUB__KAFKA__TOPIC_PREFIX".to_owned(), kafka.cluster.topic_prefix.clone()));
    let start = || {
        Command::new(env!("CARGO_BIN_EXE_aihub-under-test"))
            .args(["project", "--from", "kafka", "--database", &target.options.url])
            .env_clear()
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    };
    let mut processes = vec![start(), start()];
    for round in 0..4 {
        books.trade(round * 20..round * 20 + 10).await;
        // Whichever of them has the turn.
        let turn = until("one of them has the turn", async || {
            sqlx::query_scalar::<_, i32>(
                "SELECT holder_pid FROM leases WHERE name = 'project' AND NOT has_left(holder_pid, leased_until)",
            )
            .fetch_optional(target.pool())
            .await
            .unwrap()
        });
        turn.await;
        books.trade(round * 20 + 10..round * 20 + 20).await;
        // `kill -9` of the first; the second goes on, and another comes to stand by.
        processes.remove(0).kill().await.unwrap();
        processes.push(start());
    }
    let head = head(&source).await;
    caught_up(&target, head).await;
    assert_eq!(rows(&target).await, from_log(&source, head).await);
}

#[tokio::test]
async fn a_view_that_is_emptied_is_filled_again_while_the_others_stand() {
    let (source, target, kafka) = (database().await, database().await, MockKafka::start());
    open_books(&source).await.trade(0..30).await;
    let head = head(&source).await;
    let (_relay, _, _guard) = publish(&source, &kafka.cluster);
    let (running, stop) = project(&target, &kafka.cluster);
    caught_up(&target, head).await;
    drop(stop);
    ended(running).await.unwrap();
    let before = rows(&target).await;
    let view = &views()[0];
    let mut transaction = target.pool().begin().await.unwrap();
    let truncate = format!("TRUNCATE {}", view.tables().join(", "));
    sqlx::query(&truncate).execute(&mut *transaction).await.unwrap();
    subscription::reset(&mut *transaction, view.name()).await.unwrap();
    transaction.commit().await.unwrap();
    let (running, stop) = project(&target, &kafka.cluster);
    caught_up(&target, head).await;
    assert_eq!(rows(&target).await, before);
    drop(stop);
    ended(running).await.unwrap();
}

#[tokio::test]
async fn offsets_that_are_ahead_of_the_views_hide_nothing() {
    let (source, target, kafka) = (database().await, database().await, MockKafka::start());
    let books = open_books(&source).await;
    books.trade(0..20).await;
    let (_relay, _, _guard) = publish(&source, &kafka.cluster);
    published(&kafka.cluster, head(&source).await).await;
    let (running, stop) = project(&target, &kafka.cluster);
    caught_up(&target, head(&source).await).await;
    drop(stop);
    ended(running).await.unwrap();
    // As after the topics were made anew: the offsets are those of other messages.
    books.trade(20..40).await;
    let head = head(&source).await;
    published(&kafka.cluster, head).await;
    sqlx::query("UPDATE kafka_offsets SET next_offset = next_offset + 5").execute(target.pool()).await.unwrap();
    let (running, stop) = project(&target, &kafka.cluster);
    caught_up(&target, head).await;
    assert_eq!(rows(&target).await, from_log(&source, head).await);
    drop(stop);
    ended(running).await.unwrap();
}

#[tokio::test]
async fn an_event_that_was_changed_on_the_way_stops_the_views_in_front_of_it() {
    let (source, target, kafka) = (database().await, database().await, MockKafka::start());
    open_books(&source).await.trade(0..10).await;
    let mut events = verified(source.pool()).await;
    events[6].payload = events[6].payload.replace("40", "4");
    put(&kafka.cluster, events.iter().map(|event| (event, 0))).await;
    let (running, _stop) = project(&target, &kafka.cluster);
    let stopped = ended(running).await.unwrap_err();
    assert!(stopped.contains("the content at position 7 is not what was recorded"), "{stopped}");
    caught_up(&target, 6).await;
}

#[tokio::test]
async fn a_database_with_a_log_of_its_own_is_left_alone() {
    let (source, kafka) = (database().await, MockKafka::start());
    open_books(&source).await;
    let (running, _stop) = project(&source, &kafka.cluster);
    let stopped = ended(running).await.unwrap_err();
    assert!(stopped.contains("has a log of its own"), "{stopped}");
}

#[tokio::test]
async fn who_looks_at_views_that_are_fed_from_kafka_leaves_no_event_behind_and_the_views_go_on() {
    let (source, target, kafka) = (database().await, database().await, MockKafka::start());
    let books = open_books(&source).await;
    books.trade(0..20).await;
    let (_relay, _, _guard) = publish(&source, &kafka.cluster);
    // An empty database, which may become anything yet.
    let told = done(&target, &["report", "trial-balance"]).await;
    assert!(told.contains("this use is not in the access log"), "{told}");
    let (running, stop) = project(&target, &kafka.cluster);
    caught_up(&target, head(&source).await).await;
    drop(stop);
    ended(running).await.unwrap();

    let told = done(&target, &["report", "trial-balance"]).await;
    assert!(told.contains("acme") && told.contains("this use is not in the access log"), "{told}");
    let (code, told) = aihub(Some(&target), &["report", "holds", "--as-of", "2026-01-01T00:00:00Z"]).await;
    assert!(code != 0 && told.contains("only where the log is"), "{told}");
    assert_eq!(head(&target).await, 0);

    books.trade(20..30).await;
    let (running, stop) = project(&target, &kafka.cluster);
    caught_up(&target, head(&source).await).await;
    drop(stop);
    ended(running).await.unwrap();
    // Something else has put an event into it: a time is still not looked up in what is none of the views' log.
    open_books(&target).await;
    let (code, told) = aihub(Some(&target), &["report", "holds", "--as-of", "2099-01-01T00:00:00Z"]).await;
    assert!(code != 0 && told.contains("only where the log is"), "{told}");
}

/// A view that cannot apply the seventh position.
struct Fails;

impl EventHandler for Fails {
    fn name(&self) -> &'static str {
        "fails"
    }

    fn apply<'a>(
        &'a self,
        _: &'a mut PgTransaction<'_>,
        events: &'a [Arc<LogEntry>],
    ) -> BoxFuture<'a, anyhow::Result<()>> {
        let outcome = if events.iter().any(|event| event.position == 7) { Err(anyhow!("no room")) } else { Ok(()) };
        ready(outcome).boxed()
    }
}

#[tokio::test]
async fn a_view_that_fails_says_where_and_all_of_them_keep_what_was_before() {
    let (source, target, kafka) = (database().await, database().await, MockKafka::start());
    open_books(&source).await.trade(0..10).await;
    let (_relay, _, _guard) = publish(&source, &kafka.cluster);
    let mut projector = projector(&target, &kafka.cluster);
    projector.views.push(Arc::new(Fails));
    let stopped = timeout(PATIENCE, projector.run(&CancellationToken::new())).await.unwrap().unwrap_err();
    assert_eq!(stopped.to_string(), "the views stopped at position 7: fails: no room");
    let failed = "SELECT error FROM subscriptions WHERE name = 'fails' AND position = 6 AND error_position = 7";
    assert_eq!(sqlx::query_scalar::<_, String>(failed).fetch_one(target.pool()).await.unwrap(), "no room");
    sqlx::query("DELETE FROM subscriptions WHERE name = 'fails'").execute(target.pool()).await.unwrap();
    caught_up(&target, 6).await;
}
