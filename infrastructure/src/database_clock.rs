//! The database's clock, as this node knows it.
//!
//! Time decides over what other nodes made: requests are given up, grants expire, months are over. A node whose own clock is wrong
//! would decide wrongly for all of them, so that clock decides nothing: the database is asked for the time at every heartbeat, and
//! what passed since is measured by the machine's monotonic clock, which nobody sets. The node's own clock is only compared.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use aihub_application::ports::clock::Clock;
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use metrics::gauge;
use sqlx::PgConnection;

use crate::database::Database;

/// How often the database is asked at the start; the quickest answer says most.
const FIRST_QUESTIONS: usize = 3;
/// A node whose own clock differs from the database's by more says so.
const TOLD_ABOVE: TimeDelta = TimeDelta::seconds(1);
/// One whose clock differs by more does nothing on its own that time decides over others: whatever set that clock may have set more.
const IDLE_ABOVE: TimeDelta = TimeDelta::minutes(1);
/// An answer that took longer says too little about the time to replace what is known.
const WORTH_HEARING: TimeDelta = TimeDelta::seconds(1);

/// Its `now` is the database's time, right to half of the round trip that it was asked with.
pub struct DatabaseClock {
    /// This node's own clock.
    own: Box<dyn Clock>,
    known: Mutex<Known>,
}

/// What the database said last that was new.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// In the middle of the question's round trip.
    heard_at: Instant,
    time: DateTime<Utc>,
    /// By how much the node's own clock was ahead when it was last compared.
    ahead: TimeDelta,
}

impl Known {
    fn at(&self, instant: Instant) -> DateTime<Utc> {
        let since = TimeDelta::from_std(instant.saturating_duration_since(self.heard_at)).unwrap_or(TimeDelta::MAX);
        self.time.checked_add_signed(since).unwrap_or(self.time)
    }
}

impl DatabaseClock {
    /// Asks `database` what time it is. `own` is this node's clock.
    pub async fn read(database: &Database, own: impl Clock + 'static) -> Result<Self, sqlx::Error> {
        let mut connection = database.pool().acquire().await?;
        let mut quickest = ask(&mut connection).await?;
        for _ in 1..FIRST_QUESTIONS {
            let answer = ask(&mut connection).await?;
            if answer.took() < quickest.took() {
                quickest = answer;
            }
        }
        let (heard_at, time) = (quickest.middle(), quickest.time);
        let clock = Self { own: Box::new(own), known: Mutex::new(Known { heard_at, time, ahead: TimeDelta::zero() }) };
        clock.compare(quickest.received);
        Ok(clock)
    }

    /// Takes what the database said. What is known stays as it is where that agrees with it: only what was wrong is corrected.
    pub fn hear(&self, answer: Answer) {
        if answer.took() <= WORTH_HEARING {
            let mut known = self.known();
            let differs = (answer.time - known.at(answer.middle())).abs();
            if differs > answer.took() / 2 {
                (known.heard_at, known.time) = (answer.middle(), answer.time);
            }
        }
        self.compare(answer.received);
    }

    /// By how much this node's own clock is ahead of the database's, when they were last compared.
    pub fn ahead(&self) -> TimeDelta {
        self.known().ahead
    }

    /// Whether this node's own clock is so wrong that it leaves to others what time decides over others.
    pub fn is_far_off(&self) -> bool {
        self.ahead().abs() > IDLE_ABOVE
    }

    /// What is to be said about this node's own clock, if anything.
    pub fn notice(&self) -> Option<String> {
        let ahead = self.ahead();
        let seconds = ahead.abs().num_seconds();
        let direction = if ahead > TimeDelta::zero() { "ahead of" } else { "behind" };
        let consequence = if self.is_far_off() {
            ": until it is right, this node ends no requests of others, lets nothing expire and closes nothing"
        } else {
            ", which decides nothing here: the database's time is used"
        };
        (ahead.abs() > TOLD_ABOVE)
            .then(|| format!("this node's clock is {seconds} s {direction} the database's{consequence}"))
    }

    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    fn compare(&self, at: Instant) {
        let own = self.own.now();
        let mut known = self.known();
        known.ahead = own - known.at(at);
        gauge!("clock_offset_seconds").set(known.ahead.num_milliseconds() as f64 / 1_000.0);
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for DatabaseClock {
    fn now(&self) -> DateTime<Utc> {
        self.known().at(Instant::now()).trunc_subsecs(6)
    }
}

/// What the database said at some instant between two of ours.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    pub sent: Instant,
    pub time: DateTime<Utc>,
    pub received: Instant,
}

impl Answer {
    fn took(&self) -> TimeDelta {
        TimeDelta::from_std(self.received.saturating_duration_since(self.sent)).unwrap_or(TimeDelta::MAX)
    }

    fn middle(&self) -> Instant {
        self.sent + self.received.saturating_duration_since(self.sent) / 2
    }
}

async fn ask(connection: &mut PgConnection) -> Result<Answer, sqlx::Error> {
    let sent = Instant::now();
    let time = sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "time!""#).fetch_one(connection).await?;
    Ok(Answer { sent, time, received: Instant::now() })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A clock that is set by hand.
    struct Set(DateTime<Utc>);

    impl Clock for Set {
        fn now(&self) -> DateTime<Utc> {
            self.0
        }
    }

    fn clock(start: Instant, time: DateTime<Utc>, own: DateTime<Utc>) -> DatabaseClock {
        let known = Known { heard_at: start, time, ahead: TimeDelta::zero() };
        let clock = DatabaseClock { own: Box::new(Set(own)), known: Mutex::new(known) };
        clock.compare(start);
        clock
    }

    fn answer(sent: Instant, took: Duration, time: DateTime<Utc>) -> Answer {
        Answer { sent, time, received: sent + took }
    }

    #[test]
    fn an_own_clock_that_is_days_ahead_is_told_of_and_decides_nothing() {
        let (start, time) = (Instant::now(), DateTime::UNIX_EPOCH);
        let clock = clock(start, time, time + TimeDelta::days(2));
        assert!(clock.now() - time < TimeDelta::minutes(1));
        assert!(clock.is_far_off());
        assert!(clock.notice().unwrap().contains("172800 s ahead of"), "{:?}", clock.notice());
    }

    #[test]
    fn an_own_clock_that_is_seconds_behind_is_told_of_and_one_that_is_right_is_not() {
        let (start, time) = (Instant::now(), DateTime::UNIX_EPOCH);
        let behind = clock(start, time, time - TimeDelta::seconds(5));
        assert!(!behind.is_far_off());
        assert!(behind.notice().unwrap().contains("5 s behind"), "{:?}", behind.notice());
        assert_eq!(clock(start, time, time + TimeDelta::milliseconds(900)).notice(), None);
    }

    #[test]
    fn what_agrees_with_what_is_known_changes_nothing_and_what_does_not_is_taken() {
        let (start, time) = (Instant::now(), DateTime::UNIX_EPOCH);
        let clock = clock(start, time, time);
        let later = start + Duration::from_secs(10);
        clock.hear(answer(later, Duration::from_millis(10), time + TimeDelta::milliseconds(10_009)));
        assert_eq!(clock.known().heard_at, start);
        clock.hear(answer(later, Duration::from_millis(10), time + TimeDelta::seconds(70)));
        assert_eq!(clock.known().at(later + Duration::from_millis(5)), time + TimeDelta::seconds(70));
        // The database was asked for so long that its answer says nothing.
        clock.hear(answer(later, Duration::from_secs(3), time));
        assert!(clock.known().at(later) > time + TimeDelta::minutes(1));
    }
}
