//! The sections that are read as they stand. Units stand last in the names.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf};

use aihub_application::limits::{Allowance, Capacity};
use aihub_infrastructure::{
    kafka::cluster::{Cluster, Words},
    roles::RoleNames,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize, Serializer};

use super::{
    amount::{Credits, CreditsPerUsd},
    duration_ms,
};
use crate::auth::secret::Secret;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSettings {
    /// Address and port; port 0 takes a free one. Also `--listen`.
    pub listen: SocketAddr,
    /// Where development keeps its database and its secrets. Also `--data-dir`.
    pub data_dir: PathBuf,
    /// This node in the metadata of its events. Left out, it is the machine's name.
    pub node: Option<String>,
    /// What the service is to keep within. See [`memory`](super::memory) for how it is divided.
    pub memory_bytes: usize,
    /// The longest frame that a client may send; above it the socket is closed with 1009.
    pub max_frame_bytes: usize,
    /// Of HTTP, from being accepted to being closed or becoming a socket. Where one more comes, one that asks for nothing is closed;
    /// where all of them ask for something, the answer is a 503. Three quarters may ask for something at the same time.
    pub max_connections: usize,
    /// For the head of a request, from the connection's first moment on, and between two requests.
    pub head_timeout_ms: u64,
    /// From an upgrade to its end; above it an upgrade is answered with a 503.
    pub max_sockets: usize,
    /// Running at once on one socket.
    pub max_requests_per_socket: usize,
    /// Frames that are no JSON object with a type; one more closes the socket with 1008.
    pub malformed_frames_allowed: u32,
    /// Networks of the proxies in front of this service, whose `X-Forwarded-For` says where a client is.
    pub trusted_proxies: Vec<IpNet>,
    /// Whose pages may call this service out of a browser, on sockets and over HTTP: `https://app.example`, or `*` for
    /// any. Those of this service's own address may always.
    pub allowed_origins: Vec<String>,
    /// A peer that says nothing for twice as long is taken for gone.
    pub ping_interval_ms: u64,
    /// Takes part although another node that lives charges otherwise. Also `--allow-other-prices`.
    pub allow_other_prices: bool,
    /// A handler of the log that the log is ahead of and that does not move for so long is told of, and started anew once.
    pub standstill_ms: u64,
    /// How long after SIGTERM the node says that it is not ready while it still takes whoever comes, so that those who send
    /// others here can hear of it. Left out: 5000 in production, 0 in development.
    pub drain_notice_ms: Option<u64>,
    /// How long after that running requests may go on before they are ended.
    pub drain_ms: u64,
}

impl ServerSettings {
    /// The configured name, or the machine's.
    pub fn node_name(&self) -> String {
        let kernels = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let name = self.node.clone().or_else(kernels).map(|name| name.trim().to_owned());
        name.filter(|name| !name.is_empty()).unwrap_or_else(|| "aihub".to_owned())
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseSettings {
    /// Left out, development starts a private PostgreSQL. Also `DATABASE_URL`.
    pub url: Option<DatabaseUrl>,
    /// Of this node's pool. A node has others beside it: four of its own, up to four for what is read over HTTP, and one for
    /// each handler and each leadership that it has just then.
    pub max_connections: u32,
    /// In front of the names of the roles, which all databases of a server share: `<prefix>_service`, `_finance`, `_auditor`
    /// and `_writer`.
    pub role_prefix: String,
}

impl DatabaseSettings {
    pub fn roles(&self) -> RoleNames {
        RoleNames::with_prefix(&self.role_prefix)
    }
}

/// `postgres://user:password@host:port/name`. Shows itself without the password.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct DatabaseUrl {
    text: String,
    /// It ended in white space.
    pub is_trimmed: bool,
}

impl From<String> for DatabaseUrl {
    fn from(mut text: String) -> Self {
        let length = text.trim_end().len();
        let is_trimmed = length < text.len();
        text.truncate(length);
        Self { text, is_trimmed }
    }
}

impl DatabaseUrl {
    /// With the password, for the one place that connects.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// All that may be told: everything up to an `@` that is not the user's name, and every parameter, may be secret.
    fn masked(&self) -> String {
        let address = self.text.split('?').next().unwrap_or_default();
        let Some((scheme, rest)) = address.split_once("://") else { return "[secret]".to_owned() };
        match rest.rsplit_once('@') {
            Some((user, host)) => match user.split_once(':') {
                Some((user, _)) => format!("{scheme}://{user}:[secret]@{host}"),
                None => format!("{scheme}://{user}@{host}"),
            },
            None => format!("{scheme}://{rest}"),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

impl Serialize for DatabaseUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.masked())
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditSettings {
    /// What the log is called in its checkpoints. Logs that one auditor looks after need names of their own.
    pub origin: String,
    /// Signs checkpoints. Left out, development makes one in the data directory.
    pub signing_key: Option<Secret>,
    /// The one before, while `aihub audit change-key` endorses the new one with it.
    pub former_signing_key: Option<Secret>,
    /// How often one is made, if the log has moved.
    pub checkpoint_interval_ms: u64,
    /// How long refusals are counted before they are written down.
    pub refusals_interval_ms: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreditSettings {
    /// How many credits a US dollar of provider cost is charged with.
    pub per_usd: CreditsPerUsd,
    /// What an unknown account is granted; 0 refuses it. Left out: 10000 in development, 0 in production.
    pub welcome: Option<Credits>,
    /// Where credits are to be had, a text or an address: told to whoever has too few.
    pub top_up: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitSettings {
    /// Over it: `RATE_LIMIT_EXCEEDED`, as for the next.
    pub per_user: Allowance,
    pub per_account: Allowance,
    /// Over it: `QUEUE_FULL`.
    pub node: Capacity,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayKeys {
    /// From a request's arrival to its end, whatever happens.
    pub request_timeout_ms: u64,
    /// Output that is held for at first when the client set no `maxTokens` and the answer is seen as it is made; the hold grows
    /// by at least as much at a time.
    pub output_hold_tokens: u32,
    /// The most output that is asked for, and held for, when the client set no `maxTokens` and the answer is not seen as it is
    /// made, because its model works hidden or its provider does not stream.
    pub hidden_output_hold_tokens: u32,
    /// What was asked of a provider and left before it showed anything (cancelled, out of time, nobody there any more, another
    /// one asked after hidden work) is charged its input, and what was produced, as an estimate. `false` makes it our loss.
    pub charge_abandoned: bool,
    /// What becomes of an answer that nobody reads any more.
    pub on_disconnect: Disconnect,
    /// With `drain`: how long it goes on.
    pub drain_after_leaving_ms: u64,
    /// After how long without a first piece the next provider is asked as well; left out, never.
    pub hedge_after_ms: Option<u64>,
    /// How long an answer can be resumed after its end.
    pub resumable_for_ms: u64,
    /// The most text, with the arguments of calls, that one answer may have; what a provider says beyond it is not given.
    pub max_answer_bytes: usize,
    /// A node that was not heard of for so long is taken for dead, and what it left open is ended.
    pub node_timeout_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Disconnect {
    /// Read on for `drain_after_leaving_ms`, so that the client can come back for it.
    Drain,
    /// Ended at the provider at once.
    Abort,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutingSettings {
    /// Groups of models that may answer for each other.
    pub equivalents: Vec<Vec<String>>,
    /// Other names that clients have for models, and ours, which answers, is charged and stands in reports.
    #[serde(default)]
    pub aliases: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaSettings {
    /// `host:port`, separated by commas. Left out, nothing is published. Also `KAFKA_BROKERS`.
    pub brokers: Option<String>,
    /// In front of the topics' names, and the source of the events.
    pub topic_prefix: String,
    /// Of each topic that is made, as the next two; topics that are there are left as they are.
    pub partitions: i32,
    /// -1 is the brokers' own default.
    pub replication: i32,
    /// The largest event that is published; a larger one is named in the topic of dead letters.
    pub max_message_bytes: usize,
    /// How long the acknowledgement of a batch is waited for before it is sent again.
    pub delivery_timeout_ms: u64,
    /// `security.*`, `sasl.*` and `ssl.*`, as librdkafka names them.
    #[serde(default)]
    pub properties: BTreeMap<String, Secret>,
}

impl KafkaSettings {
    /// The cluster, if there is one.
    pub fn cluster(&self) -> Option<Cluster> {
        let brokers = self.brokers.as_ref().filter(|brokers| !brokers.trim().is_empty())?;
        let properties = self.properties.iter().map(|(name, value)| (name.clone(), value.expose().to_owned()));
        Some(Cluster {
            brokers: brokers.clone(),
            topic_prefix: self.topic_prefix.clone(),
            partitions: self.partitions,
            replication: self.replication,
            max_message_bytes: self.max_message_bytes,
            delivery_timeout: duration_ms(self.delivery_timeout_ms),
            properties: properties.collect(),
            words: Words::default(),
        })
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSettings {
    /// As in `RUST_LOG`.
    pub filter: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    /// One object a line.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_url_never_shows_its_password() {
        for (url, shown) in [
            ("postgres://aihub:p@ss:w@db:5432/aihub", "postgres://aihub:[secret]@db:5432/aihub"),
            ("postgres://db/aihub?user=a&password=hunter2", "postgres://db/aihub"),
            ("postgres://aihub@db/aihub", "postgres://aihub@db/aihub"),
            ("hunter2", "[secret]"),
        ] {
            let url = DatabaseUrl::from(format!("{url}\n"));
            assert_eq!(format!("{url:?} {}", serde_json::to_string(&url).unwrap()), format!("{shown} \"{shown}\""));
        }
    }
}
