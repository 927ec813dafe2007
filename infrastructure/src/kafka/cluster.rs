//! How a cluster is reached. librdkafka does the work: what it says about itself goes to the debugging log, and failures
//! are told once, by whoever they keep from working.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
    statistics::Statistics,
};

use super::topics::Topics;

/// What is handed to librdkafka as it stands has one of these in front. Everything else is ours to set: what the relay
/// promises depends on it.
pub const PASSED_ON: [&str; 3] = ["security.", "sasl.", "ssl."];

/// A cluster, and what our topics there are like.
#[derive(Clone)]
pub struct Cluster {
    /// `host:port`, separated by commas.
    pub brokers: String,
    /// In front of the topics' names.
    pub topic_prefix: String,
    /// Of each topic that is made; one that is there keeps its own.
    pub partitions: i32,
    /// The same; -1 is the brokers' own default.
    pub replication: i32,
    /// The largest event that is published.
    pub max_message_bytes: usize,
    /// How long the events of a batch may take until all of them are acknowledged.
    pub delivery_timeout: Duration,
    /// `security.*`, `sasl.*` and `ssl.*`, as librdkafka names them. May hold secrets.
    pub properties: BTreeMap<String, String>,
    pub words: Words,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("brokers", &self.brokers)
            .field("topic_prefix", &self.topic_prefix)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    pub fn topics(&self) -> Topics {
        Topics::new(&self.topic_prefix)
    }

    pub fn context(&self) -> Context {
        Context { words: self.words.clone() }
    }

    /// `why`, with what was said of a connection since one was good.
    pub fn in_its_words(&self, why: &str) -> String {
        match &*self.words.lock() {
            // What a broker answered needs none.
            Some(words) if !why.starts_with("topic ") => format!("{why}: {words}"),
            _ => why.to_owned(),
        }
    }

    /// A connection is good: what was said before is of no account.
    pub fn is_good(&self) {
        *self.words.lock() = None;
    }

    /// What every client of it is told.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "aihub")
            .set("reconnect.backoff.max.ms", "1000")
            .set("socket.keepalive.enable", "true")
            // Small requests do not wait for the answers to those before them.
            .set("socket.nagle.disable", "true")
            .set_log_level(RDKafkaLogLevel::Info);
        config
    }
}

/// What librdkafka said last of a connection: its clients say only that there is none.
#[derive(Debug, Clone, Default)]
pub struct Words(Arc<Mutex<Option<String>>>);

impl Words {
    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What librdkafka tells a client of ours.
#[derive(Debug, Clone)]
pub struct Context {
    words: Words,
}

impl ClientContext for Context {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "librdkafka");
    }

    fn stats(&self, _: Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(error.message = %error, reason, "librdkafka");
        // That all of them are down says nothing of why.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *self.words.lock() = Some(reason.to_owned());
        }
    }
}

impl ConsumerContext for Context {}
