//! How fast the log leaves for Kafka, next to a bare idempotent producer that sends the same messages, and how long after
//! its commit an event can be read there while 64 callers append.
//!
//! `AIHUB_TEST_KAFKA=DIR cargo bench -p aihub-tests --bench kafka`, where `.ci/kafka start DIR` runs one; events of the first
//! part in `BENCH_EVENTS` (200,000 by default), seconds of the second in `BENCH_SECONDS` (10).

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a benchmark"
)]

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use aihub_application::ports::event_log::{EventLog, NewEvent, StreamAppend, Unit};
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
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::{Header, Headers, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use uuid::Uuid;

const CALLERS: usize = 64;
const LONG: Duration = Duration::from_mins(10);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let dir = std::env::var("AIHUB_TEST_KAFKA").expect("AIHUB_TEST_KAFKA names the directory of a running .ci/kafka");
    let brokers = std::fs::read_to_string(Path::new(&dir).join("address")).unwrap();
    let number =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    throughput(&cluster(brokers.trim()), number("BENCH_EVENTS", 200_000)).await;
    lag(&cluster(brokers.trim()), Duration::from_secs(number("BENCH_SECONDS", 10))).await;
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

async fn lag(cluster: &Cluster, time: Duration) {
    let database = database().await;
    let node = Arc::new(Node::start(&database.database));
    node.append(one()).await.unwrap();
    let (relay, _, _guard) = publish(&database, cluster);
    relay.wait_for(relay::NAME, 1, LONG).await.unwrap();

    let (stop, arrivals) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::<(u64, Instant)>::new())));
    let reading = {
        let (cluster, stop, arrivals) = (cluster.clone(), stop.clone(), arrivals.clone());
        tokio::task::spawn_blocking(move || read(&cluster, &stop, &arrivals))
    };
    while arrivals.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let began = Instant::now();
    let callers = (0..CALLERS).map(|_| {
        let log = node.log.clone();
        tokio::spawn(async move {
            let mut commits = Vec::new();
            while began.elapsed() < time {
                let appended = log.append(one()).await.unwrap();
                commits.push((appended.position, Instant::now()));
            }
            commits
        })
    });
    let mut commits: Vec<(u64, Instant)> = join_all(callers).await.into_iter().flat_map(Result::unwrap).collect();
    let rate = commits.len() as f64 / began.elapsed().as_secs_f64();
    commits.sort_unstable();
    let head = commits.last().unwrap().0;
    relay.wait_for(relay::NAME, head, LONG).await.unwrap();
    let caught_up = began.elapsed().saturating_sub(time);
    while !arrivals.lock().unwrap().iter().any(|(position, _)| *position == head) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.store(true, Ordering::Relaxed);
    reading.await.unwrap();

    let mut arrived = vec![None; usize::try_from(head).unwrap() + 1];
    for (position, at) in arrivals.lock().unwrap().iter() {
        arrived[usize::try_from(*position).unwrap()].get_or_insert(*at);
    }
    let mut lags: Vec<Duration> = commits
        .iter()
        .map(|(position, at)| arrived[usize::try_from(*position).unwrap()].unwrap().saturating_duration_since(*at))
        .collect();
    lags.sort_unstable();
    let at = |share: f64| lags[((lags.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!("\n| appended by {CALLERS} callers, events/s | commit to Kafka p50 | p99 | longest | behind at the end |");
    println!("|---|---|---|---|---|");
    println!(
        "| {rate:.0} | {:.1} ms | {:.1} ms | {:.1} ms | {:.0} ms |",
        at(0.5),
        at(0.99),
        at(1.0),
        caught_up.as_secs_f64() * 1e3
    );
}

/// Notes when each event can be read.
fn read(cluster: &Cluster, stop: &AtomicBool, arrivals: &Mutex<Vec<(u64, Instant)>>) {
    let reader: BaseConsumer = cluster.client().set("group.id", "bench").create().unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..cluster.partitions {
        list.add_partition_offset(&cluster.topics().accounts, partition, Offset::Beginning).unwrap();
    }
    reader.assign(&list).unwrap();
    while !stop.load(Ordering::Relaxed) {
        let Some(message) = reader.poll(Duration::from_millis(10)) else { continue };
        let message = message.unwrap();
        let now = Instant::now();
        let position = message.headers().unwrap().iter().find(|header| header.key == "position").unwrap();
        let position = std::str::from_utf8(position.value.unwrap()).unwrap().parse().unwrap();
        arrivals.lock().unwrap().push((position, now));
    }
}
