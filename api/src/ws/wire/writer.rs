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

use super::deflate::Deflater;
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
    /// Where the other side takes what is made shorter.
    deflater: Option<Deflater>,
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
    pub fn new(to: WriteHalf<Moving>, deflater: Option<Deflater>) -> Self {
        Self { to, waiting: BytesMut::new(), deflater, has_waited: false, taken: Instant::now() }
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
        let (kind, piece) = (if is_first { Data::Text } else { Data::Continue }, piece.as_bytes());
        let deflater = self.deflater.as_mut();
        let (is_deflated, shorter) = deflater.map_or((false, None), |deflater| {
            (is_first && deflater.begins(piece, is_last), deflater.piece(piece, is_last))
        });
        let header =
            FrameHeader { is_final: is_last, rsv1: is_deflated, opcode: OpCode::Data(kind), ..FrameHeader::default() };
        self.frame(&header, shorter.as_deref().unwrap_or(piece));
    }

    pub fn ping(&mut self) {
        self.control(Control::Ping, &[]);
    }

    pub fn pong(&mut self, payload: &[u8]) {
        self.control(Control::Pong, payload);
    }

    pub fn close(&mut self, code: u16, reason: &str) {
        let reason = &reason[..reason.floor_char_boundary(MAX_REASON_BYTES)];
        self.control(Control::Close, &[&code.to_be_bytes(), reason.as_bytes()].concat());
    }

    fn control(&mut self, kind: Control, payload: &[u8]) {
        self.frame(&FrameHeader { opcode: OpCode::Control(kind), ..FrameHeader::default() }, payload);
    }

    fn frame(&mut self, header: &FrameHeader, payload: &[u8]) {
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
