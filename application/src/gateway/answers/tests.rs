use aihub_domain::request::event::RequestKind;
use chrono::DateTime;
use serde_json::json;

use super::*;
use crate::{
    answer::{AnswerEnd, RUNNING_BYTES},
    error::GatewayError,
    principal::Capabilities,
    shares::{Portions, Scope},
};

const MINUTE: Duration = Duration::from_mins(1);
const MEMORY: usize = 4 << 20;

fn ann() -> Principal {
    user("ann")
}

fn user(name: &str) -> Principal {
    Principal {
        user: name.to_owned(),
        account: name.to_owned(),
        roles: vec![],
        expires_at: DateTime::UNIX_EPOCH,
        capabilities: Capabilities::new(vec![]),
    }
}

fn request(prompt: &str) -> AnswerRequest {
    let serde_json::Value::Object(fields) = json!({ "prompt": prompt, "idempotencyKey": "k" }) else { unreachable!() };
    AnswerRequest::from_fields(RequestKind::Chat, fields).unwrap()
}

/// What is called so on the one connection that there is.
fn called(id: &str) -> Called {
    Called { id: id.to_owned(), connection: Uuid::nil() }
}

fn wanted(id: &str) -> Wanted {
    Wanted::Called { id: id.to_owned(), connection: None }
}

fn answers() -> Answers {
    Answers::new(Share::new("bytes", Portions::of(MEMORY)))
}

fn answer_of(answers: &Answers) -> Arc<Answer> {
    Arc::new(Answer::new(answers.room(&ann(), RUNNING_BYTES).unwrap(), usize::MAX))
}

/// An answer of `bytes` that has ended.
fn ended(answers: &Answers, principal: &Principal, id: &str, bytes: usize) -> Result<(), Full> {
    let answer = Arc::new(Answer::new(answers.room(principal, RUNNING_BYTES).map_err(Full::Memory)?, usize::MAX));
    assert!(
        answers.insert(principal, &called(id), &format!("{} {id}", principal.user), &request("hi"), &answer).is_none()
    );
    answers.push(principal, &answer, true, ("x".repeat(bytes), vec![]))?;
    answer.end(AnswerEnd::Failed(GatewayError::ShuttingDown.into()));
    answers.ended(&format!("{} {id}", principal.user), &answer, MINUTE);
    Ok(())
}

fn is_same(known: Option<Known>, answer: &Arc<Answer>) -> bool {
    matches!(known, Some(Known::Same(same)) if Arc::ptr_eq(&same, answer))
}

#[tokio::test]
async fn two_requests_with_one_key_at_once_share_one_answer() {
    let answers = answers();
    let (first, second) = (answer_of(&answers), answer_of(&answers));
    assert!(answers.insert(&ann(), &called("a"), "r", &request("hi"), &first).is_none());
    assert!(is_same(answers.insert(&ann(), &called("b"), "r", &request("hi"), &second), &first));
    assert!(Arc::ptr_eq(&answers.find(&ann(), &wanted("b")).unwrap().unwrap().answer, &first));
    assert!(matches!(answers.insert(&ann(), &called("c"), "r", &request("ho"), &second), Some(Known::Different)));
    assert!(answers.find(&ann(), &wanted("c")).unwrap().is_none());
}

#[tokio::test]
async fn a_request_that_was_never_accepted_may_come_again_under_its_key() {
    let answers = answers();
    let (refused, again) = (answer_of(&answers), answer_of(&answers));
    assert!(answers.insert(&ann(), &called("a"), "r", &request("hi"), &refused).is_none());
    answers.forget("r", &refused);
    assert!(answers.insert(&ann(), &called("a"), "r", &request("hi"), &again).is_none());
    // What is over has no hold on what came after it.
    answers.forget("r", &refused);
    answers.ended("r", &refused, MINUTE);
    assert!(is_same(answers.join(&ann(), &called("a"), "r", &request("hi")), &again));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_ends_twice_is_counted_once() {
    let answers = answers();
    let answer = answer_of(&answers);
    assert!(answers.insert(&ann(), &called("a"), "r", &request("hi"), &answer).is_none());
    answer.push("text".to_owned(), vec![]).unwrap();
    answer.end(AnswerEnd::Failed(GatewayError::ShuttingDown.into()));
    answers.ended("r", &answer, MINUTE);
    answers.ended("r", &answer, MINUTE);
    tokio::time::advance(MINUTE).await;
    answers.forget_expired();
    drop(answer);
    let kept = answers.lock();
    assert_eq!((answers.memory.taken(), kept.by_request.len(), kept.by_client_id.len()), (0, 0, 0));
    assert!(kept.expiring.is_empty() && kept.ended.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_large_answer_is_kept_half_as_long_and_goes_before_those_that_ended_earlier() {
    let answers = Answers::new(Share::new("bytes", Portions::of(64 << 20)));
    ended(&answers, &ann(), "small", 1_000).unwrap();
    ended(&answers, &ann(), "large", LARGE_BYTES + 1).unwrap();
    let kept = |id| answers.find(&ann(), &wanted(id)).unwrap().is_some();
    tokio::time::advance(MINUTE / 2).await;
    answers.forget_expired();
    assert!(kept("small") && !kept("large"));
    tokio::time::advance(MINUTE / 2).await;
    answers.forget_expired();
    assert!(!kept("small") && answers.memory.taken() == 0);
}

#[tokio::test]
async fn the_first_name_and_the_latest_ones_lead_to_an_answer() {
    let answers = answers();
    let answer = answer_of(&answers);
    assert!(answers.insert(&ann(), &called("first"), "r", &request("hi"), &answer).is_none());
    for name in 0..100 {
        assert!(is_same(answers.join(&ann(), &called(&(name % 50).to_string()), "r", &request("hi")), &answer));
    }
    assert_eq!(answers.lock().by_client_id.len(), MAX_NAMES);
    assert!(answers.find(&ann(), &wanted("first")).unwrap().is_some());
    assert!(answers.find(&ann(), &wanted("34")).unwrap().is_none());
    assert!(answers.find(&ann(), &wanted("49")).unwrap().is_some());
}

#[tokio::test]
async fn who_needs_more_than_their_share_loses_their_own_oldest_answer_and_nobody_elses() {
    let answers = answers();
    ended(&answers, &user("bob"), "b", 10_000).unwrap();
    for nth in 0..50 {
        ended(&answers, &ann(), &nth.to_string(), 100_000).unwrap();
    }
    let is_kept = |principal: &Principal, id: &str| answers.find(principal, &wanted(id)).unwrap().is_some();
    assert!(!is_kept(&ann(), "0") && !is_kept(&ann(), "38") && is_kept(&ann(), "43") && is_kept(&ann(), "49"));
    assert!(is_kept(&user("bob"), "b"));
    // What nobody but a slow reader has is held all the same, and then there is no more.
    let read: Vec<_> = (0..50).filter_map(|nth| answers.find(&ann(), &wanted(&nth.to_string())).unwrap()).collect();
    assert!(matches!(ended(&answers, &ann(), "more", 900_000), Err(Full::Memory(UsedUp { scope: Scope::User, .. }))));
    assert!(is_kept(&ann(), "49"), "what is being read is not let go of for nothing");
    drop(read);
    ended(&answers, &ann(), "after", 900_000).unwrap();
    assert!(is_kept(&user("bob"), "b"));
}

#[tokio::test]
async fn a_name_that_requests_on_two_connections_have_means_neither_without_the_connection() {
    let answers = answers();
    let (here, there) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let on = |connection| Called { id: "1".to_owned(), connection };
    let (first, second) = (answer_of(&answers), answer_of(&answers));
    assert!(answers.insert(&ann(), &on(here), "r1", &request("hi"), &first).is_none());
    assert_eq!(&*answers.find(&ann(), &wanted("1")).unwrap().unwrap().request_id, "r1");
    assert!(answers.insert(&ann(), &on(there), "r2", &request("ho"), &second).is_none());
    let GatewayError::AmbiguousName { request_ids } = answers.find(&ann(), &wanted("1")).err().unwrap() else {
        panic!()
    };
    assert_eq!(request_ids, ["r1", "r2"]);
    for (connection, request_id) in [(here, "r1"), (there, "r2")] {
        let found = answers.find(&ann(), &Wanted::Called { id: "1".to_owned(), connection: Some(connection) });
        assert_eq!(&*found.unwrap().unwrap().request_id, request_id);
        let found = answers.find(&ann(), &Wanted::Request(request_id.to_owned()));
        assert_eq!(&*found.unwrap().unwrap().request_id, request_id);
    }
    let refused = answers.find(&user("bob"), &Wanted::Request("r1".to_owned()));
    assert!(matches!(refused, Err(GatewayError::OthersAnswer)));
    // What is over is not known here any more; it is in the log, which is asked whether there is another.
    answers.forget("r1", &first);
    assert_eq!(&*answers.find(&ann(), &wanted("1")).unwrap().unwrap().request_id, "r2");
}
