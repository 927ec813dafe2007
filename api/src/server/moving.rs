//! A client's connection that has to take what it is sent. As long as it takes something it may be slow; one that takes next to
//! nothing keeps what waits for it, and what that holds, from everybody else.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::worded::Worded;

/// While something waits to be written, so much is to be taken in so long: about a kilobyte a second.
const STALLED_AFTER: Duration = Duration::from_secs(30);
const LEAST_TAKEN_BYTES: usize = 32 << 10;

pub struct Moving<S = Worded> {
    socket: S,
    /// From when a write had to wait.
    until: Option<Pin<Box<Sleep>>>,
    taken_bytes: usize,
}

impl<S> Moving<S> {
    pub fn new(socket: S) -> Self {
        Self { socket, until: None, taken_bytes: 0 }
    }

    fn written(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
        wanted: usize,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.taken_bytes += bytes;
                if bytes == wanted {
                    // Nothing waits any more.
                    self.until = None;
                } else if self.taken_bytes >= LEAST_TAKEN_BYTES {
                    self.wait();
                }
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(failed) => Poll::Ready(failed),
            Poll::Pending => {
                if self.until.is_none() || self.taken_bytes >= LEAST_TAKEN_BYTES {
                    self.wait();
                }
                let is_over = self.until.as_mut().is_some_and(|until| until.as_mut().poll(context).is_ready());
                if is_over {
                    let reason = "the client takes next to nothing";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, reason)));
                }
                Poll::Pending
            }
        }
    }

    fn wait(&mut self) {
        self.taken_bytes = 0;
        let until = Instant::now() + STALLED_AFTER;
        match &mut self.until {
            Some(sleep) => sleep.as_mut().reset(until),
            none => *none = Some(Box::pin(sleep_until(until))),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Moving<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Moving<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.written(context, written, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, slices);
        self.written(context, written, slices.iter().map(|slice| slice.len()).sum())
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// In memory: the kernel's sockets know nothing of a time that is paused.
    fn pair() -> (Moving<DuplexStream>, DuplexStream) {
        let (ours, theirs) = duplex(64 << 10);
        (Moving::new(ours), theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_given_up_in_time_and_who_takes_it_slowly_is_not() {
        let (mut ours, theirs) = pair();
        let started = Instant::now();
        let failed = ours.write_all(&vec![0; 4 << 20]).await.unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), STALLED_AFTER.as_secs());
        drop(theirs);

        let (mut ours, mut theirs) = pair();
        let write = async move { ours.write_all(&vec![0; 4 << 20]).await };
        let read = async move {
            let mut buffer = vec![0; 32 << 10];
            while theirs.read(&mut buffer).await.unwrap() > 0 {
                tokio::time::sleep(STALLED_AFTER / 4).await;
            }
        };
        let (written, ()) = tokio::join!(write, read);
        written.unwrap();
    }
}
