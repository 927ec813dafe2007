//! Units made ready for the log, and the arrays that a call of `append_events` takes.

pub mod column;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use aihub_application::ports::event_log::{AppendError, Basis, NewEvent, Piece, Unit};
use aihub_domain::account::Account;
use chrono::NaiveDate;
use cqrs_es::Aggregate;
use uuid::Uuid;

use self::column::{Byteas, Jsons, Texts};
use super::chain::{Hash, Leaf};

/// What an event may take in the log, its metadata included. What has no bound of its own, prompts and answers, is content and
/// stands beside it: so whoever reads the log knows what a read may come to.
pub const MAX_EVENT_BYTES: usize = 64 << 10;

/// A unit with everything computed that can be computed before the log's lock is held.
#[derive(Debug)]
pub struct PreparedUnit {
    pub command_id: Uuid,
    pub basis: Option<Basis>,
    /// Whose it is: the account's that it has an event of, or else whose actor caused it.
    pub account: String,
    parts: Vec<Part>,
    events: Vec<PreparedEvent>,
    contents: Vec<Piece>,
    /// What its texts and its content take.
    pub bytes: usize,
}

/// What a unit adds to one stream.
#[derive(Debug)]
struct Part {
    aggregate_type: &'static str,
    aggregate_id: String,
    expected_sequence: u64,
    events: usize,
}

/// An event on its way into the log.
#[derive(Debug)]
struct PreparedEvent {
    event: NewEvent,
    /// JSON text.
    metadata: Arc<str>,
    leaf_hash: Hash,
}

/// What goes into one stream of a unit; each event with its metadata, as JSON text.
#[derive(Debug)]
pub struct Addition {
    pub aggregate_type: &'static str,
    pub aggregate_id: String,
    /// The sequence of the stream's last event that the decision was made on; 0 for a new stream.
    pub expected_sequence: u64,
    pub events: Vec<(NewEvent, Arc<str>)>,
    pub contents: Vec<Piece>,
}

impl PreparedUnit {
    /// To be appended by `login`, as the database knows it. Fails if the unit says something that cannot stand in the log.
    pub fn new(unit: Unit, login: &str) -> Result<Self, AppendError> {
        let account = unit.streams.iter().find(|stream| stream.aggregate_type == Account::TYPE);
        let account = account.map(|stream| &stream.aggregate_id).or_else(|| unit.metadata.get("actor"));
        let account = account.cloned().unwrap_or_default();
        let metadata = appended_by(&serde_json::to_string(&*unit.metadata).map_err(malformed)?, login)?;
        let prepared = Self::of(
            unit.command_id,
            unit.basis,
            unit.streams.into_iter().map(|stream| Addition {
                aggregate_type: stream.aggregate_type,
                aggregate_id: stream.aggregate_id,
                expected_sequence: stream.expected_sequence,
                events: stream.events.into_iter().map(|event| (event, metadata.clone())).collect(),
                contents: stream.contents,
            }),
        )?;
        Ok(Self { account, ..prepared })
    }

    pub fn of(
        command_id: Uuid,
        basis: Option<Basis>,
        additions: impl IntoIterator<Item = Addition>,
    ) -> Result<Self, AppendError> {
        let mut unit = Self {
            command_id,
            basis,
            account: String::new(),
            parts: Vec::new(),
            events: Vec::new(),
            contents: Vec::new(),
            bytes: 0,
        };
        for addition in additions {
            unit.add(addition)?;
        }
        if unit.events.is_empty() {
            return Err(malformed("it has no event"));
        }
        Ok(unit)
    }

    fn add(&mut self, addition: Addition) -> Result<(), AppendError> {
        let Addition { aggregate_type, aggregate_id, expected_sequence, events, contents } = addition;
        if self.parts.iter().any(|part| part.aggregate_type == aggregate_type && part.aggregate_id == aggregate_id) {
            return Err(malformed(format_args!("it names {aggregate_type} {aggregate_id} twice")));
        }
        if events.is_empty() {
            return Err(malformed(format_args!("it has no event for {aggregate_type} {aggregate_id}")));
        }
        let count = events.len();
        for (sequence, (event, metadata)) in (expected_sequence + 1..).zip(events) {
            let NewEvent { event_type, event_version, payload } = &event;
            let bytes = event_type.len() + event_version.len() + payload.len() + metadata.len();
            if bytes > MAX_EVENT_BYTES {
                return Err(AppendError::TooLarge { bytes, limit: MAX_EVENT_BYTES });
            }
            self.bytes += bytes;
            let leaf = Leaf {
                aggregate_type,
                aggregate_id: &aggregate_id,
                sequence,
                event_type,
                event_version,
                payload,
                metadata: &metadata,
                command_id: self.events.is_empty().then_some(self.command_id),
            };
            let leaf_hash = leaf.hash();
            self.events.push(PreparedEvent { event, metadata, leaf_hash });
        }
        self.bytes += aggregate_type.len() + aggregate_id.len();
        self.bytes += contents.iter().map(|piece| piece.bytes.len()).sum::<usize>();
        self.contents.extend(contents);
        self.parts.push(Part { aggregate_type, aggregate_id, expected_sequence, events: count });
        Ok(())
    }

    /// Whether a unit that it takes for granted was refused.
    pub fn is_broken(&self) -> bool {
        self.basis.as_ref().is_some_and(Basis::is_broken)
    }

    /// It was refused: what takes it for granted is not to be appended.
    pub fn break_off(&self) {
        if let Some(basis) = &self.basis {
            basis.break_off();
        }
    }

    pub fn event_count(&self) -> usize {
        self.events.len()
    }

    /// What is kept when it is appended.
    pub fn contents(&self) -> &[Piece] {
        &self.contents
    }
}

/// An event's metadata with its last key, as `metadata_end` in `migrations/0001_event_log.sql` wants it.
pub fn appended_by(metadata: &str, login: &str) -> Result<Arc<str>, AppendError> {
    let said = metadata.strip_suffix('}').filter(|said| said.starts_with('{'));
    let said = said.ok_or_else(|| malformed("its metadata is not an object"))?;
    let login = serde_json::to_string(login).map_err(malformed)?;
    let comma = if said == "{" { "" } else { "," };
    Ok(format!(r#"{said}{comma}"databaseRole":{login}}}"#).into())
}

fn malformed(problem: impl std::fmt::Display) -> AppendError {
    AppendError::Malformed(problem.to_string())
}

/// The arguments of `append_events`, by column, which grow unit by unit. What each means stands at the procedure.
#[derive(Debug, Default)]
pub struct Batch {
    pub unit_parts: Vec<i32>,
    pub unit_bases: Vec<i32>,
    pub part_streams: Vec<i32>,
    pub part_expected: Vec<i64>,
    pub part_events: Vec<i32>,
    pub stream_types: Texts,
    pub stream_ids: Texts,
    pub stream_expected: Vec<i64>,
    pub one_by_one: bool,
    pub event_streams: Vec<i32>,
    pub sequences: Vec<i64>,
    pub event_types: Texts,
    pub event_versions: Texts,
    pub payloads: Jsons,
    pub metadatas: Jsons,
    pub command_ids: Vec<Option<Uuid>>,
    pub leaf_hashes: Byteas,
    pub content_subjects: Texts,
    pub content_kinds: Texts,
    pub content_months: Vec<NaiveDate>,
    pub content_hashes: Byteas,
    pub content_bytes: Byteas,
    /// What the units' texts and contents take.
    pub bytes: usize,
    streams: HashMap<(&'static str, String), StreamInBatch>,
    bases: Vec<Basis>,
    distinct_ids: HashSet<Uuid>,
}

#[derive(Debug)]
struct StreamInBatch {
    /// From 1.
    index: i32,
    /// The sequence that the parts so far make.
    sequence: u64,
}

impl Batch {
    pub fn of(unit: &PreparedUnit) -> Self {
        let mut batch = Self::default();
        batch.push(unit);
        batch
    }

    pub fn event_count(&self) -> usize {
        self.sequences.len()
    }

    /// Whether the unit's command is in the batch already: a call has to have distinct ones.
    pub fn has_command(&self, command_id: Uuid) -> bool {
        self.distinct_ids.contains(&command_id)
    }

    pub fn push(&mut self, unit: &PreparedUnit) {
        self.bytes += unit.bytes;
        self.distinct_ids.insert(unit.command_id);
        let basis = self.basis_of(unit);
        self.unit_bases.push(basis);
        self.unit_parts.push(count(unit.parts.len()));
        for piece in &unit.contents {
            self.content_subjects.push(piece.key.subject.as_bytes());
            self.content_kinds.push(piece.key.kind.as_str().as_bytes());
            self.content_months.push(piece.key.month);
            self.content_hashes.push(&piece.hash.0);
            self.content_bytes.push(&piece.bytes);
        }
        let mut events = unit.events.iter();
        let mut command_id = Some(unit.command_id);
        for part in &unit.parts {
            let stream = self.stream_of(part);
            self.part_streams.push(stream);
            self.part_expected.push(part.expected_sequence.cast_signed());
            self.part_events.push(count(part.events));
            for (sequence, prepared) in (part.expected_sequence + 1..).zip(events.by_ref().take(part.events)) {
                self.event_streams.push(stream);
                self.sequences.push(sequence.cast_signed());
                self.event_types.push(prepared.event.event_type.as_bytes());
                self.event_versions.push(prepared.event.event_version.as_bytes());
                self.payloads.push(prepared.event.payload.as_bytes());
                self.metadatas.push(prepared.metadata.as_bytes());
                self.command_ids.push(command_id.take());
                self.leaf_hashes.push(&prepared.leaf_hash);
            }
        }
    }

    /// The number of the unit's basis; one without is alone with a number of its own.
    fn basis_of(&mut self, unit: &PreparedUnit) -> i32 {
        let Some(basis) = &unit.basis else {
            return -1 - count(self.unit_bases.len());
        };
        // The last is the likeliest: one busy account's.
        let index = self.bases.iter().rposition(|other| other.is(basis)).unwrap_or_else(|| {
            self.bases.push(basis.clone());
            self.bases.len() - 1
        });
        count(index)
    }

    /// The index of the part's stream, whose sequence moves on by the part's events.
    fn stream_of(&mut self, part: &Part) -> i32 {
        let next_index = count(self.stream_expected.len()) + 1;
        let stream = self.streams.entry((part.aggregate_type, part.aggregate_id.clone())).or_insert_with(|| {
            self.stream_types.push(part.aggregate_type.as_bytes());
            self.stream_ids.push(part.aggregate_id.as_bytes());
            self.stream_expected.push(part.expected_sequence.cast_signed());
            StreamInBatch { index: next_index, sequence: part.expected_sequence }
        });
        self.one_by_one |= stream.sequence != part.expected_sequence;
        stream.sequence += part.events as u64;
        stream.index
    }
}

/// Batches are bounded far below.
fn count(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_login_is_the_last_thing_that_metadata_says() {
        assert_eq!(&*appended_by("{}", "hub").unwrap(), r#"{"databaseRole":"hub"}"#);
        let said = appended_by(r#"{"actor":"ann","note":"}"}"#, "o\"ne").unwrap();
        assert_eq!(&*said, r#"{"actor":"ann","note":"}","databaseRole":"o\"ne"}"#);
        for no_object in ["null", "[]", "", "3"] {
            appended_by(no_object, "hub").unwrap_err();
        }
    }
}
