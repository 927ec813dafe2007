//! Grants expire: what is left of them goes when their time is over, and what is held when it comes free.

use std::sync::Arc;

use aihub_application::policies::expire_credits::expire_credits;
use aihub_domain::{account::command::AccountCommand, money::Microcredits};
use aihub_infrastructure::{
    due_grants::{ExpiringGrants, PostgresDueGrants},
    event_store::{reader, subscription::Subscriptions, upcast::Upcasters},
};
use aihub_tests::{
    TestDatabase,
    books::{Books, End, accepted, now, outcome},
    database,
    log::Node,
};
use chrono::{DateTime, TimeDelta, Utc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

async fn grant(books: &Books, grant_id: &str, amount: i64, expires_at: DateTime<Utc>) {
    let grant = AccountCommand::GrantCredits {
        grant_id: grant_id.to_owned(),
        amount: Microcredits(amount),
        expires_at: Some(expires_at),
        reason: "promotion".to_owned(),
        actor: "finance".to_owned(),
        granted_at: now(),
    };
    books.accounts.execute("acme", &grant, &|_| Ok(vec![]), &Arc::default()).await.unwrap();
}

/// What the house does every second: looks for due grants in a view that is up to date. What is due is the database's to say.
async fn expire(database: &TestDatabase, books: &Books) -> usize {
    catch_up(database).await;
    let due = PostgresDueGrants::new(database.pool().clone());
    expire_credits(&books.accounts, &due, "node-1").await.unwrap()
}

async fn catch_up(database: &TestDatabase) {
    let shutdown = CancellationToken::new();
    let (upcasters, tracker) = (Arc::new(Upcasters::default()), TaskTracker::new());
    let subscriptions = Subscriptions::start(database.database.clone(), upcasters, tracker, shutdown.clone());
    let head = reader::head(database.pool()).await.unwrap().position;
    subscriptions.run_until(Arc::new(ExpiringGrants), head).await.unwrap();
    shutdown.cancel();
}

async fn balances(books: &Books) -> [i64; 4] {
    let account = books.accounts.load("acme").await.unwrap();
    [account.available(), account.held(), account.spent(), account.expired()].map(|balance| balance.0)
}

#[tokio::test]
async fn what_is_left_of_a_grant_expires_when_it_is_due_and_what_is_held_when_it_comes_free() {
    let database = database().await;
    let books = Books::open(Node::start(&database.database));
    let (past, future) = (now() - TimeDelta::seconds(1), now() + TimeDelta::hours(1));
    books.grant("acme", 1_000).await;
    grant(&books, "later", 50, future).await;
    books.accept("running", accepted("acme", "ann", "node-1", 60)).await;
    assert_eq!(expire(&database, &books).await, 0);

    grant(&books, "due", 100, past).await;
    assert_eq!(expire(&database, &books).await, 1);
    assert_eq!(balances(&books).await, [1_050, 60, 0, 40]);
    // The rest is held: nothing is written down again and again meanwhile.
    assert_eq!(expire(&database, &books).await, 0);
    books.end("acme", "running", End::Completed(outcome(0, 25))).await.unwrap();
    assert_eq!(expire(&database, &books).await, 1);
    assert_eq!(balances(&books).await, [1_050, 0, 25, 75]);
    assert_eq!(expire(&database, &books).await, 0);
    let kept: Vec<String> =
        sqlx::query_scalar("SELECT grant_id FROM expiring_grants").fetch_all(database.pool()).await.unwrap();
    assert_eq!(kept, ["later"]);
}

#[tokio::test]
async fn two_nodes_that_find_the_same_due_grant_expire_it_once() {
    let database = database().await;
    let books = Books::open(Node::start(&database.database));
    for nth in 0..5 {
        grant(&books, &format!("g{nth}"), 10, now() - TimeDelta::seconds(1)).await;
    }
    let other = Books::open(Node::start(&database.database));
    let due = PostgresDueGrants::new(database.pool().clone());
    catch_up(&database).await;
    let (one, two) =
        tokio::join!(expire_credits(&books.accounts, &due, "one"), expire_credits(&other.accounts, &due, "two"),);
    assert_eq!(one.unwrap() + two.unwrap(), 5);
    assert_eq!(balances(&books).await, [0, 0, 0, 50]);
}
