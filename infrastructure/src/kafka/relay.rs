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
//!   positions sees that one is missing. `aihub relay --from POSITION` publishes it again once the cluster takes it, with
//!   everything behind it; so this one does come out of order.
//!
//! A cluster that is away delays and loses nothing: the batch is tried again for as long as it takes.

mod delivery;

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{bail, ensure};
use futures::{FutureExt, future::BoxFuture};
use metrics::{counter, histogram};
use sqlx::{PgConnection, PgPool, PgTransaction};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::delivery::{Delivery, Undelivered};
use super::{cluster::Cluster, reachability::Reachability, topics::Topics};
use crate::event_store::{
    decode::LogEntry,
    reader::{self, RecordedEvent},
    subscription::{self, EventHandler, TryAgain},
};

pub const NAME: &str = "kafka-relay";

pub struct KafkaRelay {
    cluster: Cluster,
    topics: Topics,
    /// Looked at again after whatever went wrong: somebody may have deleted one.
    topics_are_there: AtomicBool,
    delivery: Delivery,
    reachability: Reachability,
    shutdown: CancellationToken,
}

impl KafkaRelay {
    /// After `shutdown` no batch is waited for. Fails if librdkafka does not take the configuration.
    pub fn new(cluster: Cluster, reachability: Reachability, shutdown: CancellationToken) -> anyhow::Result<Self> {
        Ok(Self {
            topics: cluster.topics(),
            topics_are_there: AtomicBool::new(false),
            delivery: Delivery::new(cluster.clone())?,
            cluster,
            reachability,
            shutdown,
        })
    }

    async fn publish(&self, connection: &mut PgConnection, events: &[Arc<LogEntry>]) -> anyhow::Result<()> {
        let events = as_stored(connection, events).await?;
        let began = Instant::now();
        let delivery = async {
            // Not in the same time: where making the topics took all of it, no attempt would come further.
            if !self.topics_are_there.load(Ordering::Acquire) {
                if let Err(error) = self.topics.ensure(&self.cluster).await {
                    return Ok(Ok(Err(Undelivered::Yet(format!("{error:#}")))));
                }
                self.topics_are_there.store(true, Ordering::Release);
            }
            timeout(self.cluster.delivery_timeout, self.delivery.deliver(&events)).await
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
                self.reachability.takes_events();
                histogram!("kafka_publish_seconds").record(began.elapsed());
                counter!("kafka_published_events_total").increment(events.len() as u64);
                Ok(())
            }
            Err(Undelivered::Yet(why)) => {
                self.delivery.give_up().await;
                self.topics_are_there.store(false, Ordering::Release);
                if !self.shutdown.is_cancelled() {
                    self.reachability.takes_nothing(&self.cluster.in_its_words(&why));
                }
                Err(TryAgain(why).into())
            }
            Err(Undelivered::Refused(why)) => {
                self.delivery.give_up().await;
                match &*events {
                    [event] => self.delivery.bury(event, &why).await,
                    // The subscription then applies them one by one.
                    _ => bail!("Kafka refused an event of the batch: {why}"),
                }
            }
        }
    }
}

impl EventHandler for KafkaRelay {
    fn name(&self) -> &'static str {
        NAME
    }

    /// Making the topics, the delivery, and giving up what is on its way.
    fn patience(&self) -> Duration {
        Duration::from_mins(1)
    }

    fn apply<'a>(
        &'a self,
        transaction: &'a mut PgTransaction<'_>,
        events: &'a [Arc<LogEntry>],
    ) -> BoxFuture<'a, anyhow::Result<()>> {
        self.publish(transaction, events).boxed()
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
        for event in reader::events_at(&mut *connection, &[event.position.cast_signed()]).await? {
            ensure!(is_stored(&event), "the content at position {} is not what was recorded", event.position);
            stored.push(Cow::Owned(event));
        }
    }
    Ok(stored)
}
