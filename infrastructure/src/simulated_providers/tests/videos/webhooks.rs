use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use axum::{
    Router,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Harness, PATIENCE, parse};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// One event as it arrived.
struct Event {
    headers: HeaderMap,
    body: String,
}

impl Event {
    fn id(&self) -> &str {
        self.headers["webhook-id"].to_str().unwrap()
    }
}

/// Takes events at its address, the first `refused` of them with a 500.
async fn receiver(refused: usize) -> (String, mpsc::UnboundedReceiver<Event>, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hooks", listener.local_addr().unwrap());
    let (sender, events) = mpsc::unbounded_channel();
    let left = Arc::new(AtomicUsize::new(refused));
    let take = post(async move |headers: HeaderMap, body: String| {
        sender.send(Event { headers, body }).unwrap();
        let is_refused = left.try_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
        if is_refused { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::NO_CONTENT }
    });
    let stop = CancellationToken::new();
    let serve = axum::serve(listener, Router::new().route("/hooks", take));
    TaskTracker::new().spawn(serve.with_graceful_shutdown(stop.clone().cancelled_owned()).into_future());
    (url, events, stop)
}

async fn next(events: &mut mpsc::UnboundedReceiver<Event>) -> Event {
    timeout(PATIENCE, events.recv()).await.unwrap().unwrap()
}

impl Harness {
    async fn put_webhook(&self, webhook: &Value) -> Response {
        self.request(Method::PUT, "/admin/webhook").json(webhook).send().await.unwrap()
    }
}

#[tokio::test]
async fn the_end_of_a_video_is_sent_signed() {
    let harness = Harness::start().await;
    let (url, mut events, _stop) = receiver(0).await;
    assert_eq!(harness.put_webhook(&json!({"url": url, "secret": SECRET})).await.status(), 204);
    for (knobs, kind) in [("+vtime=0s", "video.completed"), ("+vtime=120ms+fail=late", "video.failed")] {
        let video = harness.create(knobs).await;
        let event = next(&mut events).await;
        let verifier = standardwebhooks::Webhook::new(SECRET).unwrap();
        verifier.verify(event.body.as_bytes(), &event.headers).unwrap();
        assert!(event.id().starts_with("wh_sim"), "{}", event.id());
        let body = parse(&event.body);
        assert_eq!(super::super::keys(&body), super::super::sorted(["id", "object", "created_at", "type", "data"]));
        assert_eq!(
            (&body["type"], &body["data"], &body["object"]),
            (&json!(kind), &json!({"id": video}), &json!("event"))
        );
        assert!(body["id"].as_str().unwrap().starts_with("evt_sim"));
        let video = harness.video(&video).await;
        assert_eq!(video["completed_at"], body["created_at"], "an event comes after the end");
    }
}

#[tokio::test]
async fn an_event_that_is_not_taken_or_ordered_twice_comes_again_under_the_same_id() {
    let harness = Harness::start().await;
    for (refused, knobs) in [(1, ""), (0, "+webhook=twice")] {
        let (url, mut events, _stop) = receiver(refused).await;
        harness.put_webhook(&json!({"url": url, "secret": SECRET})).await;
        harness.create(&format!("+vtime=0s{knobs}")).await;
        let (one, two) = (next(&mut events).await, next(&mut events).await);
        assert_eq!((one.id(), &one.body), (two.id(), &two.body));
        // What comes next is the next video's.
        harness.create("+vtime=0s").await;
        assert_ne!(next(&mut events).await.id(), one.id());
    }
}

#[tokio::test]
async fn nothing_is_sent_of_a_deleted_video_or_once_the_webhook_is_removed() {
    let harness = Harness::start().await;
    let (url, mut events, _stop) = receiver(0).await;
    let webhook = json!({"url": url, "secret": SECRET});
    harness.put_webhook(&webhook).await;
    let deleted = harness.create("+vtime=500ms").await;
    harness.videos(Method::DELETE, &format!("/{deleted}")).send().await.unwrap();
    let removed = harness.request(Method::DELETE, "/admin/webhook").send().await.unwrap();
    assert_eq!(removed.status(), 204);
    harness.create("+vtime=550ms").await;
    harness.put_webhook(&webhook).await;
    let last = harness.create("+vtime=600ms").await;
    assert_eq!(parse(&next(&mut events).await.body)["data"]["id"], last);
}

#[tokio::test]
async fn a_webhook_that_is_not_understood_is_refused_with_a_reason() {
    let harness = Harness::start().await;
    let wrong = [
        (json!({"url": "ftp://127.0.0.1/", "secret": SECRET}), "URL"),
        (json!({"url": "hooks", "secret": SECRET}), "URL"),
        (json!({"url": "http://127.0.0.1/", "secret": "whsec_"}), "whsec_"),
        (json!({"url": "http://127.0.0.1/", "secret": "secret"}), "whsec_"),
        (json!({"url": "http://127.0.0.1/"}), "secret"),
        (json!({"url": "http://127.0.0.1/", "secret": SECRET, "colour": "blue"}), "colour"),
    ];
    for (webhook, reason) in wrong {
        let answer = harness.put_webhook(&webhook).await;
        assert!(answer.status().is_client_error(), "{webhook}");
        let body = parse(&answer.text().await.unwrap());
        assert!(body["error"].as_str().unwrap().contains(reason), "{webhook}: {body}");
    }
}

#[tokio::test]
async fn what_is_still_to_be_sent_ends_with_the_server() {
    let harness = Harness::start().await;
    let (url, mut events, _stop) = receiver(0).await;
    harness.put_webhook(&json!({"url": url, "secret": SECRET})).await;
    harness.create("+vtime=3600s").await;
    harness.shutdown.cancel();
    harness.tasks.close();
    timeout(PATIENCE, harness.tasks.wait()).await.unwrap();
    assert!(events.try_recv().is_err());
}
