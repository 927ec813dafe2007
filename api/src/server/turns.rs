//! Long messages come a piece at a time, in turn, and all of them together take a quarter of one processor to be read, whatever
//! comes and from however many: what is short passes them. What reading takes is measured, so that a faster machine reads faster.

use std::{
    future::poll_fn,
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
    /// When the next piece may be read, and what one takes on average, in nanoseconds.
    next_ns: AtomicU64,
    piece_ns: AtomicU64,
}

/// When a piece may be read: whoever has it keeps it until something was read.
#[derive(Debug)]
pub struct Turn {
    pub taken: Instant,
    pub due: Instant,
    reserved_ns: u64,
}

impl Default for Turns {
    fn default() -> Self {
        Self { began: Instant::now(), next_ns: AtomicU64::new(0), piece_ns: AtomicU64::new(FIRST_NS) }
    }
}

impl Turns {
    /// Behind all that have been taken.
    pub fn take(&self) -> Turn {
        let taken = Instant::now();
        let earliest = ns(taken - self.began).saturating_sub(ns(SLACK));
        let reserved_ns = self.piece_ns.load(Relaxed) * SHARE;
        let next = |next: u64| Some(next.max(earliest) + reserved_ns);
        // It always is some.
        let (Ok(before) | Err(before)) = self.next_ns.fetch_update(Relaxed, Relaxed, next);
        Turn { taken, due: self.began + Duration::from_nanos(before.max(earliest)), reserved_ns }
    }

    /// Reads a piece whose turn it is. What that took is what it counts.
    pub async fn read<T>(&self, turn: &Turn, reading: impl Future<Output = T>) -> T {
        let mut reading = pin!(reading);
        poll_fn(|context| {
            let began = std::time::Instant::now();
            let poll = reading.as_mut().poll(context);
            if poll.is_ready() {
                self.count(turn, began.elapsed());
            }
            poll
        })
        .await
    }

    fn count(&self, turn: &Turn, took: Duration) {
        let took = ns(took).clamp(LEAST_NS, MOST_NS);
        let counts = |next: u64| Some((next + took * SHARE).saturating_sub(turn.reserved_ns));
        let _ = self.next_ns.fetch_update(Relaxed, Relaxed, counts);
        // Two at the same time may lose one: it is an average.
        self.piece_ns.store((self.piece_ns.load(Relaxed) * 7 + took) / 8, Relaxed);
    }
}

impl Turn {
    /// Until it has come.
    pub async fn comes(&self) {
        if self.due > Instant::now() + SLACK {
            sleep_until(self.due).await;
        }
    }

    /// How long it was waited for, once it has come.
    pub fn waited(&self) -> Duration {
        self.due.saturating_duration_since(self.taken)
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
        let taken: Vec<Turn> = (0..1_000).map(|_| turns.take()).collect();
        assert!(taken.is_sorted_by_key(|turn| turn.due));
        assert!(taken[0].due <= began, "the first waits for nobody");
        // What was not used before may be caught up with, but not more.
        let all = Duration::from_nanos(FIRST_NS * SHARE * 999 - ns(SLACK));
        assert_eq!(taken[999].waited(), all);
        taken[10].comes().await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        taken[999].comes().await;
        assert!(began.elapsed() >= all);
    }

    #[test]
    fn what_counts_is_what_reading_took() {
        let turns = Turns::default();
        let [little, much] = [Duration::from_nanos(LEAST_NS), Duration::from_nanos(MOST_NS)];
        let counted = |took: Duration| {
            let before = turns.next_ns.load(Relaxed).max(ns(turns.began.elapsed()).saturating_sub(ns(SLACK)));
            turns.count(&turns.take(), took);
            turns.next_ns.load(Relaxed) - before
        };
        // From a state in which nothing is to be caught up with.
        for _ in 0..100 {
            turns.take();
        }
        for took in [little, much, little, much] {
            assert_eq!(counted(took), ns(took) * SHARE);
        }
    }
}
