//! The database dies under load, and comes back.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use aihub_infrastructure::embedded_postgres::{EmbeddedPostgres, EmbeddedPostgresOptions};
use aihub_tests::{
    app::TestApp,
    audit::Audit,
    client::{Client, chat},
    until,
};
use futures::future::join_all;
use serde_json::json;
use sqlx::{Connection, PgConnection, PgPool};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

const CLIENTS: usize = 8;
const CRASHES: usize = 3;

/// Asks again and again until `enough`. Returns what was answered in full: the request and its charge.
async fn ask_on(mut client: Client, answered: &AtomicUsize, enough: CancellationToken) -> Vec<(String, i64)> {
    let mut done = Vec::new();
    for nth in 0.. {
        if enough.is_cancelled() {
            break;
        }
        let answer = client.ask(&chat(&nth.to_string(), "Why is the sky blue?")).await;
        if answer.end["type"] == "done" {
            done.push((answer.request_id().to_owned(), answer.charged()));
            answered.fetch_add(1, Ordering::Relaxed);
        } else {
            // What could not be accepted is refused for now, and the socket lives.
            answer.error("UNAVAILABLE");
        }
    }
    done
}

/// Kills a server process of PostgreSQL: all connections are cut, and it recovers from its log.
async fn crash(url: &str) {
    let victim = until("it is up", async || {
        let mut victim = PgConnection::connect(url).await.ok()?;
        let id = sqlx::query_scalar::<_, i32>("SELECT pg_backend_pid()").fetch_one(&mut victim).await.ok()?;
        Some((victim, id))
    });
    let (_connection, id) = victim.await;
    assert!(Command::new("kill").args(["-9", &id.to_string()]).status().await.unwrap().success());
}

#[tokio::test]
async fn a_database_that_crashes_under_load_loses_no_answer_that_a_client_has_and_ends_every_request_once() {
    // One of its own, which keeps what it has committed.
    let postgres = EmbeddedPostgres::start_temporary(&EmbeddedPostgresOptions::default()).await.unwrap();
    let url = json!(postgres.url());
    let app = TestApp::start(|config| config.database.url = Some(serde_json::from_value(url).unwrap())).await;
    app.providers.rule(json!({ "tokens_per_second": 200, "output_tokens": 20 }));
    let (answered, enough) = (AtomicUsize::new(0), CancellationToken::new());
    let mut clients = Vec::new();
    for nth in 0..CLIENTS {
        clients.push(ask_on(app.connect(&format!("user{nth}")).await, &answered, enough.clone()));
    }
    let crashes = async {
        for _ in 0..CRASHES {
            tokio::time::sleep(Duration::from_millis(rand::random_range(200..800))).await;
            crash(postgres.url()).await;
        }
        // However slow the machine is: there are answers, and some of them from after the last crash.
        let before = answered.load(Ordering::Relaxed);
        let more = async || (answered.load(Ordering::Relaxed) > before + CLIENTS).then_some(());
        until("there are more answers", more).await;
        enough.cancel();
    };
    let (answers, ()) = tokio::join!(join_all(clients), crashes);
    let pool = until("it is up", async || PgPool::connect(postgres.url()).await.ok()).await;
    let audit = Audit::at_rest(&pool).await;
    let answers: Vec<_> = answers.concat();
    for (id, charged) in answers {
        let outcome = audit.requests[&id].outcome();
        assert_eq!((outcome.charge.amount.0, outcome.finish_reason.as_deref()), (charged, Some("stop")));
    }
    pool.close().await;
    app.stop().await;
    postgres.stop().await.unwrap();
}
