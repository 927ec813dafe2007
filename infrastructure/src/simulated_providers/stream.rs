//! The body of a streamed answer: each event is a body frame of its own, sent when its time has come.

use std::{
    collections::VecDeque,
    future::Future as _,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::Stream;
use thiserror::Error;
use tokio::time::{Instant, Sleep};

use super::{
    knobs::Trouble,
    served::{Outcome, ledger::Serving},
    text,
};

/// What a stream will say, in the provider's own form.
#[derive(Default)]
pub(super) struct Script {
    pub parts: VecDeque<Part>,
    /// What it says instead of the rest when it is told to fail.
    pub failure: Bytes,
}

pub(super) enum Part {
    /// One event that is no token.
    Event(Bytes),
    Tokens(Tokens),
}

/// A text of which each token becomes an event: `before`, the token as a JSON string, `after`.
pub(super) struct Tokens {
    pub before: Bytes,
    pub after: Bytes,
    pub text: String,
    /// How many bytes of it are sent.
    pub sent: usize,
}

impl Script {
    pub fn event(&mut self, event: String) {
        self.parts.push_back(Part::Event(event.into()));
    }

    /// Events for the tokens of `text`; none for an empty one.
    pub fn tokens(&mut self, before: String, text: String, after: &'static str) {
        if !text.is_empty() {
            let (before, after) = (before.into(), Bytes::from_static(after.as_bytes()));
            self.parts.push_back(Part::Tokens(Tokens { before, after, text, sent: 0 }));
        }
    }
}

impl Tokens {
    /// The next event, and whether it was the last.
    fn next(&mut self) -> Option<(Bytes, bool)> {
        let (token, rest) = text::split_token(&self.text[self.sent..])?;
        // Four more than the token's quotes: room for two characters that JSON escapes.
        let mut event = BytesMut::with_capacity(self.before.len() + token.len() + self.after.len() + 4);
        event.put_slice(&self.before);
        // Writing a string into memory does not fail.
        let _ = serde_json::to_writer((&mut event).writer(), token);
        event.put_slice(&self.after);
        self.sent += token.len();
        Some((event.freeze(), rest.is_empty()))
    }
}

/// Closes the connection: hyper gives up on a body that ends with an error.
#[derive(Debug, Error)]
#[error("the connection is cut by order of a knob")]
pub(super) struct Torn;

/// See the module. One timer a stream, and none without a pace.
pub(super) struct AnswerStream {
    script: Script,
    pace: Option<Pace>,
    trouble: Option<Trouble>,
    tokens_sent: u32,
    /// Whether the frame before was given time to be written.
    has_yielded: bool,
    is_over: bool,
    serving: Serving,
}

struct Pace {
    interval: Duration,
    timer: Pin<Box<Sleep>>,
}

impl AnswerStream {
    /// The first token is due now.
    pub fn new(script: Script, token_interval: Option<Duration>, trouble: Option<Trouble>, serving: Serving) -> Self {
        let pace =
            token_interval.map(|interval| Pace { interval, timer: Box::pin(tokio::time::sleep_until(Instant::now())) });
        Self { script, pace, trouble, tokens_sent: 0, has_yielded: true, is_over: false, serving }
    }

    /// Whether the knob's moment has come: so many tokens are sent, and what opens the stream as well.
    fn trouble_is_due(&self) -> bool {
        let Some(Trouble::FailAfter(after) | Trouble::TearAfter(after) | Trouble::HangAfter(after)) = self.trouble
        else {
            return false;
        };
        self.tokens_sent == after && (after > 0 || matches!(self.script.parts.front(), Some(Part::Tokens(_))))
    }

    fn make_trouble(&mut self) -> Poll<Option<Result<Bytes, Torn>>> {
        match self.trouble {
            Some(Trouble::HangAfter(_)) => {
                // Nothing wakes this task again but the connection's end.
                self.serving.end(Outcome::Hung);
                Poll::Pending
            }
            Some(Trouble::FailAfter(_)) => {
                self.is_over = true;
                self.serving.end(Outcome::Failed);
                Poll::Ready(Some(Ok(std::mem::take(&mut self.script.failure))))
            }
            _ => {
                self.is_over = true;
                self.serving.end(Outcome::Torn);
                Poll::Ready(Some(Err(Torn)))
            }
        }
    }

    fn next_frame(&mut self) -> Option<Bytes> {
        let frame = match self.script.parts.front_mut()? {
            Part::Event(event) => {
                let event = std::mem::take(event);
                self.script.parts.pop_front();
                event
            }
            Part::Tokens(tokens) => {
                let (event, is_last) = tokens.next()?;
                if is_last {
                    self.script.parts.pop_front();
                }
                self.tokens_sent += 1;
                self.serving.add_output(1);
                if let Some(Pace { interval, timer }) = &mut self.pace {
                    // From the last due time, not from now: a late wake-up does not slow the stream down.
                    let next = timer.deadline() + *interval;
                    timer.as_mut().reset(next);
                }
                event
            }
        };
        self.has_yielded = false;
        if self.script.parts.is_empty() {
            // Now, and not when the client has read it: a client may close right after the last event.
            self.is_over = true;
            self.serving.end(Outcome::Completed);
        }
        Some(frame)
    }
}

impl Stream for AnswerStream {
    type Item = Result<Bytes, Torn>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if !this.has_yielded {
            // hyper collects frames until the body is pending, and then writes. A provider writes each token.
            this.has_yielded = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if this.is_over {
            return Poll::Ready(None);
        }
        if this.trouble_is_due() {
            return this.make_trouble();
        }
        if let (Some(pace), Some(Part::Tokens(_))) = (&mut this.pace, this.script.parts.front())
            && pace.timer.as_mut().poll(cx).is_pending()
        {
            return Poll::Pending;
        }
        Poll::Ready(this.next_frame().map(Ok))
    }
}
