use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::timeout;

use super::{
    super::super::{
        knobs::{
            Knobs, Trouble, suffix,
            video::{Content, Idempotency, PromptTelling, VideoKnobs, WebhookSending},
        },
        served::{Operation, Outcome},
    },
    Harness, json_of, parse, refused,
};

#[test]
fn every_knob_of_videos_has_its_place_in_the_name() {
    let knobs = "sora-2+vtime=5s+short=2s+idempotency=off+content=garbage+bandwidth=65536+webhook=twice+prompt=hidden\
                 +tear=created";
    let video = VideoKnobs {
        time: Some(Duration::from_secs(5)),
        short_s: Some(2),
        idempotency: Some(Idempotency::Off),
        content: Some(Content::Garbage),
        content_bytes_per_second: Some(65_536),
        webhook: Some(WebhookSending::Twice),
        prompt: Some(PromptTelling::Hidden),
    };
    let expected = Knobs { video, trouble: Some(Trouble::TearCreated), ..Knobs::default() };
    assert_eq!(suffix::parse(knobs), Ok(("sora-2", expected)));
    let trouble = |knob: &str| suffix::parse(&format!("m+{knob}")).unwrap().1.trouble.unwrap();
    assert_eq!(trouble("fail=late"), Trouble::FailLate);
    assert_eq!(trouble("hang=late"), Trouble::HangLate);
}

#[tokio::test]
async fn a_knob_of_videos_that_is_not_understood_is_a_400() {
    let harness = Harness::start().await;
    let wrong = [
        "+vtime=5",
        "+vtime=3601s",
        "+short=500ms",
        "+short=60s",
        "+short=2",
        "+idempotency=no",
        "+content=huge",
        "+content=",
        "+bandwidth=0",
        "+bandwidth=1.5",
        "+webhook=thrice",
        "+fail=later",
        "+fail=late:500",
        "+tear=late",
        "+fail=late+hang=late",
        "+vtime=1s+vtime=1s",
    ];
    for knobs in wrong {
        let error = refused(harness.order(knobs, json!({})).send().await.unwrap(), 400).await;
        assert_eq!(error["param"], "model", "{knobs}: {error}");
    }
}

#[tokio::test]
async fn a_knob_says_how_long_a_video_takes() {
    let harness = Harness::start().await;
    let at_once = harness.create("+vtime=0s").await;
    assert_eq!(harness.video(&at_once).await["status"], "completed");
    let begin = Instant::now();
    let later = harness.create("+vtime=300ms").await;
    harness.video_once(&later, "completed").await;
    assert!(begin.elapsed() >= Duration::from_millis(300));
    let long = harness.create("+vtime=3600s").await;
    harness.video_once(&long, "in_progress").await;
}

#[tokio::test]
async fn a_failure_before_the_answer_creates_nothing() {
    let harness = Harness::start().await;
    let error = refused(harness.order("+fail=before:429", json!({})).send().await.unwrap(), 429).await;
    assert_eq!(error["code"], "rate_limit_exceeded");
    let silence = timeout(Duration::from_millis(100), harness.order("+hang=before", json!({})).send()).await;
    assert!(silence.is_err(), "{silence:?}");
    assert_eq!(harness.served(Outcome::Hung).await.operation, Operation::Videos);
    assert_eq!(harness.simulator.videos(), []);
}

#[tokio::test]
async fn a_late_failure_is_a_status_with_a_reason() {
    let harness = Harness::start().await;
    let id = harness.create("+vtime=150ms+fail=late").await;
    let failed = harness.video_once(&id, "failed").await;
    assert_eq!(failed["error"]["code"], "moderation_blocked");
    assert!(failed["completed_at"].is_i64() && failed["expires_at"].is_null(), "{failed}");
}

#[tokio::test]
async fn a_video_that_hangs_late_never_ends() {
    let harness = Harness::start().await;
    let id = harness.create("+vtime=110ms+hang=late").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let video = harness.video(&id).await;
    assert_eq!((&video["status"], &video["progress"]), (&json!("in_progress"), &json!(99)));
}

#[tokio::test]
async fn a_torn_creation_leaves_a_video_that_a_repeat_of_the_key_gets() {
    let harness = Harness::start().await;
    let order = || harness.order("+tear=created", json!({})).header("idempotency-key", "key-1").send();
    order().await.unwrap_err();
    assert_eq!(harness.served(Outcome::Torn).await.operation, Operation::Videos);
    let [created] = &harness.simulator.videos()[..] else { panic!("one was created") };
    let repeated = json_of(order().await.unwrap()).await;
    assert_eq!(repeated["id"], created.id);
    assert_eq!(harness.simulator.videos()[0].submissions, 2);
}

#[tokio::test]
async fn a_client_that_does_not_wait_for_the_answer_leaves_a_video() {
    let harness = Harness::start().await;
    let created = async {
        while harness.simulator.videos().is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        answer = harness.order("", json!({"model": "sora-2+ttft=60s"})).send() => panic!("{answer:?}"),
        () = created => {}
    }
    harness.served(Outcome::ClientLeft).await;
    assert_eq!(harness.simulator.videos().len(), 1);
}

#[tokio::test]
async fn without_idempotency_a_repeat_creates_a_second_video() {
    let harness = Harness::start().await;
    let order = || harness.order("+idempotency=off", json!({})).header("idempotency-key", "key-1").send();
    assert_ne!(json_of(order().await.unwrap()).await["id"], json_of(order().await.unwrap()).await["id"]);
    let videos = harness.simulator.videos();
    assert!(videos.len() == 2 && videos.iter().all(|video| video.idempotency_key.as_deref() == Some("key-1")));
}

#[tokio::test]
async fn a_rule_turns_the_knobs_of_videos_and_reads_back() {
    let harness = Harness::start().await;
    let rules = [
        json!({"provider": "openai", "model": "sora-2", "video_time_ms": 0, "short_s": 1, "idempotency": "off",
               "content": "truncated", "content_bytes_per_second": 1_000_000, "webhook": "twice",
               "prompt": "hidden"}),
        json!({"provider": null, "model": "sora-2-pro", "fail_late": true}),
        json!({"provider": null, "model": null, "hang_late": true}),
        json!({"provider": null, "model": null, "tear_created": true}),
    ];
    for rule in &rules {
        harness.simulator.clear_rules();
        assert_eq!(parse(&harness.put_knobs(rule).await.text().await.unwrap()), json!([rule]));
    }
    harness.simulator.clear_rules();
    harness.put_knobs(&rules[0]).await;
    let id = harness.create("").await;
    let told = harness.video(&id).await;
    assert_eq!((&told["status"], &told["prompt"]), (&json!("completed"), &json!(null)));
    let id = harness.create("+vtime=10s").await;
    assert_ne!(harness.video(&id).await["status"], "completed", "the name goes before the rule");
    for (rule, reason) in [
        (json!({"fail_late": true, "hang": true}), "at a time"),
        (json!({"short_s": 60}), "60 s"),
        (json!({"content_bytes_per_second": 0}), "one byte"),
        (json!({"content": "huge"}), "huge"),
    ] {
        let body = parse(&harness.put_knobs(&rule).await.text().await.unwrap());
        assert!(body["error"].as_str().unwrap().contains(reason), "{rule}: {body}");
    }
}
