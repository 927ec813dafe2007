//! What goes out. Little of it waits here: whoever has more to say looks first whether there is room.

use std::io;

use bytes::{BufMut, BytesMut};
use futures::FutureExt;
use tokio::{
    io::{AsyncWriteExt, WriteHalf},
    time::Instant,
};
use tokio_tungstenite::tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

use crate::server::moving::Moving;

/// From so much on that waits, no more is to be said.
const ROOM_BYTES: usize = 32 << 10;
/// From so much on, nothing is listened to that would have to be answered.
const MUCH_BYTES: usize = 256 << 10;
/// The longest reason of a close frame.
const MAX_REASON_BYTES: usize = 123;

pub struct Writer {
    to: WriteHalf<Moving>,
    waiting: BytesMut,
    /// The kernel has had to be waited for: what it takes now, the other side has taken.
    has_waited: bool,
    /// When the other side took something last, as far as that shows.
    pub taken: Instant,
}

/// Where a piece of a message stands in it.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub is_first: bool,
    pub is_last: bool,
}

impl Writer {
    pub fn new(to: WriteHalf<Moving>) -> Self {
        Self { to, waiting: BytesMut::new(), has_waited: false, taken: Instant::now() }
    }

    pub fn has_room(&self) -> bool {
        self.waiting.len() < ROOM_BYTES
    }

    pub fn has_much(&self) -> bool {
        self.waiting.len() >= MUCH_BYTES
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn text(&mut self, message: &str) {
        self.piece(message, Place { is_first: true, is_last: true });
    }

    /// A piece of a text. Between the pieces of a message there is no other message.
    pub fn piece(&mut self, piece: &str, Place { is_first, is_last }: Place) {
        let kind = if is_first { Data::Text } else { Data::Continue };
        self.frame(OpCode::Data(kind), is_last, piece.as_bytes());
    }

    pub fn ping(&mut self) {
        self.frame(OpCode::Control(Control::Ping), true, &[]);
    }

    pub fn pong(&mut self, payload: &[u8]) {
        self.frame(OpCode::Control(Control::Pong), true, payload);
    }

    pub fn close(&mut self, code: u16, reason: &str) {
        let reason = &reason[..reason.floor_char_boundary(MAX_REASON_BYTES)];
        self.frame(OpCode::Control(Control::Close), true, &[&code.to_be_bytes(), reason.as_bytes()].concat());
    }

    fn frame(&mut self, opcode: OpCode, is_final: bool, payload: &[u8]) {
        let header = FrameHeader { is_final, opcode, ..FrameHeader::default() };
        self.waiting.reserve(header.len(payload.len() as u64) + payload.len());
        // Into memory, which does not fail.
        let formatted = header.format(payload.len() as u64, &mut (&mut self.waiting).writer());
        debug_assert!(formatted.is_ok());
        self.waiting.put_slice(payload);
    }

    /// Writes what the other side takes at once.
    pub fn write_now(&mut self) -> io::Result<()> {
        while !self.waiting.is_empty() {
            let Some(written) = self.write().now_or_never() else {
                self.has_waited = true;
                return Ok(());
            };
            written?;
        }
        Ok(())
    }

    /// Writes some of what waits. Dropped before, nothing is lost.
    pub async fn write(&mut self) -> io::Result<()> {
        if self.to.write_buf(&mut self.waiting).await? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        if self.has_waited {
            self.taken = Instant::now();
        }
        if self.waiting.is_empty() {
            self.has_waited = false;
            // What a large message needed is not kept.
            self.waiting = BytesMut::new();
        }
        Ok(())
    }

    /// Says that nothing more comes.
    pub async fn finish(&mut self) -> io::Result<()> {
        while !self.waiting.is_empty() {
            self.write().await?;
        }
        self.to.shutdown().await
    }
}
