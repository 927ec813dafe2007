//! A batch on its way: sent as a whole, waited for as a whole, by a producer that is given up when one of it fails.

use std::{
    borrow::Cow,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use metrics::counter;
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use tokio::{task::spawn_blocking, time::timeout};

use crate::{
    event_store::{reader::RecordedEvent, subscription::TryAgain},
    kafka::{
        cloud_event,
        cluster::{Cluster, Context},
        topics::Topics,
    },
};

/// How much longer than a batch may take the client keeps an event in its queue. It never comes to that: the producer is
/// given up before, because one event that expired would let those behind it overtake it.
const LONGER: Duration = Duration::from_secs(20);
/// Attributes, headers and the protocol's own, beside an event's texts.
const ENVELOPE_BYTES: usize = 4096;

type Producer = FutureProducer<Context>;

pub struct Delivery {
    cluster: Cluster,
    topics: Topics,
    /// The `source` of our events.
    source: String,
    /// Given up whenever what became of an event is not known.
    producer: Mutex<Option<Producer>>,
}

/// Why an event was not published.
#[derive(Debug)]
pub enum Undelivered {
    /// It may be another time.
    Yet(String),
    /// It never will be.
    Refused(String),
}

impl Delivery {
    /// Fails if librdkafka does not take the configuration.
    pub fn new(cluster: Cluster) -> anyhow::Result<Self> {
        let (topics, source) = (cluster.topics(), format!("/{}", cluster.topic_prefix));
        let delivery = Self { cluster, topics, source, producer: Mutex::default() };
        let _ = delivery.producer()?;
        Ok(delivery)
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
            .create_with_context(self.cluster.context())
            .context("the Kafka client cannot be configured")?;
        Ok(producer.insert(made).clone())
    }

    /// Nothing that it still has on its way counts any more.
    pub async fn give_up(&self) {
        let producer = self.producer.lock().unwrap_or_else(PoisonError::into_inner).take();
        // It waits for its threads.
        let _ = spawn_blocking(move || drop(producer)).await;
    }

    /// Returns when all of them are acknowledged, or at the first that is not.
    pub async fn deliver(&self, events: &[Cow<'_, RecordedEvent>]) -> anyhow::Result<Result<(), Undelivered>> {
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
    pub async fn bury(&self, event: &RecordedEvent, why: &str) -> anyhow::Result<()> {
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
        self.give_up().await;
        Err(TryAgain(format!("the dead letter of position {position} is not acknowledged")).into())
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

fn headers(event: &RecordedEvent) -> OwnedHeaders {
    let (content_type, structured) = cloud_event::CONTENT_TYPE;
    OwnedHeaders::new()
        .insert(Header { key: content_type, value: Some(structured) })
        .insert(Header { key: "position", value: Some(&event.position.to_string()) })
}
