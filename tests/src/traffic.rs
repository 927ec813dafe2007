//! Requests in numbers, for benchmarks: as many as wanted, without a gateway and without a look at the log.

use aihub_application::ports::event_log::{StreamAppend, Unit};
use aihub_domain::{
    account::{Account, command::AccountCommand},
    money::Microcredits,
    request::{Request, command::RequestCommand, event::Outcome},
};
use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;

use crate::{
    books::{accepted, now, outcome},
    content::kept,
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
        // The first of a month or not: nobody opens it.
        let content = |of: &str| kept("bench", now().date_naive(), format!("{of} of {id} ").repeat(12).into_bytes());
        let (prompt, prompt_piece) = content("prompt");
        let (answer, answer_piece) = content("answer");
        let mut accepted = accepted(&self.name, user, "node-1", 40);
        accepted.prompt = Some(prompt);
        let mut request = Request::default();
        let hold = AccountCommand::ReserveCredits {
            reservation_id: id.to_owned(),
            amount: Microcredits(40),
            at_least: Microcredits(40),
            reserved_at: accepted.accepted_at,
        };
        let reservation = self.decided(hold);
        let events = request.decide(RequestCommand::AcceptRequest(Box::new(accepted))).unwrap();
        request.evolve(&events[0]);
        let begin = unit([reservation, append::<Request>(id, 0, &events).with(vec![prompt_piece])]);

        let outcome = Outcome { answer: Some(answer), ended_at, ..outcome(nth % 500, 30) };
        let settle = AccountCommand::SettleReservation {
            reservation_id: id.to_owned(),
            charge: outcome.charge.clone(),
            settled_at: ended_at,
        };
        let settled = self.decided(settle);
        let complete = RequestCommand::CompleteRequest { client_left: false, outcome: Box::new(outcome) };
        let events = request.decide(complete).unwrap();
        [begin, unit([settled, append::<Request>(id, 1, &events).with(vec![answer_piece])])]
    }

    fn decided(&mut self, command: AccountCommand) -> StreamAppend {
        let events = self.account.decide(command).unwrap();
        for event in &events {
            self.account.evolve(event);
        }
        let expected = self.sequence;
        self.sequence += events.len() as u64;
        append::<Account>(&self.name, expected, &events)
    }
}

fn append<A: Aggregate>(id: &str, expected_sequence: u64, events: &[A::Event]) -> StreamAppend {
    StreamAppend::of::<A>(id, expected_sequence, events).unwrap()
}
