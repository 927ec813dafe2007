//! Many partitions into one sequence: the events by position, each once and without a gap.
//!
//! Positions have no gaps, so the next event is always known by its number. What comes before its turn is held back,
//! what comes after it is a duplicate. Always the partition that is furthest behind is read next: so hardly anything
//! has to be held back, however much the partitions differ in size.
//!
//! What is held is bounded. Above the bound the events furthest ahead are let go, and their partition has to be read
//! again from there: see [`Merge::must_read_again`].

use std::collections::BTreeMap;

use crate::event_store::reader::{ReadLimit, RecordedEvent};

/// What may be held back.
pub const HELD: ReadLimit = ReadLimit { events: 20_000, bytes: 64 << 20 };

/// How far a partition is read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    /// The offset after the last message that was read.
    next_offset: i64,
    /// The highest position among them.
    position: u64,
    /// There is nothing more for now.
    is_at_end: bool,
    /// The first offset of what was let go.
    let_go: Option<i64>,
}

struct Held {
    event: RecordedEvent,
    source: usize,
    offset: i64,
}

pub struct Merge {
    next: u64,
    sources: Vec<Source>,
    held: BTreeMap<u64, Held>,
    held_bytes: usize,
    limit: ReadLimit,
}

impl Merge {
    /// `next` is the position to begin with; each partition is read from one of the `offsets` on.
    pub fn new(next: u64, offsets: impl IntoIterator<Item = i64>, limit: ReadLimit) -> Self {
        let source = |next_offset| Source { next_offset, position: 0, is_at_end: false, let_go: None };
        let sources = offsets.into_iter().map(source).collect();
        Self { next, sources, held: BTreeMap::new(), held_bytes: 0, limit }
    }

    /// The position that is waited for.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The lowest position that is held back.
    pub fn lowest_held(&self) -> Option<u64> {
        self.held.keys().next().copied()
    }

    /// The partitions in the order in which they should be asked for more: those that are furthest behind first.
    ///
    /// Ends in front of those that would only add to a well-filled buffer while one that is behind is still on its way.
    pub fn by_position(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.sources.len()).collect();
        order.sort_unstable_by_key(|&source| self.sources[source].position);
        if self.is_well_filled()
            && let Some(awaited) = order.iter().position(|&source| !self.sources[source].is_at_end)
        {
            order.truncate(awaited + 1);
        }
        order
    }

    /// A message was read from a partition; `None` if it holds no event of ours.
    pub fn offer(&mut self, source: usize, offset: i64, event: Option<RecordedEvent>) {
        let read = &mut self.sources[source];
        read.next_offset = read.next_offset.max(offset + 1);
        read.is_at_end = false;
        let Some(event) = event else { return };
        read.position = read.position.max(event.position);
        if event.position < self.next || self.held.contains_key(&event.position) {
            return;
        }
        self.held_bytes += size(&event);
        self.held.insert(event.position, Held { event, source, offset });
        while self.held.len() > self.limit.events as usize
            || (self.held_bytes > self.limit.bytes && self.held.len() > 1)
        {
            let Some((_, Held { event, source, offset })) = self.held.pop_last() else { break };
            self.held_bytes -= size(&event);
            let let_go = &mut self.sources[source].let_go;
            *let_go = Some(let_go.map_or(offset, |first| first.min(offset)));
        }
    }

    /// The partition has nothing more for now.
    pub fn ends(&mut self, source: usize) {
        self.sources[source].is_at_end = true;
    }

    pub fn has_ended(&self, source: usize) -> bool {
        self.sources[source].is_at_end
    }

    pub fn is_at_end(&self) -> bool {
        self.sources.iter().all(|source| source.is_at_end)
    }

    /// The events whose turn it is.
    pub fn take_run(&mut self, limit: ReadLimit) -> Vec<RecordedEvent> {
        let (mut run, mut bytes) = (Vec::new(), 0);
        while run.len() < limit.events as usize
            && bytes < limit.bytes
            && let Some(held) = self.held.remove(&self.next)
        {
            self.next += 1;
            let size = size(&held.event);
            bytes += size;
            self.held_bytes -= size;
            run.push(held.event);
        }
        run
    }

    /// For each partition the offset to go on from, once everything that was taken is applied: all before it was.
    pub fn offsets(&self) -> Vec<i64> {
        let mut offsets: Vec<i64> =
            self.sources.iter().map(|source| source.let_go.map_or(source.next_offset, |first| first)).collect();
        for held in self.held.values() {
            let offset = &mut offsets[held.source];
            *offset = (*offset).min(held.offset);
        }
        offsets
    }

    /// Something was let go, and there is room for it now.
    pub fn must_read_again(&self) -> bool {
        !self.is_well_filled() && self.sources.iter().any(|source| source.let_go.is_some())
    }

    /// There is room for half as much again at most.
    pub fn is_well_filled(&self) -> bool {
        self.held.len() > self.limit.events as usize / 2 || self.held_bytes > self.limit.bytes / 2
    }
}

fn size(event: &RecordedEvent) -> usize {
    event.payload.len() + event.metadata.len()
}

#[cfg(test)]
mod tests;
