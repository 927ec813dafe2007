//! From a file, with nothing else at hand.

use std::{
    collections::HashMap,
    io::{BufRead, Read},
};

use serde::de::DeserializeOwned;

use super::{EventLine, FORMAT, Fault, Header, Trailer, path_hash};
use crate::{
    audit::{
        AuditError, hex, merkle,
        note::{self, Checkpoint, VerifierKey},
    },
    event_store::{
        chain::{ChainHead, ChainVerifier},
        reader::RecordedEvent,
    },
};

/// The longest line: an event is at most a frame's worth of sealed content.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// A file that is being read, each event verified before it is given.
pub struct LogFile<R> {
    lines: R,
    line: Vec<u8>,
    pub header: Header,
    chain: ChainVerifier,
}

/// What a bundle proves.
#[derive(Debug)]
pub struct BundleReport {
    pub from: u64,
    pub to: u64,
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
        let header: Header = next_line(&mut lines, &mut line)?;
        if header.format != FORMAT || header.from < 1 {
            return Err(AuditError::Malformed(format!("the file's format is {:?}, not {FORMAT}", header.format)));
        }
        let before = ChainHead { position: header.from - 1, chain_hash: header.previous_chain_hash };
        if before.position == 0 && before != ChainHead::GENESIS {
            return Err(AuditError::Malformed("the first event has no event in front of it".to_owned()));
        }
        Ok(Self { lines, line, header, chain: ChainVerifier::after(before) })
    }

    /// The next event; `None` after the last one.
    pub fn next_event(&mut self) -> Result<Option<RecordedEvent>, AuditError> {
        if self.chain.head().position >= self.header.to {
            return Ok(None);
        }
        let event = RecordedEvent::from(next_line::<EventLine>(&mut self.lines, &mut self.line)?);
        self.chain.check(&event).map_err(|error| AuditError::Tampered(error.into()))?;
        Ok(Some(event))
    }

    /// The last line, which has to agree with what was read.
    pub fn finish(mut self) -> Result<(ChainHead, Trailer), AuditError> {
        let (head, trailer) = (self.chain.head(), next_line::<Trailer>(&mut self.lines, &mut self.line)?);
        let events = head.position + 1 - self.header.from;
        if (trailer.events, trailer.chain_hash) != (events, head.chain_hash) {
            return Err(AuditError::Tampered(Fault {
                position: head.position,
                what: "the file's end does not agree with its events".to_owned(),
                expected: format!("{} events, {}", trailer.events, hex(&trailer.chain_hash)),
                found: format!("{events} events, {}", hex(&head.chain_hash)),
            }));
        }
        if !self.lines.fill_buf()?.is_empty() {
            return Err(AuditError::Malformed("the file goes on behind its end".to_owned()));
        }
        Ok((head, trailer))
    }
}

/// Verifies a bundle: each event, the chain, the order in each stream, the path and the signature. Without keys the
/// bundle's own is believed. In memory is a number for each stream.
pub fn verify_bundle(lines: impl BufRead, keys: &[VerifierKey]) -> Result<BundleReport, AuditError> {
    let mut file = LogFile::open(lines)?;
    let (from, to) = (file.header.from, file.header.to);
    let mut streams = HashMap::new();
    while let Some(event) = file.next_event()? {
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
    Ok(BundleReport { from, to, streams: streams.len(), checkpoint, key, is_own_key })
}

fn next_line<T: DeserializeOwned>(lines: &mut impl BufRead, line: &mut Vec<u8>) -> Result<T, AuditError> {
    line.clear();
    lines.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', line)?;
    if line.last() != Some(&b'\n') {
        let why = if line.len() as u64 == MAX_LINE_BYTES { "a line is too long" } else { "the file ends early" };
        return Err(AuditError::Incomplete(why.to_owned()));
    }
    serde_json::from_slice(line).map_err(|error| AuditError::Malformed(format!("a line is not of the format: {error}")))
}
