//! Whether the cluster answers. Nothing waits for it: what cannot be published stays in the log.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aihub_application::ports::clock::Clock;
use anyhow::Context as _;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use metrics::gauge;
use rdkafka::admin::AdminClient;
use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

use super::cluster::{Cluster, Context};

const LOOK_EVERY: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(3);
/// A relay that has failed tries again within so long: making the topics, the delivery and the pause before.
const TRIES_WITHIN: TimeDelta = TimeDelta::seconds(60);

/// What is known of the cluster, for whoever asks whether the node is well. Clones share it.
#[derive(Clone)]
pub struct Reachability {
    clock: Arc<dyn Clock>,
    known: Arc<Mutex<Known>>,
}

/// Brokers may say what they have and take nothing all the same: each is known by itself, so that neither hides the other.
#[derive(Debug, Default)]
struct Known {
    silent: Option<Trouble>,
    takes_nothing: Option<Trouble>,
}

#[derive(Debug)]
struct Trouble {
    since: DateTime<Utc>,
    last: DateTime<Utc>,
    why: String,
}

impl fmt::Debug for Reachability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reachability").field("known", &*self.lock()).finish()
    }
}

impl Reachability {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, known: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For `/health/ready`; `None` while all is well. Anybody may ask, so the brokers' own words are in the log alone.
    pub fn notice(&self) -> Option<String> {
        let known = self.lock();
        let (what, Trouble { since, why, .. }) = match (&known.silent, &known.takes_nothing) {
            (Some(silent), _) => ("Kafka is unreachable", silent),
            (None, Some(takes_nothing)) => ("Kafka answers and takes no events", takes_nothing),
            (None, None) => return None,
        };
        let since = since.to_rfc3339_opts(SecondsFormat::Secs, true);
        Some(format!("{what} since {since} ({why}): events wait in the log"))
    }

    pub fn answers(&self) {
        gauge!("kafka_reachable").set(1.0);
        if self.lock().silent.take().is_some() {
            tracing::info!("Kafka answers again");
        }
    }

    pub fn is_silent(&self, why: &str) {
        gauge!("kafka_reachable").set(0.0);
        let now = self.clock.now();
        if is_news(&mut self.lock().silent, now, why) {
            tracing::warn!(error.message = why, "Kafka is unreachable: events wait in the log");
        }
    }

    pub fn takes_events(&self) {
        self.answers();
        gauge!("kafka_takes_events").set(1.0);
        if self.lock().takes_nothing.take().is_some() {
            tracing::info!("Kafka takes events again");
        }
    }

    /// The relay is on one node at a time: where it has failed and does not try any more, another one has it.
    fn leave_to_others(&self) {
        let long_ago = self.clock.now() - TRIES_WITHIN;
        if self.lock().takes_nothing.take_if(|trouble| trouble.last < long_ago).is_some() {
            gauge!("kafka_takes_events").set(1.0);
        }
    }

    pub fn takes_nothing(&self, why: &str) {
        gauge!("kafka_takes_events").set(0.0);
        let now = self.clock.now();
        if is_news(&mut self.lock().takes_nothing, now, why) {
            tracing::warn!(error.message = why, "Kafka takes no events: they wait in the log");
        }
    }

    /// Asks the cluster now and then, until `shutdown`: so it is also known where nothing is to be published.
    pub async fn follow(self, cluster: Cluster, shutdown: CancellationToken) {
        let look_again = async {
            let client = match cluster.client().create_with_context::<_, AdminClient<Context>>(cluster.context()) {
                Ok(client) => Arc::new(client),
                // The relay has the same trouble, and tells.
                Err(error) => return self.is_silent(&error.to_string()),
            };
            loop {
                match ask(client.clone()).await {
                    Ok(()) => {
                        cluster.is_good();
                        self.answers();
                        self.leave_to_others();
                    }
                    Err(error) => self.is_silent(&cluster.in_its_words(&format!("{error:#}"))),
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

/// Whether it is another trouble than before. What lasts has one beginning, whatever is said of it meanwhile.
fn is_news(trouble: &mut Option<Trouble>, now: DateTime<Utc>, why: &str) -> bool {
    let why = cause(why);
    match trouble {
        Some(known) => {
            known.last = now;
            let is_news = known.why != why;
            known.why = why;
            is_news
        }
        none => {
            *none = Some(Trouble { since: now, last: now, why });
            true
        }
    }
}

/// What it is about, in words that anybody may read: no host, no name of a user.
fn cause(why: &str) -> String {
    // Ours: which topic, and the broker's reason.
    if why.starts_with("topic ") {
        return why.to_owned();
    }
    let said = why.to_ascii_lowercase();
    let causes = [
        ("authentication fail", "the brokers refuse our credentials: sasl.username, sasl.password"),
        ("sasl authentication error", "the brokers refuse our credentials: sasl.username, sasl.password"),
        ("unsupported sasl mechanism", "the brokers know no such sasl.mechanism"),
        ("failed to resolve", "the brokers' host has no address"),
        ("certificate", "the brokers' certificate is not trusted: ssl.ca.location"),
        ("ssl handshake", "no TLS comes about: security.protocol, ssl.*"),
        ("security.protocol", "who answers speaks another protocol: security.protocol"),
        ("invalid response size", "who answers is no Kafka, or speaks another protocol: security.protocol"),
        ("authorization failed", "the brokers do not allow it to our user"),
        ("connection refused", "nobody listens there"),
        ("topics cannot be made", "our topics are missing and cannot be made"),
    ];
    let known = causes.into_iter().find(|(sign, _)| said.contains(sign));
    known.map_or("no answer", |(_, cause)| cause).to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aihub_application::ports::clock::SystemClock;

    use super::*;

    #[test]
    fn brokers_that_answer_and_take_nothing_are_known_as_such_from_when_on() {
        let reachability = Reachability::new(Arc::new(SystemClock));
        reachability.takes_nothing("topic hub.requests cannot be made: Broker: Topic authorization failed");
        let told = reachability.notice().unwrap();
        assert!(told.starts_with("Kafka answers and takes no events since 20"), "{told}");
        assert!(told.contains("(topic hub.requests cannot be made: Broker: Topic authorization failed)"), "{told}");
        // That they say what they have changes nothing.
        reachability.answers();
        assert_eq!(reachability.notice().unwrap(), told);
        reachability.is_silent("no broker says what it has: Connect to ipv4#10.1.2.3:9092 failed: Connection refused");
        let away = reachability.notice().unwrap();
        assert!(away.starts_with("Kafka is unreachable since") && away.contains("(nobody listens there)"), "{away}");
        reachability.takes_events();
        assert_eq!(reachability.notice(), None);
    }

    #[test]
    fn what_librdkafka_says_is_told_by_what_to_look_at() {
        for (said, told) in [
            ("sasl_plaintext://b:9092/bootstrap: SASL authentication error: Authentication failed", "our credentials"),
            ("Failed to resolve 'nowhere:9092': Name or service not known", "no address"),
            (
                "Disconnected: verify that security.protocol is correctly configured, broker might require SASL",
                "another protocol",
            ),
            ("ssl://b:9093: SSL handshake failed: unexpected message", "no TLS"),
            ("Receive failed: Invalid response size 1213486160 (0..100000000)", "no Kafka"),
            ("Connect to ipv4#127.0.0.1:1 failed: Connection refused", "nobody listens"),
            ("BrokerTransportFailure", "no answer"),
        ] {
            assert!(cause(said).contains(told), "{said}: {}", cause(said));
        }
    }
}
