//! Sees to it that no handler stands still unnoticed, whatever the reason. It trusts none of the loops that it watches: it reads the
//! log's head and the handlers' checkpoints itself, on a connection of its own, and compares them.
//!
//! One that the log is ahead of and that does not move is told of, and started anew once: its task is ended and its connection
//! dropped. So is the node's tail. What a new start does not mend is a fault that somebody has to look at.

use std::{collections::HashMap, sync::Weak, time::Duration};

use metrics::gauge;
use sqlx::PgConnection;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::{Status, Subscriptions, checkpoint};
use crate::database::{Database, millis};

const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);
/// What is known longer than that is not known any more.
const OLD_AFTER: Duration = Duration::from_secs(10);

/// What the watchdog saw last.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The end of the log.
    pub head: u64,
    /// The handlers that run here, on this node or in turn with others.
    pub handlers: Vec<Status>,
    /// Those that stand still.
    pub standing: Vec<String>,
    pub at: Instant,
}

impl Seen {
    /// What is to be said of the handlers. Anybody may ask, so an error itself is only in the log.
    pub fn notices(&self) -> Vec<String> {
        let mut notices = Vec::new();
        for Status { name, position, failure, paused_at, .. } in &self.handlers {
            if let Some(failure) = failure {
                notices.push(format!("handler {name} stopped at position {}", failure.position));
            } else if paused_at.is_some() {
                notices.push(format!("handler {name} is paused"));
            } else if self.standing.contains(name) {
                notices.push(format!("handler {name} stands still at position {position} of {}", self.head));
            }
        }
        if self.at.elapsed() > OLD_AFTER {
            notices.push(format!("the handlers were last looked at {} s ago", self.at.elapsed().as_secs()));
        }
        notices
    }
}

/// What does not move, and since when.
#[derive(Debug)]
struct Standing {
    position: u64,
    since: Instant,
    /// How far it is with being told and started anew.
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Moving,
    StartedAnew,
    GivenUp,
}

/// What is to be done about it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Fine,
    /// It goes on, after it had stood still.
    GoesOn,
    StartAnew,
    /// It was started anew, and that did not help yet.
    Stands,
    GiveUp,
}

impl Standing {
    fn at(position: u64, now: Instant) -> Self {
        Self { position, since: now, stage: Stage::Moving }
    }

    /// `is_behind`: the log is ahead, and nobody wants it to stand.
    fn judge(&mut self, position: u64, is_behind: bool, after: Duration, now: Instant) -> Verdict {
        if position != self.position || !is_behind {
            let stood = self.stage != Stage::Moving;
            *self = Self::at(position, now);
            return if stood { Verdict::GoesOn } else { Verdict::Fine };
        }
        if now - self.since < after {
            return if self.stage == Stage::Moving { Verdict::Fine } else { Verdict::Stands };
        }
        // The new start gets as much time.
        match self.stage {
            Stage::Moving => {
                (self.stage, self.since) = (Stage::StartedAnew, now);
                Verdict::StartAnew
            }
            Stage::StartedAnew => {
                self.stage = Stage::GivenUp;
                Verdict::GiveUp
            }
            Stage::GivenUp => Verdict::Stands,
        }
    }
}

/// What is known of the tail, as of a handler.
const TAIL: &str = "tail";

pub struct Watchdog {
    database: Database,
    subscriptions: Weak<Subscriptions>,
    /// How long something may stand still.
    after: Duration,
    watched: HashMap<String, Standing>,
}

impl Watchdog {
    pub fn new(database: Database, subscriptions: Weak<Subscriptions>, after: Duration) -> Self {
        Self { database, subscriptions, after, watched: HashMap::new() }
    }

    /// For as long as there is something to watch.
    pub async fn watch(mut self) {
        loop {
            if let Err(error) = self.watch_on().await {
                tracing::warn!(error = %error, "the handlers cannot be watched; trying again");
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn watch_on(&mut self) -> Result<(), sqlx::Error> {
        let settings = [("statement_timeout", millis(LOOK_TIMEOUT))];
        let mut connection = in_time(self.database.dedicated("aihub-watchdog", &settings)).await?;
        let mut tick = interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let (head, statuses) = in_time(look(&mut connection)).await?;
            self.judge(head, statuses);
        }
    }

    fn judge(&mut self, head: u64, statuses: Vec<Status>) {
        let Some(subscriptions) = self.subscriptions.upgrade() else { return };
        let now = Instant::now();
        let run_here = subscriptions.names();
        let handlers: Vec<Status> =
            statuses.into_iter().filter(|status| run_here.contains(&status.name.as_str())).collect();
        let mut standing = Vec::new();
        for Status { name, position, failure, paused_at, .. } in &handlers {
            let is_behind = head > *position && failure.is_none() && paused_at.is_none();
            let stands = self.judge_one(&subscriptions, (name, *position), is_behind, now);
            show("subscription_behind_events", name, head.saturating_sub(*position));
            show("subscription_stands_still", name, u64::from(stands));
            show("subscription_stopped", name, u64::from(failure.is_some()));
            if stands {
                standing.push(name.clone());
            }
        }
        let read = subscriptions.read_up_to();
        let stands = self.judge_one(&subscriptions, (TAIL, read), head > read, now);
        show("subscription_stands_still", TAIL, u64::from(stands));
        subscriptions.show(Seen { head, handlers, standing, at: now });
    }

    /// Whether it stands still. What is to be done about that is done.
    fn judge_one(
        &mut self,
        subscriptions: &Subscriptions,
        (name, position): (&str, u64),
        is_behind: bool,
        now: Instant,
    ) -> bool {
        let watched = self.watched.entry(name.to_owned()).or_insert_with(|| Standing::at(position, now));
        let verdict = watched.judge(position, is_behind, self.after, now);
        let after_s = self.after.as_secs();
        match verdict {
            Verdict::Fine | Verdict::Stands => {}
            Verdict::GoesOn => tracing::info!(subscription = name, position, "the handler goes on"),
            Verdict::StartAnew => {
                tracing::error!(
                    subscription = name,
                    position,
                    after_s,
                    "the log is ahead, and the handler does not move: it is started anew"
                );
                if name == TAIL {
                    subscriptions.follow_anew();
                } else {
                    subscriptions.run_anew(name);
                }
            }
            Verdict::GiveUp => {
                tracing::error!(
                    subscription = name,
                    position,
                    after_s,
                    "started anew, the handler does not move either"
                );
            }
        }
        !matches!(verdict, Verdict::Fine | Verdict::GoesOn)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge")]
fn show(gauge: &'static str, name: &str, value: u64) {
    gauge!(gauge, "name" => name.to_owned()).set(value as f64);
}

/// The head first: a handler that applies what comes meanwhile is not behind.
async fn look(connection: &mut PgConnection) -> Result<(u64, Vec<Status>), sqlx::Error> {
    let head = sqlx::query_scalar!(r#"SELECT coalesce(max(position), 0) AS "head!" FROM events"#);
    let head = head.fetch_one(&mut *connection).await?.cast_unsigned();
    Ok((head, checkpoint::statuses(connection).await?))
}

async fn in_time<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    timeout(LOOK_TIMEOUT, work).await.unwrap_or_else(|late| Err(sqlx::Error::Io(late.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(30);

    #[test]
    fn what_stands_while_the_log_is_ahead_is_started_anew_once_and_given_up_when_that_did_not_help() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut standing = Standing::at(7, start);
        assert_eq!(standing.judge(7, true, AFTER, at(29)), Verdict::Fine);
        assert_eq!(standing.judge(7, true, AFTER, at(30)), Verdict::StartAnew);
        assert_eq!(standing.judge(7, true, AFTER, at(59)), Verdict::Stands);
        assert_eq!(standing.judge(7, true, AFTER, at(60)), Verdict::GiveUp);
        assert_eq!(standing.judge(7, true, AFTER, at(1_000)), Verdict::Stands);
        assert_eq!(standing.judge(8, true, AFTER, at(1_001)), Verdict::GoesOn);
        assert_eq!(standing.judge(8, true, AFTER, at(1_031)), Verdict::StartAnew);
    }

    #[test]
    fn what_has_caught_up_or_moves_or_is_meant_to_stand_is_fine_for_as_long_as_it_likes() {
        let start = Instant::now();
        let mut standing = Standing::at(7, start);
        for minutes in 1..60 {
            let now = start + Duration::from_mins(minutes);
            assert_eq!(standing.judge(7, false, AFTER, now), Verdict::Fine);
        }
        for nth in 8..60 {
            let now = start + Duration::from_mins(60 + nth);
            assert_eq!(standing.judge(nth, true, AFTER, now), Verdict::Fine);
        }
    }

    #[test]
    fn a_handler_that_stands_that_stopped_or_that_is_paused_is_told_of_without_its_error() {
        let at = chrono::DateTime::UNIX_EPOCH;
        let status =
            |name: &str| Status { name: name.to_owned(), position: 6, updated_at: at, paused_at: None, failure: None };
        let failure = super::super::Failure { position: 7, error: "secret".to_owned(), at };
        let handlers = vec![
            status("fine"),
            status("hangs"),
            Status { failure: Some(failure), ..status("failed") },
            Status { paused_at: Some(at), ..status("paused") },
        ];
        let seen = Seen { head: 9, handlers, standing: vec!["hangs".to_owned()], at: Instant::now() };
        assert_eq!(
            seen.notices(),
            [
                "handler hangs stands still at position 6 of 9",
                "handler failed stopped at position 7",
                "handler paused is paused"
            ]
        );
    }
}
