//! Long messages come a piece at a time, in turn, and all of them together take a quarter of one processor to be read, whatever
//! comes and from however many: what is short passes them. What a piece takes is measured, so that a faster machine reads faster.

use std::{
    pin::pin,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// What is shorter comes as it comes.
pub const SHORT_BYTES: usize = 256 << 10;
/// The most that is read in one turn.
pub const PIECE_BYTES: usize = 64 << 10;
/// After a piece nothing is read for so many times as long as it took, the piece included.
const SHARE: u64 = 4;
/// So much may be read at once after a while in which nothing was, and so little is not worth a wait: timers are not finer.
const SLACK: Duration = Duration::from_millis(2);
/// What a piece is taken to take before any was read, and its bounds: a reader that lost its processor took no longer by itself.
const FIRST_NS: u64 = 25_000;
const LEAST_NS: u64 = 1_000;
const MOST_NS: u64 = 200_000;

#[derive(Debug)]
pub struct Turns {
    began: Instant,
    /// When the next piece may be read, and what one takes at present, in nanoseconds.
    next_ns: AtomicU64,
    piece_ns: AtomicU64,
}

impl Default for Turns {
    fn default() -> Self {
        Self { began: Instant::now(), next_ns: AtomicU64::new(0), piece_ns: AtomicU64::new(FIRST_NS) }
    }
}

impl Turns {
    /// When the next piece is whose. It is kept, whether or not it is used.
    pub fn take(&self) -> Instant {
        let slack = ns(SLACK);
        let earliest = ns(self.began.elapsed()).saturating_sub(slack);
        let piece = self.piece_ns.load(Relaxed) * SHARE;
        let next = |next: u64| Some(next.max(earliest) + piece);
        // It always is some.
        let (Ok(before) | Err(before)) = self.next_ns.fetch_update(Relaxed, Relaxed, next);
        self.began + Duration::from_nanos(before.max(earliest))
    }

    /// Until then, and for how long that was.
    pub async fn wait(until: Instant) -> Duration {
        let began = Instant::now();
        if until > began + SLACK {
            sleep_until(until).await;
        }
        began.elapsed()
    }

    /// Reads a piece, and notes what it took.
    pub async fn read<T>(&self, reading: impl Future<Output = T>) -> T {
        let mut reading = pin!(reading);
        std::future::poll_fn(|context| {
            let began = std::time::Instant::now();
            let poll = reading.as_mut().poll(context);
            if poll.is_ready() {
                self.note(began.elapsed());
            }
            poll
        })
        .await
    }

    fn note(&self, took: Duration) {
        let took = ns(took).clamp(LEAST_NS, MOST_NS);
        // Two at the same time may lose one: it is an average.
        self.piece_ns.store((self.piece_ns.load(Relaxed) * 7 + took) / 8, Relaxed);
    }
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pieces_have_their_turns_one_after_another_however_many_ask() {
        let turns = Turns::default();
        tokio::time::advance(Duration::from_secs(1)).await;
        let began = Instant::now();
        let taken: Vec<Instant> = (0..1_000).map(|_| turns.take()).collect();
        assert!(taken.is_sorted());
        assert!(taken[0] <= began, "the first waits for nobody");
        // What was not used before may be caught up with, but not more.
        let all = Duration::from_nanos(FIRST_NS * SHARE * 999 - ns(SLACK));
        assert_eq!(taken[999] - began, all);
        assert_eq!(Turns::wait(taken[10]).await, Duration::ZERO);
        assert!(Turns::wait(taken[999]).await >= all);
    }

    #[tokio::test]
    async fn what_a_piece_takes_is_measured_within_bounds() {
        let turns = Turns::default();
        for _ in 0..100 {
            turns.note(Duration::from_secs(1));
        }
        assert!(turns.piece_ns.load(Relaxed) > MOST_NS * 9 / 10);
        for _ in 0..100 {
            assert_eq!(turns.read(async { 7 }).await, 7);
        }
        assert!(turns.piece_ns.load(Relaxed) < MOST_NS / 2);
    }
}
