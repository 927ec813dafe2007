//! Compressed messages (permessage-deflate, RFC 7692), each by itself: no window is kept from one to the next, so that a socket that
//! says nothing costs nothing, and a message says nothing of those before it.

use std::sync::Arc;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use http::{HeaderMap, HeaderValue, header::SEC_WEBSOCKET_EXTENSIONS};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is answered to an offer that is taken: neither side keeps anything from message to message.
pub const ACCEPTED: HeaderValue =
    HeaderValue::from_static("permessage-deflate; server_no_context_takeover; client_no_context_takeover");
/// What is shorter is said as it is: it would hardly become shorter still.
const LEAST_BYTES: usize = 1 << 10;
/// How every message ends that was flushed, which is left out of it (RFC 7692, 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// Room is made in steps that double, from this one on.
const STEP_BYTES: usize = 4 << 10;

/// Whether the client offers it in a way that we can.
pub fn is_offered(headers: &HeaderMap) -> bool {
    let offers = headers.get_all(SEC_WEBSOCKET_EXTENSIONS).into_iter().filter_map(|value| value.to_str().ok());
    offers.flat_map(|value| value.split(',')).any(can)
}

/// One offer: the extension's name and its parameters.
fn can(offer: &str) -> bool {
    let mut parts = offer.split(';').map(str::trim);
    let mut seen = Vec::new();
    parts.next() == Some("permessage-deflate")
        && parts.all(|parameter| {
            let (name, value) =
                parameter.split_once('=').map_or((parameter, None), |(name, value)| (name, Some(value)));
            let is_new = !seen.contains(&name);
            seen.push(name);
            let is_known = match (name.trim(), value.map(|value| value.trim().trim_matches('"'))) {
                ("server_no_context_takeover" | "client_no_context_takeover" | "client_max_window_bits", None) => true,
                ("client_max_window_bits", Some(bits)) => is_window(bits),
                // We know no smaller window than the largest.
                ("server_max_window_bits", Some(bits)) => bits == "15",
                _ => false,
            };
            is_new && is_known
        })
}

fn is_window(bits: &str) -> bool {
    bits.parse().is_ok_and(|bits: u8| (8..=15).contains(&bits)) && !bits.starts_with(['0', '+'])
}

/// Makes messages of one socket shorter.
pub struct Deflater {
    /// Of all sockets: each takes a quarter of a megabyte.
    turns: Arc<Semaphore>,
    /// Of the message that is being said.
    running: Option<(Compress, OwnedSemaphorePermit)>,
}

impl Deflater {
    pub fn new(turns: Arc<Semaphore>) -> Self {
        Self { turns, running: None }
    }

    /// Whether the message that begins with this piece, and may be all of it, is to be made shorter.
    pub fn begins(&mut self, piece: &[u8], is_last: bool) -> bool {
        if is_last && piece.len() < LEAST_BYTES {
            return false;
        }
        let turn = self.turns.clone().try_acquire_owned().ok();
        self.running = turn.map(|turn| (Compress::new(Compression::fast(), false), turn));
        self.running.is_some()
    }

    /// The next piece of a message that is made shorter; none where it is said as it is.
    pub fn piece(&mut self, piece: &[u8], is_last: bool) -> Option<Vec<u8>> {
        let (compress, _) = self.running.as_mut()?;
        let mut made = Vec::with_capacity(STEP_BYTES);
        let before = compress.total_in();
        loop {
            let done = usize::try_from(compress.total_in() - before).unwrap_or(piece.len());
            // Into memory, of what is always well formed: it does not fail.
            let status = compress.compress_vec(&piece[done..], &mut made, FlushCompress::Sync);
            debug_assert!(status.is_ok());
            if made.len() < made.capacity() {
                break;
            }
            made.reserve(made.len().max(STEP_BYTES));
        }
        if is_last {
            self.running = None;
            if made.ends_with(&TAIL) {
                made.truncate(made.len() - TAIL.len());
            }
        }
        Some(made)
    }
}

/// What a message that was made shorter begins with, `most` bytes at most, as far as it can be made out.
pub fn beginning(bytes: &[u8], most: usize) -> Vec<u8> {
    let mut made = Vec::with_capacity(most);
    // Where it is malformed, it says nothing from there on.
    let _ = Decompress::new(false).decompress_vec(bytes, &mut made, FlushDecompress::Sync);
    made
}

/// Why there is no message.
#[derive(Debug, PartialEq, Eq)]
pub enum NotInflated<E> {
    Malformed,
    /// It would have more bytes than it may.
    TooLong,
    NoRoom(E),
}

/// What a message says that was made shorter. `take` is asked for the room that it needs, all of it so far, before that is used.
pub fn inflate<E>(
    bytes: &[u8],
    most: usize,
    mut take: impl FnMut(usize) -> Result<(), E>,
) -> Result<Vec<u8>, NotInflated<E>> {
    let mut inflate = Decompress::new(false);
    let mut made: Vec<u8> = Vec::new();
    for part in [bytes, &TAIL] {
        let before = inflate.total_in();
        loop {
            if made.len() == made.capacity() {
                // One more shows that there is too much.
                let room = (2 * made.len()).max(STEP_BYTES).min(most + 1);
                if room <= made.len() {
                    return Err(NotInflated::TooLong);
                }
                take(room).map_err(NotInflated::NoRoom)?;
                made.reserve_exact(room - made.len());
            }
            let done = usize::try_from(inflate.total_in() - before).unwrap_or(part.len());
            let status = inflate.decompress_vec(&part[done..], &mut made, FlushDecompress::Sync);
            match status.map_err(|_| NotInflated::Malformed)? {
                // A message may end with a last block; what comes behind it is nothing (RFC 7692, 7.2.3.5).
                Status::StreamEnd => return end(made, most),
                _ if made.len() < made.capacity() => break,
                Status::Ok | Status::BufError => {}
            }
        }
    }
    end(made, most)
}

fn end<E>(made: Vec<u8>, most: usize) -> Result<Vec<u8>, NotInflated<E>> {
    if made.len() > most { Err(NotInflated::TooLong) } else { Ok(made) }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const MOST: usize = 1 << 20;

    const ANYTHING: fn(usize) -> Result<(), Infallible> = |_| Ok(());

    fn deflater() -> Deflater {
        Deflater::new(Arc::new(Semaphore::new(1)))
    }

    /// As the other side reads it.
    fn read(pieces: &[Vec<u8>]) -> String {
        String::from_utf8(inflate(&pieces.concat(), MOST, ANYTHING).unwrap()).unwrap()
    }

    #[test]
    fn an_offer_is_taken_where_it_asks_for_nothing_that_we_cannot() {
        for (offer, is_taken) in [
            ("permessage-deflate", true),
            ("permessage-deflate; client_max_window_bits", true),
            ("permessage-deflate; client_no_context_takeover; server_no_context_takeover", true),
            ("permessage-deflate; client_max_window_bits=\"10\"; server_max_window_bits=15", true),
            ("permessage-deflate; server_max_window_bits=10", false),
            ("permessage-deflate; server_max_window_bits=10, permessage-deflate", true),
            ("permessage-deflate; client_max_window_bits=16", false),
            ("permessage-deflate; client_max_window_bits; client_max_window_bits", false),
            ("permessage-deflate; client_no_context_takeover=1", false),
            ("permessage-deflate; faster", false),
            ("x-webkit-deflate-frame", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(offer))]);
            assert_eq!(is_offered(&headers), is_taken, "{offer}");
        }
    }

    #[test]
    fn a_message_is_what_its_pieces_say_and_shorter() {
        let mut deflater = deflater();
        let text = "[0.1234567,-0.7654321],".repeat(5_000);
        for size in [text.len(), 16 << 10, 100] {
            let chunks: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            assert!(deflater.begins(chunks[0], chunks.len() == 1));
            let last = chunks.len() - 1;
            let pieces: Vec<_> =
                chunks.iter().enumerate().map(|(nth, chunk)| deflater.piece(chunk, nth == last).unwrap()).collect();
            assert!(pieces.concat().len() < text.len() / 4, "{size}");
            assert!(read(&pieces) == text, "{size}");
        }
        // What is hardly made shorter grows by little.
        let noise = |nth: u32| char::from(b'!' + u8::try_from(nth.wrapping_mul(2_654_435_761) >> 24).unwrap() % 90);
        let noise: String = (0..50_000).map(noise).collect();
        assert!(deflater.begins(noise.as_bytes(), true));
        assert!(read(&[deflater.piece(noise.as_bytes(), true).unwrap()]) == noise);
    }

    #[test]
    fn what_is_short_or_finds_no_turn_is_said_as_it_is() {
        let turns = Arc::new(Semaphore::new(1));
        let (mut first, mut second) = (Deflater::new(turns.clone()), Deflater::new(turns));
        let long = [b'x'; 5_000];
        assert!(!first.begins(b"short", true));
        assert!(first.begins(&long, false));
        assert!(!second.begins(&long, true) && second.piece(&long, true).is_none());
        first.piece(&long, true).unwrap();
        assert!(second.begins(&long, true));
    }

    #[test]
    fn what_is_malformed_too_long_or_finds_no_room_is_no_message() {
        let mut deflater = deflater();
        let bomb = vec![b'x'; MOST + 1];
        assert!(deflater.begins(&bomb, true));
        let bomb = deflater.piece(&bomb, true).unwrap();
        assert!(bomb.len() < MOST / 20, "{}", bomb.len());
        assert_eq!(inflate(&bomb, MOST, ANYTHING), Err(NotInflated::TooLong));
        assert_eq!(inflate(&bomb, MOST + 1, ANYTHING).unwrap().len(), MOST + 1);
        let mut asked = vec![];
        let refused = inflate(&bomb, MOST, |room| {
            asked.push(room);
            if room > 100_000 { Err("no more") } else { Ok(()) }
        });
        assert_eq!(refused, Err(NotInflated::NoRoom("no more")));
        assert!(asked.is_sorted() && asked[0] == STEP_BYTES, "{asked:?}");
        assert_eq!(inflate(&[0xff; 10], MOST, ANYTHING), Err(NotInflated::Malformed));
        // Of nothing, as of what was flushed twice, comes nothing.
        assert_eq!(inflate(&[0], MOST, ANYTHING), Ok(vec![]));
    }
}
