//! What a newcomer tries first, on a service as it comes.

use std::collections::BTreeSet;

use aihub::config::amount::Credits;
use aihub_domain::money::Microcredits;
use aihub_tests::{
    app::{SECRET, TestApp, auth, http_client, token, variables},
    client::{Client, chat, upgrade, with},
    database,
    process::Process,
    providers::Providers,
    until,
};
use chrono::TimeDelta;
use futures::future::join_all;
use serde_json::{Value, json};

#[tokio::test]
async fn every_model_that_is_offered_answers() {
    let app = TestApp::start(|_| ()).await;
    let (_, _, providers) = app.get("/api/providers", Some(&app.token("ann"))).await;
    let offered: Vec<(String, Value)> = providers["providers"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|provider| {
            let name = provider["name"].as_str().unwrap();
            provider["models"].as_array().unwrap().iter().map(move |model| (name.to_owned(), model.clone()))
        })
        .collect();
    assert!(offered.len() > 10, "{providers}");
    join_all(offered.iter().map(async |(provider, model)| {
        let name = model["name"].as_str().or(model.as_str()).unwrap();
        let to_this = json!({ "provider": provider, "model": name, "fallback": false });
        let request = if name.starts_with("text-embedding") {
            with(json!({ "id": "a", "type": "embedding", "input": "a text" }), &to_this)
        } else {
            with(chat("a", "Why is the sky blue?"), &to_this)
        };
        let answer = app.connect("ann").await.ask(&request).await;
        assert_eq!(answer.end["metadata"]["model"], name, "{provider} {name}: {}", answer.end);
    }))
    .await;
    app.stop().await;
}

/// Whatever the manual calls by the name of a model.
fn models_of_the_manual() -> BTreeSet<String> {
    let families = ["gpt-", "claude-", "gemini-", "text-embedding-", "sora-", "veo-"];
    let words = include_str!("../../README.md").split(|c: char| !(c.is_ascii_alphanumeric() || "-.".contains(c)));
    let names = words.map(|word| word.trim_matches(['-', '.']));
    let is_model =
        |name: &&str| families.iter().any(|family| name.starts_with(family)) && name.contains(char::is_numeric);
    names.filter(is_model).map(str::to_owned).collect()
}

#[tokio::test]
async fn every_model_that_the_manual_names_answers_by_that_name() {
    let app = TestApp::start(|config| {
        config.video_providers.get_mut("veo").unwrap().enabled = true;
        config.credits.welcome = Some(Credits(Microcredits::from_credits(1_000_000)));
    })
    .await;
    let named = models_of_the_manual();
    assert!(named.len() > 5, "{named:?}");
    for name in &named {
        if name.starts_with("sora-") || name.starts_with("veo-") {
            let film = json!({ "prompt": "a calm sea", "duration": 4, "model": name });
            let (status, said) = app.post("/api/mcp/sora2/generate", &app.token("ann"), &film).await;
            assert_eq!(status.as_u16(), 202, "{name}: {said}");
            continue;
        }
        let request = if name.starts_with("text-embedding") {
            json!({ "id": "a", "type": "embedding", "input": "a text", "model": name })
        } else {
            json!({ "id": "a", "type": "chat", "prompt": "Why is the sky blue?", "model": name })
        };
        let answer = app.connect("ann").await.ask(&request).await;
        assert_ne!(answer.end["type"], "error", "{name}: {}", answer.end);
    }
    app.stop().await;
}

#[tokio::test]
async fn customary_names_are_answered_and_both_names_are_told() {
    let app = TestApp::start(|config| {
        config.routing.aliases.insert("gpt-6-luna".to_owned(), "gpt-6-astra".to_owned());
    })
    .await;
    let mut client = app.connect("ann").await;
    for (kind, named, model) in [
        ("chat", "gpt-4", "gpt-6.1-sol"),
        ("completion", "gpt-4", "gpt-6.1-sol"),
        ("chat", "gpt-3.5-turbo", "gpt-6-luna"),
    ] {
        let request =
            json!({ "id": "a", "type": kind, "model": named, "prompt": "Why?", "stream": true, "maxTokens": 150 });
        let answer = client.ask(&request).await;
        let metadata = &answer.done()["metadata"];
        assert_eq!((&metadata["requestedModel"], &metadata["model"]), (&json!(named), &json!(model)));
    }
    // What a provider has itself is meant as it is.
    let answer = client.ask(&chat("a", "Why?")).await;
    let metadata = &answer.done()["metadata"];
    assert_eq!((metadata.get("requestedModel"), &metadata["model"]), (None, &json!("gpt-6-luna")));
    app.stop().await;
}

#[tokio::test]
async fn the_welcome_credits_are_there_before_the_first_request() {
    let app = TestApp::start(|_| ()).await;
    let (status, _, credits) = app.get("/api/credits", Some(&app.token("new"))).await;
    assert_eq!((status.as_u16(), &credits["available"]), (200, &json!(1_000.0)), "{credits}");
    let (status, _, _) = app.get("/api/credits?account=other", Some(&app.token("new"))).await;
    assert_eq!(status.as_u16(), 403);
    app.stop().await;
}

#[tokio::test]
async fn a_browser_gets_something_to_read_and_the_wrong_door_says_how_to_come_in() {
    let app = TestApp::start(|_| ()).await;
    for (path, says) in [("/", "/docs"), ("/docs", "Smart AI Hub")] {
        let page = app.http.get(format!("http://{}{path}", app.address)).send().await.unwrap();
        assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
        assert!(page.text().await.unwrap().contains(says), "{path}");
    }
    let (status, headers, problem) = app.get("/mcp", Some(&app.token("ann"))).await;
    assert_eq!((status.as_u16(), &problem["code"]), (426, &json!("UPGRADE_REQUIRED")));
    assert_eq!(
        (&headers["upgrade"], &headers["sec-websocket-version"]),
        (&"websocket".parse().unwrap(), &"13".parse().unwrap())
    );
    let mut of_another_version = upgrade(app.address, &app.token("ann"));
    of_another_version.headers_mut().insert("sec-websocket-version", "12".parse().unwrap());
    let request = app.http.get(format!("http://{}/mcp", app.address)).headers(of_another_version.headers().clone());
    let answer = request.send().await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["sec-websocket-version"]), (426, &"13".parse().unwrap()));
    for path in ["/health/live", "/metrics", "/api/credits", "/mcp"] {
        let (status, problem) = app.post(path, &app.token("ann"), &json!({})).await;
        assert_eq!((status.as_u16(), &problem["code"]), (405, &json!("METHOD_NOT_ALLOWED")), "{path}");
    }
    app.stop().await;
}

#[tokio::test]
async fn the_service_is_meant_where_no_command_is_said_whatever_its_flags() {
    let (database, providers) = (database().await, Providers::start().await);
    let mut variables = aihub_tests::app::variables(&database, &providers);
    variables.retain(|(name, _)| name != "AIHUB__SERVER__LISTEN");
    let program = env!("CARGO_BIN_EXE_aihub-under-test");
    let process = Process::start_with(program, &["--listen", "127.0.0.1:0"], &variables).await;
    process.kill().await;
}

/// A proxy that nobody answers at.
const NO_PROXY_THERE: &str = "http://127.0.0.1:1";

#[tokio::test]
async fn a_dead_proxy_is_on_no_way_to_this_machine_is_named_where_it_is_and_a_line_break_behind_a_secret_does_no_harm()
{
    let (database, providers) = (database().await, Providers::start().await);
    let mut variables = variables(&database, &providers);
    variables.extend(
        [
            ("HTTP_PROXY", NO_PROXY_THERE.to_owned()),
            ("http_proxy", NO_PROXY_THERE.to_owned()),
            ("ANTHROPIC_BASE_URL", "http://far.invalid".to_owned()),
            ("OPENAI_API_KEY", "sk-simulated\r\n".to_owned()),
            ("JWT_SECRET", format!("{SECRET}\n")),
            ("DATABASE_URL", format!("{}\n", database.options.url)),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    let process = Process::start(env!("CARGO_BIN_EXE_aihub-under-test"), &variables).await;
    let token = token(&auth(), "ann", "ann", TimeDelta::hours(1));
    let mut client = Client::connect(process.address, &token).await;
    let here = with(chat("a", "Why is the sky blue?"), &json!({ "provider": "openai", "fallback": false }));
    client.ask(&here).await.done();
    let far = with(
        chat("b", "Why is the sky blue?"),
        &json!({ "provider": "claude", "model": "claude-haiku-5-5", "fallback": false }),
    );
    let failed = client.ask(&far).await;
    let attempts = &failed.error("ALL_PROVIDERS_FAILED")["details"]["attempts"];
    assert_eq!(attempts[0]["kind"], "connection");
    assert_eq!(attempts[0]["flaws"][0], json!({ "class": "went_through_a_proxy", "field": NO_PROXY_THERE }));
    let ready = http_client().get(format!("http://{}/health/ready", process.address)).send().await.unwrap();
    let notices = ready.json::<Value>().await.unwrap()["notices"].to_string();
    for told in [
        &format!("provider claude is asked through the proxy {NO_PROXY_THERE}"),
        "auth.hs256_secret ended in white space",
        "database.url ended in white space",
        "providers.openai.api_key ended in white space",
    ] {
        assert!(notices.contains(told), "{told}: {notices}");
    }
    assert!(!notices.contains("provider openai is asked through"), "{notices}");
    process.kill().await;
}

/// The frames that the manual has a client send, as they stand there.
fn frames_of_the_manual() -> Vec<Value> {
    let manual = include_str!("../../README.md");
    let block = manual.split("```js\n").nth(1).unwrap().split("```").next().unwrap();
    let mut frames: Vec<String> = vec![];
    let mut is_ours = false;
    for line in block.lines() {
        if let Some(begun) = line.strip_prefix("→ ") {
            frames.push(begun.to_owned());
            is_ours = true;
        } else if line.starts_with("← ") {
            is_ours = false;
        } else if is_ours {
            frames.last_mut().unwrap().push_str(line);
        }
    }
    frames.iter().map(|frame| serde_json::from_str(frame).unwrap_or_else(|error| panic!("{error}: {frame}"))).collect()
}

/// The films that the manual has a client ask for, likewise.
fn films_of_the_manual() -> Vec<Value> {
    let bodies = include_str!("../../README.md").lines().filter_map(|line| line.trim().strip_prefix("-d '{\"prompt\""));
    let body = |rest: &str| format!("{{\"prompt\"{}", rest.trim_end_matches('\''));
    bodies.map(|rest| serde_json::from_str(&body(rest)).unwrap()).collect()
}

#[tokio::test]
async fn what_the_manual_has_a_client_send_is_answered_as_it_says_by_a_service_as_it_comes_behind_a_dead_proxy() {
    // With nothing configured: a database of its own, and providers that are simulated.
    let folder = tempfile::tempdir().unwrap();
    let is_machines = |name: &str| !["AIHUB", "DATABASE_URL", "KAFKA"].iter().any(|ours| name.starts_with(ours));
    let mut variables: Vec<(String, String)> = std::env::vars().filter(|(name, _)| is_machines(name)).collect();
    variables.extend(
        [
            ("AIHUB__SERVER__LISTEN", "127.0.0.1:0"),
            ("AIHUB__SERVER__DATA_DIR", folder.path().to_str().unwrap()),
            ("JWT_SECRET", SECRET),
            ("HTTP_PROXY", NO_PROXY_THERE),
            ("http_proxy", NO_PROXY_THERE),
            ("RUST_LOG", "error"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    let process = Process::start(env!("CARGO_BIN_EXE_aihub-under-test"), &variables).await;
    let token = token(&auth(), "ann", "ann", TimeDelta::hours(1));
    let mut client = Client::connect(process.address, &token).await;
    let frames = frames_of_the_manual();
    assert_eq!(frames.len(), 4);
    for frame in frames {
        let answer = client.ask(&frame).await;
        let is_streamed = frame["stream"] == true;
        assert_eq!(answer.end["type"], if is_streamed { "done" } else { "completion" }, "{frame}: {}", answer.end);
        assert_eq!((&answer.end["id"], answer.chunks.is_empty()), (&frame["id"], !is_streamed));
        assert_eq!(answer.end["metadata"]["kind"], frame["type"]);
        let alias = if frame["model"] == "gpt-4" { json!("gpt-4") } else { Value::Null };
        assert_eq!(answer.end["metadata"]["requestedModel"], alias);
    }
    let films = films_of_the_manual();
    assert_eq!(films.iter().map(|film| &film["duration"]).collect::<Vec<_>>(), [&json!(5), &json!(10), &json!(2.5)]);
    let (http, base) = (http_client(), format!("http://{}/api/mcp/sora2", process.address));
    for film in films {
        let asked = http.post(format!("{base}/generate")).bearer_auth(&token).json(&film).send().await.unwrap();
        let queued: Value = asked.json().await.unwrap();
        assert_eq!(queued["requestedDuration"].as_f64(), film["duration"].as_f64().map(f64::ceil), "{queued}");
        let made = until("the film is made", async || {
            let url = format!("{base}/status/{}?wait=30", queued["videoId"].as_str().unwrap());
            let shown: Value = http.get(url).bearer_auth(&token).send().await.unwrap().json().await.unwrap();
            (shown["status"] != "processing").then_some(shown)
        })
        .await;
        assert_eq!((&made["status"], &made["duration"]), (&json!("completed"), &queued["duration"]), "{made}");
        assert_eq!(made["resolution"], film["resolution"]);
    }
    until("the views have them", async || {
        let listed = http.get(format!("{base}/videos?status=completed")).bearer_auth(&token).send().await.unwrap();
        let listed: Value = listed.json().await.unwrap();
        (listed["videos"].as_array()?.len() == 3).then_some(())
    })
    .await;
    process.kill().await;
}
