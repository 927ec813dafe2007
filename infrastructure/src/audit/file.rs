//! Stretches of the log as files: JSON lines, which prove themselves offline.
//!
//! | line | fields |
//! |---|---|
//! | the first | `format`, `from`, `to`, `previousChainHash` (that of the event in front of `from`), `key` of the signer |
//! | each event | `position`, `recordedAt`, `aggregateType`, `aggregateId`, `sequence`, `eventType`, `eventVersion`, `payload` and `metadata` (the JSON texts as they are stored), `commandId` where there is one, `leafHash`, `chainHash` |
//! | each piece of content, behind the first event that names it | `content`: its key (`subject`, `kind`, `month`), `hash`, and `bytes` in Base64 as they are kept: sealed, or a list of pieces as `contents::list` says |
//! | the last | `events`, `contents`, `chainHash`, and where it is a bundle `checkpoint` (a signed note) and `path` |
//!
//! Of a text there is everything or nothing: what was erased, or is not kept, is only named. Times are RFC 3339 to the microsecond, hashes hexadecimal. The hashes are computed as `event_store::chain` says. `path`
//! is the inclusion proof of RFC 9162, section 2.1.3, of the chain hash at `to`, as leaf `to - 1`, in the tree of the
//! checkpoint: by the chain, that covers every event of the file. The proof of one event is a bundle of one event.

mod read;
mod write;

use aihub_domain::content::{ContentHash, ContentKey, ContentKind};
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{AuditError, Fault, contents::KeptPiece, hex, unhex};
use crate::event_store::{chain::Hash, reader::RecordedEvent};

pub use read::{BundleReport, LogFile, verify_bundle};
pub use write::{export, write_bundle};

pub const FORMAT: &str = "aihub-log/2";

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Header {
    pub format: String,
    pub from: u64,
    pub to: u64,
    #[serde(with = "hex_hash")]
    pub previous_chain_hash: Hash,
    /// For convenience: whoever verifies should have it from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EventLine {
    position: u64,
    #[serde(with = "micros")]
    recorded_at: DateTime<Utc>,
    aggregate_type: String,
    aggregate_id: String,
    sequence: u64,
    event_type: String,
    event_version: String,
    payload: String,
    metadata: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    command_id: Option<Uuid>,
    #[serde(with = "hex_hash")]
    leaf_hash: Hash,
    #[serde(with = "hex_hash")]
    chain_hash: Hash,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Trailer {
    pub events: u64,
    /// Lines of content.
    pub contents: u64,
    #[serde(with = "hex_hash")]
    pub chain_hash: Hash,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// Hexadecimal hashes, from below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Vec<String>>,
}

/// A line of content.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ContentLine {
    content: ContentFields,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ContentFields {
    subject: String,
    kind: ContentKind,
    month: NaiveDate,
    hash: ContentHash,
    bytes: String,
}

impl From<KeptPiece> for ContentLine {
    fn from(KeptPiece { key: ContentKey { subject, kind, month }, hash, bytes }: KeptPiece) -> Self {
        Self { content: ContentFields { subject, kind, month, hash, bytes: STANDARD.encode(bytes) } }
    }
}

impl From<RecordedEvent> for EventLine {
    fn from(event: RecordedEvent) -> Self {
        let RecordedEvent { position, recorded_at, aggregate_type, aggregate_id, sequence, .. } = event;
        let RecordedEvent { event_type, event_version, payload, metadata, command_id, leaf_hash, chain_hash, .. } =
            event;
        Self {
            position,
            recorded_at,
            aggregate_type,
            aggregate_id,
            sequence,
            event_type,
            event_version,
            payload,
            metadata,
            command_id,
            leaf_hash,
            chain_hash,
        }
    }
}

impl From<EventLine> for RecordedEvent {
    fn from(line: EventLine) -> Self {
        let EventLine { position, recorded_at, aggregate_type, aggregate_id, sequence, .. } = line;
        let EventLine { event_type, event_version, payload, metadata, command_id, leaf_hash, chain_hash, .. } = line;
        Self {
            position,
            recorded_at,
            aggregate_type,
            aggregate_id,
            sequence,
            event_type,
            event_version,
            payload,
            metadata,
            command_id,
            leaf_hash,
            chain_hash,
        }
    }
}

/// A hash of the path.
fn path_hash(text: &str) -> Result<Hash, AuditError> {
    unhex(text).ok_or_else(|| AuditError::Malformed("the path has something in it that is not a hash".to_owned()))
}

mod hex_hash {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::{Hash, hex, unhex};

    pub fn serialize<S: Serializer>(hash: &Hash, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(hash))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Hash, D::Error> {
        let text = String::deserialize(deserializer)?;
        unhex(&text).ok_or_else(|| D::Error::custom("a hash is 64 hexadecimal digits"))
    }
}

mod micros {
    use super::{DateTime, SecondsFormat, Utc};
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
        DateTime::deserialize(deserializer)
    }
}
