//! Server-sent events out of bytes, with a limit on what one event may hold.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use aihub_application::ports::provider::ProviderError;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use sse_stream::{Error, Sse, SseByteStream};

use super::errors;

/// The most bytes read without an event coming to its end (keep-alive comments count too). Since a read may end one
/// event and begin the next, memory is bounded by this plus one read.
const MAX_EVENT_BYTES: usize = 1024 * 1024;

/// The events in `chunks`, however these are cut. The first error is the last item; an event that the end of the
/// stream cuts short is dropped, as the standard wants it.
pub(super) fn events(
    chunks: impl Stream<Item = Result<Bytes, ProviderError>> + Send + 'static,
) -> BoxStream<'static, Result<Sse, ProviderError>> {
    // sse-stream has no limit of its own and keeps its input to itself, so both sides of it share a count.
    let unfinished = Arc::new(AtomicUsize::new(0));
    let read = Arc::clone(&unfinished);
    let limited = chunks.map(move |chunk| {
        let chunk = chunk?;
        if read.fetch_add(chunk.len(), Relaxed) + chunk.len() > MAX_EVENT_BYTES {
            return Err(errors::malformed(&format_args!("an event of more than {MAX_EVENT_BYTES} bytes")));
        }
        Ok(chunk)
    });
    SseByteStream::new(limited)
        .map(move |event| {
            unfinished.store(0, Relaxed);
            event.map_err(|error| match error {
                Error::Body(cause) => match cause.downcast::<ProviderError>() {
                    Ok(error) => *error,
                    Err(cause) => errors::malformed(&cause),
                },
                other => errors::malformed(&other),
            })
        })
        .boxed()
}

#[cfg(test)]
mod tests {
    use futures::{TryStreamExt, stream};

    use super::*;

    async fn read(pieces: Vec<&'static [u8]>) -> Result<Vec<(Option<String>, Option<String>)>, ProviderError> {
        let chunks = stream::iter(pieces.into_iter().map(|piece| Ok(Bytes::from_static(piece))));
        events(chunks).map_ok(|event| (event.event, event.data)).try_collect().await
    }

    fn event(name: Option<&str>, data: &str) -> (Option<String>, Option<String>) {
        (name.map(Into::into), Some(data.into()))
    }

    #[tokio::test]
    async fn every_form_of_the_standard_is_read_however_it_is_cut() {
        const STREAM: &[u8] =
            "\u{feff}: comment\r\n\r\nevent: a\r\ndata: grün 🌱\r\n\r\ndata:one\rdata: two\r\rid: 7\n\
            data\n\nunknown: x\nevent:b\ndata:  spaced \n\n: ping\n\ndata: [DONE]\n\ndata: cut"
                .as_bytes();
        let whole = read(vec![STREAM]).await.unwrap();
        assert_eq!(
            whole,
            [
                event(Some("a"), "grün 🌱"),
                event(None, "one\ntwo"),
                event(None, ""),
                event(Some("b"), " spaced "),
                event(None, "[DONE]"),
            ]
        );
        for at in 0..=STREAM.len() {
            assert_eq!(read(vec![&STREAM[..at], &STREAM[at..]]).await.unwrap(), whole, "cut at {at}");
        }
        assert_eq!(read(STREAM.chunks(1).collect()).await.unwrap(), whole, "byte by byte");
    }

    #[tokio::test]
    async fn an_event_over_the_limit_ends_the_stream() {
        static PIECE: [u8; 64 * 1024] = [b'x'; 64 * 1024];
        let endless = [b"data: ok\n\ndata: ".as_slice()].into_iter().chain([PIECE.as_slice(); 17]);
        let chunks = stream::iter(endless.map(|piece| Ok(Bytes::from_static(piece))));
        let read: Vec<_> = events(chunks).collect().await;
        assert_eq!(read.len(), 2);
        assert_eq!(read[1].as_ref().unwrap_err().message, "an event of more than 1048576 bytes");
    }

    #[tokio::test]
    async fn bytes_that_are_not_utf8_are_an_error() {
        assert!(read(vec![b"data: \xff\xfe\n\n"]).await.is_err());
    }
}
