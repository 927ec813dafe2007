//! Requests in numbers, for benchmarks: as many as wanted, without a gateway and without a look at the log.

use aihub_application::ports::event_log::{NewEvent, StreamAppend, Unit};
use aihub_domain::{
    account::{Account, command::AccountCommand},
    content::SealedContent,
    money::Microcredits,
    request::{Request, command::RequestCommand, event::Outcome},
};
use chrono::{DateTime, Utc};
use cqrs_es::{Aggregate, DomainEvent};
use serde::Serialize;

use crate::{
    books::{accepted, now, outcome},
    log::unit,
};

/// Held, accepted, settled, completed.
pub const EVENTS_A_REQUEST: u64 = 4;

/// An account that nobody else spends from, so that what it does can be decided without asking.
pub struct Payer {
    name: String,
    account: Account,
    sequence: u64,
}

impl Payer {
    /// With more than it can spend, once the unit is in the log.
    pub fn open(name: String) -> (Self, Unit) {
        let mut payer = Self { name, account: Account::default(), sequence: 0 };
        let grant = AccountCommand::GrantCredits {
            grant_id: "first".to_owned(),
            amount: Microcredits(i64::MAX / 4),
            expires_at: None,
            reason: "benchmark".to_owned(),
            actor: "benchmark".to_owned(),
            granted_at: now(),
        };
        let granted = unit([payer.decided(grant)]);
        (payer, granted)
    }

    /// A request's beginning and its end, with a prompt and an answer of about 0.7 kB.
    pub fn request(&mut self, id: &str, nth: u64, user: &str, ended_at: DateTime<Utc>) -> [Unit; 2] {
        let content =
            || SealedContent { subject: "bench".to_owned(), month: now().date_naive(), sealed: "c2VhbGVk".repeat(88) };
        let mut accepted = accepted(&self.name, user, "node-1", 40);
        accepted.prompt = content();
        let mut request = Request::default();
        let hold = AccountCommand::ReserveCredits {
            reservation_id: id.to_owned(),
            amount: Microcredits(40),
            reserved_at: accepted.accepted_at,
        };
        let reservation = self.decided(hold);
        let events = request.decide(RequestCommand::AcceptRequest(Box::new(accepted))).unwrap();
        request.evolve(&events[0]);
        let begin = unit([reservation, append(Request::TYPE, id, 0, &events)]);

        let outcome = Outcome { answer: Some(content()), ended_at, ..outcome(nth % 500, 30) };
        let settle = AccountCommand::SettleReservation {
            reservation_id: id.to_owned(),
            charge: outcome.charge.clone(),
            settled_at: ended_at,
        };
        let settled = self.decided(settle);
        let complete = RequestCommand::CompleteRequest { client_left: false, outcome: Box::new(outcome) };
        let events = request.decide(complete).unwrap();
        [begin, unit([settled, append(Request::TYPE, id, 1, &events)])]
    }

    fn decided(&mut self, command: AccountCommand) -> StreamAppend {
        let events = self.account.decide(command).unwrap();
        for event in &events {
            self.account.evolve(event);
        }
        let expected = self.sequence;
        self.sequence += events.len() as u64;
        append(Account::TYPE, &self.name, expected, &events)
    }
}

fn append<E: DomainEvent + Serialize>(
    aggregate_type: &'static str,
    id: &str,
    expected_sequence: u64,
    events: &[E],
) -> StreamAppend {
    let events = events.iter().map(|event| NewEvent::of(event).unwrap()).collect();
    StreamAppend { aggregate_type, aggregate_id: id.to_owned(), expected_sequence, events }
}
