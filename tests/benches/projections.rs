//! How fast views are filled anew from a log of a million events, next to the server's own export of that log.
//!
//! `cargo bench -p aihub-tests --bench projections`; events in `BENCH_EVENTS`, 1,000,000 by default.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::cast_precision_loss, reason = "a benchmark")]

use std::{sync::Arc, time::Instant};

use aihub_application::ports::event_log::{NewEvent, StreamAppend};
use aihub_domain::{
    account::{Account, command::AccountCommand},
    content::SealedContent,
    money::Microcredits,
    request::{Request, command::RequestCommand, event::Outcome},
};
use aihub_projections::rebuild::{Rebuild, views};
use aihub_tests::{
    TestDatabase,
    books::{accepted, now, outcome},
    log::{Node, unit},
};
use chrono::{DateTime, TimeDelta};
use cqrs_es::{Aggregate, DomainEvent};
use futures::{TryStreamExt, future::join_all};
use serde::Serialize;

const ACCOUNTS: usize = 100;
const USERS: u64 = 7;
/// A request has four events: held, accepted, settled, completed.
const EVENTS_A_REQUEST: u64 = 4;

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

/// Requests over thirty days, each with a prompt and an answer of about 0.7 kB.
async fn fill(database: &TestDatabase, requests: u64) {
    let node = Node::start(&database.database);
    let mut accounts: Vec<(Account, u64)> = vec![Default::default(); ACCOUNTS];
    for (nth, account) in accounts.iter_mut().enumerate() {
        let grant = AccountCommand::GrantCredits {
            grant_id: "first".to_owned(),
            amount: Microcredits(i64::MAX / 4),
            expires_at: None,
            reason: "benchmark".to_owned(),
            actor: "benchmark".to_owned(),
            granted_at: now(),
        };
        node.append(unit([decided(account, nth, grant)])).await.unwrap();
    }
    let content =
        || SealedContent { subject: "bench".to_owned(), month: now().date_naive(), sealed: "c2VhbGVk".repeat(88) };
    let mut calls = Vec::new();
    for nth in 0..requests {
        let index = usize::try_from(nth).unwrap() % ACCOUNTS;
        let (id, user) = (format!("request-{nth}"), format!("user-{}", nth % USERS));
        let mut accepted = accepted(&format!("account-{index}"), &user, "node-1", 40);
        accepted.prompt = content();
        let mut request = Request::default();
        let hold = AccountCommand::ReserveCredits {
            reservation_id: id.clone(),
            amount: Microcredits(40),
            reserved_at: accepted.accepted_at,
        };
        let reservation = decided(&mut accounts[index], index, hold);
        let events = request.decide(RequestCommand::AcceptRequest(Box::new(accepted))).unwrap();
        request.evolve(&events[0]);
        calls.push(node.append(unit([reservation, append(Request::TYPE, &id, 0, &events)])));

        let ended_at =
            DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::seconds(10) * i32::try_from(nth).unwrap();
        let outcome = Outcome { answer: Some(content()), ended_at, ..outcome(nth % 500, 30) };
        let settle = AccountCommand::SettleReservation {
            reservation_id: id.clone(),
            charge: outcome.charge.clone(),
            settled_at: ended_at,
        };
        let settled = decided(&mut accounts[index], index, settle);
        let end = RequestCommand::CompleteRequest { client_left: false, outcome: Box::new(outcome) };
        let events = request.decide(end).unwrap();
        calls.push(node.append(unit([settled, append(Request::TYPE, &id, 1, &events)])));
        if calls.len() >= 1_024 {
            assert!(join_all(calls.drain(..)).await.iter().all(Result::is_ok));
        }
    }
    assert!(join_all(calls).await.iter().all(Result::is_ok));
    node.stop().await;
}

fn decided((account, sequence): &mut (Account, u64), index: usize, command: AccountCommand) -> StreamAppend {
    let events = account.decide(command).unwrap();
    for event in &events {
        account.evolve(event);
    }
    let expected = *sequence;
    *sequence += events.len() as u64;
    append(Account::TYPE, &format!("account-{index}"), expected, &events)
}

fn append<E: DomainEvent + Serialize>(
    aggregate_type: &'static str,
    id: &str,
    expected_sequence: u64,
    events: &[E],
) -> StreamAppend {
    let events = events.iter().map(|event| NewEvent::of(event).unwrap()).collect();
    StreamAppend { aggregate_type, aggregate_id: id.to_owned(), expected_sequence, events }
}
