//! What comes in: messages, put together from their frames.

#[cfg(test)]
mod tests;

use std::{
    future::poll_fn,
    io::{self, Cursor},
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::ready,
    time::Duration,
};

use aihub_application::shares::{Held, Holder, Share, UsedUp};
use bytes::{Buf, BufMut, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, ReadBuf, ReadHalf},
    time::{Instant, timeout_at},
};
use tokio_tungstenite::tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

use crate::{
    routes::time_for,
    server::{
        moving::Moving,
        turns::{PIECE_BYTES, SHORT_BYTES, Turn, Turns},
    },
    ws::close,
};

/// What is read at once while nothing is known of what comes. An idle socket keeps none of it.
const READ_BYTES: usize = 8 << 10;
/// Memory for a message is taken in steps that double, from this one on. What is shorter comes with one read.
const FIRST_STEP_BYTES: usize = 16 << 10;
const MAX_CONTROL_BYTES: u64 = 125;
/// How long a message may take longer than it would at its least speed.
const GRACE: Duration = Duration::from_secs(10);

/// What a client sent.
#[derive(Debug)]
pub enum Incoming {
    Message(Message),
    Ping(Vec<u8>),
    Pong,
    /// The other side closes, with this code.
    Close(Option<u16>),
    /// There is no memory for a message, of which this is what came: what else comes of it is read over.
    NoMemory(UsedUp, Message),
}

/// A whole message, and what holds it where it is long.
#[derive(Debug)]
pub struct Message {
    /// It was said to be one, and not bytes.
    pub is_text: bool,
    pub bytes: Vec<u8>,
    /// They are made shorter, see [`deflate`](super::deflate).
    pub is_deflated: bool,
    pub held: Option<Held>,
}

/// Why nothing more can be read.
#[derive(Debug, PartialEq, Eq)]
pub enum Broken {
    TooLong,
    TooSlow,
    /// It breaks the protocol.
    Protocol(&'static str),
    Gone,
}

pub struct Reader<R = ReadHalf<Moving>> {
    from: R,
    /// What was read and not looked at.
    buffer: BytesMut,
    frame: Option<Frame>,
    message: Option<Coming>,
    /// From when a frame or message has been there in part.
    began: Option<Instant>,
    came_bytes: usize,
    max_message_bytes: usize,
    /// Messages may be made shorter.
    takes_deflated: bool,
    turns: Arc<Turns>,
    /// The turn for the next piece of what is long, until something of it was read.
    turn: Option<Turn>,
    /// When anything came last.
    pub heard: Instant,
}

/// The frame that is being read.
struct Frame {
    mask: [u8; 4],
    is_final: bool,
    control: Option<(Control, Vec<u8>)>,
    left: usize,
}

/// The message that is being read.
struct Coming {
    is_text: bool,
    is_deflated: bool,
    /// As its frames so far have announced.
    length: u64,
    bytes: Vec<u8>,
    held: Option<Held>,
    is_read_over: bool,
}

/// Whose memory messages are held in.
pub struct Memory<'a> {
    pub share: &'a Arc<Share>,
    pub holder: &'a Holder,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(from: R, read: &[u8], max_message_bytes: usize, takes_deflated: bool, turns: Arc<Turns>) -> Self {
        Self {
            from,
            buffer: BytesMut::from(read),
            frame: None,
            message: None,
            began: None,
            came_bytes: 0,
            max_message_bytes,
            takes_deflated,
            turns,
            turn: None,
            heard: Instant::now(),
        }
    }

    /// The next message or control frame. Dropped before it is there, nothing is lost.
    pub async fn next(&mut self, memory: Memory<'_>) -> Result<Incoming, Broken> {
        loop {
            if let Some(incoming) = self.take_up(&memory)? {
                // What comes between the frames of a message gives it no more time.
                if self.message.is_none() {
                    (self.began, self.came_bytes) = (None, 0);
                }
                if self.buffer.is_empty() {
                    // Nothing is kept for what may come.
                    self.buffer = BytesMut::new();
                }
                return Ok(incoming);
            }
            let came = if self.buffer.is_empty() && self.frame.is_none() && self.message.is_none() {
                self.read().await
            } else {
                let began = *self.began.get_or_insert_with(Instant::now);
                if self.is_long() {
                    self.turn().await;
                }
                // What we make it wait is not the client's time.
                let waited = self.turn.as_ref().map_or(Duration::ZERO, Turn::waited);
                let until = began + waited + GRACE + time_for(self.came_bytes);
                timeout_at(until, self.read()).await.map_err(|_| Broken::TooSlow)?
            };
            match came {
                Ok(0) | Err(_) => return Err(Broken::Gone),
                Ok(bytes) => {
                    self.came_bytes += bytes;
                    self.heard = Instant::now();
                    if let (Some(turn), Some(began)) = (self.turn.take(), &mut self.began) {
                        *began += turn.waited();
                    }
                }
            }
        }
    }

    /// Reads to the end, or so much, and looks at nothing: whoever closes a connection with something unread takes back what was
    /// said last.
    pub async fn read_over(&mut self, mut most: usize) {
        self.buffer = BytesMut::new();
        (self.frame, self.message) = (None, None);
        let mut came = 0;
        while most > 0 {
            if came >= SHORT_BYTES {
                self.turn().await;
            }
            let Ok(read @ 1..) = self.read().await else { return };
            (most, came, self.turn) = (most.saturating_sub(read), came.saturating_add(read), None);
            self.buffer.clear();
        }
    }

    /// Whether what is being read is long, or is not taken up any more.
    fn is_long(&self) -> bool {
        self.came_bytes >= SHORT_BYTES || self.message.as_ref().is_some_and(|message| message.is_read_over)
    }

    /// Waits for this one's turn. Dropped meanwhile, or before anything was read, the turn is still its.
    async fn turn(&mut self) {
        let turn = self.turn.get_or_insert_with(|| self.turns.take());
        turn.comes().await;
    }

    /// Takes up what has been read, as far as it goes.
    fn take_up(&mut self, memory: &Memory<'_>) -> Result<Option<Incoming>, Broken> {
        loop {
            if self.frame.is_none() && !self.begin_frame()? {
                return Ok(None);
            }
            let Some(frame) = &mut self.frame else { return Ok(None) };
            let here = frame.left.min(self.buffer.len());
            if here > 0 {
                let mut bytes = self.buffer.split_to(here);
                frame.unmask(&mut bytes);
                match (&mut frame.control, &mut self.message) {
                    (Some((_, payload)), _) => payload.extend_from_slice(&bytes),
                    (None, Some(message)) if !message.is_read_over => {
                        // One that ends here and is short takes nothing that lasts.
                        let is_brief = frame.left == 0 && frame.is_final && message.bytes.is_empty();
                        let to_come = (frame.left, frame.is_final);
                        if !is_brief && let Err(used_up) = message.make_room(here, to_come, memory) {
                            let (is_text, is_deflated) = (message.is_text, message.is_deflated);
                            let mut came = std::mem::take(&mut message.bytes);
                            message.read_over();
                            came.extend_from_slice(&bytes);
                            let came = Message { is_text, bytes: came, is_deflated, held: None };
                            return Ok(Some(Incoming::NoMemory(used_up, came)));
                        }
                        message.bytes.extend_from_slice(&bytes);
                    }
                    _ => {}
                }
            }
            if frame.left > 0 {
                return Ok(None);
            }
            if let Some(incoming) = self.end_frame()? {
                return Ok(Some(incoming));
            }
        }
    }

    /// `false` where its header has not come whole.
    fn begin_frame(&mut self) -> Result<bool, Broken> {
        let mut cursor = Cursor::new(&self.buffer[..]);
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| Broken::Protocol("an opcode that there is not"))?;
        let Some((header, length)) = parsed else { return Ok(false) };
        let header_bytes = usize::try_from(cursor.position()).unwrap_or_default();
        self.buffer.advance(header_bytes);
        // A message that is made shorter says so in its first frame.
        let is_deflated =
            header.rsv1 && self.takes_deflated && matches!(header.opcode, OpCode::Data(Data::Text | Data::Binary));
        if header.rsv1 != is_deflated || header.rsv2 || header.rsv3 {
            return Err(Broken::Protocol("reserved bits are set"));
        }
        let Some(mask) = header.mask else { return Err(Broken::Protocol("a frame is not masked")) };
        let mut frame = Frame { mask, is_final: header.is_final, control: None, left: 0 };
        match header.opcode {
            OpCode::Control(kind) => {
                if length > MAX_CONTROL_BYTES || !header.is_final {
                    return Err(Broken::Protocol("a control frame is too long, or in parts"));
                }
                frame.control = Some((kind, Vec::new()));
            }
            OpCode::Data(kind) => {
                match (kind, &self.message) {
                    (Data::Continue, Some(_)) => {}
                    (Data::Text | Data::Binary, None) => {
                        let is_text = kind == Data::Text;
                        let (bytes, held) = (vec![], None);
                        self.message =
                            Some(Coming { is_text, is_deflated, length: 0, bytes, held, is_read_over: false });
                    }
                    _ => return Err(Broken::Protocol("a frame is not the next one of its message")),
                }
                if let Some(message) = &mut self.message {
                    message.length = message.length.saturating_add(length);
                    if message.length > self.max_message_bytes as u64 {
                        return Err(Broken::TooLong);
                    }
                }
            }
        }
        frame.left = usize::try_from(length).map_err(|_| Broken::TooLong)?;
        self.frame = Some(frame);
        Ok(true)
    }

    fn end_frame(&mut self) -> Result<Option<Incoming>, Broken> {
        let Some(frame) = self.frame.take() else { return Ok(None) };
        if let Some((kind, payload)) = frame.control {
            return Ok(Some(match kind {
                Control::Close => {
                    Incoming::Close(close::said(&payload).ok_or(Broken::Protocol("a close frame is malformed"))?)
                }
                Control::Ping => Incoming::Ping(payload),
                Control::Pong => Incoming::Pong,
                Control::Reserved(_) => return Err(Broken::Protocol("an opcode that there is not")),
            }));
        }
        if !frame.is_final {
            return Ok(None);
        }
        let message = self.message.take().filter(|message| !message.is_read_over);
        Ok(message.map(|Coming { is_text, is_deflated, bytes, held, .. }| {
            Incoming::Message(Message { is_text, bytes, is_deflated, held })
        }))
    }

    /// Reads on, as much as is here and a piece at most: into the message where much of it is to come, and otherwise into the buffer.
    async fn read(&mut self) -> io::Result<usize> {
        let Self { from, buffer, frame, message, turns, turn, .. } = self;
        let reading = async {
            if let (Some(frame), Some(message), true) = (frame, message, buffer.is_empty())
                && frame.control.is_none()
                && !message.is_read_over
            {
                let room = message.room().min(frame.left).min(PIECE_BYTES);
                if room > 0 {
                    let before = message.bytes.len();
                    let read = from.read_buf(&mut (&mut message.bytes).limit(room)).await?;
                    frame.unmask(&mut message.bytes[before..]);
                    return Ok(read);
                }
            }
            poll_fn(|context| {
                let mut space = [const { MaybeUninit::uninit() }; READ_BYTES];
                let mut into = ReadBuf::uninit(&mut space);
                ready!(Pin::new(&mut *from).poll_read(context, &mut into))?;
                buffer.extend_from_slice(into.filled());
                Ok(into.filled().len()).into()
            })
            .await
        };
        match turn {
            Some(turn) => turns.read(turn, reading).await,
            None => reading.await,
        }
    }
}

impl Frame {
    /// Takes the mask off the next bytes.
    fn unmask(&mut self, bytes: &mut [u8]) {
        let (words, rest) = bytes.as_chunks_mut::<4>();
        for word in words {
            *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(self.mask)).to_ne_bytes();
        }
        for (byte, mask) in rest.iter_mut().zip(self.mask) {
            *byte ^= mask;
        }
        self.mask.rotate_left(bytes.len() % 4);
        self.left -= bytes.len();
    }
}

impl Coming {
    /// How much may be added to it now.
    fn room(&self) -> usize {
        self.held.as_ref().map_or(0, Held::amount).saturating_sub(self.bytes.len())
    }

    /// For `more` bytes that are here; so many are to come in this frame, which may be the last one.
    fn make_room(&mut self, more: usize, (to_come, is_last): (usize, bool), memory: &Memory<'_>) -> Result<(), UsedUp> {
        // So that what is to come can be read into it, too.
        let needed = self.bytes.len() + more + usize::from(to_come > 0);
        let held = self.held.as_ref().map_or(0, Held::amount);
        if needed <= held {
            return Ok(());
        }
        let most = if is_last { self.bytes.len() + more + to_come } else { usize::MAX };
        let amount = (2 * held).max(FIRST_STEP_BYTES).min(most).max(needed);
        match &mut self.held {
            Some(held) => held.resize(amount)?,
            none => *none = Some(memory.share.take(memory.holder.clone(), amount)?),
        }
        self.bytes.reserve_exact(amount - self.bytes.len());
        Ok(())
    }

    fn read_over(&mut self) {
        (self.bytes, self.held, self.is_read_over) = (Vec::new(), None, true);
    }
}
