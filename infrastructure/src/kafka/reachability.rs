//! Whether the cluster answers. Nothing waits for it: what cannot be published stays in the log.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aihub_application::ports::clock::Clock;
use anyhow::Context as _;
use chrono::{DateTime, SecondsFormat, Utc};
use metrics::gauge;
use rdkafka::admin::AdminClient;
use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

use super::cluster::{Cluster, Context};

const LOOK_EVERY: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(3);

/// What is known of the cluster, for whoever asks whether the node is well. Clones share it.
#[derive(Clone)]
pub struct Reachability {
    clock: Arc<dyn Clock>,
    unreachable_since: Arc<Mutex<Option<DateTime<Utc>>>>,
}

impl fmt::Debug for Reachability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reachability").field("unreachable_since", &self.unreachable_since()).finish()
    }
}

impl Reachability {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, unreachable_since: Arc::default() }
    }

    pub fn unreachable_since(&self) -> Option<DateTime<Utc>> {
        *self.unreachable_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For `/health/ready`; `None` while it answers. Anybody may ask, so the reason is in the log alone.
    pub fn notice(&self) -> Option<String> {
        let since = self.unreachable_since()?.to_rfc3339_opts(SecondsFormat::Secs, true);
        Some(format!("Kafka is unreachable since {since}: events wait in the log"))
    }

    pub fn answers(&self) {
        gauge!("kafka_reachable").set(1.0);
        let was = self.unreachable_since.lock().unwrap_or_else(PoisonError::into_inner).take();
        if was.is_some() {
            tracing::info!("Kafka answers again");
        }
    }

    pub fn is_silent(&self, why: &str) {
        gauge!("kafka_reachable").set(0.0);
        let mut since = self.unreachable_since.lock().unwrap_or_else(PoisonError::into_inner);
        if since.is_none() {
            *since = Some(self.clock.now());
            tracing::warn!(error.message = why, "Kafka is unreachable: events wait in the log");
        }
    }

    /// Asks the cluster now and then, until `shutdown`: so it is also known where nothing is to be published.
    pub async fn follow(self, cluster: Cluster, shutdown: CancellationToken) {
        let look_again = async {
            let client = match cluster.client().create_with_context::<_, AdminClient<Context>>(Context) {
                Ok(client) => Arc::new(client),
                // The relay has the same trouble, and tells.
                Err(error) => return self.is_silent(&error.to_string()),
            };
            loop {
                match ask(client.clone()).await {
                    Ok(()) => self.answers(),
                    Err(error) => self.is_silent(&format!("{error:#}")),
                }
                sleep(LOOK_EVERY).await;
            }
        };
        shutdown.run_until_cancelled(look_again).await;
    }
}

async fn ask(client: Arc<AdminClient<Context>>) -> anyhow::Result<()> {
    let asked = spawn_blocking(move || client.inner().fetch_metadata(None, PATIENCE).map(drop));
    asked.await?.context("no broker says what it has")
}
