//! A WebSocket (RFC 6455) as bytes: what comes in, and what goes out.
//!
//! The library that knows the frames' headers also reads whole messages, but it takes memory for as much as a frame announces, keeps it
//! after the frame, and can neither say how much of a message has come nor read one over. Here a message counts in its user's memory
//! from its first byte, comes with a stated least speed, and is read over where there is no memory for it; and what goes out is made
//! while it is taken, so that a large answer is never there as a text.

pub mod deflate;
pub mod reader;
pub mod writer;

use std::sync::Arc;

use tokio::io::split;

use self::{deflate::Deflater, reader::Reader, writer::Writer};
use crate::server::{moving::Moving, turns::Turns};

pub struct Wire {
    pub reader: Reader,
    pub writer: Writer,
}

impl Wire {
    /// `read` has been read already. With `deflater`, messages may be made shorter.
    pub fn new(
        socket: Moving,
        read: &[u8],
        max_message_bytes: usize,
        deflater: Option<Deflater>,
        turns: Arc<Turns>,
    ) -> Self {
        let (reading, writing) = split(socket);
        let reader = Reader::new(reading, read, max_message_bytes, deflater.is_some(), turns);
        Self { reader, writer: Writer::new(writing, deflater) }
    }
}
