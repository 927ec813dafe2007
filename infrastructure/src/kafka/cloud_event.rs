//! An event as it stands in a topic: `CloudEvents` 1.0, structured mode, JSON.
//!
//! `data` is the payload's text as the log has it, byte for byte, and `metadata` is the metadata's text in a string. So
//! whoever reads it can recompute `leafhash` and `chainhash` as [`chain`](crate::event_store::chain) defines them, and
//! needs to trust nobody in between. A payload whose text would not survive as a part of other JSON (white space around
//! it, as another program may have appended it) stands in `data_base64` instead.
//!
//! Numbers of 64 bits are strings: the integers of `CloudEvents` have 32. `sequence` is padded, so that it also sorts as
//! text, which its extension asks for.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;
use uuid::Uuid;

use crate::event_store::{chain::Hash, reader::RecordedEvent};

/// The header that says so, with the name that the Kafka binding of `CloudEvents` gives it.
pub const CONTENT_TYPE: (&str, &str) = ("content-type", "application/cloudevents+json; charset=UTF-8");

const SPEC_VERSION: &str = "1.0";
const JSON: &str = "application/json";

#[derive(Serialize, Deserialize)]
struct CloudEvent<'a> {
    #[serde(borrow)]
    specversion: Cow<'a, str>,
    /// The position. Together with `source` it names the event.
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    source: Cow<'a, str>,
    /// `aihub.<aggregate type>.<event type>`.
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    /// The aggregate's id.
    #[serde(borrow, default, skip_serializing_if = "str::is_empty")]
    subject: Cow<'a, str>,
    /// When it went into the log, to the microsecond.
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow)]
    datacontenttype: Cow<'a, str>,
    #[serde(borrow)]
    aggregatetype: Cow<'a, str>,
    #[serde(borrow)]
    eventversion: Cow<'a, str>,
    #[serde(borrow)]
    position: Cow<'a, str>,
    #[serde(borrow)]
    sequence: Cow<'a, str>,
    #[serde(borrow)]
    leafhash: Cow<'a, str>,
    #[serde(borrow)]
    chainhash: Cow<'a, str>,
    /// On the first event of a unit only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    commandid: Option<Uuid>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    correlationid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    metadata: Cow<'a, str>,
    /// Where the data is, if it is not here.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    dataref: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    data_base64: Option<Cow<'a, str>>,
}

/// Why a message is none of our events.
#[derive(Debug, Error)]
pub enum CloudEventError {
    #[error("it is no CloudEvent of ours: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("its attribute {0} cannot be read")]
    Attribute(&'static str),
}

/// The event with its data. `source` is a URI reference that names the hub.
pub fn encode(source: &str, event: &RecordedEvent) -> Result<Vec<u8>, serde_json::Error> {
    // `null` would be read as no data.
    let is_kept = |raw: &&RawValue| raw.get() == event.payload && raw.get() != "null";
    let as_it_is = serde_json::from_str(&event.payload).ok().filter(is_kept);
    let data_base64 = as_it_is.is_none().then(|| STANDARD.encode(&event.payload).into());
    serde_json::to_vec(&CloudEvent { data: as_it_is, data_base64, ..attributes(source, event) })
}

/// The event without its data, which is in the log at that position.
pub fn encode_reference(source: &str, event: &RecordedEvent) -> Result<Vec<u8>, serde_json::Error> {
    let dataref = Some(format!("urn:aihub:event:{}", event.position).into());
    serde_json::to_vec(&CloudEvent { dataref, ..attributes(source, event) })
}

/// The event that a message of one of the topics holds. Whether its hashes are right is not looked at here.
pub fn decode(message: &[u8]) -> Result<RecordedEvent, CloudEventError> {
    let read: CloudEvent = serde_json::from_slice(message)?;
    let bad = CloudEventError::Attribute;
    let payload = match (read.data, &read.data_base64) {
        (Some(data), None) => data.get().to_owned(),
        (None, Some(text)) => {
            let bytes = STANDARD.decode(text.as_bytes()).map_err(|_| bad("data_base64"))?;
            String::from_utf8(bytes).map_err(|_| bad("data_base64"))?
        }
        _ => return Err(bad("data")),
    };
    let prefix = type_of(&read.aggregatetype, "");
    Ok(RecordedEvent {
        position: read.position.parse().map_err(|_| bad("position"))?,
        recorded_at: DateTime::parse_from_rfc3339(&read.time).map_err(|_| bad("time"))?.with_timezone(&Utc),
        event_type: read.r#type.strip_prefix(&prefix).ok_or(bad("type"))?.to_owned(),
        aggregate_type: read.aggregatetype.into_owned(),
        aggregate_id: read.subject.into_owned(),
        sequence: read.sequence.parse().map_err(|_| bad("sequence"))?,
        event_version: read.eventversion.into_owned(),
        payload,
        metadata: read.metadata.into_owned(),
        command_id: read.commandid,
        leaf_hash: hash(&read.leafhash).ok_or(bad("leafhash"))?,
        chain_hash: hash(&read.chainhash).ok_or(bad("chainhash"))?,
    })
}

fn attributes<'a>(source: &'a str, event: &'a RecordedEvent) -> CloudEvent<'a> {
    CloudEvent {
        specversion: SPEC_VERSION.into(),
        id: event.position.to_string().into(),
        source: source.into(),
        r#type: type_of(&event.aggregate_type, &event.event_type).into(),
        subject: event.aggregate_id.as_str().into(),
        time: event.recorded_at.to_rfc3339_opts(SecondsFormat::Micros, true).into(),
        datacontenttype: JSON.into(),
        aggregatetype: event.aggregate_type.as_str().into(),
        eventversion: event.event_version.as_str().into(),
        position: event.position.to_string().into(),
        sequence: format!("{:019}", event.sequence).into(),
        leafhash: hexadecimal(&event.leaf_hash).into(),
        chainhash: hexadecimal(&event.chain_hash).into(),
        commandid: event.command_id,
        correlationid: correlation_id(&event.metadata),
        metadata: event.metadata.as_str().into(),
        dataref: None,
        data: None,
        data_base64: None,
    }
}

fn type_of(aggregate_type: &str, event_type: &str) -> String {
    format!("aihub.{aggregate_type}.{event_type}")
}

fn correlation_id(metadata: &str) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Metadata<'a> {
        #[serde(rename = "correlationId", borrow)]
        correlation_id: Option<Cow<'a, str>>,
    }
    serde_json::from_str::<Metadata>(metadata).ok()?.correlation_id.filter(|id| !id.is_empty())
}

fn hexadecimal(hash: &Hash) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    hash.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

fn hash(text: &str) -> Option<Hash> {
    let mut hash = Hash::default();
    if text.len() != 2 * hash.len() || !text.is_ascii() {
        return None;
    }
    for (nth, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * nth..2 * nth + 2], 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests;
