//! All partitions of all our topics, each with a queue of its own: one that is not read is not fetched from either, once
//! its queue is full.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use rdkafka::{
    Message, Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer, base_consumer::PartitionQueue},
    error::{KafkaError, RDKafkaErrorCode},
    message::BorrowedMessage,
};
use tokio::{
    sync::Notify,
    task::{JoinHandle, spawn_blocking},
};

use super::target::Offset;
use crate::{
    event_store::reader::RecordedEvent,
    kafka::{
        cloud_event,
        cluster::{Cluster, Context},
    },
};

const METADATA_TIMEOUT: Duration = Duration::from_secs(10);
/// What the client fetches ahead of its reader, for each partition.
const FETCHED_AHEAD_KBYTES: &str = "4096";

pub type Client = BaseConsumer<Context>;

/// The cluster's id and the partitions that our topics have, in order.
pub type Survey = JoinHandle<anyhow::Result<(String, Vec<Name>)>>;

/// A partition's topic and number.
pub type Name = (String, i32);

pub struct Partitions {
    client: Arc<Client>,
    names: Vec<Name>,
    queues: Vec<PartitionQueue<Context>>,
    /// Where each is read from.
    first_offsets: Vec<i64>,
    has_more: Arc<Notify>,
}

/// What a partition gave.
pub enum Read {
    /// With its offset; `None` if it is no event of ours.
    Message(i64, Option<Box<RecordedEvent>>),
    /// Nothing more for now.
    End,
    /// It is on its way, or was not asked for yet.
    Nothing,
}

/// A client that reads the cluster for `group`.
pub fn connect(cluster: &Cluster, group: &str) -> anyhow::Result<Arc<Client>> {
    let client = cluster
        .client()
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("enable.partition.eof", "true")
        .set("queued.max.messages.kbytes", FETCHED_AHEAD_KBYTES)
        .create_with_context(cluster.context())
        .context("the Kafka client cannot be configured")?;
    Ok(Arc::new(client))
}

/// Asks the cluster, which may take its time.
pub fn survey(client: Arc<Client>, cluster: &Cluster) -> Survey {
    let topics = cluster.topics();
    spawn_blocking(move || {
        let metadata = client.fetch_metadata(None, METADATA_TIMEOUT).context("no broker says what it has")?;
        let ours = metadata.topics().iter().filter(|topic| topics.of_events().contains(&topic.name()));
        let mut names: Vec<Name> = ours
            .flat_map(|topic| topic.partitions().iter().map(|partition| (topic.name().to_owned(), partition.id())))
            .collect();
        names.sort_unstable();
        let cluster_id = client.client().fetch_cluster_id(METADATA_TIMEOUT).unwrap_or_default();
        Ok((cluster_id, names))
    })
}

impl Partitions {
    /// Reads each from the offset that is known, or from its beginning.
    pub fn assign(client: Arc<Client>, names: Vec<Name>, offsets: &HashMap<Name, i64>) -> anyhow::Result<Self> {
        ensure!(!names.is_empty(), "Kafka has none of our topics: a hub that is told of this cluster makes them");
        let mut list = TopicPartitionList::new();
        for (topic, partition) in &names {
            let offset = offsets.get(&(topic.clone(), *partition));
            let offset = offset.map_or(KafkaOffset::Beginning, |offset| KafkaOffset::Offset(*offset));
            list.add_partition_offset(topic, *partition, offset)?;
        }
        client.assign(&list)?;
        let has_more = Arc::new(Notify::new());
        let mut queues = Vec::with_capacity(names.len());
        for (topic, partition) in &names {
            let queue = client.split_partition_queue(topic, *partition);
            let mut queue = queue.with_context(|| format!("{topic} has no partition {partition}"))?;
            let has_more = has_more.clone();
            queue.set_nonempty_callback(move || has_more.notify_one());
            queues.push(queue);
        }
        let first_offsets = names.iter().map(|name| offsets.get(name).copied().unwrap_or(0)).collect();
        Ok(Self { client, names, queues, first_offsets, has_more })
    }

    pub fn names(&self) -> &[Name] {
        &self.names
    }

    /// For each partition the offset that it is read from.
    pub fn first_offsets(&self) -> &[i64] {
        &self.first_offsets
    }

    /// What the partition has at hand.
    pub fn read(&self, nth: usize) -> anyhow::Result<Read> {
        let (topic, partition) = &self.names[nth];
        match self.queues[nth].poll(Duration::ZERO) {
            None => Ok(Read::Nothing),
            Some(Err(KafkaError::PartitionEOF(_))) => Ok(Read::End),
            Some(Err(error)) if may_pass(&error) => {
                tracing::debug!(topic, partition, error.message = %error, "a partition is not readable now");
                Ok(Read::Nothing)
            }
            Some(Err(error)) => Err(error).with_context(|| format!("{topic} [{partition}] cannot be read")),
            Some(Ok(message)) => Ok(self.message(nth, &message)),
        }
    }

    fn message(&self, nth: usize, message: &BorrowedMessage<'_>) -> Read {
        let ((topic, partition), offset) = (&self.names[nth], message.offset());
        let event = cloud_event::decode(message.payload().unwrap_or_default());
        let event = event.inspect_err(|error| {
            tracing::warn!(topic, partition, offset, error.message = %error, "passed over what is no event");
        });
        Read::Message(offset, event.ok().map(Box::new))
    }

    /// Serves what librdkafka has to tell. What was fetched between the assignment and the split came into the client's own
    /// queue, and comes out here: a message with its partition, in front of all that is in the partition's queue; an end
    /// with the partition's number alone, so that it is told of each that has the number. One that has more says so by it.
    pub fn serve(&self) -> Vec<(usize, Read)> {
        let mut served = Vec::new();
        while let Some(told) = self.client.poll(Duration::ZERO) {
            let names = self.names.iter().enumerate();
            match told {
                Ok(message) => {
                    let is_its =
                        |(topic, partition): &Name| topic == message.topic() && *partition == message.partition();
                    let its = names.filter(|(_, name)| is_its(name));
                    served.extend(its.map(|(nth, _)| (nth, self.message(nth, &message))));
                }
                Err(KafkaError::PartitionEOF(number)) => {
                    served.extend(names.filter(|(_, name)| name.1 == number).map(|(nth, _)| (nth, Read::End)));
                }
                Err(error) => tracing::debug!(error.message = %error, "the Kafka client has trouble"),
            }
        }
        served
    }

    /// Until one of them has more than it had.
    pub async fn more(&self) {
        self.has_more.notified().await;
    }

    pub fn named(&self, offsets: Vec<i64>) -> Vec<Offset> {
        let named = self.names.iter().zip(offsets);
        named.map(|((topic, partition), next)| Offset { topic: topic.clone(), partition: *partition, next }).collect()
    }

    /// Tells the group's coordinator, for those who watch the group's lag there. Nothing is read from it.
    pub fn show(&self, offsets: &[Offset]) {
        let mut list = TopicPartitionList::new();
        for Offset { topic, partition, next } in offsets {
            let added = list.add_partition_offset(topic, *partition, KafkaOffset::Offset(*next));
            debug_assert!(added.is_ok());
        }
        if let Err(error) = self.client.commit(&list, CommitMode::Async) {
            tracing::debug!(error.message = %error, "the group's offsets are not shown");
        }
    }
}

/// librdkafka goes on by itself.
fn may_pass(error: &KafkaError) -> bool {
    !matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
        )
    )
}
