use aihub_domain::request::event::RequestKind;
use chrono::DateTime;
use serde_json::json;

use super::*;
use crate::{answer::AnswerEnd, error::GatewayError, principal::Capabilities};

const MINUTE: Duration = Duration::from_mins(1);

fn ann() -> Principal {
    Principal {
        user: "ann".to_owned(),
        account: "ann".to_owned(),
        roles: vec![],
        expires_at: DateTime::UNIX_EPOCH,
        capabilities: Capabilities::new(vec![]),
    }
}

fn request(prompt: &str) -> AnswerRequest {
    let serde_json::Value::Object(fields) = json!({ "prompt": prompt, "idempotencyKey": "k" }) else { unreachable!() };
    AnswerRequest::from_fields(RequestKind::Chat, fields).unwrap()
}

fn is_same(known: Option<Known>, answer: &Arc<Answer>) -> bool {
    matches!(known, Some(Known::Same(same)) if Arc::ptr_eq(&same, answer))
}

#[tokio::test]
async fn two_requests_with_one_key_at_once_share_one_answer() {
    let (answers, first, second) = (Answers::default(), Arc::<Answer>::default(), Arc::<Answer>::default());
    assert!(answers.insert(&ann(), "a", "r", &request("hi"), &first).is_none());
    assert!(is_same(answers.insert(&ann(), "b", "r", &request("hi"), &second), &first));
    assert!(Arc::ptr_eq(&answers.resume(&ann(), "b").unwrap().answer, &first));
    assert!(matches!(answers.insert(&ann(), "c", "r", &request("ho"), &second), Some(Known::Different)));
    assert!(answers.resume(&ann(), "c").is_none());
}

#[tokio::test]
async fn a_request_that_was_never_accepted_may_come_again_under_its_key() {
    let (answers, refused, again) = (Answers::default(), Arc::<Answer>::default(), Arc::<Answer>::default());
    assert!(answers.insert(&ann(), "a", "r", &request("hi"), &refused).is_none());
    answers.forget("r", &refused);
    assert!(answers.insert(&ann(), "a", "r", &request("hi"), &again).is_none());
    // What is over has no hold on what came after it.
    answers.forget("r", &refused);
    answers.ended("r", &refused, MINUTE);
    assert!(is_same(answers.join(&ann(), "a", "r", &request("hi")), &again));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_ends_twice_is_counted_once() {
    let (answers, answer) = (Answers::default(), Arc::<Answer>::default());
    assert!(answers.insert(&ann(), "a", "r", &request("hi"), &answer).is_none());
    answer.push("text".to_owned(), vec![]);
    answer.end(AnswerEnd::Failed(GatewayError::ShuttingDown.into()));
    answers.ended("r", &answer, MINUTE);
    answers.ended("r", &answer, MINUTE);
    tokio::time::advance(MINUTE).await;
    answers.forget_expired();
    let kept = answers.lock();
    assert_eq!((kept.retained_bytes, kept.by_request.len(), kept.by_client_id.len()), (0, 0, 0));
    assert!(kept.expiring.is_empty());
}

#[tokio::test]
async fn only_the_latest_names_lead_to_an_answer() {
    let (answers, answer) = (Answers::default(), Arc::<Answer>::default());
    assert!(answers.insert(&ann(), "first", "r", &request("hi"), &answer).is_none());
    for name in 0..100 {
        assert!(is_same(answers.join(&ann(), &(name % 50).to_string(), "r", &request("hi")), &answer));
    }
    assert_eq!(answers.lock().by_client_id.len(), MAX_NAMES);
    assert!(answers.resume(&ann(), "first").is_none());
    assert!(answers.resume(&ann(), "49").is_some());
}
