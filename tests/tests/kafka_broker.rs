//! Kafka, with a real broker: `AIHUB_TEST_KAFKA` names the directory that `.ci/kafka start` was given. What can be shown
//! with librdkafka's own brokers is in `kafka/`; here is what only the real one does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should say where")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use aihub_infrastructure::{
    event_store::reader,
    kafka::{cluster::Cluster, relay},
};
use aihub_tests::{
    PATIENCE, TestDatabase,
    app::{auth, token, variables},
    audit::Audit,
    books::Books,
    client::{Client, chat},
    database,
    kafka::{PARTITIONS, Stored, caught_up, cluster, from_log, projector, publish, published, rows, stored},
    log::{Node, lone_unit, stream, unit},
    process::Process,
    providers::Providers,
    until,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::TimeDelta;
use rdkafka::{
    TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewPartitions, ResourceSpecifier},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
};
use serde_json::json;
use tokio::process::{Child, Command};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The one that all tests share.
fn broker() -> String {
    let dir = std::env::var("AIHUB_TEST_KAFKA").expect("AIHUB_TEST_KAFKA names the directory of a running .ci/kafka");
    std::fs::read_to_string(Path::new(&dir).join("address")).unwrap().trim().to_owned()
}

/// One of a test's own, to be killed.
struct OwnBroker(PathBuf);

impl OwnBroker {
    /// The same one again, with what it had.
    async fn run(&self, command: &str) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../.ci/kafka");
        // Kafka outlives the script, and would hold a pipe open.
        let done = Command::new(script).arg(command).arg(&self.0).stdout(Stdio::null()).status().await.unwrap();
        assert!(done.success(), "{command}");
        std::fs::read_to_string(self.0.join("address")).unwrap().trim().to_owned()
    }
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../.ci/kafka");
        let _ = std::process::Command::new(script).arg("kill").arg(&self.0).status();
    }
}

async fn open_books(database: &TestDatabase) -> Books {
    let books = Books::open(Node::start(&database.database));
    for account in ["acme", "globex", "initech"] {
        books.grant(account, 1_000_000).await;
    }
    books
}

async fn head(database: &TestDatabase) -> u64 {
    reader::head(database.pool()).await.unwrap().position
}

fn admin(cluster: &Cluster) -> AdminClient<DefaultClientContext> {
    cluster.client().create().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_hubs_brokers_and_consumers_lose_and_double_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let broker = OwnBroker(dir.path().to_owned());
    let cluster = cluster(&broker.run("start").await);
    let (source, target, providers) = (database().await, database().await, Providers::start().await);
    let program = env!("CARGO_BIN_EXE_aihub-under-test");
    let mut variables = variables(&source, &providers);
    variables.extend(
        [
            ("KAFKA_BROKERS", cluster.brokers.clone()),
            ("AIHUB__KAFKA__TOPIC_PREFIX", cluster.topic_prefix.clone()),
            ("AIHUB__KAFKA__DELIVERY_TIMEOUT_MS", "2000".to_owned()),
            ("AIHUB__GATEWAY__NODE_TIMEOUT_MS", "4000".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    let project = || -> Child {
        Command::new(program)
            .args(["project", "--from", "kafka", "--database", &target.options.url])
            .env_clear()
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    };
    let token = token(&auth(), "ann", "ann", TimeDelta::hours(1));
    let mut consumers = vec![project(), project()];
    for round in 0..4 {
        let hub = Process::start(program, &variables).await;
        let mut client = Client::connect(hub.address, &token).await;
        for nth in 0..15 {
            client.ask(&chat(&format!("{round}-{nth}"), "Why is the sky blue?")).await.done();
        }
        if round % 2 == 1 {
            broker.run("kill").await;
            // No request hears of it.
            for nth in 0..5 {
                client.ask(&chat(&format!("{round}-away-{nth}"), "Why is the sky blue?")).await.done();
            }
            broker.run("start").await;
        }
        // What runs is cut off with the hub.
        client.send(&chat("cut off", "Why is the sky blue?")).await;
        consumers.remove(0).kill().await.unwrap();
        consumers.push(project());
        hub.kill().await;
    }
    let hub = Process::start(program, &variables).await;
    Audit::at_rest(source.pool()).await;
    let head = head(&source).await;
    assert!(head > 150);
    published(&cluster, head).await;
    caught_up(&target, head).await;
    hub.kill().await;
    assert_eq!(rows(&target).await, from_log(&source, head).await);
}

#[tokio::test]
async fn the_topics_are_made_with_what_they_need() {
    let (database, cluster) = (database().await, cluster(&broker()));
    Node::start(&database.database).append(lone_unit()).await.unwrap();
    let (_relay, _, _guard) = publish(&database, &cluster);
    published(&cluster, 1).await;
    let (admin, topics) = (admin(&cluster), cluster.topics());
    let names = topics.of_events().into_iter().chain([topics.dead_letters.as_str()]);
    let names: Vec<ResourceSpecifier> = names.map(ResourceSpecifier::Topic).collect();
    for described in admin.describe_configs(&names, &AdminOptions::new()).await.unwrap() {
        let described = described.unwrap();
        let entries = described.entry_map();
        let value = |name: &str| entries[name].value.clone().unwrap();
        assert_eq!((value("retention.ms"), value("cleanup.policy")), ("-1".to_owned(), "delete".to_owned()));
        assert_eq!(value("max.message.bytes"), cluster.max_message_bytes.to_string());
    }
    let metadata = admin.inner().fetch_metadata(Some(&topics.requests), PATIENCE).unwrap();
    assert_eq!(metadata.topics()[0].partitions().len(), usize::try_from(PARTITIONS).unwrap());
}

#[tokio::test]
async fn what_the_broker_refuses_is_a_dead_letter_and_its_neighbours_are_not() {
    let (database, mut cluster) = (database().await, cluster(&broker()));
    let node = Node::start(&database.database);
    // The topics are made for less than what is sent later.
    cluster.max_message_bytes = 20_000;
    node.append(lone_unit()).await.unwrap();
    let (first, _, guard) = publish(&database, &cluster);
    first.wait_for(relay::NAME, 1, PATIENCE).await.unwrap();
    drop(guard);
    cluster.max_message_bytes = 1 << 20;
    for nth in 2..=30_u64 {
        // All of it in one partition, and nothing that could be compressed.
        let mut one = stream("same", nth - 2, 1);
        if nth % 10 == 0 {
            let noise: Vec<u8> = (0..40_000).map(|_| rand::random()).collect();
            one.events[0].payload = json!({ "noise": STANDARD.encode(noise) }).to_string();
        }
        node.append(unit([one])).await.unwrap();
    }
    let (relay, _, _guard) = publish(&database, &cluster);
    relay.wait_for(relay::NAME, 30, PATIENCE).await.unwrap();

    let topics = cluster.topics();
    let letters = stored(&cluster, &[&topics.dead_letters]).await;
    assert_eq!(letters.iter().map(Stored::position).collect::<Vec<_>>(), [10, 20, 30]);
    let mut seen = BTreeMap::new();
    for message in stored(&cluster, &topics.of_events()).await {
        let first_comes = seen.len();
        seen.entry(message.position()).or_insert(first_comes);
    }
    assert_eq!(seen.keys().copied().collect::<Vec<_>>(), (1..=30).filter(|nth| nth % 10 != 0).collect::<Vec<u64>>());
    let comings: Vec<usize> = seen.into_iter().filter(|(position, _)| *position > 1).map(|(_, nth)| nth).collect();
    assert!(comings.is_sorted(), "the first coming of each is in order: {comings:?}");
}

#[tokio::test]
async fn the_group_shows_how_far_it_has_come() {
    let (source, target, cluster) = (database().await, database().await, cluster(&broker()));
    open_books(&source).await.trade(0..20).await;
    let (_relay, _, _guard) = publish(&source, &cluster);
    let head = head(&source).await;
    published(&cluster, head).await;
    let (projector, shutdown) = (projector(&target, &cluster), CancellationToken::new());
    let stop = shutdown.clone();
    let running = TaskTracker::new().spawn(async move { projector.run(&stop).await });
    caught_up(&target, head).await;

    let shown = until("the group has no lag", async || {
        let (cluster, topic) = (cluster.clone(), cluster.topics().accounts);
        let looked = tokio::task::spawn_blocking(move || {
            let watcher: BaseConsumer = cluster.client().set("group.id", "finance").create().unwrap();
            let mut list = TopicPartitionList::new();
            list.add_partition_range(&topic, 0, PARTITIONS - 1);
            let committed = watcher.committed_offsets(list, Duration::from_secs(20)).unwrap();
            let elements = committed.elements();
            let committed: Vec<_> = elements.iter().map(|element| element.offset().to_raw().unwrap()).collect();
            let ends: Vec<_> = (0..PARTITIONS)
                .map(|partition| watcher.fetch_watermarks(&topic, partition, Duration::from_secs(20)).unwrap().1)
                .collect();
            (committed == ends).then_some(ends)
        });
        looked.await.unwrap()
    });
    assert!(shown.await.iter().sum::<i64>() > 20);
    shutdown.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn partitions_that_are_added_are_read_too() {
    let (source, target, cluster) = (database().await, database().await, cluster(&broker()));
    let books = open_books(&source).await;
    books.trade(0..10).await;
    let (relay, _, guard) = publish(&source, &cluster);
    let (projector, shutdown) = (projector(&target, &cluster), CancellationToken::new());
    let stop = shutdown.clone();
    let running = TaskTracker::new().spawn(async move { projector.run(&stop).await });
    let mut head = head(&source).await;
    relay.wait_for(relay::NAME, head, PATIENCE).await.unwrap();
    caught_up(&target, head).await;

    // A relay that begins now knows of them.
    drop(guard);
    let (admin, topics) = (admin(&cluster), cluster.topics());
    let more = NewPartitions::new(&topics.requests, 8);
    assert!(admin.create_partitions([&more], &AdminOptions::new()).await.unwrap()[0].is_ok());
    books.trade(10..60).await;
    let (_relay, _, _guard) = publish(&source, &cluster);
    head = reader::head(source.pool()).await.unwrap().position;
    caught_up(&target, head).await;
    assert!(published(&cluster, head).await.iter().any(|message| message.partition >= PARTITIONS));
    assert_eq!(rows(&target).await, from_log(&source, head).await);
    shutdown.cancel();
    running.await.unwrap().unwrap();
}
