use std::net::SocketAddr;

use reqwest::dns::{Addrs, Name, Resolving};
use tokio::net::TcpListener;

use super::*;
use crate::providers::tests::replay::{End, Recorded, Server};

/// Says of every name that it is this machine.
struct Here;

impl Resolve for Here {
    fn resolve(&self, _: Name) -> Resolving {
        Box::pin(async { Ok(Box::new([SocketAddr::from(([127, 0, 0, 1], 0))].into_iter()) as Addrs) })
    }
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_763_800_000, 0).unwrap()
}

fn to(url: &str) -> Call {
    let (id, signature) = ("msg_1".to_owned(), "v1,AAAA".to_owned());
    Call { url: url.parse().unwrap(), id, timestamp: 1, signature, body: b"{}".to_vec(), attempts: 1 }
}

fn answer(status: u16, headers: &[(&str, &str)]) -> Outcome {
    let headers =
        headers.iter().map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap()));
    judge(StatusCode::from_u16(status).unwrap(), &headers.collect(), 1, now())
}

fn again(outcome: Outcome) -> Duration {
    match outcome.then {
        Then::Again(wait) => wait,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_name_that_leads_here_is_not_called() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = client(Arc::new(Here), false).unwrap();
    let outcome = post(&client, to(&format!("https://hooks.example:{port}/")), now()).await;
    assert_eq!((outcome.status, outcome.error), (None, Some("private_address")));
    assert!(again(outcome) >= Duration::from_secs(5));
    assert!(futures::poll!(std::pin::pin!(listener.accept())).is_pending(), "nobody came");
    let outcome = post(&client, to(&format!("http://hooks.example:{port}/")), now()).await;
    assert_eq!((outcome.status, outcome.error), (None, Some("connection")), "not over plain HTTP");
    assert!(futures::poll!(std::pin::pin!(listener.accept())).is_pending());
}

#[tokio::test]
async fn a_redirect_is_no_answer_and_is_not_followed() {
    let mut elsewhere = Server::start(vec![]).await;
    let mut redirect = Recorded::json(307, "{}");
    redirect.headers.push(("location".into(), elsewhere.base_url.clone()));
    let mut server = Server::one(redirect).await;
    let outcome = post(&client(Arc::new(Here), true).unwrap(), to(&server.base_url), now()).await;
    assert_eq!((outcome.status, outcome.error), (Some(307), Some("status")));
    assert_eq!(server.seen().await.headers["webhook-id"], "msg_1");
    assert!(elsewhere.saw_nothing());
}

#[tokio::test]
async fn an_answer_counts_by_its_status_however_long_it_goes_on() {
    let long = Recorded::json(200, "x".repeat(MAX_ANSWER_BYTES + 1));
    let server = Server::start(vec![(long, End::Hang)]).await;
    let outcome = post(&client(Arc::new(Here), true).unwrap(), to(&server.base_url), now()).await;
    assert_eq!(outcome, Outcome { status: Some(200), error: None, then: Then::Delivered });
}

#[tokio::test]
async fn a_receiver_that_is_away_is_a_failure_like_any_other() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let outcome = post(&client(Arc::new(Here), true).unwrap(), to(&url), now()).await;
    assert_eq!((outcome.status, outcome.error), (None, Some("connection")));
}

#[test]
fn what_was_not_taken_comes_back_later_and_later_and_never_all_at_once() {
    let planned = [5, 30, 120, 600, 3_600, 10_800, 10_800, 10_800];
    for (attempts, seconds) in (1..).zip(planned) {
        let wait = wait(attempts).as_secs_f64();
        assert!(wait >= f64::from(seconds) && wait <= f64::from(seconds) * 1.25, "{attempts}: {wait}");
    }
    assert_ne!(wait(3), wait(3));
}

#[test]
fn a_receiver_says_whether_and_when_it_wants_to_be_called_again() {
    assert_eq!(answer(204, &[]).then, Then::Delivered);
    assert_eq!(answer(410, &[("retry-after", "9")]).then, Then::GiveUp);
    for status in [301, 400, 401, 404, 429, 500, 503] {
        assert!(again(answer(status, &[])) < Duration::from_secs(7), "{status}");
    }
    let asked = |text: &str| again(answer(503, &[("retry-after", text)])).as_secs();
    assert_eq!(asked("120"), 120);
    assert_eq!(asked("Sat, 22 Nov 2025 08:30:40 GMT"), 240);
    assert_eq!(asked("86400"), 3_600, "an hour at most");
    for nonsense in ["-1", "soon", "Sat, 22 Nov 2025 08:00:00 GMT"] {
        assert!(asked(nonsense) < 7, "{nonsense}");
    }
}
