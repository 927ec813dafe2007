//! From a provider's answer to deltas, whether it comes as a stream or in one body.

use std::{collections::VecDeque, time::Duration};

use aihub_application::ports::provider::{Delta, DeltaStream, FailureKind, ProviderError};
use bytes::Bytes;
use futures::{
    Stream, StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use reqwest::{Response, header::CONTENT_TYPE};
use sse_stream::Sse;
use tokio::time::{Instant, timeout};

use super::{http, sse};

/// The most bytes of an answer in one body: 128,000 tokens of text with room to spare.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// How long an ended stream is read on for the end of its HTTP body, without which the connection cannot be used
/// again. It usually comes with the last event.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(50);

/// Reads one provider's answer. A decoder remembers what earlier events of the same answer said.
pub(super) trait Decode: Send + 'static {
    /// Adds what one event says to `out`. `name` is the event's `event:` line.
    fn event(&mut self, name: Option<&str>, data: &str, out: &mut VecDeque<Delta>) -> Result<Flow, ProviderError>;

    /// Adds what a whole answer in one body says to `out`, in the order that a stream would have.
    fn body(&mut self, body: &[u8], out: &mut VecDeque<Delta>) -> Result<(), ProviderError>;

    /// Whether [`Delta::Finish`] was given.
    fn is_finished(&self) -> bool;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    More,
    /// The provider said that this was the last event.
    End,
}

/// The deltas of `response`. What it is, a stream or a body, is the response's own word: servers answer a request for
/// a stream with a JSON body, and the other way round.
pub(super) fn deltas(
    response: Response,
    decoder: impl Decode,
    idle_timeout: Duration,
    deadline: Option<Instant>,
) -> DeltaStream {
    let is_stream = response.headers().get(CONTENT_TYPE).map_or(deadline.is_none(), |content_type| {
        content_type.as_bytes().to_ascii_lowercase().starts_with(b"text/event-stream")
    });
    if is_stream {
        return stream_deltas(http::chunks(response, idle_timeout), decoder);
    }
    let deadline = deadline.unwrap_or_else(|| Instant::now() + idle_timeout);
    stream::once(body_deltas(response, decoder, deadline)).try_flatten().boxed()
}

async fn body_deltas(
    response: Response,
    mut decoder: impl Decode,
    deadline: Instant,
) -> Result<impl Stream<Item = Result<Delta, ProviderError>>, ProviderError> {
    let body = http::body(response, MAX_ANSWER_BYTES, deadline).await?;
    let mut out = VecDeque::new();
    decoder.body(&body, &mut out)?;
    Ok(stream::iter(out.into_iter().map(Ok)))
}

/// The deltas in a stream's bytes, however these are cut.
pub(super) fn stream_deltas(
    chunks: impl Stream<Item = Result<Bytes, ProviderError>> + Send + 'static,
    decoder: impl Decode,
) -> DeltaStream {
    let reading = Reading { events: sse::events(chunks), decoder, ready: VecDeque::new(), is_over: false };
    stream::try_unfold(reading, Reading::next).boxed()
}

struct Reading<D> {
    events: BoxStream<'static, Result<Sse, ProviderError>>,
    decoder: D,
    ready: VecDeque<Delta>,
    is_over: bool,
}

impl<D: Decode> Reading<D> {
    async fn next(mut self) -> Result<Option<(Delta, Self)>, ProviderError> {
        loop {
            if let Some(delta) = self.ready.pop_front() {
                return Ok(Some((delta, self)));
            }
            if self.is_over {
                let _ = timeout(DRAIN_TIMEOUT, self.events.next()).await;
                return Ok(None);
            }
            match self.events.next().await {
                Some(Ok(event)) => {
                    if let Some(data) = &event.data {
                        let flow = self.decoder.event(event.event.as_deref(), data, &mut self.ready)?;
                        self.is_over = flow == Flow::End;
                    }
                }
                // After the finish reason the client has the whole answer. A server that then goes without saying
                // goodbye, or does not go at all, spoils nothing but perhaps the usage, and that shows by its absence.
                None | Some(Err(_)) if self.decoder.is_finished() => self.is_over = true,
                Some(Err(error)) => return Err(error),
                None => {
                    return Err(ProviderError {
                        kind: FailureKind::Connection,
                        status: Some(200),
                        message: "the provider's stream ended before the answer did".into(),
                        retry_after: None,
                    });
                }
            }
        }
    }
}
