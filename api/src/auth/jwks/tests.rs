//! Key sets from a real server on 127.0.0.1 that rotates, breaks and counts.

use std::sync::Arc;

use futures::{future::join_all, poll};
use http::StatusCode;
use serde_json::json;

use super::*;
use crate::auth::tests::{
    TestClock,
    identity_provider::{Answer, IdentityProvider},
    signer::Signer,
};

struct Fixture {
    provider: Arc<IdentityProvider>,
    clock: Arc<TestClock>,
    jwks: Jwks,
}

impl Fixture {
    async fn new(signers: &[&Signer]) -> Self {
        let (provider, clock) = (IdentityProvider::start(signers).await, TestClock::new());
        let jwks = Jwks::new(&provider.url(), clock.clone(), TaskTracker::new()).unwrap();
        Self { provider, clock, jwks }
    }

    async fn key(&self, id: &str) -> Result<(), AuthError> {
        self.jwks.key(Algorithm::ES256, Some(id)).await.map(drop)
    }

    /// Waits for a fetch that nobody waited for.
    async fn settle(&self) {
        drop(self.jwks.shared.flight.lock().await);
    }
}

fn keys(signer: &Signer, cache_control: &'static str) -> Answer {
    Answer::Keys { set: json!({"keys": [signer.jwk]}), cache_control }
}

#[tokio::test]
async fn the_keys_are_fetched_when_the_first_token_needs_them_and_then_cached() {
    let it = Fixture::new(&[&Signer::es256("a")]).await;
    assert_eq!(it.provider.fetches(), 0);
    for _ in 0..100 {
        it.key("a").await.unwrap();
    }
    it.clock.advance(599);
    it.key("a").await.unwrap();
    assert_eq!(it.provider.fetches(), 1);
    it.clock.advance(1);
    it.key("a").await.unwrap();
    assert_eq!(it.provider.fetches(), 2);
}

#[tokio::test]
async fn a_set_is_as_fresh_as_its_answer_says() {
    let signer = Signer::es256("a");
    let it = Fixture::new(&[]).await;
    it.provider.answer_with(keys(&signer, "max-age=120"));
    it.key("a").await.unwrap();
    it.clock.advance(119);
    it.key("a").await.unwrap();
    assert_eq!(it.provider.fetches(), 1);
    it.clock.advance(1);
    it.key("a").await.unwrap();
    assert_eq!(it.provider.fetches(), 2);
}

#[tokio::test]
async fn tokens_that_come_together_share_one_fetch() {
    let it = Fixture::new(&[&Signer::es256("a")]).await;
    let results = join_all((0..100).map(|_| it.key("a"))).await;
    assert!(results.into_iter().all(|result| result.is_ok()));
    let results = join_all((0..100).map(|_| it.key("b"))).await;
    assert!(results.into_iter().all(|result| result == Err(AuthError::UnknownKey)));
    assert_eq!(it.provider.fetches(), 1);
}

#[tokio::test]
async fn a_token_with_a_new_key_brings_the_new_set() {
    let (old, new) = (Signer::es256("old"), Signer::es256("new"));
    let it = Fixture::new(&[&old]).await;
    it.key("old").await.unwrap();
    it.provider.rotate_to(&[&new]);
    it.clock.advance(10);
    it.key("old").await.unwrap();
    it.key("new").await.unwrap();
    assert_eq!(it.key("old").await, Err(AuthError::UnknownKey));
    assert_eq!(it.provider.fetches(), 2);
}

#[tokio::test]
async fn a_key_that_was_withdrawn_is_not_used_once_the_set_is_old() {
    let it = Fixture::new(&[&Signer::es256("stolen")]).await;
    it.key("stolen").await.unwrap();
    it.provider.rotate_to(&[&Signer::es256("new")]);
    it.clock.advance(600);
    assert_eq!(it.key("stolen").await, Err(AuthError::UnknownKey));
}

#[tokio::test]
async fn tokens_with_made_up_keys_cause_one_fetch_in_ten_seconds() {
    let it = Fixture::new(&[&Signer::es256("a")]).await;
    for second in 0..60 {
        for attempt in 0..20 {
            it.key(&format!("made up {second} {attempt}")).await.unwrap_err();
        }
        it.clock.advance(1);
    }
    assert_eq!(it.provider.fetches(), 6);
}

#[tokio::test]
async fn old_keys_are_used_for_an_hour_while_the_provider_is_down() {
    let it = Fixture::new(&[&Signer::es256("a")]).await;
    it.key("a").await.unwrap();
    it.provider.answer_with(Answer::Status(StatusCode::SERVICE_UNAVAILABLE));
    it.clock.advance(600);
    for _ in 0..5 {
        it.key("a").await.unwrap();
        assert_eq!(it.key("b").await, Err(AuthError::KeysUnavailable));
    }
    assert_eq!(it.provider.fetches(), 2);
    it.clock.advance(3_599);
    it.key("a").await.unwrap();
    it.settle().await;
    it.clock.advance(1);
    assert_eq!(it.key("a").await, Err(AuthError::KeysUnavailable));
    it.provider.rotate_to(&[&Signer::es256("a")]);
    it.clock.advance(10);
    it.key("a").await.unwrap();
}

#[tokio::test]
async fn nobody_waits_for_a_provider_that_is_down() {
    let it = Fixture::new(&[&Signer::es256("a")]).await;
    it.key("a").await.unwrap();
    it.provider.answer_with(Answer::Status(StatusCode::INTERNAL_SERVER_ERROR));
    it.clock.advance(600);
    it.key("a").await.unwrap();
    it.clock.advance(10);
    it.provider.permits.forget_permits(usize::MAX);
    it.key("a").await.unwrap();
    it.key("a").await.unwrap();
    it.provider.arrived.notified().await;
    it.provider.rotate_to(&[&Signer::es256("b")]);
    it.provider.permits.add_permits(1);
    it.settle().await;
    it.key("b").await.unwrap();
    assert_eq!(it.provider.fetches(), 3);
}

#[tokio::test]
async fn a_caller_who_leaves_does_not_cancel_the_fetch() {
    let it = Fixture::new(&[&Signer::es256("a")]).await;
    it.provider.permits.forget_permits(usize::MAX);
    {
        let mut leaving = Box::pin(it.key("a"));
        assert!(poll!(&mut leaving).is_pending());
        it.provider.arrived.notified().await;
    }
    it.provider.permits.add_permits(1);
    it.key("a").await.unwrap();
    assert_eq!(it.provider.fetches(), 1);
}

#[tokio::test]
async fn an_answer_that_is_no_key_set_is_not_used_and_the_keys_stay() {
    let (signer, elsewhere) = (Signer::es256("a"), IdentityProvider::start(&[&Signer::es256("evil")]).await);
    let it = Fixture::new(&[&signer]).await;
    it.key("a").await.unwrap();
    let mut huge = json!({"keys": [signer.jwk]}).to_string();
    huge.push_str(&" ".repeat(300_000));
    let many: Vec<_> = (0..65).map(|_| Signer::es256("a").jwk).collect();
    for answer in [
        Answer::Body(huge.into_bytes()),
        Answer::Body(b"<html>We are down</html>".to_vec()),
        Answer::Body(b"{\"keys\": []}".to_vec()),
        Answer::Body(b"{\"keys\": {}}".to_vec()),
        Answer::Body(vec![0xff; 1_000]),
        Answer::Body(Vec::new()),
        Answer::Keys { set: json!({"keys": many}), cache_control: "" },
        Answer::Keys { set: json!({"keys": [{"kty": "oct", "k": "AAAA", "kid": "evil"}]}), cache_control: "" },
        Answer::Redirect(elsewhere.url()),
        Answer::Status(StatusCode::NOT_FOUND),
        Answer::Status(StatusCode::NO_CONTENT),
    ] {
        it.provider.answer_with(answer);
        it.clock.advance(10);
        let before = it.provider.fetches();
        assert_eq!(it.key("evil").await, Err(AuthError::KeysUnavailable));
        assert_eq!(it.provider.fetches(), before + 1);
        it.key("a").await.unwrap();
    }
    assert_eq!(elsewhere.fetches(), 0);
}

#[tokio::test]
async fn a_provider_that_does_not_answer_is_given_up() {
    let it = Fixture::new(&[]).await;
    it.provider.answer_with(Answer::Nothing);
    assert_eq!(it.key("a").await, Err(AuthError::KeysUnavailable));
}

#[tokio::test]
async fn a_provider_that_is_not_there_is_not_asked_again_at_once() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let jwks = Jwks::new(&format!("http://{closed}/jwks"), TestClock::new(), TaskTracker::new()).unwrap();
    assert_eq!(jwks.key(Algorithm::ES256, None).await.err(), Some(AuthError::KeysUnavailable));

    let it = Fixture::new(&[]).await;
    it.provider.answer_with(Answer::Status(StatusCode::BAD_GATEWAY));
    for _ in 0..10 {
        assert_eq!(it.key("a").await, Err(AuthError::KeysUnavailable));
    }
    assert_eq!(it.provider.fetches(), 1);
}

#[tokio::test]
async fn a_clock_that_is_set_back_does_not_stop_the_fetches() {
    let it = Fixture::new(&[&Signer::es256("a")]).await;
    it.key("a").await.unwrap();
    it.provider.rotate_to(&[&Signer::es256("b")]);
    it.clock.advance(-86_400);
    it.key("b").await.unwrap();
    assert_eq!(it.provider.fetches(), 2);
}
