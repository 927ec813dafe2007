//! How fast the log takes events, next to postgres-es's own way and to a bare batched insert that keeps no promise.
//!
//! `cargo bench -p aihub-tests --bench event_store`; seconds a cell in `BENCH_SECONDS`, 3 by default.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::panic,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a benchmark"
)]

#[path = "event_store/bare.rs"]
mod bare;
#[path = "event_store/event.rs"]
mod event;
#[path = "event_store/load.rs"]
mod load;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aihub_application::{accounts::Accounts, ports::event_log::EventLog};
use aihub_domain::{
    account::{command::AccountCommand, event::AccountEvent},
    money::Microcredits,
};
use aihub_infrastructure::database::{Database, DatabaseOptions};
use aihub_tests::{TestDatabase, log::Node};
use chrono::Utc;
use cqrs_es::persist::{PersistedEventRepository, PersistenceError};
use postgres_es::PostgresEventRepository;
use tokio::sync::Mutex;
use uuid::Uuid;

use self::{
    bare::BareWriter,
    event::{Account, serialized, unit},
    load::{Cell, measure},
};

const CALLERS: [usize; 4] = [1, 16, 64, 256];
const POSTGRES_ES_CONNECTIONS: u32 = 32;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let seconds = std::env::var("BENCH_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(3.0);
    let time = Duration::from_secs_f64(seconds);
    settings().await;
    println!("\nOne event of 0.7 kB a call, each to a stream of its own; events/s, and p50 / p99 of a call in ms.\n");
    println!(
        "| nodes | callers | aihub | p50 / p99 | bare insert | postgres-es | aihub / bare | aihub / postgres-es |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for nodes in [1, 4] {
        for callers in CALLERS {
            let ours = ours(nodes, callers, time).await;
            let bare = bare(nodes, callers, time).await;
            let theirs = postgres_es(nodes, callers, time).await;
            println!(
                "| {nodes} | {callers} | {:.0} | {} | {:.0} | {:.0} | {:.2} | {:.1} |",
                ours.rate,
                ours.latency(),
                bare.rate,
                theirs.rate,
                ours.rate / bare.rate,
                ours.rate / theirs.rate
            );
        }
    }
    println!(
        "\nAll calls to one stream, on one node; a call that meets a conflict reads the stream's head and tries again.\n"
    );
    println!("| callers | aihub | p50 / p99 | postgres-es | aihub / postgres-es |");
    println!("|---|---|---|---|---|");
    for callers in CALLERS {
        let ours = ours_on_one_stream(callers, time).await;
        let theirs = postgres_es_on_one_stream(callers, time).await;
        let (latency, ratio) = (ours.latency(), ours.rate / theirs.rate);
        println!("| {callers} | {:.0} | {latency} | {:.0} | {ratio:.1} |", ours.rate, theirs.rate);
    }
    println!("\nReservations on one hot account, each decided on the balance that the ones before it leave.\n");
    println!("| callers | reservations/s | p50 / p99 |");
    println!("|---|---|---|");
    for callers in CALLERS {
        let reserved = reservations(callers, time).await;
        println!("| {callers} | {:.0} | {} |", reserved.rate, reserved.latency());
    }
}

async fn settings() {
    let database = aihub_tests::database().await;
    let settings = "SELECT name || ' = ' || setting FROM pg_settings WHERE name IN
        ('server_version', 'fsync', 'synchronous_commit', 'full_page_writes', 'shared_buffers', 'wal_sync_method')";
    let settings: Vec<String> = sqlx::query_scalar(settings).fetch_all(database.pool()).await.unwrap();
    println!("{}", settings.join(", "));
}

/// A database of its own, with the server's dirty pages out of the way.
async fn fresh() -> TestDatabase {
    let database = aihub_tests::database().await;
    sqlx::query("CHECKPOINT").execute(database.pool()).await.unwrap();
    database
}

async fn ours(nodes: usize, callers: usize, time: Duration) -> Cell {
    let database = fresh().await;
    let nodes: Vec<_> = (0..nodes).map(|_| Arc::new(Node::start(&database.database))).collect();
    measure(callers, time, move |caller| {
        let node = nodes[caller % nodes.len()].clone();
        async move { node.log.append(unit(&Uuid::now_v7().to_string(), 0)).await.unwrap().position }
    })
    .await
}

async fn bare(nodes: usize, callers: usize, time: Duration) -> Cell {
    let database = fresh().await;
    bare::create(database.pool()).await;
    let mut writers = Vec::new();
    for _ in 0..nodes {
        writers.push(Arc::new(BareWriter::start(&database.database).await));
    }
    measure(callers, time, move |caller| {
        let writer = writers[caller % writers.len()].clone();
        async move { writer.append(&Uuid::now_v7().to_string()).await }
    })
    .await
}

/// As many connections in all as it does best with, shared by the nodes.
async fn postgres_es(nodes: usize, callers: usize, time: Duration) -> Cell {
    let (_database, repositories) = repositories(nodes).await;
    measure(callers, time, move |caller| {
        let repository = repositories[caller % repositories.len()].clone();
        async move {
            repository.persist::<Account>(&[serialized(&Uuid::now_v7().to_string(), 1)], None).await.unwrap();
            1
        }
    })
    .await
}

/// Its own table: without the trigger and the columns that its events do not need.
async fn repositories(nodes: usize) -> (TestDatabase, Vec<Arc<PostgresEventRepository>>) {
    let database = fresh().await;
    let table = "CREATE TABLE own_events (aggregate_type text NOT NULL, aggregate_id text NOT NULL,
        sequence bigint CHECK (sequence >= 0) NOT NULL, event_type text NOT NULL, event_version text NOT NULL,
        payload json NOT NULL, metadata json NOT NULL, PRIMARY KEY (aggregate_type, aggregate_id, sequence))";
    sqlx::query(table).execute(database.pool()).await.unwrap();
    let mut repositories = Vec::new();
    for _ in 0..nodes {
        let max_connections = POSTGRES_ES_CONNECTIONS / u32::try_from(nodes).unwrap();
        let acquire_timeout = Duration::from_mins(1);
        let options = DatabaseOptions { max_connections, acquire_timeout, ..database.options.clone() };
        let pool = Database::connect(&options).await.unwrap().pool().clone();
        repositories.push(Arc::new(PostgresEventRepository::new(pool).with_tables("own_events", "snapshots")));
    }
    (database, repositories)
}

/// Each call is decided on the state that the ones before it will have made, as an aggregate in memory is.
async fn ours_on_one_stream(callers: usize, time: Duration) -> Cell {
    let database = fresh().await;
    let node = Arc::new(Node::start(&database.database));
    let sequence = Arc::new(std::sync::Mutex::new(0));
    measure(callers, time, move |_| {
        let (node, sequence) = (node.clone(), sequence.clone());
        async move {
            let outcome = {
                let mut sequence = sequence.lock().unwrap();
                let outcome = node.log.append(unit("hot", *sequence));
                *sequence += 1;
                outcome
            };
            outcome.await.unwrap().position
        }
    })
    .await
}

/// What the gateway does when it opens a request, without the request.
async fn reservations(callers: usize, time: Duration) -> Cell {
    let database = fresh().await;
    let node = Node::start(&database.database);
    let accounts = Arc::new(Accounts::new(node.log.clone()));
    let (grant_id, reason, actor) = ("all".to_owned(), "a benchmark".to_owned(), "bench".to_owned());
    let amount = Microcredits(i64::MAX / 2);
    let (expires_at, granted_at) = (None, Utc::now());
    let grant = AccountCommand::GrantCredits { grant_id, amount, expires_at, reason, actor, granted_at };
    execute(&accounts, grant).await;
    measure(callers, time, move |_| {
        let accounts = accounts.clone();
        async move {
            let (reservation_id, amount) = (Uuid::now_v7().to_string(), Microcredits(1_000));
            let reserve =
                AccountCommand::ReserveCredits { reservation_id, amount, at_least: amount, reserved_at: Utc::now() };
            execute(&accounts, reserve).await
        }
    })
    .await
}

async fn execute(accounts: &Accounts, command: AccountCommand) -> u64 {
    let alone = |_: &[AccountEvent]| Ok(vec![]);
    accounts.execute("hot", &command, &alone, &Arc::default()).await.unwrap().len() as u64
}

async fn postgres_es_on_one_stream(callers: usize, time: Duration) -> Cell {
    let (_database, repositories) = repositories(1).await;
    let sequence = Arc::new(AtomicU64::new(0));
    let reload = Arc::new(Mutex::new(()));
    measure(callers, time, move |_| {
        let (repository, sequence, reload) = (repositories[0].clone(), sequence.clone(), reload.clone());
        async move {
            loop {
                let next = sequence.load(Ordering::SeqCst) + 1;
                match repository.persist::<Account>(&[serialized("hot", next)], None).await {
                    Ok(()) => {
                        sequence.fetch_max(next, Ordering::SeqCst);
                        return next;
                    }
                    Err(PersistenceError::OptimisticLockError) => drop(reload.lock().await),
                    Err(error) => panic!("{error}"),
                }
            }
        }
    })
    .await
}
