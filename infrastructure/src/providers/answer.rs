//! From a provider's answer to deltas, in whichever form it comes.

use std::{collections::VecDeque, time::Duration};

use aihub_application::ports::provider::{Delta, DeltaStream, Flaw, ProviderError};
use bytes::Bytes;
use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use reqwest::Response;
use tokio::{
    sync::SemaphorePermit,
    time::{Instant, timeout, timeout_at},
};

use super::{
    errors,
    form::{DONE, Form, Piece},
    http,
    json::{self, Json, NoJson},
    meaning::Meaning,
};

/// How long an ended stream is read on for the end of its HTTP body, without which the connection cannot be used
/// again. It usually comes with the last event.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(50);
/// How long is waited, after the reason to end, for the token count and for the end itself: they come right behind it, or not.
const TAIL_TIMEOUT: Duration = Duration::from_secs(5);

/// The flaw of an answer in whose midst another one begins.
pub(super) const SECOND_MESSAGE: &str = "second_message";

/// Reads one provider's answer. A decoder remembers what earlier pieces of the same answer said.
pub(super) trait Decode: Send + 'static {
    /// Adds what a piece says to `out`. It is JSON; `name` is the event's own.
    fn piece(&mut self, name: Option<&str>, json: Json<'_>, out: &mut VecDeque<Delta>) -> Result<(), ProviderError>;

    /// Whether events of this name are of the dialect: what others hold is nobody's loss.
    fn knows(&self, name: &str) -> bool;

    /// Its own last event was read: nothing of this answer comes any more.
    fn is_over(&self) -> bool;

    /// What `[DONE]` says in this dialect.
    fn done(&mut self);

    fn meaning(&mut self) -> &mut Meaning;
}

/// The deltas of `response`. Who asked for them knows how long to wait.
pub(super) fn deltas(response: Response, decoder: impl Decode) -> DeltaStream {
    stream_deltas(http::chunks(response), decoder)
}

/// The deltas in an answer's bytes, however these are cut.
pub(super) fn stream_deltas(
    chunks: impl Stream<Item = Result<Bytes, ProviderError>> + Send + 'static,
    decoder: impl Decode,
) -> DeltaStream {
    let reading = Reading {
        chunks: chunks.boxed(),
        form: Form::default(),
        decoder,
        ready: VecDeque::new(),
        tail_until: None,
        is_over: false,
        has_ended: false,
        failed: None,
        turn: None,
    };
    stream::try_unfold(reading, Reading::next).boxed()
}

struct Reading<D> {
    chunks: BoxStream<'static, Result<Bytes, ProviderError>>,
    form: Form,
    decoder: D,
    ready: VecDeque<Delta>,
    /// From the reason to end on: until when something may still come.
    tail_until: Option<Instant>,
    /// The last piece that counts was read.
    is_over: bool,
    /// What was left to say was said.
    has_ended: bool,
    /// Why it goes no further, behind what is ready.
    failed: Option<ProviderError>,
    /// Leave to gather a large piece.
    turn: Option<SemaphorePermit<'static>>,
}

impl<D: Decode> Reading<D> {
    async fn next(mut self) -> Result<Option<(Delta, Self)>, ProviderError> {
        loop {
            if let Some(delta) = self.ready.pop_front() {
                return Ok(Some((delta, self)));
            }
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            if self.has_ended {
                return Ok(None);
            }
            if self.is_over {
                self.has_ended = true;
                let _ = timeout(DRAIN_TIMEOUT, self.drain()).await;
                let is_noise = self.form.has_noise();
                self.failed = self.decoder.meaning().end(is_noise, &mut self.ready).err();
                continue;
            }
            if let Some(piece) = self.form.next()? {
                self.turn = None;
                self.failed = self.piece(&piece).err();
                self.is_over |= self.decoder.is_over();
                continue;
            }
            match self.chunk().await {
                Some(Ok(bytes)) => {
                    self.form.push(&bytes);
                    if self.turn.is_none() && self.form.waiting() > http::SMALL_BODY_BYTES {
                        self.turn = http::turn_for_a_large_body().await;
                    }
                }
                // Behind the reason to end the client has the whole answer. A server that then goes without saying
                // goodbye, or does not go at all, spoils nothing but perhaps the usage, and that shows by its absence.
                Some(Err(_)) if self.decoder.meaning().is_complete() => self.is_over = true,
                Some(Err(error)) => return Err(error),
                None => {
                    while let Some(piece) = self.form.end().filter(|_| self.failed.is_none()) {
                        self.failed = self.last_piece(&piece).err();
                    }
                    self.is_over = true;
                }
            }
        }
    }

    async fn chunk(&mut self) -> Option<Result<Bytes, ProviderError>> {
        if self.decoder.meaning().is_complete() {
            let until = *self.tail_until.get_or_insert_with(|| Instant::now() + TAIL_TIMEOUT);
            return timeout_at(until, self.chunks.next()).await.ok().flatten();
        }
        if self.turn.is_some() {
            let stood_still = || errors::timed_out(Some(200), "a large answer of the provider's stood still");
            return timeout(http::LARGE_BODY_SILENCE, self.chunks.next())
                .await
                .unwrap_or_else(|_| Some(Err(stood_still())));
        }
        self.chunks.next().await
    }

    async fn drain(&mut self) {
        while let Some(Ok(_)) = self.chunks.next().await {}
    }

    fn piece(&mut self, piece: &Piece) -> Result<(), ProviderError> {
        // What comes after the reason to end does not hurt; and as long as something comes, the end is not waited for.
        let was_complete = self.decoder.meaning().is_complete();
        let said = self.ready.len();
        let read = self.read(piece).or_else(|error| {
            // Another stream's beginning is no end of this one's tail but the end.
            self.is_over |= was_complete && error.flaw.as_ref().is_some_and(|flaw| flaw.class == SECOND_MESSAGE);
            if was_complete { Ok(()) } else { Err(error) }
        });
        if self.ready.len() > said {
            self.tail_until = None;
        }
        read
    }

    /// One that the end of the answer may have cut: then it is as if it had not come.
    fn last_piece(&mut self, piece: &Piece) -> Result<(), ProviderError> {
        let data = piece.data.trim();
        let is_whole = data == DONE || Json::parse(data).is_ok() || Json::parse(&json::repaired(data)).is_ok();
        if is_whole { self.piece(piece) } else { Ok(()) }
    }

    fn read(&mut self, piece: &Piece) -> Result<(), ProviderError> {
        let (name, data) = (piece.name.as_deref(), piece.data.trim());
        if data == DONE {
            self.decoder.done();
            self.is_over = true;
            return Ok(());
        }
        if self.decoder.is_over() {
            self.is_over = true;
            return Ok(());
        }
        let repaired;
        let json = match Json::parse(data) {
            Ok(json) => json,
            Err(at) => {
                repaired = json::repaired(data);
                match Json::parse(&repaired) {
                    Ok(json) => json,
                    Err(_) => return self.no_json(piece, name, at),
                }
            }
        };
        if json.is_list() {
            return json.items().into_iter().try_for_each(|item| self.decoder.piece(name, item, &mut self.ready));
        }
        self.decoder.piece(name, json, &mut self.ready)
    }

    /// Words are no part of an answer, and events that are not of the dialect are nobody's loss; but where there should have
    /// been something, it is lost.
    fn no_json(&mut self, piece: &Piece, name: Option<&str>, at: NoJson) -> Result<(), ProviderError> {
        if name == Some("error") {
            return Err(errors::in_answer(piece.data.as_bytes()));
        }
        let is_ours = name.is_none_or(|name| self.decoder.knows(name));
        if is_ours && piece.data.trim_start().starts_with(['{', '[']) {
            let offset = Some((piece.offset + at.0) as u64);
            return Err(errors::malformed_at(Flaw { class: "no_json".into(), field: None, offset }));
        }
        self.decoder.meaning().words(&piece.data);
        Ok(())
    }
}
