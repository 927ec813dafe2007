//! Accounts and requests with every kind of end, put into the log as the gateway does it.

use std::sync::Arc;

use aihub_application::{
    accounts::{Accounts, ExecuteError},
    ports::{
        clock::{Clock, SystemClock},
        event_log::{EventLog, Metadata, StreamAppend},
    },
};
use aihub_domain::{
    account::{command::AccountCommand, event::AccountEvent},
    content::ContentKind,
    money::{Microcredits, PicoUsd},
    price::{Charge, TokenUsage},
    request::{
        Request,
        command::RequestCommand,
        event::{Accepted, Attempt, CancelReason, Outcome, RequestEvent, RequestKind},
    },
};
use chrono::{DateTime, TimeDelta, Utc};
use cqrs_es::Aggregate;

use crate::{content, log::Node};

/// A node that takes and ends requests.
pub struct Books {
    pub accounts: Accounts,
    pub node: Node,
}

/// How a request ends.
#[derive(Debug, Clone)]
pub enum End {
    Completed(Outcome),
    Failed(Outcome),
    Cancelled(Outcome),
    Abandoned(DateTime<Utc>),
}

impl Books {
    pub fn open(node: Node) -> Self {
        Self { accounts: Accounts::new(node.log.clone()), node }
    }

    pub async fn grant(&self, account: &str, amount: i64) {
        let grant = AccountCommand::GrantCredits {
            grant_id: "first".to_owned(),
            amount: Microcredits(amount),
            expires_at: None,
            reason: "test".to_owned(),
            actor: "finance".to_owned(),
            granted_at: now(),
        };
        self.execute(account, &grant, None).await.unwrap();
    }

    /// Holds the credits and accepts the request, in one commit.
    pub async fn accept(&self, request_id: &str, accepted: Accepted) {
        let reserve = AccountCommand::ReserveCredits {
            reservation_id: request_id.to_owned(),
            amount: accepted.reserved_microcredits,
            at_least: accepted.reserved_microcredits,
            reserved_at: accepted.accepted_at,
        };
        let account = accepted.account.clone();
        let events = Request::default().decide(RequestCommand::AcceptRequest(Box::new(accepted))).unwrap();
        self.execute(&account, &reserve, Some((request_id, 0, &events[0]))).await.unwrap();
    }

    /// Ends the request and its hold, in one commit. What was used is settled; where nothing was, the hold is released.
    pub async fn end(&self, account: &str, request_id: &str, end: End) -> Result<(), ExecuteError> {
        let (outcome, command) = match end {
            End::Completed(outcome) => (
                Some(outcome.clone()),
                RequestCommand::CompleteRequest { client_left: false, outcome: Box::new(outcome) },
            ),
            End::Failed(outcome) => (
                Some(outcome.clone()),
                RequestCommand::FailRequest { code: "PROVIDER_ERROR".to_owned(), outcome: Box::new(outcome) },
            ),
            End::Cancelled(outcome) => (
                Some(outcome.clone()),
                RequestCommand::CancelRequest { reason: CancelReason::ClientLeft, outcome: Box::new(outcome) },
            ),
            End::Abandoned(abandoned_at) => {
                (None, RequestCommand::AbandonRequest { reason: "its node is gone".to_owned(), abandoned_at })
            }
        };
        let reservation_id = request_id.to_owned();
        let money = match outcome {
            Some(Outcome { charge, ended_at, .. }) if charge.price_id.is_some() => {
                AccountCommand::SettleReservation { reservation_id, charge, settled_at: ended_at }
            }
            _ => AccountCommand::ReleaseReservation { reservation_id, released_at: now() },
        };
        // As it was accepted, also where it has ended already: that the log refuses a second end is what tests see.
        let accepted = self.node.log.load(Request::TYPE, request_id, 0).await.unwrap().swap_remove(0);
        let mut request = Request::default();
        request.evolve(&accepted.decode(Request::TYPE, request_id).unwrap());
        let events = request.decide(command).unwrap();
        self.execute(account, &money, Some((request_id, 1, &events[0]))).await
    }

    /// Requests of three accounts, with every kind of end; every ninth is still open.
    pub async fn trade(&self, requests: std::ops::Range<u64>) {
        for nth in requests {
            let account = ["acme", "globex", "initech"][usize::try_from(nth % 3).unwrap()];
            let request_id = format!("request-{nth}");
            let user = if nth.is_multiple_of(4) { "ann" } else { "bob" };
            self.accept(&request_id, accepted(account, user, "node-1", 40)).await;
            let charge = 10 + i64::try_from(nth % 60).unwrap();
            let end = match nth % 9 {
                0 => continue,
                1 => End::Failed(outcome(nth, 0)),
                2 => End::Failed(outcome(nth, charge)),
                3 => End::Cancelled(outcome(nth, charge)),
                4 => End::Abandoned(now()),
                _ => End::Completed(outcome(nth, charge)),
            };
            self.end(account, &request_id, end).await.unwrap();
        }
    }

    async fn execute(
        &self,
        account: &str,
        command: &AccountCommand,
        with: Option<(&str, u64, &RequestEvent)>,
    ) -> Result<(), ExecuteError> {
        let companions = |events: &[AccountEvent]| {
            let Some((request_id, expected_sequence, event)) = with else { return Ok(vec![]) };
            Ok(vec![StreamAppend::of::<Request>(request_id, expected_sequence, &[as_charged(event.clone(), events)])?])
        };
        self.accounts.execute(account, command, &companions, &Arc::new(Metadata::new())).await.map(drop)
    }
}

/// The account may not have had all of it.
fn as_charged(mut event: RequestEvent, account_events: &[AccountEvent]) -> RequestEvent {
    for change in account_events {
        if let AccountEvent::CreditsSettled { charged_microcredits, .. } = change
            && let Some(outcome) = event.outcome_mut()
        {
            outcome.charge.amount = *charged_microcredits;
        }
    }
    event
}

pub fn now() -> DateTime<Utc> {
    SystemClock.now()
}

/// A chat request of `user` that holds `reserved` microcredits, on a node of that name.
pub fn accepted(account: &str, user: &str, node: &str, reserved: i64) -> Accepted {
    Accepted {
        account: account.to_owned(),
        user: user.to_owned(),
        kind: RequestKind::Chat,
        provider: "auto".to_owned(),
        model: "gpt-6".to_owned(),
        stream: true,
        input_tokens_estimate: 10,
        max_output_tokens: 100,
        reserved_microcredits: Microcredits(reserved),
        price_id: "openai/gpt-6@2026-11-22".to_owned(),
        node: node.to_owned(),
        deadline_at: now() + TimeDelta::minutes(5),
        accepted_at: now(),
        prompt: Some(content::nothing(account, ContentKind::Chat)),
    }
}

/// `nth` sets the day, the provider and the tokens; nobody answered when `charge` is nothing.
pub fn outcome(nth: u64, charge: i64) -> Outcome {
    let answered = charge > 0;
    let provider = if nth.is_multiple_of(2) { "openai" } else { "anthropic" };
    let tokens = if answered { nth + 1 } else { 0 };
    Outcome {
        provider: answered.then(|| provider.to_owned()),
        model: answered.then(|| "gpt-6".to_owned()),
        answered_model: answered.then(|| "gpt-6-2026".to_owned()),
        usage: TokenUsage {
            input: tokens,
            cached_input: tokens * 2,
            cache_write: tokens * 3,
            cache_write_1h: tokens * 5,
            output: tokens * 4,
            reasoning: tokens,
            audio_output: tokens,
            ..TokenUsage::default()
        },
        estimated: nth.is_multiple_of(5),
        charge: Charge {
            price_id: answered.then(|| "openai/gpt-6@2026-11-22".to_owned()),
            cost: PicoUsd(charge * 1_000_003),
            list: Microcredits(charge),
            amount: Microcredits(charge),
        },
        finish_reason: answered.then(|| "stop".to_owned()),
        attempts: vec![Attempt {
            provider: provider.to_owned(),
            model: "gpt-6".to_owned(),
            skipped: false,
            failure: None,
            status: Some(200),
            flaws: vec![],
            duration_ms: nth,
            billed: None,
        }],
        first_chunk_ms: answered.then_some(nth),
        duration_ms: nth * 2,
        answer: None,
        ended_at: DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::hours(7) * i32::try_from(nth).unwrap(),
    }
}
