//! An answer while it is being made: an append-only buffer between the task that drives a request and whoever reads.
//!
//! The driver never waits for a reader, so a slow client slows nobody else and a client that left can come back and
//! read on from where it was. A buffer is bounded by the request's own limits, its output tokens and the most that an answer may have,
//! and by what its user may have in memory: an answer holds its bytes from the first to when nobody can read it any more.

pub mod name;
mod state;
#[cfg(test)]
mod tests;

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aihub_domain::{money::Microcredits, price::TokenUsage, request::event::RequestKind};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

pub(crate) use self::state::call_bytes;
use self::state::{LONGEST_CHUNK, State, joined_calls};
use crate::{
    error::GatewayError,
    ports::provider::ToolCallDelta,
    request::{AnswerRequest, Encoding},
    shares::{Held, UsedUp},
};

/// What a running request takes besides its prompt and its answer: its tasks, and the provider's connection.
pub const RUNNING_BYTES: usize = 16 << 10;
/// About what a part of an embedding has: little enough for others to get their turn.
const PART_BYTES: usize = 32 << 10;
/// An embedding that takes more is told in parts, too, where one message was not asked for.
const ONE_MESSAGE_BYTES: usize = 1 << 20;
/// What an ended answer takes besides its text.
const ENDED_BYTES: usize = 1 << 10;
/// What an embedding's vectors are expected to take for each text: 3,072 numbers, the most that the known models make.
pub const VECTOR_BYTES: usize = 12 << 10;

/// One reader's view of an answer. While there is one, the client has not left.
pub type AnswerItems = BoxStream<'static, AnswerItem>;

/// What a reader is told, in order.
#[derive(Debug, Clone)]
pub enum AnswerItem {
    /// The request waits for a place; `position` is how many wait before it, itself included.
    Queued {
        position: usize,
    },
    Chunk(Arc<Chunk>),
    /// Some of an embedding's vectors, which is told in parts.
    Vectors(Part),
    End(Arc<AnswerEnd>),
}

/// Of an embedding that is told in parts.
#[derive(Debug, Clone)]
pub struct Part {
    /// Counts from 1 without gaps, as chunks do.
    pub seq: u64,
    /// Their indices.
    pub vectors: Range<usize>,
    /// Where they are.
    pub end: Arc<AnswerEnd>,
}

#[derive(Debug, PartialEq)]
pub struct Chunk {
    /// Counts from 1 without gaps.
    pub seq: u64,
    pub text: String,
    pub tool_calls: Vec<ToolCallDelta>,
}

#[derive(Debug)]
pub enum AnswerEnd {
    Done(Box<Done>),
    Failed(Failed),
}

/// Why there is no whole answer, and what the account was charged for the part that was produced.
#[derive(Debug, Clone)]
pub struct Failed {
    pub error: GatewayError,
    pub charged: Microcredits,
}

impl From<GatewayError> for Failed {
    /// Of what nothing was used for.
    fn from(error: GatewayError) -> Self {
        Self { error, charged: Microcredits::ZERO }
    }
}

#[derive(Debug)]
pub struct Done {
    pub request_id: String,
    pub kind: RequestKind,
    pub usage: TokenUsage,
    pub charged: Microcredits,
    pub estimated: bool,
    /// Who answered; `None` where it was cancelled before anybody did.
    pub provider: Option<String>,
    /// The other name that the client had for the model, where it had one.
    pub requested_model: Option<String>,
    /// By the name that clients use.
    pub model: Option<String>,
    /// By the provider's, where it said so.
    pub answered_model: Option<String>,
    /// The provider is a simulated one.
    pub simulated: bool,
    pub latency_ms: u64,
    pub first_chunk_ms: Option<u64>,
    pub attempts: usize,
    pub finish_reason: String,
    /// The provider's own word for it, where that is another one.
    pub provider_finish_reason: Option<String>,
    /// An embedding's vectors.
    pub vectors: Vec<Vec<f32>>,
    /// How they are written.
    pub encoding: Encoding,
    /// They are told in parts, and not all at once.
    pub in_parts: bool,
}

impl Done {
    /// For [`in_parts`](Self::in_parts): whether what `request` asked for is told so.
    pub fn is_told_in_parts(request: &AnswerRequest, vectors: &[Vec<f32>]) -> bool {
        let is_large = || vectors.len() * vector_bytes(vectors, request.encoding) > ONE_MESSAGE_BYTES;
        request.kind == RequestKind::Embedding && (request.stream || !request.in_one_message && is_large())
    }

    /// How many vectors a part has: as many as are about [`PART_BYTES`] when they are written, and one at least.
    fn vectors_of_part(&self) -> usize {
        (PART_BYTES / vector_bytes(&self.vectors, self.encoding)).max(1)
    }

    /// How many parts it is told in, if it is.
    fn parts(&self) -> usize {
        if self.in_parts { self.vectors.len().div_ceil(self.vectors_of_part()) } else { 0 }
    }
}

/// About how many bytes each vector takes when it is written.
fn vector_bytes(vectors: &[Vec<f32>], encoding: Encoding) -> usize {
    let numbers = vectors.first().map_or(0, Vec::len).max(1);
    match encoding {
        // With a comma, and as many digits as tell one number from its neighbours.
        Encoding::Float => numbers * 13,
        Encoding::Base64 => numbers * 16 / 3 + 3,
    }
}

/// The driver's end.
pub struct Answer {
    state: watch::Sender<State>,
    /// Set by the client's `cancel`.
    pub cancelled: CancellationToken,
    /// When the last reader went.
    left_at: Arc<Mutex<Instant>>,
}

/// Why an answer takes no more. What was pushed is in it all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// It has become longer than any answer may be.
    TooLong,
    /// Its user has no more memory for answers.
    Memory(UsedUp),
}

impl Answer {
    /// `held` is what it may take at first; `max_bytes` is the most text, with the arguments of calls, that it may have.
    pub fn new(held: Held, max_bytes: usize) -> Self {
        let state = State {
            max_bytes,
            queued: None,
            chunks: Vec::new(),
            gathered: <_>::default(),
            text_bytes: 0,
            buffered_bytes: 0,
            held,
            end: None,
        };
        Self {
            state: watch::Sender::new(state),
            cancelled: CancellationToken::new(),
            left_at: Arc::new(Mutex::new(Instant::now())),
        }
    }

    pub fn set_queued(&self, position: usize) {
        self.state.send_modify(|state| state.queued = Some(position));
    }

    /// It waits no more.
    pub fn set_running(&self) {
        self.state.send_if_modified(|state| {
            state.queued = None;
            false
        });
    }

    /// Adds a chunk, or several: of what a provider says at once, none is too long to let what is small pass.
    pub fn push(&self, text: String, tool_calls: Vec<ToolCallDelta>) -> Result<(), Full> {
        let mut taken = Ok(());
        self.state.send_modify(|state| {
            state.queued = None;
            let mut text = text;
            while text.len() > LONGEST_CHUNK {
                let rest = text.split_off(text.floor_char_boundary(LONGEST_CHUNK));
                state.count(text.len(), 1);
                state.add_chunk(std::mem::replace(&mut text, rest), vec![]);
            }
            let bytes = text.len() + tool_calls.iter().map(call_bytes).sum::<usize>();
            state.count(bytes, 1 + tool_calls.len());
            state.add_chunk(text, tool_calls);
            taken = state.cover();
        });
        taken
    }

    /// Keeps it for an answer that is shown when it is whole.
    pub fn gather(&self, text: &str, tool_calls: Vec<ToolCallDelta>) -> Result<(), Full> {
        let mut taken = Ok(());
        self.state.send_if_modified(|state| {
            state.gather_text(text);
            for call in tool_calls {
                state.gather_call(call);
            }
            taken = state.cover();
            false
        });
        taken
    }

    /// Shows what was gathered, if anything was: in chunks that are short enough to be told one by one.
    pub fn show_gathered(&self) {
        self.state.send_if_modified(|state| {
            let (mut texts, calls) = std::mem::take(&mut state.gathered);
            if texts.is_empty() && calls.is_empty() {
                return false;
            }
            state.queued = None;
            let last = texts.pop().unwrap_or_default();
            for text in texts {
                state.add_chunk(text, vec![]);
            }
            state.add_chunk(last, calls);
            true
        });
    }

    /// Lets go of what was gathered: it will not become whole.
    pub fn forget_gathered(&self) {
        self.state.send_if_modified(|state| {
            state.gathered = <_>::default();
            state.text_bytes = 0;
            state.buffered_bytes = 0;
            false
        });
    }

    /// Tries again to hold what the chunks take.
    pub fn cover(&self) -> Result<(), Full> {
        let mut covered = Ok(());
        self.state.send_if_modified(|state| {
            covered = state.cover();
            false
        });
        covered
    }

    pub fn end(&self, end: AnswerEnd) {
        self.state.send_modify(|state| {
            if let AnswerEnd::Done(done) = &end {
                state.buffered_bytes += kept_bytes(done);
            }
            state.chunks.shrink_to_fit();
            state.held.set(state.buffered_bytes + ENDED_BYTES);
            state.end = Some(Arc::new(end));
        });
    }

    pub fn has_ended(&self) -> bool {
        self.state.borrow().end.is_some()
    }

    /// How long the text and the tool calls are.
    pub fn text_bytes(&self) -> usize {
        self.state.borrow().text_bytes
    }

    /// What it takes to keep it: text, tool calls and, once it has ended, vectors.
    pub fn kept_bytes(&self) -> usize {
        let state = self.state.borrow();
        let vectors = match state.end.as_deref() {
            Some(AnswerEnd::Done(done)) => kept_bytes(done),
            _ => 0,
        };
        state.text_bytes + vectors
    }

    /// How much text it may still have, with the arguments of calls, in bytes.
    pub fn room_left(&self) -> usize {
        let state = self.state.borrow();
        state.max_bytes.saturating_sub(state.text_bytes)
    }

    /// The whole text and the joined tool calls so far.
    pub fn collect(&self) -> (String, Vec<ToolCallDelta>) {
        let state = self.state.borrow();
        let mut text = String::with_capacity(state.text_bytes);
        state.chunks.iter().for_each(|chunk| text.push_str(&chunk.text));
        (text, joined_calls(&state.chunks))
    }

    /// The joined tool calls so far.
    pub fn tool_calls(&self) -> Vec<ToolCallDelta> {
        joined_calls(&self.state.borrow().chunks)
    }

    /// How many chunks there are so far, or parts of an embedding.
    pub fn chunk_count(&self) -> usize {
        let state = self.state.borrow();
        match state.end.as_deref() {
            Some(AnswerEnd::Done(done)) => state.chunks.len() + done.parts(),
            _ => state.chunks.len(),
        }
    }

    /// It has ended, and is told in parts.
    pub fn is_in_parts(&self) -> bool {
        matches!(self.state.borrow().end.as_deref(), Some(AnswerEnd::Done(done)) if done.in_parts)
    }

    /// The chunk of this index, from 0.
    pub fn chunk(&self, index: usize) -> Option<Arc<Chunk>> {
        self.state.borrow().chunks.get(index).cloned()
    }

    /// Nobody reads at this moment: the client has left, for now or for good.
    pub fn has_no_reader(&self) -> bool {
        self.state.receiver_count() == 0
    }

    /// Resolves when nobody has read for `grace`: the client left and did not come back.
    pub async fn left(&self, grace: Duration) {
        loop {
            self.state.closed().await;
            // Asked anew after every wait: whoever came back and left again has the whole grace again.
            let until = *self.left_at.lock().unwrap_or_else(PoisonError::into_inner) + grace;
            if until <= Instant::now() && self.has_no_reader() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }

    /// Reads what comes after chunk `after`, then the end. Any number may read at once.
    pub fn read(&self, after: u64) -> AnswerItems {
        let cursor = Cursor {
            state: self.state.subscribe(),
            next: usize::try_from(after).unwrap_or(usize::MAX),
            queued: None,
            left_at: self.left_at.clone(),
        };
        stream::unfold(Some(cursor), |cursor| async move {
            let mut cursor = cursor?;
            let item = cursor.next().await?;
            let more = !matches!(item, AnswerItem::End(_));
            Some((item, more.then_some(cursor)))
        })
        .boxed()
    }
}

struct Cursor {
    state: watch::Receiver<State>,
    next: usize,
    queued: Option<usize>,
    left_at: Arc<Mutex<Instant>>,
}

impl Drop for Cursor {
    /// Runs before the receiver in `state` goes, so that whoever hears of that finds the time.
    fn drop(&mut self) {
        *self.left_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

fn kept_bytes(done: &Done) -> usize {
    done.vectors.iter().map(|vector| size_of_val(vector.as_slice())).sum()
}

impl Cursor {
    /// `None` when the driver is gone without an end, which only a panic can do.
    async fn next(&mut self) -> Option<AnswerItem> {
        loop {
            {
                let state = self.state.borrow_and_update();
                if let Some(chunk) = state.chunks.get(self.next) {
                    self.next += 1;
                    return Some(AnswerItem::Chunk(chunk.clone()));
                }
                if let Some(end) = &state.end {
                    if let AnswerEnd::Done(done) = &**end
                        && (state.chunks.len()..state.chunks.len() + done.parts()).contains(&self.next)
                    {
                        let first = (self.next - state.chunks.len()) * done.vectors_of_part();
                        let vectors = first..(first + done.vectors_of_part()).min(done.vectors.len());
                        self.next += 1;
                        return Some(AnswerItem::Vectors(Part { seq: self.next as u64, vectors, end: end.clone() }));
                    }
                    return Some(AnswerItem::End(end.clone()));
                }
                if let Some(position) = state.queued
                    && self.queued != Some(position)
                {
                    self.queued = Some(position);
                    return Some(AnswerItem::Queued { position });
                }
            }
            self.state.changed().await.ok()?;
        }
    }
}
