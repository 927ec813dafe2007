//! Answers that are made while they are read. Who leaves ends the work, for it is part of the body.

use std::{future::ready, io};

use aihub_application::{principal::Principal, shares::Held};
use aihub_infrastructure::audit::AuditError;
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::header;
use tokio::{io::DuplexStream, sync::mpsc};
use tokio_util::io::ReaderStream;

use crate::{doors, hub::Hub, problem::Problem};

/// What waits for whoever reads; beyond it the work waits.
const BUFFERED_LINES: usize = 64;
const BUFFERED_BYTES: usize = 256 << 10;

/// A place among those that run, until it is dropped.
pub type Place = Held;

pub fn place(hub: &Hub, caller: &Principal) -> Result<Place, Problem> {
    doors::take(hub, &hub.doors.audits, caller, 1)
}

/// The lines that `work` sends.
pub fn of_lines<F>(place: Place, work: impl FnOnce(mpsc::Sender<Bytes>) -> F) -> Response
where
    F: Future<Output = Result<(), AuditError>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(BUFFERED_LINES);
    let lines = stream::unfold(receiver, async |mut lines| Some((Ok(lines.recv().await?), lines)));
    body(place, lines, work(sender))
}

/// The bytes that `work` writes.
pub fn of_bytes<F>(place: Place, work: impl FnOnce(DuplexStream) -> F) -> Response
where
    F: Future<Output = Result<(), AuditError>> + Send + 'static,
{
    let (ours, theirs) = tokio::io::duplex(BUFFERED_BYTES);
    body(place, ReaderStream::new(theirs), work(ours))
}

/// An error cuts the answer off: whoever reads it misses its last line.
fn body(
    place: Place,
    output: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    work: impl Future<Output = Result<(), AuditError>> + Send + 'static,
) -> Response {
    let end = stream::once(work).filter_map(|done| {
        ready(done.err().map(|error| {
            tracing::warn!(error.message = %error, "an audit was not answered to its end");
            Err(io::Error::other(error))
        }))
    });
    let body = stream::select(output, end).map(move |piece| {
        let _held = &place;
        piece
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(body)).into_response()
}
