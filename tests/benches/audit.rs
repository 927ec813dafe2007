//! How fast the log is verified, next to what the server takes to copy it out.
//!
//! `cargo bench -p aihub-tests --bench audit`; how many events in `BENCH_EVENTS`, a million by default.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::cast_precision_loss, reason = "a benchmark")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aihub_application::ports::clock::SystemClock;
use aihub_infrastructure::{
    audit::{
        checkpoint::make,
        file::write_bundle,
        note::SigningKey,
        verify::{Scope, Verdict, verify},
    },
    event_store::{subscription::Subscriptions, upcast::Upcasters},
};
use aihub_projections::account_balance;
use aihub_tests::{TestDatabase, database};
use futures::TryStreamExt;
use sqlx::Executor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Of each request; the accounts have two each.
const EVENTS_A_REQUEST: u64 = 4;
const ACCOUNT_EVENTS: u64 = 2_000;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let events = std::env::var("BENCH_EVENTS").ok().and_then(|events| events.parse().ok()).unwrap_or(1_000_000_u64);
    let database = filled(events).await;
    let key = SigningKey::from_base64("bench", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap();
    println!("\n{events} events of 0.6 kB, of {} streams.\n", ACCOUNT_EVENTS / 2 + events / EVENTS_A_REQUEST);

    let copied = copy(&database).await;
    tell("COPY events TO STDOUT", events, copied, copied);
    let began = Instant::now();
    make(&database.database, &key, &SystemClock).await.unwrap().unwrap();
    tell("a first checkpoint: payloads, chain, tree", events, began.elapsed(), copied);
    let keys = vec![key.verifier()];
    let scope = Scope { from: 1, to: None, saved: None, keys, balances: account_balance::AUDITED, contents: true };
    for _ in 0..2 {
        let began = Instant::now();
        let report = verify(&database.database, &scope, |_| ()).await.unwrap();
        assert_eq!((report.verdict, report.events), (Verdict::Intact, events));
        tell("aihub audit verify", events, began.elapsed(), copied);
    }
    let began = Instant::now();
    write_bundle(&database.database, (events / 2, events / 2), None, tokio::io::sink()).await.unwrap();
    tell("aihub audit prove", events, began.elapsed(), copied);
    println!("\nmost memory of this process: {} MB", most_memory_kb() / 1_000);
}

/// A log of that many events, and the balances that they add up to.
async fn filled(events: u64) -> TestDatabase {
    let database = database().await;
    let mut connection = database.database.dedicated("fill", &[]).await.unwrap();
    connection.execute(include_str!("audit/log.sql")).await.unwrap();
    let requests = events.saturating_sub(ACCOUNT_EVENTS) / EVENTS_A_REQUEST;
    sqlx::query("SELECT fill_log($1)").bind(requests.cast_signed()).execute(&mut connection).await.unwrap();
    connection.execute("VACUUM ANALYZE events").await.unwrap();
    let shutdown = CancellationToken::new();
    let upcasters = Arc::new(Upcasters::default());
    let tasks = TaskTracker::new();
    let subscriptions = Subscriptions::start(database.database.clone(), upcasters, tasks, shutdown.clone());
    subscriptions.run_until(Arc::new(account_balance::View), events).await.unwrap();
    shutdown.cancel();
    database
}

/// How long the server takes to copy the log out to somebody who only counts bytes.
async fn copy(database: &TestDatabase) -> Duration {
    let began = Instant::now();
    let mut connection = database.database.dedicated("copy", &[]).await.unwrap();
    let mut bytes = connection.copy_out_raw("COPY events TO STDOUT").await.unwrap();
    while bytes.try_next().await.unwrap().is_some() {}
    began.elapsed()
}

fn tell(what: &str, events: u64, took: Duration, copied: Duration) {
    let rate = events as f64 / took.as_secs_f64();
    let times = took.as_secs_f64() / copied.as_secs_f64();
    println!("{what:<44} {:>6.2} s  {rate:>9.0} events/s  {times:.1} x the copy", took.as_secs_f64());
}

fn most_memory_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).unwrap_or_default()
}
