//! An answer while it is being made: an append-only buffer between the task that drives a request and whoever reads.
//!
//! The driver never waits for a reader, so a slow client slows nobody else and a client that left can come back and
//! read on from where it was. A buffer is bounded by the request's own limits: its output tokens,
//! [`MAX_ANSWER_BYTES`] and [`MAX_BUFFERED_BYTES`].

use std::{
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

use crate::{error::GatewayError, ports::provider::ToolCallDelta};

/// The most text that one answer may have. Far above any model's output limit; it stops a provider that never ends.
pub const MAX_ANSWER_BYTES: usize = 2 * 1024 * 1024;
/// The most memory that one answer's chunks may take: some 250,000 of a token each.
pub const MAX_BUFFERED_BYTES: usize = 32 * 1024 * 1024;
/// What a chunk takes besides its text.
const CHUNK_BYTES: usize = 128;

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
    End(Arc<AnswerEnd>),
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
    Done(Done),
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
    pub model: Option<String>,
    /// The provider is a simulated one.
    pub simulated: bool,
    pub latency_ms: u64,
    pub first_chunk_ms: Option<u64>,
    pub attempts: usize,
    pub finish_reason: String,
    /// An embedding's vectors.
    pub vectors: Vec<Vec<f32>>,
}

/// The driver's end.
pub struct Answer {
    state: watch::Sender<State>,
    /// Set by the client's `cancel`.
    pub cancelled: CancellationToken,
    /// When the last reader went.
    left_at: Arc<Mutex<Instant>>,
}

#[derive(Default)]
struct State {
    queued: Option<usize>,
    chunks: Vec<Arc<Chunk>>,
    text_bytes: usize,
    /// Text, vectors and what comes with them.
    buffered_bytes: usize,
    end: Option<Arc<AnswerEnd>>,
}

impl Default for Answer {
    fn default() -> Self {
        Self {
            state: watch::Sender::new(State::default()),
            cancelled: CancellationToken::new(),
            left_at: Arc::new(Mutex::new(Instant::now())),
        }
    }
}

impl Answer {
    pub fn set_queued(&self, position: usize) {
        self.state.send_modify(|state| state.queued = Some(position));
    }

    /// Adds a chunk; `false` when the answer has become longer than any answer may be.
    pub fn push(&self, text: String, tool_calls: Vec<ToolCallDelta>) -> bool {
        let mut fits = true;
        self.state.send_modify(|state| {
            state.queued = None;
            let bytes = text.len() + tool_calls.iter().map(call_bytes).sum::<usize>();
            state.text_bytes += bytes;
            state.buffered_bytes += bytes + CHUNK_BYTES * (1 + tool_calls.len());
            fits = state.text_bytes <= MAX_ANSWER_BYTES && state.buffered_bytes <= MAX_BUFFERED_BYTES;
            let seq = state.chunks.len() as u64 + 1;
            state.chunks.push(Arc::new(Chunk { seq, text, tool_calls }));
        });
        fits
    }

    pub fn end(&self, end: AnswerEnd) {
        self.state.send_modify(|state| {
            if let AnswerEnd::Done(done) = &end {
                state.buffered_bytes += done.vectors.iter().map(|vector| size_of_val(vector.as_slice())).sum::<usize>();
            }
            state.end = Some(Arc::new(end));
        });
    }

    pub fn has_ended(&self) -> bool {
        self.state.borrow().end.is_some()
    }

    /// How many bytes the buffer takes, about: text, chunks, vectors.
    pub fn buffered_bytes(&self) -> usize {
        self.state.borrow().buffered_bytes
    }

    /// The whole text and the joined tool calls so far.
    pub fn collect(&self) -> (String, Vec<ToolCallDelta>) {
        let state = self.state.borrow();
        let mut text = String::with_capacity(state.text_bytes);
        let mut calls: Vec<ToolCallDelta> = Vec::new();
        for chunk in &state.chunks {
            text.push_str(&chunk.text);
            for delta in &chunk.tool_calls {
                match calls.iter_mut().find(|call| call.index == delta.index) {
                    Some(call) => call.arguments.push_str(&delta.arguments),
                    None => calls.push(delta.clone()),
                }
            }
        }
        (text, calls)
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

fn call_bytes(call: &ToolCallDelta) -> usize {
    let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    call.arguments.len() + length(&call.id) + length(&call.name)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn text(item: Option<AnswerItem>) -> String {
        match item {
            Some(AnswerItem::Chunk(chunk)) => format!("{}:{}", chunk.seq, chunk.text),
            Some(AnswerItem::Queued { position }) => format!("queued {position}"),
            Some(AnswerItem::End(_)) => "end".into(),
            None => "nothing".into(),
        }
    }

    #[tokio::test]
    async fn a_reader_that_comes_back_reads_on_after_the_chunk_it_had() {
        let answer = Answer::default();
        answer.push("a".into(), vec![]);
        answer.push("b".into(), vec![]);
        let mut reader = answer.read(1);
        assert_eq!(text(reader.next().await), "2:b");
        answer.push("c".into(), vec![]);
        assert_eq!(text(reader.next().await), "3:c");
        answer.end(AnswerEnd::Failed(GatewayError::ShuttingDown.into()));
        assert_eq!(text(reader.next().await), "end");
        assert_eq!(text(reader.next().await), "nothing");
    }

    #[tokio::test]
    async fn the_fragments_of_a_tool_call_are_joined() {
        let answer = Answer::default();
        let fragment = |id: Option<&str>, arguments: &str| ToolCallDelta {
            index: 0,
            id: id.map(Into::into),
            name: id.map(|_| "f".into()),
            arguments: arguments.into(),
        };
        answer.push(String::new(), vec![fragment(Some("call_1"), "{\"a\"")]);
        answer.push(String::new(), vec![fragment(None, ":1}")]);
        assert_eq!(answer.collect().1[0].arguments, "{\"a\":1}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_comes_back_within_the_grace_has_not_left() {
        let answer = Arc::new(Answer::default());
        drop(answer.read(0));
        let waiting = answer.clone();
        let left = async move { waiting.left(Duration::from_secs(10)).await };
        tokio::pin!(left);
        assert!(tokio::time::timeout(Duration::from_secs(5), &mut left).await.is_err());
        let reader = answer.read(0);
        assert!(tokio::time::timeout(Duration::from_mins(1), &mut left).await.is_err());
        drop(reader);
        assert!(tokio::time::timeout(Duration::from_secs(11), &mut left).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_grace_counts_from_the_last_time_that_the_client_left() {
        let answer = Answer::default();
        drop(answer.read(0));
        let left = answer.left(Duration::from_secs(10));
        tokio::pin!(left);
        assert!(tokio::time::timeout(Duration::from_secs(9), &mut left).await.is_err());
        drop(answer.read(0));
        assert!(tokio::time::timeout(Duration::from_secs(9), &mut left).await.is_err());
        assert!(tokio::time::timeout(Duration::from_secs(2), &mut left).await.is_ok());
    }

    #[test]
    fn chunks_count_with_what_they_take_besides_their_text() {
        let answer = Answer::default();
        let most = MAX_BUFFERED_BYTES / (CHUNK_BYTES + 1);
        assert!((0..most).all(|_| answer.push("a".into(), vec![])));
        assert!(!answer.push("a".into(), vec![]));
    }
}
