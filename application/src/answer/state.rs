//! What there is of an answer: its chunks, what is gathered for it, and the memory that it holds.

use std::sync::Arc;

use super::{AnswerEnd, Chunk, Full, RUNNING_BYTES};
use crate::{ports::provider::ToolCallDelta, shares::Held};

/// What a chunk takes besides its text.
pub(super) const CHUNK_BYTES: usize = 128;
/// The longest chunk, in bytes of text: one is escaped and sent at a time.
pub(super) const LONGEST_CHUNK: usize = 16 << 10;
/// Memory is taken in steps, so that a chunk does not ask for it.
pub(super) const STEP_BYTES: usize = 16 << 10;

pub(super) struct State {
    pub queued: Option<usize>,
    pub chunks: Vec<Arc<Chunk>>,
    /// What is not shown before it is whole: the texts of the chunks that it will be, and its calls.
    pub gathered: (Vec<String>, Vec<ToolCallDelta>),
    pub text_bytes: usize,
    /// Text, vectors and what comes with them.
    pub buffered_bytes: usize,
    pub max_bytes: usize,
    pub held: Held,
    pub end: Option<Arc<AnswerEnd>>,
}

impl State {
    /// So many bytes, in so many pieces more.
    pub fn count(&mut self, bytes: usize, pieces: usize) {
        self.text_bytes += bytes;
        self.buffered_bytes += bytes + CHUNK_BYTES * pieces;
    }

    pub fn gather_text(&mut self, mut text: &str) {
        while !text.is_empty() {
            let texts = &mut self.gathered.0;
            let room = texts.last().map_or(0, |last| LONGEST_CHUNK - last.len());
            let (piece, rest) = text.split_at(text.floor_char_boundary(room));
            match texts.last_mut() {
                Some(last) if !piece.is_empty() => {
                    last.push_str(piece);
                    self.count(piece.len(), 0);
                }
                _ => {
                    texts.push(String::new());
                    self.count(0, 1);
                }
            }
            text = rest;
        }
    }

    pub fn gather_call(&mut self, call: ToolCallDelta) {
        let calls = &mut self.gathered.1;
        let (bytes, is_new) = (call_bytes(&call), !calls.iter().any(|known| known.index == call.index));
        join_call(calls, call);
        self.count(bytes, usize::from(is_new));
    }

    pub fn add_chunk(&mut self, text: String, tool_calls: Vec<ToolCallDelta>) {
        let seq = self.chunks.len() as u64 + 1;
        self.chunks.push(Arc::new(Chunk { seq, text, tool_calls }));
    }

    pub fn cover(&mut self) -> Result<(), Full> {
        if self.text_bytes > self.max_bytes {
            return Err(Full::TooLong);
        }
        let needed = RUNNING_BYTES + self.buffered_bytes;
        if needed > self.held.amount() {
            self.held.resize(needed + STEP_BYTES).map_err(Full::Memory)?;
        }
        Ok(())
    }
}

pub(super) fn joined_calls(chunks: &[Arc<Chunk>]) -> Vec<ToolCallDelta> {
    let mut calls: Vec<ToolCallDelta> = Vec::new();
    for delta in chunks.iter().flat_map(|chunk| &chunk.tool_calls) {
        join_call(&mut calls, delta.clone());
    }
    calls
}

fn join_call(calls: &mut Vec<ToolCallDelta>, delta: ToolCallDelta) {
    match calls.iter_mut().find(|call| call.index == delta.index) {
        Some(call) => {
            call.arguments.push_str(&delta.arguments);
            call.broken = delta.broken.or(call.broken.take());
        }
        None => calls.push(delta),
    }
}

pub(crate) fn call_bytes(call: &ToolCallDelta) -> usize {
    let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    call.arguments.len() + length(&call.id) + length(&call.name) + length(&call.broken)
}
