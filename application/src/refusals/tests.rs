use std::sync::atomic::{AtomicBool, Ordering};

use aihub_domain::{money::Microcredits, refusal::RefusalEvent};
use chrono::TimeDelta;
use futures::{FutureExt, future::BoxFuture};

use super::*;
use crate::{
    ports::event_log::{Append, Appended, LoadError, Snapshot, StoredEvent},
    principal::Capabilities,
};

/// A log that keeps what it takes, and can be away after it took something.
#[derive(Default)]
struct Log {
    units: Mutex<Vec<Unit>>,
    is_away: AtomicBool,
}

impl EventLog for Log {
    fn append(&self, unit: Unit) -> Append {
        let mut units = self.units.lock().unwrap();
        if units.iter().all(|known| known.command_id != unit.command_id) {
            units.push(unit);
        }
        let outcome = if self.is_away.load(Ordering::Relaxed) {
            Err(AppendError::Unavailable("no answer".to_owned()))
        } else {
            Ok(Appended { position: 1, repeated: false })
        };
        futures::future::ready(outcome).boxed()
    }

    fn load<'a>(&'a self, _: &'static str, _: &'a str, _: u64) -> BoxFuture<'a, Result<Vec<StoredEvent>, LoadError>> {
        unreachable!()
    }

    fn load_snapshot<'a>(&'a self, _: &'static str, _: &'a str) -> BoxFuture<'a, Result<Option<Snapshot>, LoadError>> {
        unreachable!()
    }

    fn save_snapshot<'a>(&'a self, _: &'static str, _: &'a str, _: Snapshot) -> BoxFuture<'a, Result<(), LoadError>> {
        unreachable!()
    }
}

impl Log {
    fn refused(&self) -> Vec<Refused> {
        let units = self.units.lock().unwrap();
        let events = units.iter().flat_map(|unit| &unit.streams).flat_map(|stream| &stream.events);
        events
            .map(|event| {
                let RefusalEvent::RequestsRefused(refused) = serde_json::from_str(&event.payload).unwrap();
                refused
            })
            .collect()
    }
}

fn principal(user: &str) -> Principal {
    Principal {
        user: user.to_owned(),
        account: "acme".to_owned(),
        roles: vec![],
        expires_at: DateTime::UNIX_EPOCH,
        capabilities: Capabilities::default(),
    }
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
}

fn no_credits(available: i64) -> GatewayError {
    GatewayError::InsufficientCredits { available: Microcredits(available), required: Microcredits(9) }
}

fn no_model(model: &str) -> GatewayError {
    GatewayError::ModelNotFound { model: model.to_owned(), provider: AUTO.to_owned(), known: vec![] }
}

#[tokio::test]
async fn what_one_user_is_refused_for_one_reason_is_one_event_with_a_count_and_the_last_grounds() {
    let (log, refusals) = (Log::default(), Refusals::default());
    for second in 0..5 {
        refusals.note(&principal("ann"), &no_credits(second), at(second));
    }
    refusals.note(&principal("ann"), &no_model("gpt-7"), at(5));
    refusals.note(&principal("bob"), &no_model("gpt-7"), at(6));
    refusals.note(&principal("bob"), &GatewayError::NothingToResume, at(7));
    refusals.write_down(&log, "node").await.unwrap();
    let told: Vec<_> = log.refused().into_iter().map(|told| (told.user, told.code, told.count)).collect();
    let told: Vec<_> = told.iter().map(|(user, code, count)| (user.as_str(), code.as_str(), *count)).collect();
    assert_eq!(
        told,
        [("ann", "INSUFFICIENT_CREDITS", 5), ("ann", "MODEL_NOT_FOUND", 1), ("bob", "MODEL_NOT_FOUND", 1)]
    );
    let first = log.refused().remove(0);
    assert_eq!((first.first_at, first.last_at), (at(0), at(4)));
    let (available_microcredits, required_microcredits) = (Microcredits(4), Microcredits(9));
    assert_eq!(first.because, Grounds::Credits { available_microcredits, required_microcredits });
    // What is written down is not written down again.
    refusals.write_down(&log, "node").await.unwrap();
    assert_eq!(log.refused().len(), 3);
}

#[tokio::test]
async fn whoever_makes_up_names_fills_neither_memory_nor_log_and_nothing_goes_uncounted() {
    let (log, refusals) = (Log::default(), Refusals::default());
    for nth in 0..1_000 {
        refusals.note(&principal("ann"), &no_model(&format!("model-{nth}")), at(nth));
    }
    refusals.note(&principal("ann"), &no_credits(0), at(1_000));
    refusals.write_down(&log, "node").await.unwrap();
    let told = log.refused();
    assert_eq!(told.len(), MAX_REASONS + 1);
    assert_eq!(told.iter().map(|told| told.count).sum::<u64>(), 1_001);
    let last = &told[MAX_REASONS - 1];
    assert_eq!(last.because, Grounds::Model { model: Some("model-999".to_owned()), provider: None });

    for nth in 0..2 * MAX_USERS {
        refusals.note(&principal(&format!("user-{nth}")), &no_credits(0), at(0));
    }
    refusals.write_down(&log, "node").await.unwrap();
    assert_eq!(log.refused().len(), MAX_REASONS + 1 + MAX_USERS);
}

#[tokio::test]
async fn what_may_be_content_is_no_name() {
    let (log, refusals) = (Log::default(), Refusals::default());
    refusals.note(&principal("ann"), &no_model("My diagnosis is …"), at(0));
    refusals.write_down(&log, "node").await.unwrap();
    assert_eq!(log.refused()[0].because, Grounds::Model { model: None, provider: None });
}

#[tokio::test]
async fn a_log_that_is_away_gets_it_later_and_once() {
    let (log, refusals) = (Log::default(), Refusals::default());
    refusals.note(&principal("ann"), &no_credits(0), at(0));
    log.is_away.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        assert!(matches!(refusals.write_down(&log, "node").await, Err(AppendError::Unavailable(_))));
        refusals.note(&principal("ann"), &no_credits(1), at(1));
    }
    log.is_away.store(false, Ordering::Relaxed);
    refusals.write_down(&log, "node").await.unwrap();
    refusals.write_down(&log, "node").await.unwrap();
    assert_eq!(log.refused().iter().map(|told| told.count).collect::<Vec<_>>(), [1, 3]);
}
