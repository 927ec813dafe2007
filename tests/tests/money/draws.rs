//! Worlds are drawn: prices, models, accounts, requests, and providers that do whatever a provider may. Two nodes serve them
//! from one log, and one of them dies. Afterwards the log and the providers' own books are compared.
//!
//! The gateway, the log, the accounts and the database are the real ones; only the providers are scripted, at their port.

mod check;
mod provider;
mod world;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use aihub::config::Config;
use aihub_application::{
    accounts::Accounts,
    answer::name::Called,
    catalog::Catalog,
    gateway::{Answers, Gateway, GatewaySettings, SEALED_AT_ONCE, Submitted},
    limits::{Allowance, Capacity, Limits},
    refusals::Refusals,
    shares::{Holder, Portions, Share},
    upstream::{BreakerPolicy, Timing, Upstream, UpstreamSettings, guard::UpstreamLimits},
};
use aihub_domain::money::Microcredits;
use aihub_tests::{app::TestApp, audit::Audit, until};
use futures::{StreamExt, future::join_all};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use check::{Seen, check};
use provider::{Plans, Scripted, Served};
use world::{Ask, Leave, World};

/// How many worlds there are at least, and at most: what happens in each hangs on time as well, and all of it is to be seen.
const WORLDS: (u64, u64) = (11, 50);
/// In one of so many, providers do not keep to their caps.
const ONE_OF: u64 = 5;
/// Providers are waited for longer than any world lasts.
const LONG: Duration = Duration::from_hours(1);
/// A node that was not heard of for so long is dead.
const NODE_TIMEOUT_MS: u64 = 3_000;

/// A gateway for this world on the log and the database of `app`.
fn gateway(app: &TestApp, world: &World, books: &Books) -> Arc<Gateway> {
    let node = &app.hub.gateway;
    let upstreams = world.upstreams.iter().map(|spec| {
        let settings = UpstreamSettings {
            name: spec.name.clone(),
            simulated: false,
            priority: 1,
            weight: 1,
            streaming: spec.streaming,
            timing: Timing { first_byte: LONG, first_piece: LONG, silence: LONG, whole: LONG },
            models: spec.models.clone(),
            limits: UpstreamLimits { max_concurrency: 1_000, requests_per_minute: None, tokens_per_minute: None },
            // All are to be asked, however often they fail.
            breaker: BreakerPolicy { min_calls: u32::MAX, consecutive_failures: u32::MAX, ..BreakerPolicy::default() },
        };
        let scripted = Scripted::new(spec.clone(), books.plans.clone(), books.served.clone());
        Upstream::new(settings, Arc::new(scripted))
    });
    let many = u32::MAX.try_into().unwrap();
    let allowance = Allowance {
        requests_per_minute: many,
        tokens_per_minute: many,
        bytes_per_minute: many,
        concurrent_requests: 1_000,
        sockets: 1_000,
        concurrent_calls: 1_000,
        long_polls: 1_000,
        reports: 1_000,
    };
    let memory = |what| Share::new(what, Portions::undivided(1 << 30));
    let capacity = Capacity { running_requests: 1_000, waiting_requests: 1_000, wait_ms: 10_000, max_lag_ms: 0 };
    Arc::new(Gateway {
        settings: GatewaySettings { node: node.settings.node.clone(), ..world.settings.clone() },
        clock: node.clock.clone(),
        log: node.log.clone(),
        vault: node.vault.clone(),
        accounts: Arc::new(Accounts::new(node.log.clone())),
        catalog: Catalog {
            upstreams: upstreams.collect(),
            equivalents: vec![vec!["m0".to_owned(), "m1".to_owned(), "m2".to_owned()]],
            aliases: BTreeMap::new(),
        },
        limits: Limits::new(allowance, allowance, capacity),
        asked: memory("asked"),
        answers: Answers::new(memory("answers")),
        sealing: Semaphore::new(SEALED_AT_ONCE),
        refusals: Refusals::default(),
        tasks: TaskTracker::new(),
        draining: CancellationToken::new(),
        stopping: CancellationToken::new(),
    })
}

/// What the providers know.
#[derive(Clone)]
struct Books {
    plans: Arc<Plans>,
    served: Arc<Mutex<Vec<Served>>>,
}

impl Books {
    /// Resolves when so many calls have come from the node that dies.
    async fn calls_there(&self, count: usize) {
        let is_there = |call: &&Served| !self.plans[&call.key].is_here;
        while self.served.lock().unwrap().iter().filter(is_there).count() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Asks, and behaves as this client does, until the request has ended.
async fn ask(gateway: &Arc<Gateway>, ask: &Ask) {
    tokio::time::sleep(ask.after).await;
    let principal = world::principal(&ask.account);
    let room = gateway.asked.take(Holder::of(&principal), 1).unwrap();
    let called = Called { id: ask.key.clone(), connection: Uuid::nil() };
    let Ok(Submitted { answer, mut items, .. }) = gateway.submit(&principal, &called, ask.request.clone(), room) else {
        return;
    };
    let read = async { while items.next().await.is_some() {} };
    match ask.leave {
        Leave::Stay => read.await,
        Leave::Cancel(after) => {
            if tokio::time::timeout(after, read).await.is_err() {
                answer.cancelled.cancel();
            }
        }
        Leave::Go(after) => drop(tokio::time::timeout(after, read).await),
    }
    drop(items);
    while !answer.has_ended() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn ask_all(gateway: Arc<Gateway>, asks: Vec<Ask>) {
    join_all(asks.iter().map(|one| ask(&gateway, one))).await;
}

/// A node whose process dies in the midst of its calls.
async fn mortal(app: &TestApp, world: &World, books: &Books, asks: Vec<Ask>) {
    let (database, providers) = (app.database.clone(), app.providers.clone());
    let (world, books) = (world.clone(), books.clone());
    let process = move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let timeout = |config: &mut Config| config.gateway.node_timeout_ms = NODE_TIMEOUT_MS;
            let app = TestApp::start_on(&database, &providers, timeout).await;
            tokio::select! {
                () = ask_all(gateway(&app, &world, &books), asks) => {}
                () = books.calls_there(world.life) => {}
            }
            // No orderly end.
            std::mem::forget(app);
        });
        runtime.shutdown_background();
    };
    tokio::task::spawn_blocking(process).await.unwrap();
}

#[tokio::test]
async fn nothing_costs_more_than_is_held_and_everything_what_a_second_computation_says() {
    let app = TestApp::start(|config| config.gateway.node_timeout_ms = NODE_TIMEOUT_MS).await;
    let mut seen = Seen::default();
    let (least, most) = WORLDS;
    for nth in 0..most {
        if nth >= least && seen.never().is_empty() {
            break;
        }
        let world = World::draw(nth, nth % ONE_OF != ONE_OF - 1);
        for (account, granted) in &world.accounts {
            app.grant(account, Microcredits(*granted)).await;
        }
        let plans = world.asks.iter().map(|ask| (ask.key.clone(), ask.clone())).collect();
        let books = Books { plans: Arc::new(plans), served: Arc::default() };
        let (here, there): (Vec<Ask>, Vec<Ask>) = world.asks.iter().cloned().partition(|ask| ask.is_here);
        let living = ask_all(gateway(&app, &world, &books), here);
        let dying = mortal(&app, &world, &books, there);
        tokio::join!(living, dying);
        let open = "SELECT count(*) FILTER (WHERE sequence = 1) - count(*) FILTER (WHERE sequence > 1)
                    FROM events WHERE aggregate_type = 'request'";
        until("what the dead node left is ended", async || {
            let open: i64 = sqlx::query_scalar(open).fetch_one(app.database.pool()).await.unwrap();
            (open == 0).then_some(())
        })
        .await;
        let audit = Audit::of(app.database.pool()).await;
        let served = books.served.lock().unwrap().clone();
        check(&world, &audit, &served, app.database.pool(), &mut seen).await;
    }
    assert_eq!(seen.never(), Vec::<&str>::new(), "{seen:?}");
    app.stop().await;
}
