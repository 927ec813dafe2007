//! From a file, with nothing else at hand.

use std::{
    collections::{HashMap, HashSet},
    io::{BufRead, Read},
    mem,
};

use aihub_domain::content::{ContentHash, ContentKey, ContentRef, Keep};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::de::DeserializeOwned;

use super::{ContentFields, ContentLine, EventLine, FORMAT, Fault, Header, Trailer, path_hash};
use crate::{
    audit::{
        AuditError,
        contents::{KeptPiece, short},
        hex, merkle,
        note::{self, Checkpoint, VerifierKey},
    },
    contents::{entries, hash_of, list::Entry, named::named},
    event_store::{
        chain::{ChainHead, ChainVerifier},
        reader::RecordedEvent,
    },
};

/// The longest line. Whatever PostgreSQL takes for an event (less than 1 GiB a text) fits, its quotes escaped.
const MAX_LINE_BYTES: u64 = 4 << 30;
/// How a line of content begins.
const CONTENT: &[u8] = br#"{"content":"#;

/// A file that is being read, each event and each piece of content verified before it is given. In memory is a number for each
/// piece.
pub struct LogFile<R> {
    lines: R,
    line: Vec<u8>,
    /// The line is read and nobody has looked at it.
    is_ahead: bool,
    pub header: Header,
    chain: ChainVerifier,
    /// The beginnings of the hashes of the pieces that came so far.
    there: HashSet<u64>,
    /// What the last event names that has not come before, and its pieces, as far as their lists have come.
    awaited: Vec<ContentRef>,
    awaited_pieces: Vec<Entry>,
    /// The pieces that came with the last event.
    pieces: Vec<KeptPiece>,
    contents: u64,
}

/// What a bundle proves.
#[derive(Debug)]
pub struct BundleReport {
    pub from: u64,
    pub to: u64,
    /// Pieces of content.
    pub contents: u64,
    pub streams: usize,
    pub checkpoint: Checkpoint,
    /// Who signed.
    pub key: VerifierKey,
    /// The key was only said by the bundle itself.
    pub is_own_key: bool,
}

impl<R: BufRead> LogFile<R> {
    pub fn open(mut lines: R) -> Result<Self, AuditError> {
        let mut line = Vec::new();
        read_line(&mut lines, &mut line)?;
        let header: Header = parse(&line)?;
        if header.format != FORMAT || header.from < 1 {
            return Err(AuditError::Malformed(format!("the file's format is {:?}, not {FORMAT}", header.format)));
        }
        let before = ChainHead { position: header.from - 1, chain_hash: header.previous_chain_hash };
        if before.position == 0 && before != ChainHead::GENESIS {
            return Err(AuditError::Malformed("the first event has no event in front of it".to_owned()));
        }
        let chain = ChainVerifier::after(before);
        let (there, awaited, awaited_pieces, pieces) = (HashSet::new(), Vec::new(), Vec::new(), Vec::new());
        Ok(Self { lines, line, is_ahead: false, header, chain, there, awaited, awaited_pieces, pieces, contents: 0 })
    }

    /// The next event; `None` after the last one. The content of the one before is read on the way.
    pub fn next_event(&mut self) -> Result<Option<RecordedEvent>, AuditError> {
        self.read_content()?;
        if self.chain.head().position >= self.header.to {
            return Ok(None);
        }
        let event = RecordedEvent::from(self.parse::<EventLine>()?);
        self.chain.check(&event).map_err(|error| AuditError::Tampered(error.into()))?;
        let mut awaited = named(&event.payload);
        awaited.retain(|content| content.keep == Keep::Sealed && !self.there.contains(&short(content.hash)));
        self.awaited = awaited;
        Ok(Some(event))
    }

    /// The content of the event before the last one that was given, or of the last one after the end: what came with it and
    /// did not come with an earlier one.
    pub fn take_pieces(&mut self) -> Vec<KeptPiece> {
        mem::take(&mut self.pieces)
    }

    /// Up to the line that is no content.
    fn read_content(&mut self) -> Result<(), AuditError> {
        loop {
            if !self.is_ahead {
                read_line(&mut self.lines, &mut self.line)?;
                self.is_ahead = true;
            }
            if !self.line.starts_with(CONTENT) {
                break;
            }
            let ContentLine { content } = self.parse()?;
            let ContentFields { subject, kind, month, hash, bytes } = content;
            let malformed = || AuditError::Malformed("a piece of content is not in Base64".to_owned());
            let (key, bytes) = (ContentKey { subject, kind, month }, STANDARD.decode(bytes).map_err(|_| malformed())?);
            self.check(&key, hash, &bytes)?;
            self.pieces.push(KeptPiece { key, hash, bytes });
            self.contents += 1;
        }
        // Of a text that came, all came.
        if let Some(missing) = self.awaited_pieces.iter().find(|entry| !self.there.contains(&short(entry.hash))) {
            return Err(AuditError::Tampered(Fault {
                position: self.chain.head().position,
                what: "a piece of the content that the event names is not in the file".to_owned(),
                expected: missing.hash.to_string(),
                found: "nothing".to_owned(),
            }));
        }
        self.awaited.clear();
        self.awaited_pieces.clear();
        Ok(())
    }

    /// That the piece is what it is called, and what the last event names.
    fn check(&mut self, key: &ContentKey, hash: ContentHash, bytes: &[u8]) -> Result<(), AuditError> {
        let fault = |what: &str, found: String| {
            let (position, what) = (self.chain.head().position, what.to_owned());
            AuditError::Tampered(Fault { position, what, expected: hash.to_string(), found })
        };
        let found = hash_of(bytes);
        if found != hash {
            return Err(fault("a piece of content behind the event has another hash", found.to_string()));
        }
        let of = self.awaited.iter().find(|content| content.hash == hash && content.key() == *key);
        if let Some(content) = of {
            let list = entries(content, bytes).map_err(|error| fault("a list of pieces is none", error.to_string()))?;
            if content.pieces > 1 {
                self.awaited_pieces.extend(list);
            }
        } else if !self.awaited_pieces.iter().any(|entry| entry.hash == hash) {
            return Err(fault("a piece of content is named by no event", "no name".to_owned()));
        }
        self.there.insert(short(hash));
        Ok(())
    }

    /// The line that was read ahead, or the next one.
    fn parse<T: DeserializeOwned>(&mut self) -> Result<T, AuditError> {
        if !mem::take(&mut self.is_ahead) {
            read_line(&mut self.lines, &mut self.line)?;
        }
        parse(&self.line)
    }

    /// The last line, which has to agree with what was read.
    pub fn finish(mut self) -> Result<(ChainHead, Trailer), AuditError> {
        self.read_content()?;
        let (head, trailer) = (self.chain.head(), self.parse::<Trailer>()?);
        let (events, contents) = (head.position + 1 - self.header.from, self.contents);
        if (trailer.events, trailer.contents, trailer.chain_hash) != (events, contents, head.chain_hash) {
            return Err(AuditError::Tampered(Fault {
                position: head.position,
                what: "the file's end does not agree with what it has".to_owned(),
                expected: format!(
                    "{} events, {} pieces of content, {}",
                    trailer.events,
                    trailer.contents,
                    hex(&trailer.chain_hash)
                ),
                found: format!("{events} events, {contents} pieces of content, {}", hex(&head.chain_hash)),
            }));
        }
        if !self.lines.fill_buf()?.is_empty() {
            return Err(AuditError::Malformed("the file goes on behind its end".to_owned()));
        }
        Ok((head, trailer))
    }
}

/// Verifies a bundle: each event, the chain, the order in each stream, the path and the signature. Without keys the
/// bundle's own is believed. In memory is a number for each stream, and for each piece of content.
pub fn verify_bundle(lines: impl BufRead, keys: &[VerifierKey]) -> Result<BundleReport, AuditError> {
    let mut file = LogFile::open(lines)?;
    let (from, to) = (file.header.from, file.header.to);
    let mut streams = HashMap::new();
    while let Some(event) = file.next_event()? {
        drop(file.take_pieces());
        let RecordedEvent { position, sequence, aggregate_type, aggregate_id, .. } = event;
        let before = streams.insert((aggregate_type, aggregate_id), sequence);
        let expected = before.map(|before| before + 1).or((from == 1).then_some(1));
        if let Some(expected) = expected.filter(|expected| *expected != sequence) {
            let what = "a stream has a hole or another order".to_owned();
            let (expected, found) = (format!("sequence {expected}"), format!("sequence {sequence}"));
            return Err(AuditError::Tampered(Fault { position, what, expected, found }));
        }
    }
    let own_key = file.header.key.clone();
    let (head, trailer) = file.finish()?;
    let (Some(note), Some(path)) = (trailer.checkpoint, trailer.path) else {
        return Err(AuditError::Incomplete("the file has no checkpoint: it is a log, not a bundle".to_owned()));
    };
    let is_own_key = keys.is_empty();
    let known = match own_key {
        Some(key) if is_own_key => vec![key.parse().map_err(|error| AuditError::Malformed(format!("{error}")))?],
        _ => keys.to_vec(),
    };
    let fault = |what: &str, expected: String, found: String| {
        AuditError::Tampered(Fault { position: to, what: what.to_owned(), expected, found })
    };
    let opened = known.into_iter().find_map(|key| Some((key.open(&note).ok()?, key)));
    let Some((checkpoint, key)) = opened else {
        let error = note::open(&note, keys).err().map(|error| error.to_string()).unwrap_or_default();
        return Err(fault("the checkpoint's signature", "that of a known key".to_owned(), error));
    };
    let path = path.iter().map(|hash| path_hash(hash)).collect::<Result<Vec<_>, _>>()?;
    let root = merkle::root_of(&head.chain_hash, to - 1, checkpoint.head.position, &path);
    if root != Some(checkpoint.root_hash) {
        let found = root.map_or_else(|| "no root at all".to_owned(), |root| hex(&root));
        return Err(fault("the path does not lead to the signed root", hex(&checkpoint.root_hash), found));
    }
    Ok(BundleReport { from, to, contents: trailer.contents, streams: streams.len(), checkpoint, key, is_own_key })
}

fn read_line(lines: &mut impl BufRead, line: &mut Vec<u8>) -> Result<(), AuditError> {
    line.clear();
    lines.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', line)?;
    if line.last() != Some(&b'\n') {
        let why = if line.len() as u64 == MAX_LINE_BYTES { "a line is too long" } else { "the file ends early" };
        return Err(AuditError::Incomplete(why.to_owned()));
    }
    Ok(())
}

fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<T, AuditError> {
    serde_json::from_slice(line).map_err(|error| AuditError::Malformed(format!("a line is not of the format: {error}")))
}
