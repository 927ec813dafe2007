//! Connections that ask for nothing, or begin to and do not go on, keep nobody else out.

use std::time::Duration;

use aihub_tests::{
    PATIENCE,
    app::TestApp,
    client::{chat, open, upgrade},
    until,
};
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

/// Connections on which `beginning` was said, and nothing more.
async fn held(app: &TestApp, count: usize, beginning: &str) -> Vec<TcpStream> {
    join_all((0..count).map(|_| async {
        let mut connection = TcpStream::connect(app.address).await.unwrap();
        connection.write_all(beginning.as_bytes()).await.unwrap();
        connection
    }))
    .await
}

/// Whatever the service says to `request` until it closes.
async fn said(app: &TestApp, request: &str) -> String {
    let mut connection = TcpStream::connect(app.address).await.unwrap();
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut told = String::new();
    // It may close before all was sent.
    let _ = timeout(PATIENCE, connection.read_to_string(&mut told)).await.expect("it is answered, or closed");
    told
}

async fn everybody_is_served(app: &TestApp) {
    for path in ["/health/live", "/metrics"] {
        assert_eq!(app.get(path, None).await.0, 200);
    }
    assert_eq!(app.get("/api/credits", Some(&app.token("ann"))).await.0, 200);
    app.connect("ann").await.ask(&chat("a", "Why is the sky blue?")).await.done();
}

#[tokio::test]
async fn a_thousand_connections_that_say_nothing_or_half_a_head_or_no_body_keep_nobody_out() {
    let app = TestApp::start(|config| config.server.max_connections = 200).await;
    app.connect("ann").await.ask(&chat("a", "Why is the sky blue?")).await.done();
    for beginning in [
        "",
        "PRI * HTTP/2.0\r\n\r\nSM",
        "GET /api/credits HTTP/1.1\r\nhost: x\r\n",
        "POST /api/webhooks/providers/x HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n",
    ] {
        let held = held(&app, 1_000, beginning).await;
        everybody_is_served(&app).await;
        drop(held);
    }
    app.stop().await;
}

#[tokio::test]
async fn no_body_is_read_before_its_token_or_the_headers_of_its_signature_were_looked_at() {
    let app = TestApp::start(|_| ()).await;
    let ask = |path: &str, more: &str| {
        // Its body never comes, and is not waited for.
        format!("POST {path} HTTP/1.1\r\nhost: x\r\n{more}content-length: 1000\r\n\r\n{{")
    };
    for (path, more, status) in [
        ("/api/webhooks/providers/sora", "", "401"),
        (
            "/api/webhooks/providers/sora",
            "webhook-id: a\r\nwebhook-timestamp: 1\r\nwebhook-signature: v1,YQ==\r\n",
            "401",
        ),
        ("/api/mcp/sora2/generate", "", "401"),
        ("/api/mcp/sora2/generate", "authorization: Bearer a.b.c\r\n", "401"),
        ("/api/mcp/gpt/video-workflow", "", "401"),
        ("/nowhere", "", "404"),
    ] {
        let told = timeout(Duration::from_secs(5), said(&app, &ask(path, more))).await.expect("without a deadline");
        assert!(told.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {told}");
    }
    let token = app.token("ann");
    let large = format!(
        "POST /api/mcp/sora2/generate HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 3000000\r\n\r\n"
    );
    assert!(said(&app, &large).await.starts_with("HTTP/1.1 413"), "it says how long it is");
    app.stop().await;
}

#[tokio::test]
async fn a_body_that_does_not_go_on_is_given_up_and_says_so() {
    let app = TestApp::start(|_| ()).await;
    let token = app.token("ann");
    let half = format!(
        "POST /api/mcp/sora2/generate HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 100\r\n\r\n{{"
    );
    let told = said(&app, &half).await;
    assert!(told.starts_with("HTTP/1.1 408") && told.contains("REQUEST_TIMEOUT"), "{told}");
    app.stop().await;
}

#[tokio::test]
async fn when_all_connections_ask_for_something_others_are_told_the_limit_and_operators_are_answered() {
    let app = TestApp::start(|config| {
        config.server.max_connections = 8;
        config.limits.per_user.concurrent_calls = 100;
        config.limits.per_user.long_polls = 100;
    })
    .await;
    let token = app.token("ann");
    let post = format!(
        "POST /api/mcp/sora2/generate HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 9\r\n\r\n",
        app.token("bob")
    );
    // A socket has left the connections behind, and has a limit of its own.
    let mut socket = app.connect("ann").await;
    // Of eight, six may ask for something that takes its time.
    let posts = held(&app, 6, &post).await;
    let refused = until("all that may ask do", async || {
        let (status, _, problem) = app.get("/api/credits", Some(&token)).await;
        (status == 503).then_some(problem)
    })
    .await;
    assert_eq!(refused["code"], "QUEUE_FULL");
    assert_eq!(refused["details"], json!({ "what": "HTTP calls at once", "scope": "node", "limit": 6 }));
    let more = held(&app, 100, &post).await;
    for path in ["/health/live", "/metrics"] {
        assert_eq!(app.get(path, None).await.0, 200);
    }
    socket.ask(&chat("a", "hello")).await.done();
    drop((posts, more));
    until("there is room again", async || (app.get("/api/credits", Some(&token)).await.0 == 200).then_some(())).await;
    app.stop().await;
}

#[tokio::test]
async fn one_user_opens_so_many_sockets_and_is_told_the_limit_while_others_open_theirs() {
    let app = TestApp::start(|config| config.limits.per_user.sockets = 3).await;
    let first = join_all((0..3).map(|_| app.connect("ann"))).await;
    let refused = open(upgrade(app.address, &app.token("ann"))).await.err().expect("no fourth one");
    assert_eq!(refused.status(), 429);
    let problem: Value = serde_json::from_slice(refused.body().as_ref().unwrap()).unwrap();
    assert_eq!(problem["details"], json!({ "what": "sockets", "scope": "user", "limit": 3 }));
    app.connect("bob").await;
    drop(first);
    until("there is room", async || open(upgrade(app.address, &app.token("ann"))).await.ok()).await;
    app.stop().await;
}

#[tokio::test]
async fn a_connection_is_http_1_and_two_thousand_sockets_at_one_moment_are_opened() {
    let app = TestApp::start(|config| {
        config.limits.per_user.sockets = 2_000;
        config.limits.per_account.sockets = 2_000;
    })
    .await;
    let told = said(&app, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    assert!(!told.contains("HTTP/2") && !told.as_bytes().starts_with(&[0, 0]), "{told:?}");
    let token = app.token("ann");
    let sockets = join_all((0..2_000).map(|_| open(upgrade(app.address, &token)))).await;
    assert_eq!(sockets.iter().filter(|socket| socket.is_ok()).count(), 2_000);
    drop(sockets);
    sleep(Duration::ZERO).await;
    app.stop().await;
}

#[tokio::test]
async fn a_connection_that_says_nothing_or_half_of_something_is_closed_in_its_time_from_the_first_moment_on() {
    let app = TestApp::start(|config| config.server.head_timeout_ms = 1_000).await;
    for beginning in ["", "G", "PRI * HTTP/2.0\r\n", "GET /health/live HTTP/1.1\r\nhost: x\r\nx-long: "] {
        // Closed, with or without a word, or this waits in vain.
        let told = said(&app, beginning).await;
        assert!(told.is_empty() || told.starts_with("HTTP/1.1 4"), "{beginning:?}: {told}");
    }
    // Between two requests as well, and neither is cut short.
    let told = said(&app, "GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
    app.stop().await;
}

#[tokio::test]
async fn a_head_that_is_too_long_or_no_http_is_refused_with_a_reason_also_where_more_of_it_is_on_its_way() {
    let app = TestApp::start(|_| ()).await;
    let fields = |count: usize, bytes: usize| format!("x-field: {}\r\n", "x".repeat(bytes)).repeat(count);
    for (head, status, code) in [
        (format!("GET / HTTP/1.1\r\n{}\r\n", fields(101, 1)), 431, "HEAD_TOO_LARGE"),
        (format!("GET / HTTP/1.1\r\n{}\r\n", fields(50, 10_000)), 431, "HEAD_TOO_LARGE"),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(65_534)), 414, "URI_TOO_LONG"),
        ("GET / HTTP/1.1\r\nno field\r\n\r\n".to_owned(), 400, "VALIDATION_ERROR"),
        ("what is this?\r\n\r\n".to_owned(), 400, "VALIDATION_ERROR"),
    ] {
        let told = said(&app, &head).await;
        let (head, body) = told.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{status}: {told}"));
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert!(
            head.contains("content-type: application/problem+json") && head.contains("connection: close"),
            "{head}"
        );
        let problem: Value = serde_json::from_str(body).unwrap();
        assert_eq!((&problem["code"], &problem["status"]), (&json!(code), &json!(status)), "{problem}");
    }
    everybody_is_served(&app).await;
    app.stop().await;
}
