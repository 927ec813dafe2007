//! Reports that are not read hold no connection of the database, and no more than so many of one user's are made.

use std::time::Duration;

use aihub_application::ports::clock::{Clock as _, SystemClock};
use aihub_tests::{app::TestApp, client::chat, until};
use futures::future::join_all;
use serde_json::json;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    time::timeout,
};

/// Asks, and reads nothing of the answer.
async fn unread(app: &TestApp, path: &str, token: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut connection = socket.connect(app.address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    connection
}

#[tokio::test]
async fn reports_that_are_not_read_keep_nobody_from_theirs() {
    let app = TestApp::start(|_| ()).await;
    app.connect("ann").await.ask(&chat("a", "Why is the sky blue?")).await.done();
    // Rows enough that no kernel takes the file in advance, for as many users as there are connections to read them with.
    let rows = "INSERT INTO read.usage_ledger_v1
                SELECT (jsonb_populate_record(one.ledger, jsonb_build_object('position', -nth, 'account', 'h' || nth % 4, 'user_id', 'h' || nth % 4))).*
                FROM (SELECT ledger FROM read.usage_ledger_v1 AS ledger LIMIT 1) AS one, generate_series(1, 80000) AS nth";
    until("there is a row to multiply", async || {
        let done = sqlx::query(rows).execute(app.database.pool()).await.unwrap();
        (done.rows_affected() > 0).then_some(())
    })
    .await;
    let month = SystemClock.now().format("%Y-%m");
    let path = format!("/api/usage?month={month}&format=focus");
    let tokens: Vec<String> = (0..8).map(|nth| app.token(&format!("h{}", nth % 4))).collect();
    let held = join_all(tokens.iter().map(|token| unread(&app, &path, token))).await;
    for path in ["/api/credits", "/api/usage", &path] {
        let told = timeout(Duration::from_secs(20), app.get(path, Some(&app.token("bob")))).await;
        let (status, ..) = told.expect("it does not wait for slow readers");
        assert!(status == 200 || (path == "/api/credits" && status == 404), "{path}: {status}");
    }
    drop(held);
    app.stop().await;
}

#[tokio::test]
async fn one_user_has_so_many_reports_made_and_read_at_once() {
    let app = TestApp::start(|_| ()).await;
    app.connect("ann").await.ask(&chat("a", "Why is the sky blue?")).await.done();
    let token = app.token("ann");
    let mine = app
        .hub
        .doors
        .reports
        .take(aihub_application::shares::Holder::Principal { user: "ann".into(), account: "ann".into() }, 2);
    let (status, _, refused) = app.get("/api/usage", Some(&token)).await;
    assert_eq!((status.as_u16(), &refused["code"]), (429, &json!("RATE_LIMIT_EXCEEDED")), "{refused}");
    assert_eq!(refused["details"], json!({ "what": "reports at once", "scope": "user", "limit": 2 }));
    assert_eq!(app.get("/api/usage", Some(&app.token("bob"))).await.0, 200);
    drop(mine);
    assert_eq!(app.get("/api/usage", Some(&token)).await.0, 200);
    until("all is given back", async || (app.hub.doors.reports.taken() == 0).then_some(())).await;
    app.stop().await;
}
