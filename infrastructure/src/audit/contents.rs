//! What is kept of the content that events name: checked, and given to whoever copies the log.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use aihub_domain::content::{ContentHash, ContentKey, ContentRef, Keep};
use sqlx::PgConnection;

use super::{AuditError, Fault};
use crate::{
    contents::{self, ContentError, Found, list::Entry, named::named},
    event_store::reader::RecordedEvent,
};

/// Events are looked at in groups of so many, or of such a length of all the texts that they name; one event at least.
pub const GROUP_EVENTS: usize = 256;
const GROUP_BYTES: u64 = 8 << 20;

/// A piece, or a list of them, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptPiece {
    pub key: ContentKey,
    pub hash: ContentHash,
    pub bytes: Vec<u8>,
}

/// How much of it is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Texts that are there whole, with the hashes that their events name.
    pub whole: u64,
    /// Of which nothing but a hash was to be kept.
    pub hashes: u64,
    /// Whose keys were destroyed.
    pub erased: u64,
    /// That are not there, or not whole, though nobody erased them.
    pub missing: u64,
    /// The first position that names one of those.
    pub first_missing: Option<u64>,
}

/// What has been looked at so far. In memory is a number for each piece.
#[derive(Debug, Default)]
pub struct Contents {
    /// The beginnings of the hashes of what was there.
    there: HashSet<u64>,
    pub tally: Tally,
}

/// Events and the texts that they name, until there are enough for a look.
#[derive(Debug, Default)]
pub struct Group {
    pub events: Vec<RecordedEvent>,
    named: Vec<(usize, ContentRef)>,
    bytes: u64,
}

impl Group {
    /// Whether it is full by now.
    pub fn push(&mut self, event: RecordedEvent) -> bool {
        let contents = named(&event.payload);
        self.bytes += contents.iter().map(|content| content.bytes).sum::<u64>();
        self.named.extend(contents.into_iter().map(|content| (self.events.len(), content)));
        self.events.push(event);
        self.events.len() >= GROUP_EVENTS || self.bytes >= GROUP_BYTES
    }

    /// The pieces of each text, where it has several and their list is there.
    fn lists(&self, first: &[Found]) -> Result<Vec<Vec<Entry>>, AuditError> {
        let lists = self.named.iter().zip(first).map(|((_, content), found)| match found {
            Found::Bytes(bytes) if content.pieces > 1 => {
                contents::entries(content, bytes).map_err(|error| self.error(error))
            }
            _ => Ok(vec![]),
        });
        lists.collect()
    }

    /// At the event that names it, as near as that is known.
    fn error(&self, error: ContentError) -> AuditError {
        let hash = match error {
            ContentError::Database(error) => return AuditError::Database(error),
            ContentError::Missing(hash) | ContentError::Changed(hash) => hash,
        };
        let by = self.named.iter().find(|(_, content)| content.hash == hash).or(self.named.first());
        AuditError::Tampered(Fault {
            position: by.map_or(0, |(event, _)| self.events[*event].position),
            what: "a piece of the content that the event names is not what was kept".to_owned(),
            expected: hash.to_string(),
            found: "bytes with another hash".to_owned(),
        })
    }
}

impl Contents {
    /// Looks up what the events name. For each event what is there of it and was not there for an earlier one: a list in
    /// front of its pieces. Of a text that is not there whole, nothing.
    pub async fn of(
        &mut self,
        connection: &mut PgConnection,
        group: &Group,
    ) -> Result<Vec<Vec<KeptPiece>>, AuditError> {
        let keys: Vec<ContentKey> = group.named.iter().map(|(_, content)| content.key()).collect();
        let wanted: Vec<_> = group.named.iter().zip(&keys).map(|((_, content), key)| (key, content.hash)).collect();
        let first = contents::look_up(&mut *connection, &wanted).await.map_err(|error| group.error(error))?;
        let lists = group.lists(&first)?;
        let mut pieces = self.unknown(connection, group, &keys, &lists).await?;

        let mut kept = vec![Vec::new(); group.events.len()];
        let texts = group.named.iter().zip(keys).zip(first.into_iter().zip(lists));
        for (((event, content), key), (found, entries)) in texts {
            let is_there = |hash| self.there.contains(&short(hash)) || pieces.contains_key(&hash);
            let is_whole = entries.iter().all(|entry| is_there(entry.hash));
            let tally = &mut self.tally;
            match found {
                _ if content.keep == Keep::Hash => tally.hashes += 1,
                Found::Erased => tally.erased += 1,
                Found::Bytes(bytes) if is_whole => {
                    tally.whole += 1;
                    let of_list = entries.iter().filter_map(|entry| Some((entry.hash, pieces.remove(&entry.hash)?)));
                    for (hash, bytes) in [(content.hash, bytes)].into_iter().chain(of_list) {
                        if self.there.insert(short(hash)) {
                            kept[*event].push(KeptPiece { key: key.clone(), hash, bytes });
                        }
                    }
                }
                Found::Bytes(_) | Found::Nothing => {
                    tally.missing += 1;
                    tally.first_missing.get_or_insert(group.events[*event].position);
                }
            }
        }
        Ok(kept)
    }

    /// The pieces of the lists that have not been there before, as far as they are there.
    async fn unknown(
        &self,
        connection: &mut PgConnection,
        group: &Group,
        keys: &[ContentKey],
        lists: &[Vec<Entry>],
    ) -> Result<HashMap<ContentHash, Vec<u8>>, AuditError> {
        let mut asked = HashSet::new();
        let mut wanted = Vec::new();
        for (key, entries) in keys.iter().zip(lists) {
            let unknown = entries.iter().filter(|entry| !self.there.contains(&short(entry.hash)));
            wanted.extend(unknown.filter(|entry| asked.insert(entry.hash)).map(|entry| (key, entry.hash)));
        }
        let found = contents::look_up(connection, &wanted).await.map_err(|error| group.error(error))?;
        let there = wanted.into_iter().zip(found).filter_map(|((_, hash), found)| match found {
            Found::Bytes(bytes) => Some((hash, bytes)),
            Found::Erased | Found::Nothing => None,
        });
        Ok(there.collect())
    }
}

/// Eight bytes of it, by which pieces are told apart in memory.
pub fn short(hash: ContentHash) -> u64 {
    hash.0.first_chunk().copied().map_or(0, u64::from_be_bytes)
}

/// `7 texts are kept as they were, of 2 only a hash, 1 is erased`
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { whole, hashes, erased, missing, first_missing } = self;
        write!(f, "{whole} texts are kept as they were said")?;
        if *hashes > 0 {
            write!(f, ", of {hashes} only a hash")?;
        }
        if *erased > 0 {
            write!(f, ", {erased} are erased")?;
        }
        if let Some(position) = first_missing {
            write!(f, ", {missing} are not there, the first of position {position}")?;
        }
        Ok(())
    }
}
