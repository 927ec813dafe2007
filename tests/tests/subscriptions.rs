//! What a socket subscribes to: the present state first, then every change.

use std::time::{Duration, Instant};

use aihub::config::amount::Credits;
use aihub_domain::money::Microcredits;
use aihub_tests::{
    app::TestApp,
    client::{Client, chat, microcredits},
    until,
};
use chrono::TimeDelta;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    videos::{ended, generate, in_state, says_where_it_waits, video},
    workflows::{DOOR, names, start, workflow},
};

async fn subscribe(client: &mut Client, topics: &Value) {
    client.send(&json!({ "type": "subscribe", "topics": topics })).await;
    assert_eq!(client.next().await, json!({ "type": "subscribed", "topics": topics }));
}

/// The next frame of this type; others are passed over.
async fn next(client: &mut Client, kind: &str) -> Value {
    loop {
        let frame = client.next().await;
        says_where_it_waits(&frame["video"]);
        if frame["type"] == kind {
            return frame;
        }
        assert_ne!(frame["type"], "error", "{frame}");
    }
}

/// The next states of a job, until it is in `last`; that frame's video as well.
async fn states(client: &mut Client, video_id: &str, last: &str) -> (Vec<String>, Value) {
    let mut states = Vec::new();
    loop {
        let video = next(client, "video").await["video"].take();
        assert_eq!(video["videoId"], video_id, "{video}");
        states.push(video["state"].as_str().unwrap().to_owned());
        if video["state"] == last {
            return (states, video);
        }
    }
}

/// Reads balances until one is this. Returns how many there were.
async fn balance(client: &mut Client, expected: i64) -> usize {
    let mut seen = Vec::new();
    while seen.last() != Some(&expected) {
        seen.push(microcredits(&next(client, "credits").await["available"]));
    }
    seen.len()
}

/// Reads until a video is there and the balance is this one.
async fn made_and_paid(client: &mut Client, available: i64) {
    let (mut states, mut completed, mut last) = (Vec::new(), false, None);
    while !completed || last != Some(available) {
        let frame = client.next().await;
        if frame["type"] == "video" {
            states.push(frame["video"]["state"].as_str().unwrap().to_owned());
            completed = frame["video"]["url"].is_string();
        } else if frame["type"] == "credits" {
            last = Some(microcredits(&frame["available"]));
        }
    }
    assert_ordered(&states);
}

/// Frames of one job tell its life in this order.
fn assert_ordered(states: &[String]) {
    let order = ["queued", "submitting", "rendering", "stored", "completed"];
    let places: Vec<_> = states.iter().map(|state| order.iter().position(|known| known == state).unwrap()).collect();
    assert!(places.is_sorted(), "{states:?}");
}

#[tokio::test]
async fn a_video_is_watched_from_its_request_to_its_file_and_to_its_erasure() {
    let app = TestApp::start(|_| {}).await;
    app.providers.rule(json!({ "video_time_ms": 400 }));
    let mut client = app.connect("ada").await;
    subscribe(&mut client, &json!(["videos"])).await;
    let id = generate(&app, "ada", &video("a calm sea at sunset")).await;
    let (states, last) = states(&mut client, &id, "completed").await;
    assert_ordered(&states);
    assert!(states.contains(&"rendering".to_owned()), "{states:?}");
    // What is told is what HTTP tells, but for the URLs, which are new each time.
    let mut over_http = ended(&app, "ada", &id).await;
    for field in ["url", "thumbnailUrl"] {
        assert!(last[field].as_str().unwrap().starts_with("http"), "{last}");
        over_http[field] = last[field].clone();
    }
    assert_eq!(last, over_http);
    let path = format!("/api/mcp/sora2/{id}");
    let (deleted, _) = app.send(Method::DELETE, &path, &app.token("ada"), None, &[]).await;
    assert_eq!(deleted, StatusCode::OK);
    let erased = next(&mut client, "video").await["video"].take();
    assert_eq!((&erased["videoId"], &erased["error"]["code"]), (&json!(id), &json!("media_deleted")), "{erased}");
    app.stop().await;
}

#[tokio::test]
async fn whoever_comes_back_gets_the_present_state_first() {
    let app = TestApp::start(|_| {}).await;
    let mut client = app.connect("ada").await;
    subscribe(&mut client, &json!(["videos"])).await;
    // One that has ended is not part of the present state.
    let first = generate(&app, "ada", &video("a fast one")).await;
    states(&mut client, &first, "completed").await;
    app.providers.rule(json!({ "video_time_ms": 2_000 }));
    let id = generate(&app, "ada", &video("a slow one")).await;
    states(&mut client, &id, "rendering").await;
    drop(client);

    let mut client = app.connect("ada").await;
    client.send(&json!({ "type": "subscribe", "id": "again", "topics": ["credits", "videos"] })).await;
    let answer = json!({ "type": "subscribed", "id": "again", "topics": ["videos", "credits"] });
    assert_eq!(client.next().await, answer);
    let first = [client.next().await, client.next().await];
    let of = |kind: &str| first.iter().find(|frame| frame["type"] == kind).unwrap_or_else(|| panic!("{first:?}"));
    assert_eq!((&of("video")["video"]["videoId"], &of("video")["video"]["state"]), (&json!(id), &json!("rendering")));
    assert_eq!(microcredits(&of("credits")["available"]), microcredits(&client.ready["credits"]));
    // Once more on the same socket: it is told once more.
    subscribe(&mut client, &json!(["videos", "credits"])).await;
    let (states, last) = states(&mut client, &id, "completed").await;
    assert_eq!(states[0], "rendering", "{states:?}");
    assert!(last["url"].is_string(), "{last}");
    app.stop().await;
}

#[tokio::test]
async fn a_workflow_is_watched_from_its_start_to_its_end_and_told_to_whoever_comes_back() {
    let app = TestApp::start(|_| {}).await;
    app.providers.rule(json!({ "hang_late": true }));
    let (mut ada, mut eve) = (app.connect("ada").await, app.connect("eve").await);
    subscribe(&mut ada, &json!(["workflows"])).await;
    subscribe(&mut eve, &json!(["workflows"])).await;
    let id = start(&app, &workflow("social", "a calm sea at sunset")).await;
    let mut seen = Vec::new();
    let made = loop {
        let workflow = next(&mut ada, "workflow").await["workflow"].take();
        assert_eq!(workflow["workflowId"], json!(id), "{workflow}");
        seen.push(names(&workflow).into_iter().map(|(_, status)| status.to_owned()).collect::<Vec<_>>().join(" "));
        if workflow["steps"][1]["videoIds"].is_array() {
            break workflow;
        }
    };
    let order = ["pending pending pending", "running pending pending", "completed pending pending"];
    let order = [order.as_slice(), &["completed running pending"]].concat();
    let places: Vec<_> = seen.iter().map(|seen| order.iter().position(|known| known == seen).unwrap()).collect();
    assert!(places.is_sorted(), "{seen:?}");
    assert!(made["steps"][0]["output"]["prompt"].is_string(), "{made}");

    let mut again = app.connect("ada").await;
    subscribe(&mut again, &json!(["workflows"])).await;
    let present = next(&mut again, "workflow").await["workflow"].take();
    assert_eq!((&present["workflowId"], &present["steps"]), (&made["workflowId"], &made["steps"]));
    let (status, _) = app.post(&format!("{DOOR}/{id}/cancel"), &app.token("ada"), &json!({})).await;
    assert_eq!(status, StatusCode::OK);
    for client in [&mut ada, &mut again] {
        while next(client, "workflow").await["workflow"]["state"] != "cancelled" {}
    }
    // One of her own is the first that Eve hears of.
    let (_, own) = app.post(DOOR, &app.token("eve"), &workflow("enhance", "her own")).await;
    assert_eq!(next(&mut eve, "workflow").await["workflow"]["workflowId"], own["workflowId"]);
    app.stop().await;
}

#[tokio::test]
async fn jobs_that_wait_are_told_when_the_queue_moves_and_nobody_elses_are() {
    let app = TestApp::start(|config| {
        config.video_providers.get_mut("sora").unwrap().limits.max_concurrency = 1;
        config.credits.welcome = Some(Credits(Microcredits::from_credits(100_000)));
    })
    .await;
    app.providers.rule(json!({ "hang_late": true }));
    let mut client = app.connect("ada").await;
    subscribe(&mut client, &json!(["videos"])).await;
    let mut ids = Vec::new();
    for nth in 0..4 {
        ids.push(generate(&app, "ada", &video(&format!("{nth}"))).await);
        generate(&app, "bob", &video(&format!("{nth}"))).await;
    }
    // Account by account in turn; of hers one is made and three wait, of Bob's all four.
    let positions = |frame: &Value| frame["positions"].as_object().unwrap().clone();
    let before = loop {
        let positions = positions(&next(&mut client, "queue").await);
        if positions.len() == 3 {
            break positions;
        }
    };
    assert!(before.keys().all(|id| ids[1..].contains(id)), "{before:?}");
    app.post(&format!("/api/mcp/sora2/{}/cancel", ids[1]), &app.token("ada"), &json!({})).await;
    let after = loop {
        let positions = positions(&next(&mut client, "queue").await);
        if !positions.contains_key(&ids[1]) {
            break positions;
        }
    };
    for id in &ids[2..] {
        assert!(after[id].as_u64() < before[id].as_u64(), "{before:?} {after:?}");
    }
    app.stop().await;
}

#[tokio::test]
async fn nobody_sees_the_jobs_of_another_account_or_of_another_user() {
    let app = TestApp::start(|_| {}).await;
    app.grant("acme", Microcredits::from_credits(10_000)).await;
    let token = |user: &str, account: &str| app.token_for(user, account, TimeDelta::hours(1));
    let mut ann = Client::connect(app.address, &token("ann", "acme")).await;
    subscribe(&mut ann, &json!(["videos"])).await;
    generate(&app, "eve", &video("another account's")).await;
    let (status, of_bob) = app.post("/api/mcp/sora2/generate", &token("bob", "acme"), &video("a colleague's")).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{of_bob}");
    until("Bob's video is there", async || {
        let path = format!("/api/mcp/sora2/status/{}?wait=10", of_bob["videoId"].as_str().unwrap());
        let (_, _, answer) = app.get(&path, Some(&token("bob", "acme"))).await;
        (answer["status"] == "completed").then_some(())
    })
    .await;
    // Neither as they happen nor as the present state.
    app.providers.rule(json!({ "video_time_ms": 2_000 }));
    app.post("/api/mcp/sora2/generate", &token("bob", "acme"), &video("one that lasts")).await;
    let (status, of_ann) = app.post("/api/mcp/sora2/generate", &token("ann", "acme"), &video("her own")).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{of_ann}");
    let id = of_ann["videoId"].as_str().unwrap();
    states(&mut ann, id, "rendering").await;
    subscribe(&mut ann, &json!(["videos"])).await;
    states(&mut ann, id, "completed").await;
    app.stop().await;
}

#[tokio::test]
async fn the_balance_is_told_after_a_grant_a_chat_and_a_video() {
    let app = TestApp::start(|_| {}).await;
    let mut client = app.connect("ada").await;
    let mut available = microcredits(&client.ready["credits"]);
    subscribe(&mut client, &json!(["credits"])).await;
    balance(&mut client, available).await;

    app.grant("ada", Microcredits::from_credits(5)).await;
    available += Microcredits::from_credits(5).0;
    balance(&mut client, available).await;

    // A renewed token is the same subscriber.
    client.send(&json!({ "type": "auth", "token": app.token("ada") })).await;
    next(&mut client, "auth").await;
    available -= app.connect("ada").await.ask(&chat("a", "Why?")).await.charged();
    balance(&mut client, available).await;

    let id = generate(&app, "ada", &video("a calm sea at sunset")).await;
    available -= microcredits(&ended(&app, "ada", &id).await["creditsUsed"]);
    balance(&mut client, available).await;
    until("the view shows the same", async || {
        let (_, _, credits) = app.get("/api/credits", Some(&app.token("ada"))).await;
        (credits["held"] == 0.0 && microcredits(&credits["available"]) == available).then_some(())
    })
    .await;

    client.send(&json!({ "type": "unsubscribe", "topics": ["credits"] })).await;
    assert_eq!(next(&mut client, "subscribed").await["topics"], json!([]));
    client.send(&chat("b", "Why?")).await;
    while client.next().await["type"] != "done" {}
    // The charge is durable, and nothing of it was told before or is now.
    client.send(&json!({ "type": "ping" })).await;
    assert_eq!(client.next().await["type"], "pong");
    app.stop().await;
}

#[tokio::test]
async fn a_balance_that_changes_all_the_time_is_told_five_times_a_second() {
    let app = TestApp::start(|_| {}).await;
    let mut client = app.connect("ada").await;
    let before = microcredits(&client.ready["credits"]);
    subscribe(&mut client, &json!(["credits"])).await;
    let started = Instant::now();
    for _ in 0..100 {
        app.grant("ada", Microcredits(1)).await;
    }
    let told = balance(&mut client, before + 100).await;
    let allowed = started.elapsed().as_millis() / 200 + 2;
    assert!(told as u128 <= allowed, "{told} in {:?}", started.elapsed());
    app.stop().await;
}

#[tokio::test]
async fn a_topic_that_there_is_not_is_refused_and_nothing_is_subscribed() {
    let app = TestApp::start(|_| {}).await;
    let mut client = app.connect("ada").await;
    client.send(&json!({ "type": "subscribe", "id": "a", "topics": ["credits", "weather"] })).await;
    let refused = client.next().await;
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!("a"), &json!("VALIDATION_ERROR")), "{refused}");
    let faults = json!([{ "field": "topics[1]", "reason": "is not a topic; there are videos, workflows, credits" }]);
    assert_eq!(refused["error"]["details"]["fields"], faults, "{refused}");
    client.send(&json!({ "type": "unsubscribe", "topics": ["videos"] })).await;
    assert_eq!(client.next().await, json!({ "type": "subscribed", "topics": [] }));
    app.stop().await;
}

#[tokio::test]
async fn a_job_is_watched_on_whichever_node() {
    let one = TestApp::start(|_| {}).await;
    let other = TestApp::start_on(&one.database, &one.providers, |_| {}).await;
    // One of them drives the job, the other one does not.
    let mut clients = [one.connect("ada").await, other.connect("ada").await];
    for client in &mut clients {
        subscribe(client, &json!(["videos", "credits"])).await;
    }
    let available = microcredits(&clients[0].ready["credits"]);
    let id = generate(&one, "ada", &video("a calm sea at sunset")).await;
    let charged = microcredits(&ended(&other, "ada", &id).await["creditsUsed"]);
    for client in &mut clients {
        made_and_paid(client, available - charged).await;
    }
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn answers_stream_on_while_a_video_is_watched() {
    let app = TestApp::start(|_| {}).await;
    app.providers.rule(json!({ "video_time_ms": 300, "ttft_ms": 0, "tokens_per_second": 100 }));
    let mut client = app.connect("ada").await;
    subscribe(&mut client, &json!(["videos", "credits"])).await;
    let id = generate(&app, "ada", &video("a calm sea at sunset")).await;
    client.send(&chat("a", "Tell me of the sea.")).await;
    let (mut chunks, mut ended, mut kinds, mut completed) = (0, false, Vec::new(), false);
    while !ended || !completed {
        let frame = client.next().await;
        let kind = frame["type"].as_str().unwrap().to_owned();
        match kind.as_str() {
            "chunk" => {
                chunks += 1;
                assert_eq!(frame["seq"], chunks, "{frame}");
            }
            "done" => ended = true,
            "video" => {
                assert_eq!(frame["video"]["videoId"], id.as_str());
                completed = frame["video"]["state"] == "completed";
            }
            "credits" | "queue" => {}
            _ => panic!("{frame}"),
        }
        kinds.push(kind);
    }
    let first = kinds.iter().position(|kind| kind == "chunk").unwrap();
    let last = kinds.iter().rposition(|kind| kind == "chunk").unwrap();
    assert!(kinds[first..last].iter().any(|kind| kind == "video"), "{kinds:?}");
    app.stop().await;
}

#[tokio::test]
async fn what_a_node_could_not_hear_is_told_when_it_hears_again() {
    let app = TestApp::start(|_| {}).await;
    app.providers.rule(json!({ "video_time_ms": 300, "short_s": 2 }));
    let mut client = app.connect("ada").await;
    subscribe(&mut client, &json!(["videos", "credits"])).await;
    let before = microcredits(&client.ready["credits"]);
    let id = generate(&app, "ada", &json!({ "prompt": "a short one", "duration": 8, "resolution": "720p" })).await;
    in_state(&app, "ada", &id, "rendering").await;
    // It listens again after a second, and by then the video has been made.
    let deaf = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'aihub-tail'";
    let ended_ones: i64 = sqlx::query_scalar(deaf).fetch_one(app.database.pool()).await.unwrap();
    assert_eq!(ended_ones, 1);
    let charged = microcredits(&ended(&app, "ada", &id).await["creditsUsed"]);
    // Part of what was held came back, in an event that nobody heard.
    made_and_paid(&mut client, before - charged).await;
    app.stop().await;
}

#[tokio::test]
async fn a_drain_does_not_wait_for_a_socket_that_is_only_subscribed() {
    let app = TestApp::start(|config| config.server.drain_ms = 60_000).await;
    let mut client = app.connect("ada").await;
    subscribe(&mut client, &json!(["videos", "credits"])).await;
    next(&mut client, "credits").await;
    app.shut_down();
    assert_eq!(client.closed().await.0, 1001);
    tokio::time::timeout(Duration::from_secs(30), app.stop()).await.unwrap();
}
