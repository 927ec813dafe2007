//! How long after its commit an event is in each view, while 64 callers append requests to a node that runs every handler
//! of the service; and, with `AIHUB_TEST_KAFKA=DIR` (see `.ci/kafka start DIR`), until it can be read in Kafka.
//!
//! `cargo bench -p aihub-tests --bench lag`. Events a second in `BENCH_RATES`, one measurement each, 0 being as many as the
//! callers can (`0,1000,2000,4000` by default); seconds of each in `BENCH_SECONDS` (10).

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
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

use aihub::bootstrap::handlers;
use aihub_application::ports::{clock::SystemClock, event_log::EventLog};
use aihub_infrastructure::{
    event_store::{
        PostgresEventLog,
        subscription::{EventHandler, Subscriptions},
    },
    kafka::{cluster::Cluster, reachability::Reachability, relay::KafkaRelay},
};
use aihub_tests::{
    books::now,
    database,
    kafka::cluster,
    log::Node,
    traffic::{EVENTS_A_REQUEST, Payer},
};
use futures::future::join_all;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::Headers,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const CALLERS: u64 = 64;
const LONG: Duration = Duration::from_mins(10);

/// Positions, and when they were seen to be there.
type Seen = Vec<(u64, Instant)>;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let brokers = std::env::var("AIHUB_TEST_KAFKA").ok();
    let brokers = brokers.map(|dir| std::fs::read_to_string(Path::new(&dir).join("address")).unwrap());
    let rates = std::env::var("BENCH_RATES").unwrap_or_else(|_| "0,1000,2000,4000".to_owned());
    let seconds = std::env::var("BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    for rate in rates.split(',').map(|rate| rate.parse().unwrap()) {
        let cluster = brokers.as_deref().map(|brokers| cluster(brokers.trim()));
        measure(rate, Duration::from_secs(seconds), cluster).await;
    }
}

async fn measure(rate: u64, time: Duration, cluster: Option<Cluster>) {
    let database = database().await;
    let node = Node::start(&database.database);
    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let subscriptions =
        Subscriptions::start(database.database.clone(), Arc::default(), tasks.clone(), shutdown.clone());
    let mut all = handlers();
    if let Some(cluster) = &cluster {
        let reachability = Reachability::new(Arc::new(SystemClock));
        all.push(Arc::new(KafkaRelay::new(cluster.clone(), reachability, shutdown.clone()).unwrap()));
    }
    let mut payers = Vec::new();
    for nth in 0..CALLERS {
        let (payer, granted) = Payer::open(format!("account-{nth}"));
        node.append(granted).await.unwrap();
        payers.push(payer);
    }
    for handler in &all {
        subscriptions.run(handler.clone());
    }
    // Everybody is at work, and knows everybody.
    for handler in &all {
        subscriptions.wait_for(handler.name(), CALLERS, LONG).await.unwrap();
    }
    let progress: Vec<_> = all.iter().map(|handler| tokio::spawn(follow(&subscriptions, &**handler))).collect();
    let (stop, read) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::new())));
    let reading = cluster.map(|cluster| {
        let (stop, read) = (stop.clone(), read.clone());
        tokio::task::spawn_blocking(move || read_topics(&cluster, &stop, &read))
    });
    while reading.is_some() && (read.lock().unwrap().len() as u64) < CALLERS {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let began = Instant::now();
    let callers = payers.into_iter().zip(0..);
    let callers = callers.map(|(payer, nth)| tokio::spawn(append(node.log.clone(), nth, payer, rate, time)));
    let commits = join_all(callers.collect::<Vec<_>>()).await.into_iter().flat_map(Result::unwrap);
    let mut commits: Seen = commits.collect();
    let ended = Instant::now();
    let appended = commits.len() as f64 * 2.0 / (ended - began).as_secs_f64();
    commits.sort_unstable();
    let head = commits.last().unwrap().0;
    for handler in &all {
        subscriptions.wait_for(handler.name(), head, LONG).await.unwrap();
    }
    if let Some(reading) = reading {
        while !read.lock().unwrap().iter().any(|(position, _)| *position == head) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        stop.store(true, Ordering::Relaxed);
        reading.await.unwrap();
    }
    shutdown.cancel();
    tasks.close();
    tasks.wait().await;
    node.stop().await;
    drop(subscriptions);

    let wanted = if rate == 0 { "as many as they could".to_owned() } else { format!("{rate} wanted") };
    println!("\n{CALLERS} callers appended {appended:.0} events/s ({wanted})\n");
    println!("| commit to | p50 | p99 | longest | all of it after the end |\n|---|---|---|---|---|");
    for (handler, progress) in all.iter().zip(progress) {
        let seen = progress.await.unwrap();
        // It has come to a position when it has come to that or a later one.
        let arrived = |position| seen[seen.partition_point(|(reached, _)| *reached < position)].1;
        tell(handler.name(), &commits, ended, arrived);
    }
    let read = std::mem::take(&mut *read.lock().unwrap());
    if !read.is_empty() {
        // Partitions are read one after another: each event is there when it is there, and at first.
        let mut arrived = vec![None; usize::try_from(head).unwrap() + 1];
        for (position, at) in read {
            arrived[usize::try_from(position).unwrap()].get_or_insert(at);
        }
        tell("readable in Kafka", &commits, ended, |position| arrived[usize::try_from(position).unwrap()].unwrap());
    }
}

fn tell(name: &str, commits: &Seen, ended: Instant, arrived: impl Fn(u64) -> Instant) {
    let lag = |(position, at): &(u64, Instant)| arrived(*position).saturating_duration_since(*at);
    let mut lags: Vec<Duration> = commits.iter().map(lag).collect();
    let after = arrived(commits.last().unwrap().0).saturating_duration_since(ended);
    lags.sort_unstable();
    let at = |share: f64| lags[((lags.len() - 1) as f64 * share) as usize];
    let [p50, p99, longest, after] = [at(0.5), at(0.99), at(1.0), after].map(|lag| lag.as_secs_f64() * 1e3);
    println!("| `{name}` | {p50:.1} ms | {p99:.1} ms | {longest:.1} ms | {after:.0} ms |");
}

/// Requests of one caller, one after another, each in two commits of two events. The last position of each commit, and
/// when it was told.
async fn append(log: Arc<PostgresEventLog>, caller: u64, mut payer: Payer, rate: u64, time: Duration) -> Seen {
    let began = Instant::now();
    let every = if rate == 0 {
        Duration::ZERO
    } else {
        Duration::from_secs_f64((CALLERS * EVENTS_A_REQUEST) as f64 / rate as f64)
    };
    let mut commits = Vec::new();
    for nth in 0.. {
        // The callers are out of step.
        let due = every.mul_f64(nth as f64 + caller as f64 / CALLERS as f64);
        tokio::time::sleep_until((began + due).into()).await;
        if began.elapsed() >= time {
            break;
        }
        for unit in payer.request(&format!("request-{caller}-{nth}"), nth, "user", now()) {
            let appended = log.append(unit).await.unwrap();
            commits.push((appended.position + 1, Instant::now()));
        }
    }
    commits
}

/// How far the handler has come, and when.
fn follow(subscriptions: &Subscriptions, handler: &dyn EventHandler) -> impl Future<Output = Seen> + use<> {
    let mut progress = subscriptions.progress(handler.name()).unwrap();
    async move {
        let mut seen = Vec::new();
        while progress.changed().await.is_ok() {
            seen.push((*progress.borrow_and_update(), Instant::now()));
        }
        seen
    }
}

/// Notes when each event can be read.
fn read_topics(cluster: &Cluster, stop: &AtomicBool, read: &Mutex<Seen>) {
    let reader: BaseConsumer = cluster.client().set("group.id", "bench").create().unwrap();
    let topics = cluster.topics();
    let mut list = TopicPartitionList::new();
    for topic in [&topics.accounts, &topics.requests] {
        for partition in 0..cluster.partitions {
            list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        }
    }
    reader.assign(&list).unwrap();
    while !stop.load(Ordering::Relaxed) {
        let Some(message) = reader.poll(Duration::from_millis(10)) else { continue };
        let (message, now) = (message.unwrap(), Instant::now());
        let position = message.headers().unwrap().iter().find(|header| header.key == "position").unwrap();
        let position = std::str::from_utf8(position.value.unwrap()).unwrap().parse().unwrap();
        read.lock().unwrap().push((position, now));
    }
}
