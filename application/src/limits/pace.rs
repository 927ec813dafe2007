//! How fast a user is served while the processors are busy: their answers together go on no faster than a model writes, and their
//! requests begin no faster than people ask, so that whoever has one, or has just come, finds a processor at once.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    task::yield_now,
    time::{Instant, sleep_until},
};

/// After so many pieces of an answer others get their turn, however many more are there.
const PIECES_AT_A_TIME: usize = 8;
/// The least and the most that this many may have to take of the only answer of a user: the most is 125 pieces a second, which hardly
/// any model is faster than.
const LEAST_US: u64 = 1_000;
const MOST_US: u64 = 64_000;
/// What they have to take at once where the wait was so many times as long as it may be.
const JUMP_US: u64 = 8_000;
const MUCH: u32 = 4;
/// So many turns after a request of a user's the next one begins at the earliest: it costs about as much as their pieces.
const TURNS_OF_A_START: u32 = 4;
/// However many begin, none is held up for longer; and however many go on, their pieces take no longer.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
const LONGEST_TURN: Duration = Duration::from_secs(1);

/// Who asks at most so often, and whose answers are slower than their pace by themselves, asks little: nobody is held up so much that
/// they would be like that.
const SELDOM: Duration = Duration::from_millis(MOST_US / 1_000 * TURNS_OF_A_START as u64);
/// For so long after one of them has asked it is minded that others like them may.
const MINDED: Duration = Duration::from_secs(1);

/// What [`PIECES_AT_A_TIME`] have to take at least, for each answer that their user has at the time. It grows at every look at which
/// whoever is ready has waited too long for a processor, and shrinks at every other: slowly, since those who are slowed down are there
/// still; but soon where nobody asks for whom it would be done, all asking much.
#[derive(Debug)]
pub(super) struct Pace {
    turn_us: AtomicU64,
    /// Zero: there is no pace.
    max_lag: Duration,
    starts: Mutex<Starts>,
}

#[derive(Debug, Default)]
struct Starts {
    users: HashMap<String, User>,
    /// When somebody began who asks little.
    seldom: Option<Instant>,
}

#[derive(Debug)]
struct User {
    /// When the last request began, or is to.
    last: Instant,
    /// Until when an answer is held up, or was.
    held_up: Instant,
    /// Answers that go on.
    answers: u32,
}

/// Of one answer.
pub struct Steps<'a> {
    pace: &'a Pace,
    user: &'a str,
    pieces: usize,
    turn_began: Instant,
}

impl Pace {
    pub fn new(max_lag: Duration) -> Self {
        Self { turn_us: AtomicU64::new(0), max_lag, starts: Mutex::default() }
    }

    /// Somebody who was ready waited for so long.
    pub fn feel(&self, lag: Duration) {
        if self.max_lag.is_zero() {
            return;
        }
        let is_minded = self.starts().seldom.is_some_and(|seldom| seldom.elapsed() < MINDED);
        let now = self.turn_us.load(Relaxed);
        let then = match lag {
            _ if !is_minded => now / 2,
            lag if lag > self.max_lag * MUCH => (now * 3).max(JUMP_US),
            lag if lag > self.max_lag => now * 3 / 2,
            _ => now - now / 64,
        };
        let is_felt = is_minded && lag > self.max_lag || then >= LEAST_US;
        self.turn_us.store(if is_felt { then.clamp(LEAST_US, MOST_US) } else { 0 }, Relaxed);
    }

    /// Until a request of `user` may begin.
    pub async fn start(&self, user: &str) {
        if let Some(begins) = self.begins(user) {
            sleep_until(begins).await;
        }
    }

    /// When a request of `user` may begin, if not now.
    fn begins(&self, user: &str) -> Option<Instant> {
        let gap = self.turn() * TURNS_OF_A_START;
        let now = Instant::now();
        let mut starts = self.starts();
        let Some(known) = starts.users.get_mut(user) else {
            starts.users.insert(user.to_owned(), User { last: now, held_up: now, answers: 0 });
            starts.seldom = Some(now);
            return None;
        };
        let is_seldom = known.asks_little(now);
        known.last = (known.last + gap).clamp(now, now + LONGEST_WAIT);
        let begins = known.last;
        if is_seldom {
            starts.seldom = Some(now);
        }
        Some(begins).filter(|begins| *begins > now)
    }

    pub fn forget_idle(&self) {
        let now = Instant::now();
        self.starts().users.retain(|_, user| user.answers > 0 || !user.asks_little(now));
    }

    fn starts(&self) -> MutexGuard<'_, Starts> {
        self.starts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn steps<'a>(&'a self, user: &'a str) -> Steps<'a> {
        let now = Instant::now();
        let mut starts = self.starts();
        let known = starts.users.entry(user.to_owned()).or_insert(User { last: now, held_up: now, answers: 0 });
        known.answers = known.answers.saturating_add(1);
        Steps { pace: self, user, pieces: 0, turn_began: now }
    }

    fn turn(&self) -> Duration {
        Duration::from_micros(self.turn_us.load(Relaxed))
    }
}

impl User {
    fn asks_little(&self, now: Instant) -> bool {
        now > self.last.max(self.held_up) + SELDOM
    }
}

impl Steps<'_> {
    /// A piece was passed on: the next one may be as soon as this returns.
    pub async fn step(&mut self) {
        self.pieces = self.pieces.wrapping_add(1);
        if !self.pieces.is_multiple_of(PIECES_AT_A_TIME) {
            return;
        }
        match self.turn_ends() {
            Some(turn_ends) => sleep_until(turn_ends).await,
            None => yield_now().await,
        }
        self.turn_began = Instant::now();
    }

    /// When the next pieces may come, if not now.
    fn turn_ends(&self) -> Option<Instant> {
        let turn = self.pace.turn();
        if turn.is_zero() {
            return None;
        }
        let mut starts = self.pace.starts();
        let user = starts.users.get_mut(self.user)?;
        let turn_ends = self.turn_began + turn.saturating_mul(user.answers).min(LONGEST_TURN);
        if turn_ends <= Instant::now() {
            return None;
        }
        user.held_up = user.held_up.max(turn_ends);
        Some(turn_ends)
    }
}

impl Drop for Steps<'_> {
    fn drop(&mut self) {
        if let Some(user) = self.pace.starts().users.get_mut(self.user) {
            user.answers = user.answers.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_LAG: Duration = Duration::from_millis(2);

    /// What so many pieces of the only answer take at this pace, where each comes after `between`.
    async fn time_of(pace: &Pace, pieces: u32, between: Duration) -> Duration {
        let (began, mut steps) = (Instant::now(), pace.steps("ann"));
        for _ in 0..pieces {
            tokio::time::sleep(between).await;
            steps.step().await;
        }
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn while_the_processors_are_busy_answers_that_come_faster_than_life_are_slowed_down_and_no_others() {
        let pace = Pace::new(MAX_LAG);
        assert_eq!(time_of(&pace, 800, Duration::ZERO).await, Duration::ZERO);
        pace.feel(MAX_LAG * 2);
        assert_eq!(time_of(&pace, 800, Duration::ZERO).await, Duration::ZERO, "nobody is there for whom it would be");
        pace.start("cid").await;
        for _ in 0..12 {
            pace.feel(MAX_LAG * 2);
        }
        let slowed = time_of(&pace, 800, Duration::ZERO).await;
        assert!(slowed >= Duration::from_millis(6_400) && slowed < Duration::from_millis(6_600), "{slowed:?}");
        let others: Vec<Steps<'_>> = (0..9).map(|_| pace.steps("ann")).collect();
        assert!(
            time_of(&pace, 80, Duration::ZERO).await >= Duration::from_millis(6_400),
            "they share what one would have"
        );
        let more: Vec<Steps<'_>> = (0..90).map(|_| pace.steps("ann")).collect();
        assert!(time_of(&pace, 80, Duration::ZERO).await <= LONGEST_TURN * 11, "none stands still");
        drop((others, more));
        let paced = Duration::from_millis(10);
        assert_eq!(time_of(&pace, 800, paced).await, paced * 800);
        let begins = async |user: &'static str| {
            let began = Instant::now();
            pace.start(user).await;
            began.elapsed()
        };
        assert_eq!(begins("ann").await, Duration::ZERO, "the first begins at once");
        assert_eq!(begins("ann").await, Duration::from_millis(256));
        assert_eq!(begins("bob").await, Duration::ZERO, "and so does everybody else's");
        assert_eq!(*futures::future::join_all((0..100).map(|_| begins("ann"))).await.last().unwrap(), LONGEST_WAIT);
        pace.forget_idle();
        assert_eq!(pace.starts().users.len(), 1);
        pace.start("dan").await;
        pace.feel(Duration::ZERO);
        assert!(time_of(&pace, 80, Duration::ZERO).await > Duration::from_millis(600), "not at once");
        // They are gone.
        tokio::time::advance(MINDED).await;
        for _ in 0..10 {
            pace.feel(MAX_LAG * 2);
        }
        assert_eq!(time_of(&pace, 800, Duration::ZERO).await, Duration::ZERO);
        let unbounded = Pace::new(Duration::ZERO);
        unbounded.feel(Duration::from_secs(1));
        assert_eq!(time_of(&unbounded, 800, Duration::ZERO).await, Duration::ZERO);
    }
}
