//! The `AsyncAPI` document says what is true: of every event, of every frame, of every topic.

use std::{collections::BTreeSet, fs, path::Path};

use aihub::{config::amount::Credits, routes::asyncapi::DOCUMENT, ws::client_frame::ClientFrame};
use aihub_domain::money::Microcredits;
use aihub_tests::{
    app::TestApp,
    client::{chat, with},
    kafka::{MockKafka, published},
};
use jsonschema::Validator;
use serde_json::{Value, json};

use super::{
    videos::{generate, video},
    workflows,
};

const NOBODY: &str = "00000000-0000-7000-8000-000000000000";

fn document() -> Value {
    serde_json::from_str(DOCUMENT).unwrap()
}

/// What `schema` says, with everything that it refers to in the document.
fn validator(schema: &Value) -> Validator {
    let root = json!({ "allOf": [schema], "components": document()["components"] });
    jsonschema::draft202012::new(&root).unwrap()
}

fn check(schema: &Value, what: &Value) {
    let validator = validator(schema);
    let faults: Vec<String> =
        validator.iter_errors(what).map(|fault| format!("{}: {fault}", fault.instance_path)).collect();
    assert!(faults.is_empty(), "{faults:#?} in {what:#}");
}

fn payload(message: &str) -> Value {
    let payload = document()["components"]["messages"][message]["payload"].clone();
    assert!(payload.is_object(), "{message} is not described");
    payload
}

/// The events that the domain pins the text of: all there are, as its own tests see to.
fn pinned(directory: &Path, events: &mut Vec<Value>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            pinned(&path, events);
        } else if path.extension().is_some_and(|extension| extension == "snap") {
            let text = fs::read_to_string(&path).unwrap();
            let json = text.splitn(3, "---").nth(2).unwrap();
            // Others pin other things.
            if let Ok(Value::Array(pinned)) = serde_json::from_str(json) {
                events.extend(pinned);
            }
        }
    }
}

#[test]
fn every_event_of_the_domain_is_described_to_the_field() {
    let mut events = Vec::new();
    pinned(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../domain/src")), &mut events);
    let mut seen = BTreeSet::new();
    for event in &events {
        let name = event.as_object().unwrap().keys().next().unwrap();
        let schema = &document()["components"]["schemas"][name];
        assert!(schema.is_object(), "{name} is not described");
        check(schema, event);
        seen.insert(name.clone());
    }
    for group in ["AccountEvent", "RequestEvent", "VideoEvent"] {
        for described in document()["components"]["schemas"][group]["oneOf"].as_array().unwrap() {
            let name = described["$ref"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
            assert!(seen.contains(&name), "{name} is described, and there is none");
        }
    }
}

/// What is told to somebody whose requests and videos wait, and whose workflow goes on; all is as described.
async fn frames_of_who_waits(app: &TestApp) -> BTreeSet<String> {
    let mut client = app.connect("ada").await;
    client.send(&json!({ "type": "subscribe", "topics": ["videos", "workflows"] })).await;
    app.providers.rule(json!({ "hang_late": true }));
    for prompt in ["first", "second"] {
        generate(app, "ada", &video(prompt)).await;
    }
    workflows::start(app, &workflows::workflow("enhance", "a calm sea")).await;
    app.providers.rule(json!({ "model": "gpt-6-astra", "hang": true }));
    for id in ["runs", "waits"] {
        client.send(&with(chat(id, "Wait"), &json!({ "model": "gpt-6-astra" }))).await;
    }
    let mut seen = BTreeSet::new();
    while !["queued", "queue", "workflow", "video"].iter().all(|kind| seen.contains(*kind)) {
        let said = client.next().await;
        let kind = said["type"].as_str().unwrap().to_owned();
        check(&payload(&format!("server.{kind}")), &said);
        seen.insert(kind);
    }
    app.providers.simulator.clear_rules();
    for id in ["waits", "runs"] {
        client.send(&json!({ "type": "cancel", "id": id })).await;
        client.answer(id).await.done();
    }
    seen
}

/// Of everything that is in the log.
async fn messages_are_as_described(app: &TestApp, kafka: &MockKafka) {
    let head: i64 =
        sqlx::query_scalar("SELECT max(position) FROM events").fetch_one(app.database.pool()).await.unwrap();
    for message in published(&kafka.cluster, u64::try_from(head).unwrap()).await {
        let channels = document()["channels"].as_object().unwrap().clone();
        let address = message.topic.replace(&kafka.cluster.topic_prefix, "{prefix}");
        let channel = channels.values().find(|channel| channel["address"] == address.as_str()).unwrap();
        for described in channel["messages"].as_object().unwrap().keys() {
            check(&payload(described), &serde_json::from_str(&message.text).unwrap());
            let headers = document()["components"]["messages"][described]["headers"].clone();
            check(&headers, &json!(message.headers));
        }
    }
}

#[tokio::test]
async fn every_frame_and_every_message_of_a_topic_is_as_described() {
    let kafka = MockKafka::start();
    let app = TestApp::start(|config| {
        config.limits.node.running_requests = 1;
        config.credits.welcome = Some(Credits(Microcredits::from_credits(1_000_000)));
        config.video_providers.get_mut("sora").unwrap().limits.max_concurrency = 1;
        config.kafka.brokers = Some(kafka.cluster.brokers.clone());
        config.kafka.topic_prefix = kafka.cluster.topic_prefix.clone();
    })
    .await;
    let mut client = app.connect("ann").await;
    check(&payload("server.ready"), &client.ready);
    let asked = [
        chat("chunks", "Why?"),
        with(chat("whole", "Why?"), &json!({ "stream": false })),
        json!({ "id": "completion", "type": "completion", "prompt": "Why?" }),
        json!({ "id": "vectors", "type": "embedding", "input": ["a", "b"] }),
        json!({ "id": "parts", "type": "embedding", "input": ["a", "b"], "stream": true }),
        with(chat("faulty", "Why?"), &json!({ "temperature": 9 })),
        json!({ "type": "auth", "token": app.token("ann") }),
        json!({ "type": "auth", "token": "bad" }),
        json!({ "type": "cancel", "id": "nobody" }),
        json!({ "type": "resume", "id": "nobody", "after": 3 }),
        json!({ "type": "cancel", "id": "nobody", "requestId": NOBODY }),
        json!({ "type": "resume", "id": "nobody", "connectionId": NOBODY }),
        json!({ "type": "subscribe", "topics": ["credits"] }),
        json!({ "type": "unsubscribe", "id": "enough", "topics": ["credits"] }),
        json!({ "type": "ping" }),
    ];
    let mut seen = BTreeSet::new();
    for frame in &asked {
        let kind = frame["type"].as_str().unwrap();
        if frame["id"] != "faulty" {
            check(&payload(&format!("client.{kind}")), frame);
            ClientFrame::parse(&frame.to_string()).unwrap();
        }
        client.send(frame).await;
        if ["cancel", "resume"].contains(&kind) {
            // What is said to these is seen before the pong.
            continue;
        }
        loop {
            let said = client.next().await;
            let name = match said["type"].as_str().unwrap() {
                "completion" => "response",
                "auth" => "authAccepted",
                name => name,
            };
            check(&payload(&format!("server.{name}")), &said);
            seen.insert(name.to_owned());
            let is_last = match kind {
                "ping" => name == "pong",
                "subscribe" => name == "credits",
                _ => !["chunk", "queued"].contains(&name),
            };
            if is_last {
                break;
            }
        }
    }
    client.send(&json!({ "type": "subscribe", "topics": ["videos"] })).await;
    generate(&app, "ann", &video("a calm sea at sunset")).await;
    loop {
        let said = client.next().await;
        check(&payload(&format!("server.{}", said["type"].as_str().unwrap())), &said);
        if said["video"]["state"] == "completed" {
            break;
        }
    }
    for kind in frames_of_who_waits(&app).await {
        assert!(seen.insert(kind.clone()) || kind == "video" || kind == "subscribed", "{kind} was seen before");
    }
    assert!(
        seen.is_superset(&BTreeSet::from(
            [
                "chunk",
                "done",
                "response",
                "error",
                "subscribed",
                "credits",
                "authAccepted",
                "pong",
                "queued",
                "queue",
                "workflow"
            ]
            .map(str::to_owned)
        ))
    );

    messages_are_as_described(&app, &kafka).await;
    let (status, headers, served) = app.get("/asyncapi.json", None).await;
    assert_eq!(
        (status.as_u16(), &headers["content-type"], served),
        (200, &"application/json".parse().unwrap(), document())
    );
    app.stop().await;
}

#[test]
fn every_client_frame_that_is_described_is_one_and_every_reference_leads_somewhere() {
    let document = document();
    for (name, message) in document["components"]["messages"].as_object().unwrap() {
        if name.starts_with("client.") {
            let kind = message["payload"]["properties"]["type"]["const"].as_str().unwrap();
            let faulty = ClientFrame::parse(&json!({ "type": kind, "id": "a" }).to_string()).err();
            let unknown = faulty.is_some_and(|faulty| faulty.faults.told().iter().any(|fault| fault.field == "type"));
            assert!(!unknown, "{kind}");
        }
    }
    let mut left = vec![&document];
    while let Some(value) = left.pop() {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        }
        match value {
            Value::Object(fields) => left.extend(fields.values()),
            Value::Array(items) => left.extend(items),
            _ => {}
        }
    }
}

#[test]
fn the_manual_has_every_frame_that_is_described() {
    let manual = include_str!("../../README.md");
    let (sent, got) = manual.split_once("| you send | |").unwrap().1.split_once("| you get | |").unwrap();
    let got = got.split_once("\n\n").unwrap().0;
    let document = document();
    for (name, message) in document["components"]["messages"].as_object().unwrap() {
        let (side, table) = match name.split_once('.') {
            Some(("client", _)) => ("you send", sent),
            Some(("server", _)) => ("you get", got),
            _ => continue,
        };
        let kind = message["name"].as_str().unwrap();
        let is_there = [format!("`{kind}`"), format!(r#""type":"{kind}""#), format!("| a {kind} |")]
            .iter()
            .any(|said| table.contains(said));
        assert!(is_there, "{kind} is not in the table of what {side}");
    }
}

/// The names of all fields below `schema`, with what it refers to.
fn fields_of(schema: &Value, document: &Value, names: &mut BTreeSet<String>) {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        return fields_of(document.pointer(reference.trim_start_matches('#')).unwrap(), document, names);
    }
    for (name, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        names.insert(name.clone());
        fields_of(schema, document, names);
    }
    for part in ["items", "additionalProperties"] {
        if let Some(schema) = schema.get(part).filter(|schema| schema.is_object()) {
            fields_of(schema, document, names);
        }
    }
    for either in ["oneOf", "anyOf", "allOf"] {
        for schema in schema.get(either).and_then(Value::as_array).into_iter().flatten() {
            fields_of(schema, document, names);
        }
    }
}

#[test]
fn the_manual_has_every_field_of_a_frame_and_every_field_of_a_client_is_known() {
    let manual = include_str!("../../README.md");
    let words: BTreeSet<&str> = manual.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).collect();
    let document = document();
    for (message, described) in document["components"]["messages"].as_object().unwrap() {
        if !message.starts_with("client.") && !message.starts_with("server.") {
            continue;
        }
        let mut names = BTreeSet::new();
        fields_of(&described["payload"], &document, &mut names);
        let missing: Vec<&String> = names.iter().filter(|name| !words.contains(name.as_str())).collect();
        assert!(missing.is_empty(), "{message}: {missing:?}");
        if let Some(kind) = message.strip_prefix("client.") {
            for field in described["payload"]["properties"].as_object().unwrap().keys() {
                let frame = with(json!({ "type": kind, "id": "a" }), &json!({ field: {} }));
                let refused = ClientFrame::parse(&frame.to_string()).err();
                let faults = refused.map(|faulty| format!("{:?}", faulty.faults.told())).unwrap_or_default();
                assert!(!faults.contains("is not a field of this request"), "{kind}.{field}: {faults}");
            }
        }
    }
}

#[tokio::test]
async fn the_manual_has_every_limit_that_a_socket_is_told_first() {
    let app = TestApp::start(|_| ()).await;
    let limits = app.connect("ann").await.ready["limits"].clone();
    let names = |limits: &Value, prefix: &str| -> BTreeSet<String> {
        limits
            .as_object()
            .unwrap()
            .keys()
            .filter(|name| *name != "user")
            .map(|name| format!("{prefix}{name}"))
            .collect()
    };
    let mut all = names(&limits, "");
    all.extend(names(&limits["user"], "user."));
    let readme = include_str!("../../README.md");
    let table = readme.split("| `limits` | |").nth(1).unwrap().split("\n\n").next().unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let told: BTreeSet<String> = rows.flat_map(|(names, _)| names.split("`, `").map(str::to_owned)).collect();
    assert_eq!(told, all);
    app.stop().await;
}
