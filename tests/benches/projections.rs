//! How fast views are filled anew from a log of a million events, next to the server's own export of that log.
//!
//! `cargo bench -p aihub-tests --bench projections`; events in `BENCH_EVENTS`, 1,000,000 by default.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::cast_precision_loss, reason = "a benchmark")]

use std::{sync::Arc, time::Instant};

use aihub_projections::rebuild::{Rebuild, views};
use aihub_tests::{
    TestDatabase,
    log::Node,
    traffic::{EVENTS_A_REQUEST, Payer},
};
use chrono::{DateTime, TimeDelta};
use futures::{TryStreamExt, future::join_all};

const ACCOUNTS: usize = 100;
const USERS: u64 = 7;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let events = std::env::var("BENCH_EVENTS").ok().and_then(|events| events.parse().ok()).unwrap_or(1_000_000);
    let database = aihub_tests::database().await;
    fill(&database, events / EVENTS_A_REQUEST).await;
    sqlx::query("VACUUM ANALYZE events").execute(database.pool()).await.unwrap();
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(database.pool()).await.unwrap();
    let began = Instant::now();
    let bytes = export(&database).await;
    let copied = count as f64 / began.elapsed().as_secs_f64();
    println!("{count} events, {} MB; COPY events TO STDOUT: {copied:.0} events/s\n", bytes >> 20);
    println!("| view | events/s | of COPY | seconds | rows |");
    println!("|---|---|---|---|---|");
    for view in views() {
        let name = view.name();
        let began = Instant::now();
        Rebuild::begin(&database.database, Arc::default(), view).await.unwrap().run(|_| ()).await.unwrap();
        let seconds = began.elapsed().as_secs_f64();
        let rows = format!("SELECT count(*) FROM {name}");
        let rows: i64 = sqlx::query_scalar(&rows).fetch_one(database.pool()).await.unwrap();
        let rate = count as f64 / seconds;
        println!("| `{name}` | {rate:.0} | {:.2} | {seconds:.1} | {rows} |", rate / copied);
    }
}

async fn export(database: &TestDatabase) -> usize {
    let mut connection = database.pool().acquire().await.unwrap();
    let mut stream = connection.copy_out_raw("COPY events TO STDOUT").await.unwrap();
    let mut bytes = 0;
    while let Some(piece) = stream.try_next().await.unwrap() {
        bytes += piece.len();
    }
    bytes
}

/// Requests over thirty days.
async fn fill(database: &TestDatabase, requests: u64) {
    let node = Node::start(&database.database);
    let mut payers = Vec::new();
    for nth in 0..ACCOUNTS {
        let (payer, granted) = Payer::open(format!("account-{nth}"));
        node.append(granted).await.unwrap();
        payers.push(payer);
    }
    let mut calls = Vec::new();
    for nth in 0..requests {
        let payer = &mut payers[usize::try_from(nth).unwrap() % ACCOUNTS];
        let ended_at =
            DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::seconds(10) * i32::try_from(nth).unwrap();
        let units = payer.request(&format!("request-{nth}"), nth, &format!("user-{}", nth % USERS), ended_at);
        calls.extend(units.map(|unit| node.append(unit)));
        if calls.len() >= 1_024 {
            assert!(join_all(calls.drain(..)).await.iter().all(Result::is_ok));
        }
    }
    assert!(join_all(calls).await.iter().all(Result::is_ok));
    node.stop().await;
}
