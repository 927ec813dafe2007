//! The relay: a subscription like any other, which publishes the log. One node has it at a time, its checkpoint is the
//! subscription's, and it moves when every event of a batch is acknowledged by all replicas in sync.
//!
//! What a reader of a topic may rely on:
//!
//! - Every event arrives at least once. A batch whose fate is not known is published again, as a whole and by a new
//!   producer, so an event may come twice; its position tells.
//! - Within a partition, and so for each aggregate, the *first* coming of each event is in position order. The client
//!   may not skip one and go on: `enable.gapless.guarantee` stops it at the first that is refused, and none expires in
//!   the client's queue, because the whole producer is given up before that. So a reader that passes over positions
//!   which it has seen passes over duplicates only.
//! - An event that the cluster will never take (too large, mostly) goes to the topic of dead letters, by reference and
//!   with the reason, and the relay goes on: a stop would keep everything behind it from everybody. What reads all
//!   positions sees that one is missing. `aihub relay --from POSITION` publishes it again once the cluster takes it.
//!
//! A cluster that is away delays and loses nothing: the batch is tried again for as long as it takes.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use futures::{FutureExt, future::BoxFuture};
use metrics::{counter, histogram};
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use sqlx::{PgConnection, PgPool, PgTransaction};
use tokio::{
    sync::OnceCell,
    task::spawn_blocking,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    cloud_event,
    cluster::{Cluster, Context},
    reachability::Reachability,
    topics::Topics,
};
use crate::event_store::{
    decode::LogEntry,
    reader::{self, ReadLimit, RecordedEvent},
    subscription::{self, EventHandler, TryAgain},
};

pub const NAME: &str = "kafka-relay";

/// How much longer than a batch may take the client keeps an event in its queue. It never comes to that: see above.
const LONGER: Duration = Duration::from_secs(20);
/// Attributes, headers and the protocol's own, beside an event's texts.
const ENVELOPE_BYTES: usize = 4096;

type Producer = FutureProducer<Context>;

pub struct KafkaRelay {
    cluster: Cluster,
    topics: Topics,
    /// The `source` of our events.
    source: String,
    topics_are_there: OnceCell<()>,
    /// Given up whenever what became of an event is not known.
    producer: Mutex<Option<Producer>>,
    reachability: Reachability,
    shutdown: CancellationToken,
}

/// Why an event was not published.
#[derive(Debug)]
enum Undelivered {
    /// It may be another time.
    Yet(String),
    /// It never will be.
    Refused(String),
}

impl KafkaRelay {
    /// After `shutdown` no batch is waited for. Fails if librdkafka does not take the configuration.
    pub fn new(cluster: Cluster, reachability: Reachability, shutdown: CancellationToken) -> anyhow::Result<Self> {
        let relay = Self {
            topics: cluster.topics(),
            source: format!("/{}", cluster.topic_prefix),
            topics_are_there: OnceCell::new(),
            producer: Mutex::default(),
            cluster,
            reachability,
            shutdown,
        };
        let _ = relay.producer()?;
        Ok(relay)
    }

    fn producer(&self) -> anyhow::Result<Producer> {
        let mut producer = self.producer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(producer) = &*producer {
            return Ok(producer.clone());
        }
        let expire_ms = (self.cluster.delivery_timeout + LONGER).as_millis().to_string();
        let max_message_bytes = (self.cluster.max_message_bytes + ENVELOPE_BYTES).to_string();
        let made: Producer = self
            .cluster
            .client()
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("enable.gapless.guarantee", "true")
            .set("message.timeout.ms", expire_ms)
            .set("message.max.bytes", max_message_bytes)
            // A batch of the log is there as a whole: there is hardly anything to wait for.
            .set("linger.ms", "1")
            .set("compression.type", "lz4")
            // As Java's clients do it, so that their tables can be joined with ours.
            .set("partitioner", "murmur2_random")
            .create_with_context(Context)
            .context("the Kafka client cannot be configured")?;
        Ok(producer.insert(made).clone())
    }

    /// Nothing that it still has on its way counts any more.
    async fn give_producer_up(&self) {
        let producer = self.producer.lock().unwrap_or_else(PoisonError::into_inner).take();
        // It waits for its threads.
        let _ = spawn_blocking(move || drop(producer)).await;
    }

    async fn publish(&self, connection: &mut PgConnection, events: &[Arc<LogEntry>]) -> anyhow::Result<()> {
        let events = as_stored(connection, events).await?;
        let began = Instant::now();
        let delivery = async {
            // Not in the same time: where making the topics took all of it, no attempt would come further.
            let prepared = self.topics_are_there.get_or_try_init(|| self.topics.ensure(&self.cluster)).await;
            match prepared {
                Ok(()) => timeout(self.cluster.delivery_timeout, self.deliver(&events)).await,
                Err(error) => Ok(Ok(Err(Undelivered::Yet(format!("{error:#}"))))),
            }
        };
        let delivered = match self.shutdown.run_until_cancelled(delivery).await {
            Some(Ok(delivered)) => delivered?,
            Some(Err(_)) => {
                let waited_ms = self.cluster.delivery_timeout.as_millis();
                Err(Undelivered::Yet(format!("not acknowledged in {waited_ms} ms")))
            }
            None => Err(Undelivered::Yet("the node shuts down".to_owned())),
        };
        match delivered {
            Ok(()) => {
                self.reachability.answers();
                histogram!("kafka_publish_seconds").record(began.elapsed());
                counter!("kafka_published_events_total").increment(events.len() as u64);
                Ok(())
            }
            Err(Undelivered::Yet(why)) => {
                self.give_producer_up().await;
                if !self.shutdown.is_cancelled() {
                    self.reachability.is_silent(&why);
                }
                Err(TryAgain(why).into())
            }
            Err(Undelivered::Refused(why)) => {
                self.give_producer_up().await;
                match &*events {
                    [event] => self.bury(event, &why).await,
                    // The subscription then applies them one by one.
                    _ => bail!("Kafka refused an event of the batch: {why}"),
                }
            }
        }
    }

    /// Returns when all of them are acknowledged, or at the first that is not.
    async fn deliver(&self, events: &[Cow<'_, RecordedEvent>]) -> anyhow::Result<Result<(), Undelivered>> {
        let producer = self.producer()?;
        let mut deliveries = Vec::with_capacity(events.len());
        let mut queued = Ok(());
        for event in events {
            let message = cloud_event::encode(&self.source, event)?;
            let headers = headers(event);
            let record = FutureRecord::to(self.topics.of(&event.aggregate_type))
                .key(&event.aggregate_id)
                .payload(&message)
                .timestamp(event.recorded_at.timestamp_millis())
                .headers(headers);
            let size = message.len() + event.aggregate_id.len();
            queued = if size > self.cluster.max_message_bytes {
                Err(Undelivered::Refused(format!(
                    "{size} bytes are more than kafka.max_message_bytes = {}",
                    self.cluster.max_message_bytes
                )))
            } else {
                producer
                    .send_result(record)
                    .map(|delivery| deliveries.push(delivery))
                    .map_err(|(error, _)| error.into())
            };
            if queued.is_err() {
                break;
            }
        }
        // The one that was refused is told of before those that the client then gave up for its sake.
        let mut delivered = queued;
        for delivery in deliveries {
            let outcome = match delivery.await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err((error, _))) => Err(error.into()),
                Err(_) => Err(Undelivered::Yet("the producer ended".to_owned())),
            };
            if let Err(reason) = outcome
                && !matches!(delivered, Err(Undelivered::Refused(_)))
            {
                delivered = Err(reason);
            }
        }
        Ok(delivered)
    }

    /// Says of an event that it cannot be published where it belongs.
    async fn bury(&self, event: &RecordedEvent, why: &str) -> anyhow::Result<()> {
        let position = event.position;
        let message = cloud_event::encode_reference(&self.source, event)?;
        let headers = headers(event)
            .insert(Header { key: "reason", value: Some(why) })
            .insert(Header { key: "topic", value: Some(self.topics.of(&event.aggregate_type)) });
        let record = FutureRecord::to(&self.topics.dead_letters)
            .key(&event.aggregate_id)
            .payload(&message)
            .timestamp(event.recorded_at.timestamp_millis())
            .headers(headers);
        let delivery = self.producer()?.send_result(record).map_err(|(error, _)| error);
        let delivery = delivery.with_context(|| format!("{why}; and its dead letter is refused"))?;
        let delivered = timeout(self.cluster.delivery_timeout, delivery).await;
        if let Ok(Ok(Ok(_))) = delivered {
            tracing::error!(event.position = position, reason = why, "Kafka does not take an event: a dead letter");
            counter!("kafka_dead_letters_total").increment(1);
            return Ok(());
        }
        self.give_producer_up().await;
        Err(TryAgain(format!("the dead letter of position {position} is not acknowledged")).into())
    }
}

impl EventHandler for KafkaRelay {
    fn name(&self) -> &'static str {
        NAME
    }

    fn apply<'a>(
        &'a self,
        transaction: &'a mut PgTransaction<'_>,
        events: &'a [Arc<LogEntry>],
    ) -> BoxFuture<'a, anyhow::Result<()>> {
        self.publish(transaction, events).boxed()
    }
}

impl From<KafkaError> for Undelivered {
    fn from(error: KafkaError) -> Self {
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::MessageSizeTooLarge
                | RDKafkaErrorCode::MessageBatchTooLarge
                | RDKafkaErrorCode::InvalidMessageSize
                | RDKafkaErrorCode::InvalidRecord
                | RDKafkaErrorCode::PolicyViolation,
            ) => Self::Refused(error.to_string()),
            _ => Self::Yet(error.to_string()),
        }
    }
}

/// Has the relay publish everything from `first` on again; false if it has not come so far. A relay that is at work, on
/// whichever node, notices within a second.
pub async fn publish_again_from(pool: &PgPool, first: u64) -> Result<bool, sqlx::Error> {
    if first <= 1 {
        subscription::reset(pool, NAME).await?;
        return Ok(true);
    }
    let moved = sqlx::query!(
        "UPDATE subscriptions s
         SET position = e.position, chain_hash = e.chain_hash, updated_at = now(),
             error = NULL, error_position = NULL, failed_at = NULL
         FROM events e WHERE s.name = $1 AND e.position = $2 AND s.position >= e.position",
        NAME,
        first.cast_signed() - 1,
    );
    Ok(moved.execute(pool).await?.rows_affected() == 1)
}

fn headers(event: &RecordedEvent) -> OwnedHeaders {
    let (content_type, structured) = cloud_event::CONTENT_TYPE;
    OwnedHeaders::new()
        .insert(Header { key: content_type, value: Some(structured) })
        .insert(Header { key: "position", value: Some(&event.position.to_string()) })
}

/// The events as the log has them: handlers get them upcast, several for one position perhaps. What their hash is not
/// true of is read again, and what it is not true of then either was changed behind our back.
async fn as_stored<'e>(
    connection: &mut PgConnection,
    events: &'e [Arc<LogEntry>],
) -> anyhow::Result<Vec<Cow<'e, RecordedEvent>>> {
    let is_stored = |event: &RecordedEvent| event.leaf().hash() == event.leaf_hash;
    let mut stored: Vec<Cow<'e, RecordedEvent>> = Vec::with_capacity(events.len());
    for event in events {
        if stored.last().is_some_and(|last| last.position == event.position) {
            continue;
        }
        if is_stored(event) {
            stored.push(Cow::Borrowed(event));
            continue;
        }
        let limit = ReadLimit { events: 1, ..ReadLimit::default() };
        for event in reader::events_from(&mut *connection, event.position, limit).await? {
            ensure!(is_stored(&event), "the content at position {} is not what was recorded", event.position);
            stored.push(Cow::Owned(event));
        }
    }
    Ok(stored)
}
