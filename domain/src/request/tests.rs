use chrono::{DateTime, Utc};

use super::{
    command::RequestCommand,
    event::{Accepted, CancelReason, Outcome, RequestEvent, RequestKind},
    *,
};
use crate::{
    content::SealedContent,
    money::Microcredits,
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
        prompt: SealedContent { subject: "acme".into(), month: chrono::NaiveDate::default(), sealed: "AAAA".into() },
    })
}

fn outcome() -> Box<Outcome> {
    Box::new(Outcome {
        provider: Some("openai".into()),
        model: Some("gpt-6-luna".into()),
        usage: TokenUsage { input: 10, output: 5, ..TokenUsage::default() },
        estimated: false,
        charge: Charge::default(),
        finish_reason: Some("stop".into()),
        attempts: vec![],
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
