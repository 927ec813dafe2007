//! The end of a job is told to who asked for it: signed, under one id, until it is taken.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use aihub_application::ports::{
    clock::{Clock, SystemClock},
    event_log::{EventLog, Piece, StreamAppend},
    vault::seal_needed,
};
use aihub_domain::{
    content::ContentKind,
    money::{Microcredits, PicoUsd},
    price::Charge,
    video::{
        VideoJob,
        event::{Asked, Outcome, Priority, VideoEvent, VideoRequest},
        format::{AspectRatio, Resolution},
    },
};
use aihub_infrastructure::{
    event_store::{
        reader,
        subscription::{self, Subscriptions},
        upcast::Upcasters,
    },
    standard_webhooks::WebhookMasters,
    vault::{PostgresVault, erasure::destroy_subject, master_key::MasterKey},
    webhooks::{
        deliveries::{Delivery, DeliveryFilter, DeliveryState, WebhookDeliveries, list, redeliver},
        sender::{Describe, Described, WebhookOptions, WebhookSender},
    },
};
use aihub_tests::{
    TestDatabase,
    books::now,
    database,
    log::{Node, unit},
    until,
};
use axum::{Router, body::Bytes, extract::State, response::IntoResponse};
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, TimeDelta};
use cqrs_es::Aggregate;
use futures::FutureExt;
use http::{HeaderMap, StatusCode, Uri};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

const MASTER: &[u8] = &[1; 32];
const FORMER_MASTER: &[u8] = &[2; 32];

/// A message as the receiver saw it.
struct Seen {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Seen {
    fn id(&self) -> &str {
        self.headers["webhook-id"].to_str().unwrap()
    }

    /// Whether the crate of the specification believes it.
    fn is_of(&self, master: &[u8], account: &str) -> bool {
        let secrets = WebhookMasters::new(master, []).unwrap().secrets(account);
        standardwebhooks::Webhook::new(&secrets[0].reveal()).unwrap().verify(&self.body, &self.headers).is_ok()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Answers `/500` with that status, `/hang` never, and anything else with 204.
struct Receiver {
    url: String,
    seen: mpsc::UnboundedReceiver<Seen>,
    _tasks: JoinSet<()>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, seen) = mpsc::unbounded_channel();
        let router = Router::new().fallback(receive).with_state(sender);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, seen, _tasks: tasks }
    }

    async fn seen(&mut self) -> Seen {
        tokio::time::timeout(aihub_tests::PATIENCE, self.seen.recv()).await.unwrap().unwrap()
    }
}

async fn receive(
    State(sender): State<mpsc::UnboundedSender<Seen>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> impl IntoResponse {
    let path = uri.path().to_owned();
    sender.send(Seen { path: path.clone(), headers, body }).unwrap();
    if path == "/hang" {
        std::future::pending::<()>().await;
    }
    path.trim_start_matches('/')
        .parse()
        .ok()
        .and_then(|status| StatusCode::from_u16(status).ok())
        .unwrap_or(StatusCode::NO_CONTENT)
}

struct World {
    database: TestDatabase,
    node: Node,
    vault: PostgresVault,
}

impl World {
    async fn new() -> Self {
        let database = database().await;
        let node = Node::start(&database.database);
        let vault = vault(&database);
        Self { database, node, vault }
    }

    async fn append(&self, video_id: &str, after: u64, events: &[VideoEvent], contents: Vec<Piece>) {
        let stream = StreamAppend::of::<VideoJob>(video_id, after, events).unwrap();
        self.node.append(unit([stream.with(contents)])).await.unwrap();
    }

    async fn request(&self, video_id: &str, account: &str, webhook_url: Option<&str>) {
        let content = json!({ "prompt": "a calm ocean", "style": null, "webhookUrl": webhook_url }).to_string();
        let sealed = seal_needed(&self.vault, account, ContentKind::Video, content.as_bytes()).await.unwrap();
        let request = VideoRequest {
            account: account.to_owned(),
            user: "ann".to_owned(),
            provider: "auto".to_owned(),
            model: None,
            seconds: 8,
            resolution: Resolution::P720,
            aspect_ratio: AspectRatio::Wide,
            priority: Priority::Standard,
            offers: vec![],
            reserved_microcredits: Microcredits(10),
            queued_until: now() + TimeDelta::minutes(5),
            session_id: None,
            workflow_id: None,
            has_webhook: webhook_url.is_some(),
            content: sealed.content,
            requested_at: now(),
        };
        self.append(video_id, 0, &[VideoEvent::VideoRequested(Box::new(request))], sealed.pieces).await;
    }

    /// A job that asked for a webhook, and failed.
    async fn failed(&self, video_id: &str, account: &str, webhook_url: &str) {
        self.request(video_id, account, Some(webhook_url)).await;
        let end =
            VideoEvent::VideoFailed { asked: asked(account), code: "moderation_blocked".into(), failed_at: now() };
        self.append(video_id, 1, &[end], vec![]).await;
    }

    /// Reads the log to its end.
    async fn catch_up(&self) {
        let (stop, upcasters) = (CancellationToken::new(), Arc::new(Upcasters::default()));
        let subscriptions =
            Subscriptions::start(self.database.database.clone(), upcasters, TaskTracker::new(), stop.clone());
        let head = reader::head(self.database.pool()).await.unwrap().position;
        subscriptions.run_until(Arc::new(WebhookDeliveries), head).await.unwrap();
        stop.cancel();
    }

    /// One that tells, until the guard is dropped.
    fn tell(&self, allow_private: bool) -> (DropGuard, JoinSet<()>) {
        let log = self.node.log.clone();
        let describe: Describe = Arc::new(move |kind, id| {
            let log = log.clone();
            async move {
                let mut job = VideoJob::default();
                for event in log.load(kind.as_str(), &id, 0).await? {
                    job.evolve(&event.decode(VideoJob::TYPE, &id)?);
                }
                let data = json!({ "videoId": id, "status": job.status().as_str() });
                Ok(job.request().map(|request| Described { content: request.content.clone(), data }))
            }
            .boxed()
        });
        let masters = WebhookMasters::new(MASTER, [FORMER_MASTER]).unwrap();
        let sender = WebhookSender::new(
            self.database.pool().clone(),
            Arc::new(vault(&self.database)),
            Arc::new(SystemClock),
            describe,
            WebhookOptions { allow_private, masters },
        );
        let (sender, stop) = (Arc::new(sender.unwrap()), CancellationToken::new());
        let mut tasks = JoinSet::new();
        let stopped = stop.clone();
        tasks.spawn(sender.run(stopped));
        (stop.drop_guard(), tasks)
    }

    async fn deliveries(&self) -> Vec<Delivery> {
        list(self.database.pool(), DeliveryFilter::default(), 100).await.unwrap()
    }

    async fn all_over(&self) -> Vec<Delivery> {
        until("nothing is pending", async || {
            let all = self.deliveries().await;
            all.iter().all(|one| one.state != DeliveryState::Pending.as_str()).then_some(all)
        })
        .await
    }

    /// As if the time until the next attempt had gone by.
    async fn wait_is_over(&self) {
        let hurry = "UPDATE webhook_deliveries SET next_attempt_at = now() WHERE state = 'pending'";
        sqlx::query(hurry).execute(self.database.pool()).await.unwrap();
    }
}

fn vault(database: &TestDatabase) -> PostgresVault {
    let master = MasterKey::from_base64(&STANDARD.encode([1; 32])).unwrap();
    PostgresVault::new(database.pool().clone(), master, Arc::new(SystemClock))
}

fn asked(account: &str) -> Asked {
    Asked {
        account: account.to_owned(),
        user: "ann".to_owned(),
        provider: "auto".to_owned(),
        model: "sora-2".to_owned(),
        seconds: 8,
        resolution: Resolution::P720,
    }
}

fn completed(account: &str) -> VideoEvent {
    let charge = Charge { price_id: None, cost: PicoUsd(1), list: Microcredits(1), amount: Microcredits(1) };
    let outcome = Outcome { provider: "simulated".into(), model: "sora-2".into(), seconds: 8, charge };
    VideoEvent::VideoCompleted { asked: asked(account), outcome: Box::new(outcome), completed_at: now() }
}

#[tokio::test]
async fn every_end_is_told_to_who_asked_for_it_and_signed_with_both_secrets() {
    let world = World::new().await;
    let mut receiver = Receiver::start().await;
    let (asked, at) = (asked("acme"), now());
    let ends = [
        ("video.completed", completed("acme")),
        ("video.failed", VideoEvent::VideoFailed { asked: asked.clone(), code: "x".into(), failed_at: at }),
        ("video.cancelled", VideoEvent::VideoCancelled { asked: asked.clone(), actor: "ann".into(), cancelled_at: at }),
        ("video.expired", VideoEvent::VideoExpired { asked: asked.clone(), reason: "late".into(), expired_at: at }),
    ];
    for (event_type, end) in &ends {
        world.request(event_type, "acme", Some(&format!("{}/hook", receiver.url))).await;
        world.catch_up().await;
        world.append(event_type, 1, std::slice::from_ref(end), vec![]).await;
    }
    world.request("nobody-asked", "acme", None).await;
    world.append("nobody-asked", 1, &[completed("acme")], vec![]).await;
    world.request("still-open", "acme", Some(&receiver.url)).await;
    world.catch_up().await;

    let _sender = world.tell(true);
    let mut told = BTreeMap::new();
    for _ in &ends {
        let seen = receiver.seen().await;
        assert!(seen.is_of(MASTER, "acme") && seen.is_of(FORMER_MASTER, "acme"));
        assert!(!seen.is_of(MASTER, "globex") && !seen.is_of(&[3; 32], "acme"));
        assert_eq!(
            (seen.path.as_str(), &seen.headers["content-type"]),
            ("/hook", &"application/json".parse().unwrap())
        );
        let message = seen.json();
        let status = message["type"].as_str().unwrap().strip_prefix("video.").unwrap();
        assert_eq!(message["data"], json!({ "videoId": message["type"], "status": status }));
        let age = now() - message["timestamp"].as_str().unwrap().parse::<DateTime<chrono::Utc>>().unwrap();
        assert!(age < TimeDelta::minutes(1), "{age}");
        told.insert(message["type"].as_str().unwrap().to_owned(), seen.id().to_owned());
    }
    assert_eq!(told.keys().map(String::as_str).collect::<HashSet<_>>(), ends.map(|(event_type, _)| event_type).into());
    assert_eq!(told.values().collect::<HashSet<_>>().len(), 4, "each has an id of its own");
    let over = world.all_over().await;
    assert!(over.iter().all(|one| (one.state.as_str(), one.attempts, one.last_status) == ("delivered", 1, Some(204))));
    assert_eq!(over.len(), 4);
    assert!(receiver.seen.try_recv().is_err(), "nothing else was told");
}

#[tokio::test]
async fn what_is_not_taken_is_told_again_under_the_same_id_until_a_day_is_over() {
    let world = World::new().await;
    let mut receiver = Receiver::start().await;
    world.failed("video-1", "acme", &format!("{}/500", receiver.url)).await;
    world.catch_up().await;
    let _sender = world.tell(true);
    let first = receiver.seen().await;
    let waiting =
        async |attempts| {
            until("the attempt is written down", async || {
                world.deliveries().await.into_iter().find(|one| {
                    one.attempts == attempts && one.changed_at > one.occurred_at && one.last_status.is_some()
                })
            })
            .await
        };
    let delivery = waiting(1).await;
    assert_eq!((delivery.state.as_str(), delivery.last_error.as_deref()), ("pending", Some("status")));
    let wait = delivery.next_attempt_at - delivery.changed_at;
    assert!(wait >= TimeDelta::seconds(5) && wait < TimeDelta::seconds(7), "{wait}");

    world.wait_is_over().await;
    let second = receiver.seen().await;
    assert_eq!((second.id(), &second.body), (first.id(), &first.body));
    assert!(second.is_of(MASTER, "acme"));

    waiting(2).await;
    let last = "UPDATE webhook_deliveries SET next_attempt_at = now(), give_up_at = now() + interval '1 minute'";
    sqlx::query(last).execute(world.database.pool()).await.unwrap();
    let over = world.all_over().await;
    assert_eq!((over[0].state.as_str(), over[0].attempts, over[0].last_status), ("given_up", 3, Some(500)));
    assert_eq!(receiver.seen().await.id(), first.id());
}

#[tokio::test]
async fn who_does_not_want_it_is_left_alone_until_it_is_to_be_told_again() {
    let world = World::new().await;
    let mut receiver = Receiver::start().await;
    world.failed("video-1", "acme", &format!("{}/410", receiver.url)).await;
    world.catch_up().await;
    let _sender = world.tell(true);
    let first = receiver.seen().await;
    let over = world.all_over().await;
    assert_eq!((over[0].state.as_str(), over[0].attempts, over[0].last_status), ("given_up", 1, Some(410)));

    assert!(redeliver(world.database.pool(), "video-1").await.unwrap());
    assert_eq!(receiver.seen().await.id(), first.id());
    assert!(!redeliver(world.database.pool(), "video-2").await.unwrap());
}

#[tokio::test]
async fn what_cannot_or_must_not_be_told_is_given_up_and_says_why() {
    let world = World::new().await;
    let mut receiver = Receiver::start().await;
    world.failed("private", "acme", &receiver.url).await;
    world.failed("erased", "globex", "https://hooks.example/").await;
    let mut transaction = world.database.pool().begin().await.unwrap();
    destroy_subject(&mut transaction, "globex", SystemClock.now()).await.unwrap();
    transaction.commit().await.unwrap();
    world.catch_up().await;
    let _sender = world.tell(false);
    let over = world.all_over().await;
    let reasons: BTreeMap<_, _> =
        over.iter().map(|one| (one.job_id.as_str(), (one.state.as_str(), one.last_error.as_deref()))).collect();
    let expected = [("private", ("given_up", Some("refused_url"))), ("erased", ("given_up", Some("erased")))];
    assert_eq!(reasons, expected.into());
    assert!(receiver.seen.try_recv().is_err());
}

#[tokio::test]
async fn several_nodes_tell_everything_once() {
    let world = World::new().await;
    let mut receiver = Receiver::start().await;
    for nth in 0..60 {
        world.failed(&format!("video-{nth}"), "acme", &receiver.url).await;
    }
    world.catch_up().await;
    let _senders = [world.tell(true), world.tell(true), world.tell(true)];
    let mut ids = HashSet::new();
    for _ in 0..60 {
        assert!(ids.insert(receiver.seen().await.id().to_owned()));
    }
    let over = world.all_over().await;
    assert!(over.iter().all(|one| one.attempts == 1));
    assert!(receiver.seen.try_recv().is_err());
}

#[tokio::test]
async fn what_a_node_left_behind_is_told_by_another_once_its_lease_is_over() {
    let world = World::new().await;
    let mut receiver = Receiver::start().await;
    world.failed("video-1", "acme", &format!("{}/hang", receiver.url)).await;
    world.catch_up().await;
    let (_guard, mut dying) = world.tell(true);
    let first = receiver.seen().await;
    dying.abort_all();
    while dying.join_next().await.is_some() {}
    let leased = world.deliveries().await.remove(0);
    assert!(leased.next_attempt_at - now() > TimeDelta::seconds(20), "nobody else takes it meanwhile");
    world.wait_is_over().await;
    let _sender = world.tell(true);
    assert_eq!(receiver.seen().await.id(), first.id());
}

#[tokio::test]
async fn a_receiver_that_hangs_keeps_only_its_own_account_waiting() {
    let world = World::new().await;
    let mut receiver = Receiver::start().await;
    for nth in 0..40 {
        world.failed(&format!("slow-{nth}"), "slow", &format!("{}/hang", receiver.url)).await;
    }
    world.failed("quick", "quick", &format!("{}/quick", receiver.url)).await;
    world.catch_up().await;
    let _sender = world.tell(true);
    let mut before = 0;
    while receiver.seen().await.path != "/quick" {
        before += 1;
    }
    assert!(before < 32, "it was among the first that one node tells at a time, not behind {before}");
}

#[tokio::test]
async fn a_log_that_is_read_again_brings_nothing_that_was_told_and_nothing_that_is_old() {
    let world = World::new().await;
    world.failed("video-1", "acme", "https://hooks.example/").await;
    world.request("old", "acme", Some("https://hooks.example/")).await;
    let failed_at = now() - TimeDelta::days(31);
    let failed = VideoEvent::VideoFailed { asked: asked("acme"), code: "x".into(), failed_at };
    world.append("old", 1, &[failed], vec![]).await;
    world.catch_up().await;
    let before = world.deliveries().await;
    assert_eq!(before.iter().map(|one| one.job_id.as_str()).collect::<Vec<_>>(), ["video-1"]);
    subscription::reset(world.database.pool(), "webhook-deliveries").await.unwrap();
    world.catch_up().await;
    assert_eq!(world.deliveries().await, before);
    let awaited: i64 =
        sqlx::query_scalar("SELECT count(*) FROM awaited_webhooks").fetch_one(world.database.pool()).await.unwrap();
    assert_eq!(awaited, 0);
}
