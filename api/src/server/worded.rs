//! A client's connection on which hyper's own refusals, of heads that are no HTTP, too long or of too many fields, are said in our
//! words: hyper has a status for them and nothing else, and asks nobody.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use super::{MAX_HEAD_BYTES, in_bytes};
use crate::problem::Problem;

/// hyper's own limits.
const MAX_URI_BYTES: usize = 65_534;
const MAX_FIELDS: usize = 100;

/// What is read of whoever was refused while they are still sending, and for how long: else the refusal would be taken back.
const MOST_READ_OVER: usize = 1 << 20;
const READ_OVER_FOR: Duration = Duration::from_secs(2);

pub struct Worded<S = TcpStream> {
    socket: S,
    /// Our words, as far as they are not written.
    words: Option<Vec<u8>>,
    /// Once it was refused.
    reading_over: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<S> Worded<S> {
    pub fn new(socket: S) -> Self {
        Self { socket, words: None, reading_over: None }
    }
}

/// The whole answer in place of the one that hyper made up, if `written` is one of those: a head without a body that closes.
fn in_our_words(written: &[u8]) -> Option<Vec<u8>> {
    let head = written.strip_prefix(b"HTTP/1.1 ")?.strip_suffix(b"\r\n\r\n")?;
    let head = std::str::from_utf8(head).ok()?;
    let mut lines = head.split("\r\n");
    let status: u16 = lines.next()?.split(' ').next()?.parse().ok()?;
    let is_hypers = lines.all(|line| {
        matches!(line, "content-length: 0" | "connection: close") || line.starts_with("date: ") && line.len() == 35
    });
    if !is_hypers {
        return None;
    }
    let problem = match StatusCode::from_u16(status).ok()? {
        StatusCode::BAD_REQUEST => Problem::faulty("(head)", "is no request of HTTP/1.1"),
        StatusCode::URI_TOO_LONG => {
            Problem::new("URI_TOO_LONG", format!("the path and query may have {MAX_URI_BYTES} bytes"))
        }
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            let most = format!("the head of a request may have {MAX_FIELDS} fields and {MAX_HEAD_BYTES} bytes in all");
            Problem::new("HEAD_TOO_LARGE", most)
        }
        _ => return None,
    };
    Some(in_bytes(problem))
}

impl<S: AsyncRead + Unpin> AsyncRead for Worded<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, into)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Worded<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { socket, words, reading_over } = &mut *self;
        if words.is_none() && reading_over.is_none() {
            *words = in_our_words(bytes);
        }
        let Some(left) = words else { return Pin::new(socket).poll_write(context, bytes) };
        while !left.is_empty() {
            let written = ready!(Pin::new(&mut *socket).poll_write(context, left))?;
            left.drain(..written);
        }
        *words = None;
        *reading_over = Some((Box::pin(sleep(READ_OVER_FOR)), MOST_READ_OVER));
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match slices {
            [one] => self.poll_write(context, one),
            _ => Pin::new(&mut self.socket).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, reading_over, .. } = &mut *self;
        ready!(Pin::new(&mut *socket).poll_shutdown(context))?;
        let Some((end, left)) = reading_over else { return Poll::Ready(Ok(())) };
        let mut space = [0; 4096];
        while *left > 0 && end.as_mut().poll(context).is_pending() {
            let mut into = ReadBuf::new(&mut space);
            let Ok(()) = ready!(Pin::new(&mut *socket).poll_read(context, &mut into)) else { break };
            match into.filled().len() {
                0 => break,
                read => *left = left.saturating_sub(read),
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_hyper_made_up_itself_is_said_in_other_words() {
        let date = "date: Tue, 01 Dec 2026 12:00:00 GMT";
        let bare = format!(
            "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n{date}\r\n\r\n"
        );
        let told = String::from_utf8(in_our_words(bare.as_bytes()).unwrap()).unwrap();
        assert!(told.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"), "{told}");
        assert!(told.contains("problem+json") && told.contains(r#""code":"HEAD_TOO_LARGE""#), "{told}");
        for other in [
            bare.replace("431", "404"),
            bare.replace("connection: close", "x-ours: 1"),
            format!("{bare}more"),
            bare[..bare.len() - 2].to_owned(),
        ] {
            assert!(in_our_words(other.as_bytes()).is_none(), "{other}");
        }
    }
}
