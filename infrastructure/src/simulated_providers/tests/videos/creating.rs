use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    super::super::{
        SimulatedProvider,
        films::Size,
        knobs::Knobs,
        models,
        served::Outcome,
        videos::{
            CreatedVideo, Order, VideoStatus,
            store::{MAX_VIDEOS, Submission, Submitted, Videos},
        },
    },
    Harness, PROMPT, header, json_of, refused,
};

#[tokio::test]
async fn a_video_is_queued_then_in_progress_then_completed() {
    let harness = Harness::start().await;
    let begin = Instant::now();
    let created = harness.order("", json!({})).send().await.unwrap();
    let wait_ms: u64 = header(&created, "openai-poll-after-ms").unwrap().parse().unwrap();
    assert!((100..=1_000).contains(&wait_ms), "{wait_ms}");
    assert_eq!(header(&created, "x-simulated"), Some("true"));
    let created = json_of(created).await;
    let fields = [
        "id",
        "object",
        "created_at",
        "completed_at",
        "expires_at",
        "status",
        "progress",
        "model",
        "prompt",
        "seconds",
        "size",
        "remixed_from_video_id",
        "error",
    ];
    assert_eq!(super::super::keys(&created), super::super::sorted(fields));
    assert_eq!((&created["status"], &created["progress"]), (&json!("queued"), &json!(0)));
    assert_eq!((&created["object"], &created["model"]), (&json!("video"), &json!("sora-2")));
    assert_eq!(
        (&created["prompt"], &created["seconds"], &created["size"]),
        (&json!(PROMPT), &json!("2"), &json!("64x36"))
    );
    let id = created["id"].as_str().unwrap();
    assert!(id.starts_with("video_sim"), "{id}");

    let mut progress = vec![];
    let completed = loop {
        let answer = harness.videos(Method::GET, &format!("/{id}")).send().await.unwrap();
        let may_poll = header(&answer, "openai-poll-after-ms").is_some();
        let video = json_of(answer).await;
        assert_eq!(may_poll, video["status"] != "completed", "{video}");
        if video["status"] == "completed" {
            break video;
        }
        progress.push(video["progress"].as_u64().unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(begin.elapsed() >= Duration::from_millis(1_100), "{:?}", begin.elapsed());
    assert!(progress.is_sorted() && progress.iter().any(|percent| (20..80).contains(percent)), "{progress:?}");
    assert_eq!((&completed["progress"], &completed["error"]), (&json!(100), &Value::Null));
    let (created_at, completed_at) = (&completed["created_at"], &completed["completed_at"]);
    assert!((1..=2).contains(&(completed_at.as_i64().unwrap() - created_at.as_i64().unwrap())));
    assert_eq!(completed["expires_at"].as_i64().unwrap(), completed_at.as_i64().unwrap() + 3_600);
}

#[tokio::test]
async fn a_repeated_key_gets_the_video_that_it_created() {
    let harness = Harness::start().await;
    let order = |knobs: &str, more: Value, key: &str, request: &str| {
        let order = harness.order(knobs, more).header("idempotency-key", key);
        order.header("x-client-request-id", request).send()
    };
    let first = json_of(order("", json!({}), "key-1", "request-1").await.unwrap()).await;
    let again = json_of(order("", json!({}), "key-1", "request-2").await.unwrap()).await;
    assert_eq!(first["id"], again["id"]);
    let other = json_of(order("", json!({}), "key-2", "request-3").await.unwrap()).await;
    assert_ne!(first["id"], other["id"]);
    for (knobs, more) in [("", json!({"prompt": "x"})), ("", json!({"seconds": "3"})), ("+vtime=2s", json!({}))] {
        let error = refused(order(knobs, more, "key-1", "request-4").await.unwrap(), 400).await;
        assert_eq!(error["code"], "idempotency_key_reused");
    }

    let videos = harness.simulator.videos();
    let [one, two] = &videos[..] else { panic!("{videos:?}") };
    assert_eq!((one.idempotency_key.as_deref(), one.submissions), (Some("key-1"), 2));
    assert_eq!(one.client_request_id.as_deref(), Some("request-1"));
    assert_eq!(
        (one.prompt.as_str(), one.model.as_str(), one.seconds, one.size.as_str()),
        (PROMPT, "sora-2", 2, "64x36")
    );
    assert_eq!((two.idempotency_key.as_deref(), two.submissions, two.downloads), (Some("key-2"), 1, 0));
    let listed = harness.request(Method::GET, "/admin/videos").send().await.unwrap();
    let listed: Vec<CreatedVideo> = listed.json().await.unwrap();
    assert_eq!(listed.iter().map(|video| &video.id).collect::<Vec<_>>(), [&one.id, &two.id]);
    let since = format!("/admin/videos?since={}", one.call);
    let since: Vec<CreatedVideo> = harness.request(Method::GET, &since).send().await.unwrap().json().await.unwrap();
    assert_eq!(since.iter().map(|video| &video.id).collect::<Vec<_>>(), [&two.id]);
    let calls = harness.simulator.ledger().calls_since(0);
    assert_eq!(calls.iter().map(|call| call.outcome).collect::<Vec<_>>()[..3], [Outcome::Completed; 3]);
    assert_eq!((calls.len(), calls[3].status), (6, 400));
}

#[tokio::test]
async fn of_calls_at_the_same_time_with_one_key_one_creates_a_video() {
    let harness = Harness::start().await;
    let orders = (0..20).map(|_| harness.order("", json!({})).header("idempotency-key", "key-1").send());
    for answer in futures::future::join_all(orders).await {
        assert_eq!(answer.unwrap().status(), 200);
    }
    let [video] = &harness.simulator.videos()[..] else { panic!("one was created") };
    assert_eq!(video.submissions, 20);
}

#[test]
fn over_the_limit_the_oldest_videos_and_their_keys_are_forgotten() {
    let videos = Videos::default();
    let settings = Knobs::default().settle();
    let submit = |call: u64, key: &str| {
        let order = Order {
            prompt: PROMPT.to_owned(),
            model: models::find(SimulatedProvider::OpenAi, "sora-2").unwrap(),
            knobs: Knobs::default(),
            seconds: 4,
            size: Size { width: 64, height: 36 },
        };
        let idempotency_key = Some(key.into());
        videos.submit(Submission { call, order, idempotency_key, client_request_id: None, settings: &settings })
    };
    let limit = MAX_VIDEOS as u64;
    for call in 1..=limit + 1 {
        assert!(matches!(submit(call, &format!("key-{call}")), Submitted::Created(_)));
    }
    assert_eq!(
        videos.created_since(0).map(|video| video.call).collect::<Vec<_>>(),
        (2..=limit + 1).collect::<Vec<_>>()
    );
    assert!(matches!(submit(limit + 2, "key-3"), Submitted::Repeated(first) if first.call == 3));
    assert!(matches!(submit(limit + 2, "key-1"), Submitted::Created(_)));
}

#[tokio::test]
async fn without_a_key_each_call_creates_a_video() {
    let harness = Harness::start().await;
    assert_ne!(harness.create("").await, harness.create("").await);
}

#[tokio::test]
async fn videos_are_listed_in_pages_the_newest_first_or_last() {
    let harness = Harness::start().await;
    let mut ids = vec![];
    for _ in 0..5 {
        ids.push(harness.create("").await);
    }
    let page = async |query: &str| {
        let page = json_of(harness.videos(Method::GET, query).send().await.unwrap()).await;
        let of: Vec<String> =
            page["data"].as_array().unwrap().iter().map(|video| video["id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(page["first_id"].as_str(), of.first().map(String::as_str));
        assert_eq!(page["last_id"].as_str(), of.last().map(String::as_str));
        assert_eq!(page["object"], "list");
        (of, page["has_more"].as_bool().unwrap())
    };
    let newest_first: Vec<String> = ids.iter().rev().cloned().collect();
    assert_eq!(page("").await, (newest_first.clone(), false));
    assert_eq!(page("?limit=2").await, (newest_first[..2].to_vec(), true));
    assert_eq!(page(&format!("?limit=2&after={}", newest_first[1])).await, (newest_first[2..4].to_vec(), true));
    assert_eq!(page(&format!("?limit=2&after={}", newest_first[3])).await, (newest_first[4..].to_vec(), false));
    assert_eq!(page("?limit=3&order=asc").await, (ids[..3].to_vec(), true));
    assert_eq!(page(&format!("?order=asc&after={}", ids[2])).await, (ids[3..].to_vec(), false));
    assert_eq!(page(&format!("?order=asc&after={}", ids[4])).await, (vec![], false));
    for (query, status) in
        [("?limit=0", 400), ("?limit=101", 400), ("?limit=x", 400), ("?order=up", 400), ("?after=x", 404)]
    {
        refused(harness.videos(Method::GET, query).send().await.unwrap(), status).await;
    }
}

#[tokio::test]
async fn a_deleted_video_is_gone_but_for_the_audit() {
    let harness = Harness::start().await;
    let id = harness.create("").await;
    let path = format!("/{id}");
    let deleted = json_of(harness.videos(Method::DELETE, &path).send().await.unwrap()).await;
    assert_eq!(deleted, json!({"id": id, "object": "video.deleted", "deleted": true}));
    for gone in [(Method::GET, path.clone()), (Method::DELETE, path.clone()), (Method::GET, format!("{path}/content"))]
    {
        let error = refused(harness.videos(gone.0, &gone.1).send().await.unwrap(), 404).await;
        assert_eq!(error["code"], "video_not_found");
    }
    let list = json_of(harness.videos(Method::GET, "").send().await.unwrap()).await;
    assert_eq!((&list["data"], &list["first_id"]), (&json!([]), &Value::Null));
    let [video] = &harness.simulator.videos()[..] else { panic!("one was created") };
    assert!(video.deleted && video.status != VideoStatus::Completed, "{video:?}");
}
