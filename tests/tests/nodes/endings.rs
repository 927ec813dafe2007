//! A node that ends harms nobody, and nobody keeps it from ending.

use std::{
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use aihub::{
    auth::mint::{NewToken, mint},
    bootstrap::drain::END_WITHIN,
};
use aihub_tests::{
    PATIENCE,
    app::{TestApp, auth, http_client, token, variables},
    client::{Client, chat, open, upgrade, with},
    database,
    process::Process,
    providers::Providers,
    proxy::Proxy,
    until, until_ok,
};
use chrono::TimeDelta;
use serde_json::json;
use sqlx::{ConnectOptions, postgres::PgConnectOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::videos::{ended, generate, video};

const PROGRAM: &str = env!("CARGO_BIN_EXE_aihub-under-test");
const DRAIN: Duration = Duration::from_millis(500);

fn ann() -> String {
    token(&auth(), "ann", "ann", TimeDelta::hours(1))
}

#[tokio::test]
async fn at_sighup_a_node_drains_as_at_sigterm() {
    let (database, providers) = (database().await, Providers::start().await);
    providers.rule(json!({ "tokens_per_second": 40, "output_tokens": 20 }));
    let process = Process::start(PROGRAM, &variables(&database, &providers)).await;
    let mut client = Client::connect(process.address, &ann()).await;
    client.send(&chat("a", "Why is the sky blue?")).await;
    client.chunks("a", 1).await;
    process.signal("-HUP").await;
    client.answer_after("a", 1).await.done();
    assert_eq!(process.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_node_that_drains_says_so_while_it_still_takes_whoever_comes_and_only_then_closes() {
    let (database, providers) = (database().await, Providers::start().await);
    let mut variables = variables(&database, &providers);
    variables.push(("AIHUB__SERVER__DRAIN_NOTICE_MS".to_owned(), "8000".to_owned()));
    let process = Process::start(PROGRAM, &variables).await;
    process.terminate().await;
    let url = format!("http://{}/health/ready", process.address);
    until_ok("it says so", async || {
        let response = http_client().get(&url).send().await.map_err(|error| error.to_string())?;
        let (status, text) = (response.status().as_u16(), response.text().await.unwrap());
        if status == 503 && text.contains("draining") { Ok(()) } else { Err(text) }
    })
    .await;
    // A balancer that has not heard of it yet.
    let mut client = Client::connect(process.address, &ann()).await;
    client.ask(&chat("a", "Why is the sky blue?")).await.done();
    until("nobody listens any more", async || TcpStream::connect(process.address).await.is_err().then_some(())).await;
    assert_eq!(process.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_node_that_drains_leaves_first_what_one_node_at_a_time_does() {
    let leader = TestApp::start(|config| config.server.drain_notice_ms = Some(60_000)).await;
    let led = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'aihub-leader' AND datname = current_database()";
    until("it leads", async || {
        let count: i64 = sqlx::query_scalar(led).fetch_one(leader.database.pool()).await.unwrap();
        (count > 0).then_some(())
    })
    .await;
    generate(&leader, "ada", &video("made by the leader")).await;
    let other = TestApp::start_on(&leader.database, &leader.providers, |_| {}).await;
    until("they know of each other", async || {
        let nodes: i64 =
            sqlx::query_scalar("SELECT count(*) FROM nodes").fetch_one(leader.database.pool()).await.unwrap();
        (nodes == 2).then_some(())
    })
    .await;
    leader.shut_down();
    let id = generate(&other, "ada", &video("made by the other one")).await;
    let made = ended(&other, "ada", &id).await;
    assert_eq!(made["status"], "completed", "{made}");
    // Views are kept by the other one as well, and the first one still answers.
    let answer = leader.connect("ann").await.ask(&chat("a", "Why is the sky blue?")).await;
    until_ok("the view shows it", async || {
        let path = format!("/api/requests/{}", answer.request_id());
        let (status, _, request) = leader.get(&path, Some(&leader.token("ann"))).await;
        if status.is_success() && request["status"] == "completed" { Ok(()) } else { Err(request) }
    })
    .await;
    let (status, _, ready) = leader.get("/health/ready", None).await;
    assert_eq!(status.as_u16(), 503, "{ready}");
    other.stop().await;
}

/// Ends the node, and sees that it has ended in time.
async fn ends(app: TestApp) {
    let since = Instant::now();
    app.stop().await;
    assert!(since.elapsed() < DRAIN + END_WITHIN, "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_reader_that_takes_nothing_keeps_no_node_from_ending() {
    let app = TestApp::start(|config| config.server.drain_ms = 500).await;
    app.providers.rule(json!({ "tokens_per_second": 100_000, "output_tokens": 100 }));
    // More than fits into what lies between the two.
    let filling =
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
                   SELECT 'filling', nth::text, 1, 'Filling', '1', to_json(repeat('x', 1800)), '{}'
                   FROM generate_series(1, 12000) nth";
    sqlx::query(filling).execute(app.database.pool()).await.unwrap();
    // A socket that is not read, with answers on their way to it.
    let (mut deaf, _) = open(upgrade(app.address, &app.token("ann"))).await.unwrap();
    for nth in 0..30 {
        deaf.send(&with(chat(&nth.to_string(), "Why?"), &json!({ "maxTokens": 100 }))).await;
    }
    // Calls whose answers nobody takes, a long poll, and a call that is not sent to its end.
    let id = generate(&app, "ann", &video("a calm sea")).await;
    let mut kept = Vec::new();
    let roles = ["user".to_owned(), "auditor".to_owned()];
    let (ttl, now) = (TimeDelta::hours(1), app.hub.gateway.clock.now());
    let auditor = mint(&auth(), &NewToken { sub: "ann", account: None, roles: &roles, ttl, now }).unwrap();
    for path in
        ["/api/audit/events?from=1".to_owned(), format!("/api/mcp/sora2/status/{id}?wait=60"), "/metrics".to_owned()]
    {
        let mut socket = tiny_socket(&app).await;
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {auditor}\r\n\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        kept.push(socket);
    }
    let mut half = tiny_socket(&app).await;
    half.write_all(b"POST /api/mcp/sora2/generate HTTP/1.1\r\ncontent-length: 100\r\n\r\n{").await.unwrap();
    kept.push(half);
    ends(app).await;
    drop((deaf, kept));
}

/// One that takes hardly anything without being read.
async fn tiny_socket(app: &TestApp) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(1_024).unwrap();
    socket.connect(app.address).await.unwrap()
}

#[tokio::test]
async fn a_provider_that_hangs_and_a_database_that_is_frozen_keep_no_node_from_ending() {
    let (database, providers) = (Arc::new(database().await), Arc::new(Providers::start().await));
    let proxy = Proxy::start(database.address()).await;
    let url = PgConnectOptions::from_str(&database.options.url).unwrap();
    let url = url.host(&proxy.address.ip().to_string()).port(proxy.address.port()).to_url_lossy().to_string();
    let app = TestApp::start_on(&database, &providers, |config| {
        config.server.drain_ms = 500;
        config.database.url = Some(serde_json::from_value(json!(url)).unwrap());
    })
    .await;
    providers.rule(json!({ "hang_after_tokens": 3 }));
    let mut client = app.connect("ann").await;
    client.send(&chat("a", "Why is the sky blue?")).await;
    client.chunks("a", 3).await;
    let mut report = TcpStream::connect(app.address).await.unwrap();
    proxy.freeze_all();
    let head = format!("GET /api/credits HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", app.token("ann"));
    report.write_all(head.as_bytes()).await.unwrap();
    ends(app).await;
    let mut rest = Vec::new();
    // Whatever it said, it is over.
    let _ = tokio::time::timeout(PATIENCE, report.read_to_end(&mut rest)).await;
}
