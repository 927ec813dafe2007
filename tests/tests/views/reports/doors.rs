//! The doors: over HTTP and on the command line there are the same bytes, for those who may read them.

use std::process::Stdio;

use aihub::auth::mint::{NewToken, mint};
use aihub_application::ports::clock::{Clock, SystemClock};
use aihub_domain::money::Microcredits;
use aihub_projections::report::{format::Format, selection::Name};
use aihub_tests::{
    PATIENCE,
    app::{TestApp, auth},
    client::chat,
};
use chrono::TimeDelta;
use reqwest::StatusCode;
use tokio::process::Command;

use super::made;

async fn get(app: &TestApp, path: &str, token: &str) -> reqwest::Response {
    let client = &app.http;
    client.get(format!("http://{}{path}", app.address)).bearer_auth(token).send().await.unwrap()
}

fn finance() -> String {
    let roles = ["finance".to_owned()];
    let ttl = TimeDelta::hours(1);
    mint(&auth(), &NewToken { sub: "fin", account: None, roles: &roles, ttl, now: SystemClock.now() }).unwrap()
}

/// What the command line prints.
async fn printed(app: &TestApp, name: Name, pairs: &[(&str, &str)], format: &str) -> Vec<u8> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aihub-under-test"));
    command.env_clear().env("DATABASE_URL", &app.database.options.url);
    command.args(["report", name.as_str(), "--format", format, "--actor", "shell"]);
    for (name, value) in pairs {
        let flag = match *name {
            "groupBy" => "group-by",
            "asOf" => "as-of",
            name => name,
        };
        command.arg(format!("--{flag}={value}"));
    }
    let output = command.stdin(Stdio::null()).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[tokio::test]
async fn the_same_bytes_come_over_http_and_on_the_command_line_to_those_who_may_read_them() {
    let app = TestApp::start(|_| ()).await;
    app.grant("ann", Microcredits::from_credits(100)).await;
    let mut client = app.connect("ann").await;
    client.ask(&chat("a", "Why is the sky blue?")).await;
    let head = aihub_infrastructure::event_store::reader::head(app.database.pool()).await.unwrap().position;
    for view in aihub_projections::rebuild::views() {
        app.hub.subscriptions.wait_for(view.name(), head, PATIENCE).await.unwrap();
    }
    let finance = finance();
    let at = head.to_string();
    for (path, name, pairs) in [
        ("/api/usage?groupBy=model,day", Name::Usage, vec![("groupBy", "day,model")]),
        ("/api/reports/usage?groupBy=day,model", Name::Usage, vec![("groupBy", "day,model")]),
        ("/api/reports/trial-balance?account=ann", Name::TrialBalance, vec![("account", "ann")]),
        ("/api/reports/holds?", Name::Holds, vec![]),
    ] {
        for (format, text) in [(Format::Json, "json"), (Format::Csv, "csv"), (Format::Parquet, "parquet")] {
            let answer = get(&app, &format!("{path}&asOf={head}&format={text}"), &finance).await;
            assert_eq!(answer.status(), StatusCode::OK);
            assert_eq!(answer.headers()["aihub-position"], at.as_str());
            assert_eq!(answer.headers()["content-type"], format.media_type());
            let body = answer.bytes().await.unwrap();
            let mut pairs = pairs.clone();
            pairs.push(("asOf", &at));
            // The days of both are this month until today, and the library is asked on another day.
            let today = SystemClock.now().date_naive().to_string();
            let month = format!("{}-01", &today[..7]);
            if name == Name::Usage {
                pairs.extend([("from", month.as_str()), ("to", today.as_str())]);
            }
            assert!(body == made(&app.database, name, &pairs, format).await.0, "{path} {text}");
            assert!(body == printed(&app, name, &pairs, text).await, "{path} {text}");
        }
    }

    let ann = app.token("ann");
    let own: serde_json::Value = get(&app, "/api/usage?groupBy=account,user", &ann).await.json().await.unwrap();
    assert_eq!((&own["rows"][0]["account"], &own["rows"][0]["user"]), (&"ann".into(), &"ann".into()));
    assert_eq!(get(&app, "/api/reports/statement", &ann).await.status(), StatusCode::OK);
    for refused in [
        "/api/usage?account=bob",
        "/api/reports/statement?account=bob",
        "/api/reports/trial-balance",
        "/api/reports/margin",
        "/api/reports/close?month=2024-10",
    ] {
        let answer = get(&app, refused, &ann).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{refused}");
    }
    for (wrong, field) in [
        ("/api/usage?groupBy=colour", "groupBy"),
        ("/api/usage?color=red", "color"),
        ("/api/usage?from=2024-10-01&from=2024-10-02", "from"),
        ("/api/usage?format=xls", "format"),
        ("/api/reports/close?month=october", "month"),
        ("/api/reports/holds?asOf=9999999", "asOf"),
    ] {
        let answer = get(&app, wrong, &finance).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{wrong}");
        let problem: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(problem["code"], "VALIDATION_ERROR");
        assert_eq!(problem["details"]["fields"][0]["field"], field);
    }
    assert_eq!(get(&app, "/api/reports/weather", &finance).await.status(), StatusCode::NOT_FOUND);

    // Who read more than their own is on record, with what they asked for; what was refused is not.
    let recorded = "SELECT payload->'AccessRecorded'->>'user' || ' ' || (payload->'AccessRecorded'->>'action')
                    FROM events WHERE aggregate_type = 'access' AND payload->'AccessRecorded'->>'account' <> ''";
    let recorded: Vec<String> = sqlx::query_scalar(recorded).fetch_all(app.database.pool()).await.unwrap();
    assert_eq!(recorded.len(), 12);
    assert!(recorded.iter().all(|read| read.starts_with("fin report.")), "{recorded:?}");
    app.stop().await;
}
