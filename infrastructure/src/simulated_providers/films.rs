//! The films that the simulator delivers: real MP4s of the shape and length that was asked for, the same for everyone.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use moka::future::Cache;
use thiserror::Error;
use tokio::{sync::Semaphore, task::spawn_blocking};

pub(super) mod encode;
pub(super) mod picture;
#[cfg(test)]
mod tests;

/// What is kept of the films once they are encoded; the least used go first.
const MAX_CACHED_BYTES: u64 = 64 << 20;
/// The encoder's own limits, lying or standing; macroblocks have 16 pixels a side, and colours take 2.
const MIN_SIDE: u32 = 16;
const MAX_LONG_SIDE: u32 = 3_840;
const MAX_SHORT_SIDE: u32 = 2_160;

/// Width and height in pixels, both even.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Size {
    pub width: u32,
    pub height: u32,
}

impl Size {
    /// What `parse` takes, for error messages.
    pub const ACCEPTED: &str =
        "WIDTHxHEIGHT in pixels, both even and at least 16, the longer at most 3840 and the shorter at most 2160";

    /// Reads `1280x720`.
    pub fn parse(text: &str) -> Option<Self> {
        let side = |text: &str| {
            let side: u32 = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())??;
            (side >= MIN_SIDE && side.is_multiple_of(2)).then_some(side)
        };
        let (width, height) = text.split_once('x')?;
        let (width, height) = (side(width)?, side(height)?);
        let fits = width.max(height) <= MAX_LONG_SIDE && width.min(height) <= MAX_SHORT_SIDE;
        fits.then_some(Self { width, height })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// All that a film depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Film {
    pub size: Size,
    pub seconds: u32,
}

#[derive(Debug, Error)]
pub(super) enum FilmError {
    #[error("the H.264 encoder failed: {0}")]
    Encoder(#[from] openh264::Error),
    #[error("the MP4 could not be put together: {0}")]
    Muxer(#[from] muxide::api::MuxerError),
    #[error("the encoding was broken off: {0}")]
    BrokenOff(#[from] tokio::task::JoinError),
}

/// The films that were encoded lately.
pub(super) struct Films {
    cache: Cache<Film, Bytes>,
    /// One at a time: for a 4K film, the encoder takes 100 MB.
    turn: Semaphore,
}

impl Default for Films {
    fn default() -> Self {
        let weigh = |_: &Film, mp4: &Bytes| u32::try_from(mp4.len()).unwrap_or(u32::MAX);
        Self { cache: Cache::builder().weigher(weigh).max_capacity(MAX_CACHED_BYTES).build(), turn: Semaphore::new(1) }
    }
}

impl Films {
    /// The film as an MP4. Whoever asks for one that is being encoded waits for it.
    pub async fn mp4(&self, film: Film) -> Result<Bytes, Arc<FilmError>> {
        let encode = async {
            // Nobody closes the semaphore.
            let _turn = self.turn.acquire().await;
            Ok(Bytes::from(spawn_blocking(move || encode::mp4(film)).await??))
        };
        self.cache.try_get_with(film, encode).await
    }
}
