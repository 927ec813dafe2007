use std::sync::atomic::{AtomicBool, Ordering};

use aihub_domain::{money::Microcredits, refusal::RefusalEvent};
use chrono::TimeDelta;
use futures::{FutureExt, future::BoxFuture};

use super::*;
use crate::{
    ports::event_log::{Append, Appended, LoadError, Snapshot, StoredEvent},
    principal::Capabilities,
};

/// A log that keeps what it takes, and can be away after it took something, or take nothing.
#[derive(Default)]
struct Log {
    units: Mutex<Vec<Unit>>,
    is_away: AtomicBool,
    takes_nothing: AtomicBool,
}

impl EventLog for Log {
    fn append(&self, unit: Unit) -> Append {
        if self.takes_nothing.load(Ordering::Relaxed) {
            return futures::future::ready(Err(AppendError::Malformed("no JSON".to_owned()))).boxed();
        }
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
    GatewayError::InsufficientCredits { available: Microcredits(available), required: Microcredits(9), top_up: None }
}

fn no_model(model: &str) -> GatewayError {
    GatewayError::ModelNotFound { model: model.to_owned(), provider: AUTO.to_owned(), makes: None, known: vec![] }
}

#[tokio::test]
async fn what_one_user_is_refused_in_a_while_is_one_event_that_tells_each_reason_with_a_count_and_the_last_grounds() {
    let (log, refusals) = (Log::default(), Refusals::default());
    for second in 0..5 {
        refusals.note(&principal("ann"), &no_credits(second), at(second));
    }
    refusals.note(&principal("ann"), &no_model("gpt-7"), at(5));
    refusals.note(&principal("bob"), &no_model("gpt-7"), at(6));
    refusals.note(&principal("bob"), &GatewayError::NothingToResume, at(7));
    refusals.write_down(&log, "node").await.unwrap();
    let refused = log.refused();
    let told = |refused: &Refused| {
        let reasons = refused.reasons.iter().map(|reason| (reason.code.clone(), reason.count)).collect::<Vec<_>>();
        (refused.user.clone(), reasons)
    };
    let of = |user: &str, reasons: &[(&str, u64)]| {
        (user.to_owned(), reasons.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect::<Vec<_>>())
    };
    assert_eq!(
        refused.iter().map(told).collect::<Vec<_>>(),
        [of("ann", &[("INSUFFICIENT_CREDITS", 5), ("MODEL_NOT_FOUND", 1)]), of("bob", &[("MODEL_NOT_FOUND", 1)])]
    );
    let first = &refused[0].reasons[0];
    assert_eq!((first.first_at, first.last_at), (at(0), at(4)));
    let (available_microcredits, required_microcredits) = (Microcredits(4), Microcredits(9));
    assert_eq!(first.because, Some(Grounds::Credits { available_microcredits, required_microcredits }));
    // What is written down is not written down again.
    refusals.write_down(&log, "node").await.unwrap();
    assert_eq!(log.refused().len(), 2);
}

#[tokio::test]
async fn whoever_makes_up_names_fills_neither_memory_nor_log_and_nothing_goes_uncounted() {
    let (log, refusals) = (Log::default(), Refusals::default());
    for nth in 0..1_000 {
        refusals.note(&principal("ann"), &no_model(&format!("model-{nth}")), at(nth));
    }
    refusals.note(&principal("ann"), &no_credits(0), at(1_000));
    refusals.note(&principal("ann"), &no_model("model-3"), at(1_001));
    refusals.write_down(&log, "node").await.unwrap();
    let [told] = &log.refused()[..] else { panic!("one event") };
    let counts: Vec<_> = told.reasons.iter().map(|reason| reason.count).collect();
    // What is told apart is counted by itself, however many others there were; these claim nothing of what they were about.
    assert_eq!(counts, [1, 1, 1, 2, 1, 1, 1, 1, 992, 1]);
    let named = |nth: usize| told.reasons[nth].because.clone();
    assert_eq!(named(3), Some(Grounds::Model { model: Some("model-3".to_owned()), provider: None }));
    assert_eq!((named(MAX_REASONS), told.reasons[MAX_REASONS].code.as_str()), (None, "MODEL_NOT_FOUND"));

    for nth in 0..2 * MAX_USERS {
        refusals.note(&principal(&format!("user-{nth}")), &no_credits(0), at(0));
    }
    refusals.write_down(&log, "node").await.unwrap();
    assert_eq!(log.refused().len(), 1 + MAX_USERS);
}

#[tokio::test]
async fn what_may_be_content_is_no_name() {
    let (log, refusals) = (Log::default(), Refusals::default());
    let longest = "x".repeat(MAX_NAME_BYTES);
    for model in ["My diagnosis is …", &format!("{longest}x"), &longest] {
        refusals.note(&principal("ann"), &no_model(model), at(0));
    }
    refusals.write_down(&log, "node").await.unwrap();
    let told: Vec<_> = log.refused()[0].reasons.iter().map(|reason| (reason.count, reason.because.clone())).collect();
    let about = |model| Some(Grounds::Model { model, provider: None });
    assert_eq!(told, [(2, about(None)), (1, about(Some(longest)))]);
}

#[tokio::test]
async fn a_log_that_is_away_gets_it_later_and_once_and_what_came_meanwhile_at_the_same_time() {
    let (log, refusals) = (Log::default(), Refusals::default());
    refusals.note(&principal("ann"), &no_credits(0), at(0));
    log.is_away.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        assert!(matches!(refusals.write_down(&log, "node").await, Err(AppendError::Unavailable(_))));
        refusals.note(&principal("ann"), &no_credits(1), at(1));
    }
    log.is_away.store(false, Ordering::Relaxed);
    // It may be the last time: nothing is left over for another.
    refusals.write_down(&log, "node").await.unwrap();
    assert_eq!(log.refused().iter().map(|told| told.reasons[0].count).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(refusals.give_up(), 0);
}

#[tokio::test]
async fn what_nobody_will_write_down_any_more_is_counted() {
    let (log, refusals) = (Log::default(), Refusals::default());
    log.is_away.store(true, Ordering::Relaxed);
    for second in 0..5 {
        refusals.note(&principal("ann"), &no_credits(0), at(second));
    }
    refusals.write_down(&log, "node").await.unwrap_err();
    refusals.note(&principal("bob"), &no_credits(0), at(5));
    assert_eq!(refusals.give_up(), 6);
    assert_eq!(refusals.give_up(), 0);
}

#[tokio::test]
async fn what_the_log_will_never_take_is_in_nobodys_way() {
    let (log, refusals) = (Log::default(), Refusals::default());
    log.takes_nothing.store(true, Ordering::Relaxed);
    refusals.note(&principal("ann"), &no_credits(0), at(0));
    refusals.write_down(&log, "node").await.unwrap();
    assert_eq!(refusals.give_up(), 0);
}
