//! How fast the log leaves for Kafka, next to a bare idempotent producer that sends the same messages. How long a single
//! event takes is measured by the bench `lag`.
//!
//! `AIHUB_TEST_KAFKA=DIR cargo bench -p aihub-tests --bench kafka`, where `.ci/kafka start DIR` runs one; events in
//! `BENCH_EVENTS`, 200,000 by default.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_precision_loss,
    reason = "a benchmark"
)]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use aihub_application::ports::event_log::{NewEvent, StreamAppend, Unit};
use aihub_infrastructure::{
    event_store::reader::{self, ReadLimit},
    kafka::{cloud_event, cluster::Cluster, relay},
};
use aihub_tests::{
    TestDatabase, database,
    kafka::{cluster, publish},
    log::{Node, unit},
};
use futures::future::join_all;
use rdkafka::{
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use uuid::Uuid;

const LONG: Duration = Duration::from_mins(10);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let dir = std::env::var("AIHUB_TEST_KAFKA").expect("AIHUB_TEST_KAFKA names the directory of a running .ci/kafka");
    let brokers = std::fs::read_to_string(Path::new(&dir).join("address")).unwrap();
    let events = std::env::var("BENCH_EVENTS").ok().and_then(|events| events.parse().ok()).unwrap_or(200_000);
    throughput(&cluster(brokers.trim()), events).await;
}

/// An event of 0.7 kB for a stream of its own.
fn one() -> Unit {
    let event = NewEvent {
        event_type: "CreditsGranted".to_owned(),
        event_version: "1.0".to_owned(),
        payload: format!(r#"{{"note":"{}","id":"{}"}}"#, "x".repeat(600), Uuid::now_v7()),
    };
    unit([StreamAppend {
        aggregate_type: "account",
        aggregate_id: Uuid::now_v7().to_string(),
        expected_sequence: 0,
        events: vec![event],
        contents: vec![],
    }])
}

async fn throughput(cluster: &Cluster, events: u64) {
    let database = database().await;
    fill(&database, events).await;

    let (relay, _, _guard) = publish(&database, cluster);
    // The topics are made, and everybody knows everybody.
    relay.wait_for(relay::NAME, 1, LONG).await.unwrap();
    let began = Instant::now();
    relay.wait_for(relay::NAME, events, LONG).await.unwrap();
    let ours = events as f64 / began.elapsed().as_secs_f64();

    // The same messages, made before the clock runs, to the same topic.
    let mut messages = Vec::new();
    while (messages.len() as u64) < events {
        let first = messages.len() as u64 + 1;
        for event in reader::events_from(database.pool(), first, ReadLimit::default()).await.unwrap() {
            messages.push((event.aggregate_id.clone(), event.position, cloud_event::encode("/aihub", &event).unwrap()));
        }
    }
    let mut config = cluster.client();
    config.set("acks", "all").set("enable.idempotence", "true").set("compression.type", "lz4").set("linger.ms", "1");
    let producer: FutureProducer = config.create().unwrap();
    let topic = cluster.topics().accounts;
    let began = Instant::now();
    for batch in messages.chunks(50_000) {
        let sent = batch.iter().map(|(key, position, message)| {
            let headers = OwnedHeaders::new().insert(Header { key: "position", value: Some(&position.to_string()) });
            let record = FutureRecord::to(&topic).key(key).payload(message).headers(headers);
            producer.send_result(record).map_err(|(error, _)| error).unwrap()
        });
        for delivered in join_all(sent.collect::<Vec<_>>()).await {
            delivered.unwrap().unwrap();
        }
    }
    let bare = events as f64 / began.elapsed().as_secs_f64();
    println!("\n| relay, events/s | bare producer, messages/s | relay / bare |\n|---|---|---|");
    println!("| {ours:.0} | {bare:.0} | {:.2} |", ours / bare);
}

async fn fill(database: &TestDatabase, events: u64) {
    let node = Node::start(&database.database);
    let mut left = events;
    while left > 0 {
        let batch = left.min(2_000);
        for appended in join_all((0..batch).map(|_| node.append(one()))).await {
            appended.unwrap();
        }
        left -= batch;
    }
    node.stop().await;
}
