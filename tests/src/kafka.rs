//! What stands in the topics, and in views that are fed from them.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use aihub_application::ports::clock::SystemClock;
use aihub_infrastructure::{
    event_store::{
        chain::{self, ChainHead},
        reader::RecordedEvent,
        subscription::{EventHandler, Subscriptions},
        upcast::Upcasters,
    },
    kafka::{
        cloud_event,
        cluster::{Cluster, Words},
        projector::Projector,
        reachability::Reachability,
        relay::KafkaRelay,
    },
};
use aihub_projections::rebuild::{View, views};
use futures::TryStreamExt;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::Headers,
    mocking::MockCluster,
    producer::DefaultProducerContext,
};
use tokio::task::spawn_blocking;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use uuid::Uuid;

use crate::{PATIENCE, TestDatabase, until};

pub const PARTITIONS: i32 = 3;

/// librdkafka's own brokers, with our topics.
pub struct MockKafka {
    pub mock: MockCluster<'static, DefaultProducerContext>,
    pub cluster: Cluster,
}

impl MockKafka {
    pub fn start() -> Self {
        let mock = MockCluster::new(1).unwrap();
        let cluster = cluster(&mock.bootstrap_servers());
        let topics = cluster.topics();
        for topic in topics.of_events().into_iter().chain([topics.dead_letters.as_str()]) {
            mock.create_topic(topic, PARTITIONS, 1).unwrap();
        }
        Self { mock, cluster }
    }
}

/// A cluster at these brokers, with topics of the test's own.
pub fn cluster(brokers: &str) -> Cluster {
    Cluster {
        brokers: brokers.to_owned(),
        topic_prefix: format!("test-{}", Uuid::now_v7().simple()),
        partitions: PARTITIONS,
        replication: 1,
        max_message_bytes: 1 << 20,
        delivery_timeout: Duration::from_secs(5),
        properties: BTreeMap::new(),
        words: Words::default(),
    }
}

/// A node that publishes, until the guard is dropped.
pub fn publish(database: &TestDatabase, cluster: &Cluster) -> (Subscriptions, Reachability, DropGuard) {
    let shutdown = CancellationToken::new();
    let upcasters = Arc::new(Upcasters::default());
    let subscriptions =
        Subscriptions::start(database.database.clone(), upcasters, TaskTracker::new(), shutdown.clone());
    let reachability = Reachability::new(Arc::new(SystemClock));
    let relay = KafkaRelay::new(cluster.clone(), reachability.clone(), shutdown.clone()).unwrap();
    subscriptions.run(Arc::new(relay));
    (subscriptions, reachability, shutdown.drop_guard())
}

/// What feeds the views of `database`.
pub fn projector(database: &TestDatabase, cluster: &Cluster) -> Projector {
    Projector {
        cluster: cluster.clone(),
        group: "finance".to_owned(),
        database: database.database.clone(),
        views: views().into_iter().map(|view| view as Arc<dyn EventHandler>).collect(),
        upcasters: Arc::new(Upcasters::default()),
        reachability: Reachability::new(Arc::new(SystemClock)),
    }
}

/// A message as it stands in a partition.
#[derive(Debug, Clone)]
pub struct Stored {
    pub topic: String,
    pub partition: i32,
    pub key: String,
    pub headers: BTreeMap<String, String>,
    pub text: String,
}

impl Stored {
    pub fn event(&self) -> RecordedEvent {
        cloud_event::decode(self.text.as_bytes()).unwrap()
    }

    pub fn position(&self) -> u64 {
        self.headers["position"].parse().unwrap()
    }
}

/// Everything that the topics hold by now, each partition's in its order.
pub async fn stored(cluster: &Cluster, topics: &[&str]) -> Vec<Stored> {
    let cluster = cluster.clone();
    let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
    // In a thread of its own: the clients under test live on the test's.
    spawn_blocking(move || read_all(&cluster, &topics)).await.unwrap()
}

fn read_all(cluster: &Cluster, topics: &[String]) -> Vec<Stored> {
    let mut config = cluster.client();
    config.set("group.id", "reader").set("enable.partition.eof", "true").set("fetch.wait.max.ms", "10");
    let reader: BaseConsumer = config.create().unwrap();
    let metadata = reader.fetch_metadata(None, PATIENCE).unwrap();
    let mut list = TopicPartitionList::new();
    for topic in metadata.topics().iter().filter(|found| topics.iter().any(|topic| topic == found.name())) {
        for partition in topic.partitions() {
            list.add_partition_offset(topic.name(), partition.id(), Offset::Beginning).unwrap();
        }
    }
    reader.assign(&list).unwrap();
    let (mut messages, mut ended) = (Vec::new(), 0);
    while ended < list.count() {
        match reader.poll(PATIENCE).expect("the broker answers") {
            Ok(message) => messages.push(Stored {
                topic: message.topic().to_owned(),
                partition: message.partition(),
                key: String::from_utf8(message.key().unwrap().to_vec()).unwrap(),
                headers: message.headers().unwrap().iter().map(|header| text(header.key, header.value)).collect(),
                text: String::from_utf8(message.payload().unwrap().to_vec()).unwrap(),
            }),
            Err(KafkaError::PartitionEOF(_)) => ended += 1,
            Err(KafkaError::MessageConsumption(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    messages
}

fn text(key: &str, value: Option<&[u8]>) -> (String, String) {
    (key.to_owned(), String::from_utf8(value.unwrap().to_vec()).unwrap())
}

/// All events in the topics, once they are complete up to `head`. Checks what a reader relies on: each stands in its
/// topic under its key, has its hashes, is chained, and comes for the first time in order within its partition.
pub async fn published(cluster: &Cluster, head: u64) -> Vec<Stored> {
    let topics = cluster.topics();
    let messages = until("everything is published", async || {
        // What came later may be there as well.
        let mut messages = stored(cluster, &topics.of_events()).await;
        messages.retain(|message| message.position() <= head);
        let positions: HashSet<u64> = messages.iter().map(Stored::position).collect();
        (positions.len() as u64 == head).then_some(messages)
    })
    .await;
    let mut events: BTreeMap<u64, RecordedEvent> = BTreeMap::new();
    let mut last: BTreeMap<(&str, i32), u64> = BTreeMap::new();
    for message in &messages {
        let event = message.event();
        assert_eq!((event.position, &event.aggregate_id), (message.position(), &message.key));
        assert_eq!(message.topic, topics.of(&event.aggregate_type));
        assert!(message.headers["content-type"].starts_with("application/cloudevents+json"));
        let is_first = match events.get(&event.position) {
            Some(known) => {
                assert_eq!(*known, event);
                false
            }
            None => true,
        };
        if is_first {
            let last = last.entry((&message.topic, message.partition)).or_default();
            assert!(*last < event.position, "{} comes after {last}", event.position);
            *last = event.position;
            events.insert(event.position, event);
        }
    }
    chain::verify(ChainHead::GENESIS, events.values()).unwrap();
    messages
}

/// Every row of every view, as `COPY` gives it.
pub async fn rows(database: &TestDatabase) -> Vec<String> {
    let mut rows = Vec::new();
    let mut connection = database.pool().acquire().await.unwrap();
    for view in views() {
        for table in view.tables() {
            let copy = format!("COPY (SELECT t.* FROM {table} t ORDER BY t::text) TO STDOUT");
            let bytes: Vec<_> = connection.copy_out_raw(&copy).await.unwrap().try_collect().await.unwrap();
            rows.push(format!("{table}\n{}", String::from_utf8(bytes.concat()).unwrap()));
        }
    }
    rows
}

/// Fills the views from the log that the database has.
pub async fn from_log(database: &TestDatabase, head: u64) -> Vec<String> {
    let (shutdown, upcasters) = (CancellationToken::new(), Arc::new(Upcasters::default()));
    let _guard = shutdown.clone().drop_guard();
    let subscriptions = Subscriptions::start(database.database.clone(), upcasters, TaskTracker::new(), shutdown);
    for view in views() {
        let view: Arc<dyn View> = view;
        subscriptions.run_until(view, head).await.unwrap();
    }
    rows(database).await
}

/// Waits until all views of the database have come to `position`.
pub async fn caught_up(database: &TestDatabase, position: u64) {
    let count = i64::try_from(views().len()).unwrap();
    until("the views have caught up", async || {
        let there: i64 = sqlx::query_scalar("SELECT count(*) FROM subscriptions WHERE position = $1")
            .bind(position.cast_signed())
            .fetch_one(database.pool())
            .await
            .unwrap();
        (there == count).then_some(())
    })
    .await;
}
