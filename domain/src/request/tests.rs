use chrono::{DateTime, Utc};

use super::{
    command::RequestCommand,
    event::{Accepted, Attempt, Billed, CancelReason, Outcome, RequestEvent, RequestKind},
    *,
};
use crate::{
    content::{ContentKind, tests::reference},
    money::{Microcredits, PicoUsd},
    price::{Charge, TokenUsage},
};

fn accepted() -> Box<Accepted> {
    Box::new(Accepted {
        account: "acme".into(),
        user: "ada".into(),
        kind: RequestKind::Chat,
        provider: "auto".into(),
        model: "gpt-6-luna".into(),
        stream: true,
        input_tokens_estimate: 10,
        max_output_tokens: 100,
        reserved_microcredits: Microcredits(51_000),
        price_id: "openai/gpt-6-luna@2026-11-22".into(),
        node: "n1".into(),
        deadline_at: DateTime::UNIX_EPOCH,
        accepted_at: DateTime::UNIX_EPOCH,
        prompt: Some(reference(ContentKind::Chat)),
    })
}

fn outcome() -> Box<Outcome> {
    Box::new(Outcome {
        provider: Some("openai".into()),
        model: Some("gpt-6-luna".into()),
        answered_model: None,
        usage: TokenUsage { input: 10, output: 5, ..TokenUsage::default() },
        estimated: false,
        charge: Charge::default(),
        finish_reason: Some("stop".into()),
        attempts: vec![attempt("claude", Some(billed(1, 10, "claude/m"))), attempt("openai", None)],
        first_chunk_ms: Some(3),
        duration_ms: 9,
        answer: None,
        ended_at: DateTime::<Utc>::UNIX_EPOCH,
    })
}

fn ends() -> Vec<RequestCommand> {
    vec![
        RequestCommand::CompleteRequest { client_left: true, outcome: outcome() },
        RequestCommand::FailRequest { code: "TIMEOUT".into(), outcome: outcome() },
        RequestCommand::CancelRequest { reason: CancelReason::ClientLeft, outcome: outcome() },
        RequestCommand::AbandonRequest { reason: "its node died".into(), abandoned_at: DateTime::UNIX_EPOCH },
    ]
}

fn accepted_request() -> Request {
    let mut request = Request::default();
    request.evolve(&RequestEvent::RequestAccepted(accepted()));
    assert_eq!(request, Request::accepted(accepted().asked()));
    request
}

#[test]
fn a_request_is_accepted_once() {
    let accept = || RequestCommand::AcceptRequest(accepted());
    assert!(Request::default().decide(accept()).is_ok());
    assert_eq!(accepted_request().decide(accept()), Err(RequestError::AlreadyAccepted));
}

#[test]
fn a_request_that_was_not_accepted_cannot_end() {
    for end in ends() {
        assert_eq!(Request::default().decide(end), Err(RequestError::NotAccepted));
    }
}

#[test]
fn whichever_end_comes_first_no_other_follows() {
    for first in ends() {
        let mut request = accepted_request();
        for event in request.decide(first).unwrap() {
            request.evolve(&event);
        }
        for second in ends() {
            assert_eq!(request.decide(second), Err(RequestError::AlreadyEnded(request.status())));
        }
    }
}

#[test]
fn every_end_says_whose_the_request_was_and_what_it_asked_for() {
    for end in ends() {
        let events = accepted_request().decide(end).unwrap();
        let (asked, _) = events[0].ended().unwrap();
        assert_eq!(*asked, accepted().asked());
    }
}

#[test]
fn the_text_of_every_event_is_pinned() {
    let mut events = vec![RequestEvent::RequestAccepted(accepted())];
    events.extend(ends().into_iter().flat_map(|end| accepted_request().decide(end).unwrap()));
    insta::assert_json_snapshot!(events);
    for event in events {
        let read: RequestEvent = serde_json::from_str(&serde_json::to_string(&event).unwrap()).unwrap();
        assert_eq!(read, event);
    }
}

fn billed(tokens: u64, list: i64, price: &str) -> Billed {
    let usage = TokenUsage { input: tokens, output: 2 * tokens, ..TokenUsage::default() };
    let (cost, list) = (PicoUsd(7 * list), Microcredits(list));
    Billed { usage, estimated: true, charge: Charge { price_id: Some(price.into()), cost, list, amount: list } }
}

fn attempt(provider: &str, billed: Option<Billed>) -> Attempt {
    Attempt {
        provider: provider.into(),
        model: "m".into(),
        skipped: false,
        failure: billed.is_some().then(|| "connection".into()),
        status: None,
        flaws: vec![],
        duration_ms: 1,
        billed,
    }
}

#[test]
fn what_was_paid_for_at_each_provider_is_what_the_outcome_comes_to() {
    let (left, last) = (billed(3, 30, "claude/m"), Billed { estimated: false, ..billed(5, 50, "openai/m") });
    let mut outcome = Outcome {
        usage: left.usage.plus(&last.usage),
        charge: Charge {
            price_id: last.charge.price_id.clone(),
            cost: left.charge.cost.plus(last.charge.cost),
            list: Microcredits(80),
            amount: Microcredits(80),
        },
        attempts: vec![attempt("claude", Some(left.clone())), attempt("openai", None)],
        ..*outcome()
    };
    assert!(outcome.is_estimated());
    let parts = |outcome: &Outcome| -> Vec<_> {
        outcome.parts().iter().map(|part| (part.provider.map(str::to_owned), part.billed.clone())).collect()
    };
    assert_eq!(parts(&outcome), [(Some("claude".into()), left.clone()), (Some("openai".into()), last.clone())]);

    // The account had not enough: what came first is paid first.
    outcome.pay(Microcredits(45));
    let amounts: Vec<_> = outcome.parts().iter().map(|part| part.billed.charge.amount.0).collect();
    assert_eq!((outcome.charge.amount, amounts), (Microcredits(45), vec![30, 15]));

    // Nobody answered in the end: the last part is nothing, and nobody's.
    let nobody =
        Outcome { provider: None, usage: left.usage, charge: left.charge.clone(), estimated: false, ..outcome };
    let nobody = Outcome { attempts: vec![attempt("claude", Some(left.clone()))], ..nobody };
    let nothing = Billed { usage: TokenUsage::default(), estimated: false, charge: Charge::default() };
    assert_eq!(parts(&nobody), [(Some("claude".into()), left), (None, nothing)]);
}
