//! A view that cannot go on says so wherever somebody looks.

use aihub_tests::{
    app::{TestApp, auth, http_client, token, variables},
    client::{Client, chat},
    database,
    process::Process,
    providers::Providers,
    until, until_ok,
};
use chrono::TimeDelta;
use serde_json::json;
use sqlx::Executor;

use crate::audit::cli::done;

const PROGRAM: &str = env!("CARGO_BIN_EXE_aihub-under-test");

async fn get(service: &Process, path: &str) -> (u16, String) {
    let response = http_client().get(format!("http://{}{path}", service.address)).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

/// Waits until readiness has this status and says this.
async fn ready(service: &Process, status: u16, saying: &str) {
    until_ok("readiness says it", async || {
        let (found, text) = get(service, "/health/ready").await;
        if found == status && text.contains(saying) { Ok(()) } else { Err((found, text)) }
    })
    .await;
}

#[tokio::test]
async fn a_view_that_fails_says_where_in_status_readiness_and_metrics_and_goes_on_when_it_is_resumed() {
    let (database, providers) = (database().await, Providers::start().await);
    let service = Process::start(PROGRAM, &variables(&database, &providers)).await;
    let mut client = Client::connect(service.address, &token(&auth(), "ann", "acme", TimeDelta::hours(1))).await;
    client.ask(&chat("a", "Why is the sky blue?")).await.done();
    ready(&service, 200, "ready").await;

    // What follows does not fit into the view any more.
    let constraint = "ALTER TABLE read.request_status_v1 ADD CONSTRAINT nothing_more CHECK (account = '') NOT VALID";
    database.pool().execute(constraint).await.unwrap();
    let answer = client.ask(&chat("b", "Why is the sky blue?")).await;
    answer.done();
    // Everything else is served.
    ready(&service, 200, "handler request_status_v1 stopped at position ").await;
    let metrics = get(&service, "/metrics").await.1;
    assert!(metrics.contains(r#"subscription_stopped{name="request_status_v1"} 1"#), "{metrics}");
    let report = http_client().get(format!("http://{}/api/usage", service.address));
    let report = report.bearer_auth(token(&auth(), "ann", "acme", TimeDelta::hours(1))).send().await.unwrap();
    assert!(!report.headers().contains_key("aihub-incomplete"), "its own views go on");
    let status = done(&database, &["projections", "status"]).await;
    let line = status.lines().find(|line| line.starts_with("request_status_v1")).unwrap();
    assert!(line.contains("stopped at position") && line.contains("nothing_more"), "{line}");

    database.pool().execute("ALTER TABLE read.request_status_v1 DROP CONSTRAINT nothing_more").await.unwrap();
    done(&database, &["projections", "resume", "request_status"]).await;
    until_ok("the view has caught up", async || {
        let shown = "SELECT status FROM request_status_v1 WHERE request_id = $1";
        let shown: Option<String> =
            sqlx::query_scalar(shown).bind(answer.request_id()).fetch_optional(database.pool()).await.unwrap();
        if shown.as_deref() == Some("completed") { Ok(()) } else { Err(shown) }
    })
    .await;
    until_ok("it is seen to go on", async || {
        let (_, metrics) = get(&service, "/metrics").await;
        let (_, text) = get(&service, "/health/ready").await;
        let goes_on = metrics.contains(r#"subscription_stopped{name="request_status_v1"} 0"#);
        if goes_on && !text.contains("stopped at position") { Ok(()) } else { Err(text) }
    })
    .await;
}

#[tokio::test]
async fn a_report_whose_view_stands_says_so_and_one_as_of_a_position_that_it_has_is_complete() {
    let app = TestApp::start(|_| {}).await;
    app.connect("ann").await.ask(&chat("a", "Why is the sky blue?")).await.done();
    let name = "usage_daily_v1";
    let view = async || {
        let position = "SELECT position FROM subscriptions WHERE name = 'usage_daily_v1'";
        let position: i64 = sqlx::query_scalar(position).fetch_one(app.database.pool()).await.unwrap();
        let head: i64 =
            sqlx::query_scalar("SELECT max(position) FROM events").fetch_one(app.database.pool()).await.unwrap();
        (position == head).then_some(position)
    };
    let position = until("the view has caught up", view).await;
    done(&app.database, &["projections", "pause", name]).await;
    app.connect("ann").await.ask(&chat("b", "Why is the sky blue?")).await.done();
    let token = app.token("ann");
    let (_, headers, report) = app.get("/api/usage?groupBy=day", Some(&token)).await;
    assert_eq!(headers["aihub-incomplete"], format!("{name} stands at position {position}"));
    let watermark = &report["watermark"];
    assert_eq!((&watermark["complete"], &watermark["position"]), (&json!(false), &json!(position)), "{report}");
    let (_, headers, report) = app.get(&format!("/api/usage?groupBy=day&asOf={position}"), Some(&token)).await;
    assert!(!headers.contains_key("aihub-incomplete") && report["watermark"]["complete"].is_null(), "{report}");
    app.stop().await;
}
