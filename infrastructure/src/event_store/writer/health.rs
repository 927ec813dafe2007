//! Whether what is sent to the log is acknowledged. That, and nothing else, is what taking new work rests on.

use std::{
    borrow::Cow,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use aihub_application::ports::event_log::Outage;
use metrics::gauge;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// A call that has no answer for so long, or no connection, is an outage. Under any load that the log can bear
/// a call takes milliseconds; and whoever asks whether this node is ready is to know within five seconds.
const OUTAGE_AFTER: Duration = Duration::from_secs(4);
/// Where the server itself says that it cannot, there is less to wait for.
const REFUSED_AFTER: Duration = Duration::from_secs(1);

/// How often the time without an answer is counted. A process that itself got no time counts little of it: then the answer may have
/// been there for long.
const TICK: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// When the first call went out that is not acknowledged yet, of this batch or of those that failed before it.
    since: Option<Instant>,
    /// How much of the time since then was waited through.
    waited: Duration,
    failure: Option<Failure>,
}

/// What the last call failed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// Something that only shows when it is written: no disk, no memory, an error of the file system.
    NoRoom(&'static str),
    /// The server said so.
    Refused(&'static str),
    Silent(&'static str),
}

impl Health {
    /// A call goes out.
    pub fn called(&self) {
        self.state().since.get_or_insert_with(Instant::now);
    }

    /// The server did as it was told, or said what is wrong with what it was told.
    pub fn answered(&self) {
        *self.state() = State::default();
    }

    /// Returns whether that is something new.
    pub fn failed(&self, error: &sqlx::Error) -> bool {
        let failure = Some(Failure::of(error));
        std::mem::replace(&mut self.state().failure, failure) != failure
    }

    pub fn outage(&self) -> Option<Outage> {
        let state = self.state();
        let lasts = state.since?.elapsed();
        let (after, reason) = match state.failure {
            Some(Failure::NoRoom(reason) | Failure::Refused(reason)) => (REFUSED_AFTER, reason),
            Some(Failure::Silent(reason)) => (OUTAGE_AFTER, reason),
            None => (OUTAGE_AFTER, NO_ANSWER),
        };
        (state.waited > after).then_some(Outage { lasts, reason })
    }

    /// Counts. Never ends.
    pub async fn count(&self) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let mut state = self.state();
            if state.since.is_some() {
                state.waited += TICK;
            }
            gauge!("event_log_unacknowledged_seconds").set(state.waited.as_secs_f64());
        }
    }

    /// Whether only something of the size of real work tells that it is over.
    pub fn has_no_room(&self) -> bool {
        matches!(self.state().failure, Some(Failure::NoRoom(_)))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const NO_ANSWER: &str = "the database does not answer";

impl Failure {
    /// In words that anybody may read: the server's own are in the log.
    fn of(error: &sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code().map(Cow::into_owned));
        match (error, code.as_deref()) {
            (_, Some("53100")) => Self::NoRoom("the database's disk is full"),
            (_, Some(code)) if code.starts_with("53") => Self::NoRoom("the database has no room for more"),
            (_, Some(code)) if code.starts_with("58") || code.starts_with("XX") || code.starts_with("54") => {
                Self::NoRoom("the database cannot write its files")
            }
            (_, Some("25006")) => Self::Refused("the database takes no writes: it is read-only"),
            (_, Some("42501")) => Self::Refused("the database's user may not append to the log"),
            (_, Some("57014" | "55P03")) => Self::Silent("the log is locked by somebody else"),
            (_, Some(code)) if code.starts_with("57P") => Self::Silent("the database is shutting down or starting"),
            (_, Some(_)) => Self::Refused("the database refuses what is appended"),
            (sqlx::Error::Io(error), _) if error.kind() == std::io::ErrorKind::TimedOut => Self::Silent(NO_ANSWER),
            _ => Self::Silent("the database cannot be reached"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    /// Lets so much time pass, with everything that happens meanwhile.
    async fn pass(health: &Health, time: Duration) {
        let _ = tokio::time::timeout(time, health.count()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_acknowledged_for_seconds_is_an_outage_until_something_is() {
        let health = Health::default();
        health.called();
        pass(&health, Duration::from_secs(2)).await;
        assert_eq!(health.outage(), None);
        assert!(health.failed(&sqlx::Error::Io(ErrorKind::ConnectionRefused.into())));
        assert!(!health.failed(&sqlx::Error::Io(ErrorKind::ConnectionRefused.into())));
        // The next try does not begin a new count.
        health.called();
        pass(&health, Duration::from_secs(3)).await;
        let outage = health.outage().unwrap();
        assert_eq!((outage.lasts.as_secs(), outage.reason), (5, "the database cannot be reached"));
        health.answered();
        assert_eq!(health.outage(), None);
        pass(&health, Duration::from_mins(1)).await;
        assert_eq!(health.outage(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_an_answer_is_one_too_and_time_that_the_process_did_not_get_is_not() {
        let health = Health::default();
        health.called();
        // Nobody counted.
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(health.outage(), None);
        pass(&health, Duration::from_secs(5)).await;
        assert_eq!(health.outage().unwrap().reason, NO_ANSWER);
        assert!(!health.has_no_room());
    }
}
