//! Answers that are made while they are read. Who leaves ends the work, for it is part of the body.

use std::{future::ready, io};

use aihub_infrastructure::audit::AuditError;
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::header;
use tokio::{
    io::DuplexStream,
    sync::{Semaphore, SemaphorePermit, mpsc},
};
use tokio_util::io::ReaderStream;

use crate::problem::Problem;

/// Audits that run at once on this node: each may read the log from end to end.
const MAX_RUNNING: usize = 2;
static RUNNING: Semaphore = Semaphore::const_new(MAX_RUNNING);

/// What waits for whoever reads; beyond it the work waits.
const BUFFERED_LINES: usize = 64;
const BUFFERED_BYTES: usize = 256 << 10;

/// A place among those that run, until it is dropped.
pub type Place = SemaphorePermit<'static>;

pub fn place() -> Result<Place, Problem> {
    RUNNING.try_acquire().map_err(|_| Problem {
        retry_after_ms: Some(5_000),
        ..Problem::new("QUEUE_FULL", format!("{MAX_RUNNING} audits are running on this node already"))
    })
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
