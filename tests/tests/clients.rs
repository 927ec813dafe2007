//! Clients as others have them: a browser, Node's two, Python's and Java's. Each streams an answer, is cut in the midst of one and goes
//! on with it, is refused, and is closed, and tells what it has seen. They are in `tests/clients`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should say where")]

use std::{net::SocketAddr, process::Stdio, sync::Arc, time::Duration};

use aihub_tests::{
    PATIENCE, TestDatabase,
    app::{auth, token, variables},
    database,
    process::Process,
    providers::Providers,
};
use axum::{
    Router,
    http::header::CONTENT_TYPE,
    response::Html,
    routing::{get, post},
};
use chrono::TimeDelta;
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::mpsc,
    time::timeout,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients");
/// Of what the service says on a connection, its `ready` and some twenty chunks.
const CUT_AFTER: u64 = 2_000;
const CUTS: usize = 2;
/// The answer's chunks, which take two seconds.
const CHUNKS: u64 = 60;

/// The service, the way to it that is cut, and where a page comes from.
struct Setting {
    service: SocketAddr,
    proxy: SocketAddr,
    pages: SocketAddr,
    token: String,
    /// What a page has seen.
    reports: mpsc::Receiver<Value>,
    _database: TestDatabase,
    _providers: Providers,
    _stop: DropGuard,
}

impl Setting {
    async fn start() -> Self {
        let (database, providers) = (database().await, Providers::start().await);
        let pace = json!({ "model": "gpt-6-luna", "ttft_ms": 50, "tokens_per_second": 30, "output_tokens": CHUNKS });
        providers.rule(pace);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let pages = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let from = pages.local_addr().unwrap();
        let mut variables = variables(&database, &providers);
        variables.push(("AIHUB__SERVER__ALLOWED_ORIGINS".to_owned(), json!([format!("http://{from}")]).to_string()));
        let service = Arc::new(Process::start(env!("CARGO_BIN_EXE_aihub-under-test"), &variables).await);
        let address = service.address;
        let (told, reports) = mpsc::channel(1);
        let serving = axum::serve(pages, routes(service, told)).into_future();
        tasks.spawn(stop.clone().run_until_cancelled_owned(serving));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = listener.local_addr().unwrap();
        tasks.spawn(stop.clone().run_until_cancelled_owned(cutting(listener, address)));
        Self {
            service: address,
            proxy,
            pages: from,
            token: token(&auth(), "ann", "ann", TimeDelta::hours(1)),
            reports,
            _database: database,
            _providers: providers,
            _stop: stop.drop_guard(),
        }
    }

    /// A program that finds what it needs in its environment, beside what is in ours.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(SCRIPTS)
            .env("AIHUB_SERVICE", self.service.to_string())
            .env("AIHUB_PROXY", self.proxy.to_string())
            .env("AIHUB_TOKEN", &self.token)
            .env("AIHUB_TERMINATE", format!("http://{}/terminate", self.pages))
            .envs(["no_proxy", "NO_PROXY"].map(|name| (name, "127.0.0.1")))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }
}

/// Serves the page, hears what it has seen, and ends the service for whoever asks for that.
fn routes(service: Arc<Process>, told: mpsc::Sender<Value>) -> Router {
    let terminate = move || async move { service.terminate().await };
    let report = move |body: String| async move { told.send(serde_json::from_str(&body).unwrap()).await.unwrap() };
    let script = include_str!("../clients/session.mjs");
    Router::new()
        .route("/", get(Html(include_str!("../clients/page.html"))))
        .route("/session.mjs", get(([(CONTENT_TYPE, "text/javascript")], script)))
        .route("/report", post(report))
        .route("/terminate", post(terminate))
}

/// A way to the service on which the first connections are cut in the midst of a frame: one is ended, the next one reset.
async fn cutting(listener: TcpListener, service: SocketAddr) {
    let tasks = TaskTracker::new();
    for nth in 1.. {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(service).await.unwrap();
        tasks.spawn(async move {
            client.set_nodelay(true).unwrap();
            let (mut from_client, mut to_client) = client.split();
            let (from_server, mut to_server) = server.split();
            let mut from_server = from_server.take(if nth <= CUTS { CUT_AFTER } else { u64::MAX });
            // Whichever ends first ends the other; an error is an end as well.
            tokio::select! {
                _ = copy(&mut from_client, &mut to_server) => {}
                _ = copy(&mut from_server, &mut to_client) => {}
            }
            if nth == CUTS {
                SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
            } else {
                let _ = client.shutdown().await;
            }
        });
    }
}

/// What everybody has to have seen.
fn assert_all_seen(report: &Value) {
    let count = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{report}"));
    let after: Vec<u64> =
        report["resumed"].as_array().unwrap_or_else(|| panic!("{report}")).iter().map(count).collect();
    assert!(after.len() == CUTS && after.is_sorted() && after[0] > 0, "{report}");
    for name in ["streamed", "whole"] {
        assert!((after[CUTS - 1] + 1..=CHUNKS).contains(&count(&report[name])), "{name}: {report}");
    }
    assert_eq!((&report["refused"], &report["error"]), (&json!(401), &json!("VALIDATION_ERROR")), "{report}");
    let closed = json!({
        "1001": "the service is shutting down",
        "1008": "too many malformed frames",
        "1009": "the frame exceeds the limit",
    });
    assert_eq!(report["closed"], closed, "{report}");
}

/// Runs `program`, which says what it has seen in a line of JSON.
async fn passes(program: &str, arguments: &[&str]) -> Value {
    let setting = Setting::start().await;
    let ran = timeout(PATIENCE, setting.command(program).args(arguments).output()).await.expect("it ends");
    let ran = ran.unwrap_or_else(|error| panic!("{program}: {error}"));
    let (said, errors) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{program}: {said}{errors}");
    let report = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_all_seen(&report);
    report
}

#[tokio::test]
async fn a_browser_streams_is_cut_resumes_is_refused_and_closed() {
    let mut setting = Setting::start().await;
    let profile = tempfile::tempdir().unwrap();
    let Setting { service, proxy, pages, token, .. } = &setting;
    let page = format!("http://{pages}/?service={service}&proxy={proxy}&token={token}");
    let _browser = setting
        .command("chromium")
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
        // It asks nobody else for anything.
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(page)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let report = timeout(PATIENCE, setting.reports.recv()).await.expect("the page tells what it has seen").unwrap();
    assert_all_seen(&report);
    assert_eq!(report["deflated"], true, "{report}");
}

#[tokio::test]
async fn the_library_of_node_streams_is_cut_resumes_is_refused_and_closed() {
    let report = passes("node", &["node.mjs", "ws"]).await;
    assert_eq!(report["deflated"], true, "{report}");
}

#[tokio::test]
async fn what_is_built_into_node_streams_is_cut_resumes_is_refused_and_closed() {
    // Node 20 has it only if it is told to. Before there was none: then it is the library that was built in later.
    const OPTION: &str = "--experimental-websocket";
    let known = Command::new("node").args([OPTION, "--version"]).output().await.unwrap().status.success();
    let arguments: &[&str] = if known { &[OPTION, "node.mjs", "built-in"] } else { &["node.mjs", "built-in"] };
    passes("node", arguments).await;
}

#[tokio::test]
async fn python_streams_is_cut_resumes_is_refused_and_closed() {
    let report = passes("python3", &["python.py"]).await;
    assert_eq!(report["deflated"], true, "{report}");
}

#[tokio::test]
async fn java_streams_is_cut_resumes_is_refused_and_closed() {
    passes("java", &["Client.java"]).await;
}
