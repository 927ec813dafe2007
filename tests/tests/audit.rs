//! What auditors rely on: nothing can be changed, dropped or reordered unseen.

mod bundle;
mod checkpoint;
pub mod cli;
mod http;
mod refusals;
mod replay;
mod tamper;

use std::sync::Arc;

use aihub_application::ports::clock::SystemClock;
use aihub_infrastructure::{
    audit::{
        checkpoint::make,
        note::SigningKey,
        verify::{Report, Scope, Verdict, verify},
    },
    event_store::{reader, subscription::Subscriptions, upcast::Upcasters},
};
use aihub_projections::{account_balance, rebuild::View};
use aihub_tests::{
    TestDatabase,
    books::{Books, End, accepted, outcome},
    database,
    log::Node,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

fn signing_key(byte: u8) -> SigningKey {
    SigningKey::from_base64("aihub", &STANDARD.encode([byte; 32])).unwrap()
}

/// Signs what the log is now; the note.
async fn sign(database: &TestDatabase) -> String {
    make(&database.database, &signing_key(1), &SystemClock).await.unwrap().unwrap().1
}

/// Two accounts, and requests with every kind of end. The view of the balances has applied them all.
pub async fn a_log() -> (TestDatabase, Books) {
    let database = database().await;
    let books = Books::open(Node::start(&database.database));
    for account in ["acme", "ümlaut"] {
        books.grant(account, 10_000).await;
        for (nth, end) in [
            End::Completed(outcome(1, 10)),
            End::Failed(outcome(2, 0)),
            End::Cancelled(outcome(3, 40)),
            End::Abandoned(aihub_tests::books::now()),
        ]
        .into_iter()
        .enumerate()
        {
            let request = format!("{account}-{nth}");
            books.accept(&request, accepted(account, "ann", "node", 30)).await;
            books.end(account, &request, end).await.unwrap();
        }
    }
    catch_up(&database, account_balance::View).await;
    (database, books)
}

async fn catch_up(database: &TestDatabase, view: impl View + 'static) {
    let head = reader::head(database.pool()).await.unwrap().position;
    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let subscriptions =
        Subscriptions::start(database.database.clone(), Arc::new(Upcasters::default()), tasks, shutdown.clone());
    subscriptions.run_until(Arc::new(view), head).await.unwrap();
    shutdown.cancel();
}

fn whole_log() -> Scope {
    let keys = vec![signing_key(1).verifier()];
    Scope { from: 1, to: None, saved: None, keys, balances: account_balance::AUDITED, contents: true }
}

async fn report(database: &TestDatabase, scope: &Scope) -> Report {
    verify(&database.database, scope, |_| ()).await.unwrap()
}

async fn verdict(database: &TestDatabase) -> Verdict {
    report(database, &whole_log()).await.verdict
}
