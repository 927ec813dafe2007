//! The body of a call on its way out. It notes when it leaves: hyper asks for a body once there is a connection to write it to,
//! and not before.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use aihub_application::ports::provider::Reached;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

pub(super) struct Outgoing {
    /// `None` once it has left.
    body: Option<Bytes>,
    reached: Reached,
}

impl Outgoing {
    pub(super) fn new(body: Bytes, reached: Reached) -> Self {
        Self { body: Some(body), reached }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.reached.note();
        Poll::Ready(self.body.take().map(|body| Ok(Frame::data(body))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_none()
    }

    /// Known beforehand, so that it is told in the head: not every server takes a body in chunks.
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.body.as_ref().map_or(0, |body| body.len() as u64))
    }
}
