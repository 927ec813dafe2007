//! How many connections a node has is what the manual says, and one that waits for its turn makes none.

use std::{collections::BTreeMap, time::Duration};

use aihub::bootstrap::handlers;
use aihub_tests::{TestDatabase, app::TestApp, client::chat, until_ok};
use futures::future::join_all;
use sqlx::Executor;

/// By what they are called.
async fn connections(database: &TestDatabase) -> BTreeMap<String, i64> {
    let count = "SELECT application_name, count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name LIKE 'aihub%' GROUP BY application_name";
    sqlx::query_as(count).fetch_all(database.pool()).await.unwrap().into_iter().collect()
}

#[tokio::test]
async fn a_node_has_as_many_connections_as_the_manual_says_and_a_second_one_fewer() {
    let app = TestApp::start(|_| {}).await;
    // The pool of the test itself is called like the service's.
    let other = TestApp::start_on(&app.database, &app.providers, |_| {}).await;
    let mut clients = join_all(["ann", "bob", "eve"].into_iter().map(|user| app.connect(user))).await;
    let load = async {
        for nth in 0..10 {
            join_all(
                clients
                    .iter_mut()
                    .map(|client| async move { client.ask(&chat(&nth.to_string(), "Why?")).await.done().clone() }),
            )
            .await;
        }
    };
    load.await;
    let nodes = 2;
    let expected = BTreeMap::from([
        ("aihub-heartbeat", nodes),
        ("aihub-tail", nodes),
        ("aihub-writer", nodes),
        ("aihub-watchdog", nodes),
        // Of both nodes together: who has the turn.
        ("aihub-subscription", i64::try_from(handlers().len()).unwrap()),
        ("aihub-leader", 2),
    ]);
    until_ok("there are as many as the manual says", async || {
        let found = connections(&app.database).await;
        let is_right = expected.iter().all(|(name, count)| found.get(*name) == Some(count));
        let pools = found.get("aihub").copied().unwrap_or(0) <= 3 * 8
            && found.get("aihub-reads").copied().unwrap_or(0) <= 2 * 4;
        let known = found
            .keys()
            .all(|name| expected.contains_key(name.as_str()) || ["aihub", "aihub-reads"].contains(&name.as_str()));
        if is_right && pools && known { Ok(()) } else { Err(found) }
    })
    .await;
    app.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_node_that_does_not_lead_makes_no_connection_while_it_waits() {
    let app = TestApp::start(|_| {}).await;
    let other = TestApp::start_on(&app.database, &app.providers, |_| {}).await;
    let mut admin = app.database.admin().await;
    let mut sessions = async || -> i64 {
        admin.execute("SELECT pg_stat_clear_snapshot()").await.unwrap();
        let made = "SELECT sessions FROM pg_stat_database WHERE datname = current_database()";
        sqlx::query_scalar(made).fetch_one(&mut admin).await.unwrap()
    };
    // What both start with is made; the statistics are a second behind.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = sessions().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let made = sessions().await - before;
    assert!(made <= 1, "{made} connections in 5 s of quiet");
    app.stop().await;
    other.stop().await;
}
