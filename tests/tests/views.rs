//! Views: each event counts once, a view can be rebuilt to the same bytes, and the sums are those of the ledger.

mod finance;
mod ledgers;
mod months;
mod rebuilding;
pub mod reports;
mod rows;
mod stopping;
mod usage;
mod videos;
mod working;

use std::sync::Arc;

use aihub_domain::{
    account::{UsageLimits, command::AccountCommand, repricing::Repricing},
    money::Microcredits,
};
use aihub_infrastructure::event_store::{
    decode::entries,
    reader,
    subscription::{SubscriptionError, Subscriptions},
    upcast::Upcasters,
};
use aihub_projections::{
    account_balance,
    rebuild::{View, views},
    request_status,
    watermark::AsOf,
};
use aihub_tests::{
    TestDatabase,
    books::{Books, End, accepted, now, outcome},
    database,
    log::{Node, stream, unit, verified},
};
use futures::TryStreamExt;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

const ACCOUNTS: [&str; 3] = ["acme", "globex", "initech"];

/// The correction of a month's prices that is looked at.
fn repricing() -> Repricing {
    Repricing { month: "2024-10".parse().unwrap(), key: "a-test".to_owned() }
}

/// Requests with every kind of end; every ninth is still open.
async fn trade(books: &Books, requests: std::ops::Range<u64>) {
    for (nth, account) in requests.zip(ACCOUNTS.into_iter().cycle()) {
        let request_id = format!("request-{nth}");
        let user = if nth.is_multiple_of(4) { "ann" } else { "bob" };
        books.accept(&request_id, accepted(account, user, "node-1", 40)).await;
        let charge = 10 + i64::try_from(nth).unwrap() % 60;
        let end = match nth % 9 {
            0 => continue,
            1 => End::Failed(outcome(nth, 0)),
            2 => End::Failed(outcome(nth, charge)),
            3 => End::Cancelled(outcome(nth, charge)),
            4 => End::Abandoned(now()),
            _ => End::Completed(outcome(nth, charge)),
        };
        books.end(account, &request_id, end).await.unwrap();
    }
}

async fn open_books(database: &TestDatabase) -> Books {
    let books = Books::open(Node::start(&database.database));
    for account in ACCOUNTS {
        books.grant(account, 100_000).await;
    }
    books
}

fn subscriptions(database: &TestDatabase) -> (Subscriptions, DropGuard) {
    let shutdown = CancellationToken::new();
    let upcasters = Arc::new(Upcasters::default());
    let subscriptions =
        Subscriptions::start(database.database.clone(), upcasters, TaskTracker::new(), shutdown.clone());
    (subscriptions, shutdown.drop_guard())
}

async fn head(database: &TestDatabase) -> u64 {
    reader::head(database.pool()).await.unwrap().position
}

async fn run(database: &TestDatabase, view: Arc<dyn View>) -> Result<(), SubscriptionError> {
    let (subscriptions, _guard) = subscriptions(database);
    subscriptions.run_until(view, head(database).await).await
}

pub async fn catch_up(database: &TestDatabase) {
    for view in views() {
        run(database, view).await.unwrap();
    }
}

/// Every row of the view, to the byte.
pub async fn rows(database: &TestDatabase, view: &dyn View) -> Vec<String> {
    let mut rows = Vec::new();
    for table in view.tables() {
        rows.extend(copy(database, &format!("SELECT * FROM {table} t ORDER BY t::text COLLATE \"C\"")).await);
    }
    rows
}

/// Says what differs, and not everything that does not.
pub fn assert_same(what: &str, rows: &[String], expected: &[String]) {
    let more: Vec<_> = rows.iter().filter(|row| !expected.contains(row)).take(3).collect();
    let missing: Vec<_> = expected.iter().filter(|row| !rows.contains(row)).take(3).collect();
    assert!(rows == expected, "{what}: {more:#?} instead of {missing:#?}");
}

/// What PostgreSQL's own export says, line by line.
pub async fn copy(database: &TestDatabase, select: &str) -> Vec<String> {
    let mut connection = database.pool().acquire().await.unwrap();
    let mut stream = connection.copy_out_raw(&format!("COPY ({select}) TO STDOUT")).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = stream.try_next().await.unwrap() {
        bytes.extend_from_slice(&piece);
    }
    String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn each_event_applied_twice_counts_once() {
    let database = database().await;
    let books = open_books(&database).await;
    trade(&books, 0..60).await;
    videos::film(&books, 0..9).await;
    let mut access = stream("a-use", 0, 1);
    access.aggregate_type = "access";
    access.events[0].event_type = "AccessRecorded".to_owned();
    access.events[0].payload =
        r#"{"AccessRecorded":{"user":"ada","account":"a","action":"audit.verify","parameters":{},
        "accessed_at":"2026-11-22T00:00:00Z"}}"#
            .to_owned();
    books.node.append(unit([access])).await.unwrap();
    catch_up(&database).await;
    let events = entries(verified(database.pool()).await);
    for view in views() {
        let before = rows(&database, &*view).await;
        assert!(!before.is_empty());
        for batch in events.chunks(7) {
            let mut transaction = database.pool().begin().await.unwrap();
            view.apply(&mut transaction, batch).await.unwrap();
            transaction.commit().await.unwrap();
        }
        assert_eq!(rows(&database, &*view).await, before, "{}", view.name());
    }
}

#[tokio::test]
async fn a_request_is_shown_with_what_became_of_it() {
    let database = database().await;
    let books = open_books(&database).await;
    trade(&books, 0..9).await;
    // More than is held for it: the hold grows before it is settled.
    books.accept("dear", accepted("acme", "ann", "node-1", 40)).await;
    books.end("acme", "dear", End::Completed(outcome(3, 70))).await.unwrap();
    run(&database, Arc::new(request_status::View)).await.unwrap();

    let find = async |request_id: &str| request_status::find(database.pool(), request_id).await.unwrap();
    let shown = find("dear").await;
    assert_eq!(shown.position, head(&database).await);
    let dear = shown.value.unwrap();
    assert_eq!((dear.account.as_str(), dear.user_id.as_str(), dear.kind.as_str()), ("acme", "ann", "chat"));
    assert_eq!((dear.requested_provider.as_str(), dear.provider.as_deref()), ("auto", Some("anthropic")));
    let models = (dear.requested_model.as_str(), dear.model.as_deref(), dear.answered_model.as_deref());
    assert_eq!(models, ("gpt-6", Some("gpt-6"), Some("gpt-6-2026")));
    assert_eq!((dear.reserved_microcredits, dear.charged_microcredits), (70, 70));
    assert_eq!((dear.input_tokens, dear.output_tokens, dear.reasoning_tokens), (4, 16, 4));
    assert_eq!((dear.first_chunk_ms, dear.duration_ms), (Some(3), Some(6)));
    assert_eq!(dear.attempts[0]["provider"], "anthropic");
    assert_eq!(dear.finish_reason.as_deref(), Some("stop"));
    assert_eq!(dear.ended_at, Some(outcome(3, 70).ended_at));
    assert_eq!(dear.position.cast_unsigned(), head(&database).await);

    for (request_id, status, end_reason) in [
        ("request-0", "accepted", None),
        ("request-1", "failed", Some("PROVIDER_ERROR")),
        ("request-3", "cancelled", Some("client_left")),
        ("request-4", "abandoned", Some("its node is gone")),
        ("request-5", "completed", None),
    ] {
        let request = find(request_id).await.value.unwrap();
        assert_eq!((request.status.as_str(), request.end_reason.as_deref()), (status, end_reason), "{request_id}");
    }
    assert_eq!(find("unheard of").await.value, None);
}

#[tokio::test]
async fn a_view_that_was_never_run_says_that_it_knows_nothing_yet() {
    let database = database().await;
    let found = account_balance::find(database.pool(), "acme").await.unwrap();
    assert_eq!(found, AsOf { position: 0, value: None });
}

#[tokio::test]
async fn limits_are_shown_as_they_were_set_last() {
    let database = database().await;
    let books = open_books(&database).await;
    let set = |daily| AccountCommand::SetUsageLimits {
        limits: UsageLimits { daily_microcredits: daily, monthly_microcredits: Some(Microcredits(500)) },
        reason: "test".to_owned(),
        actor: "finance".to_owned(),
        set_at: now(),
    };
    for daily in [Some(Microcredits(50)), None] {
        books.accounts.execute("acme", &set(daily), &|_| Ok(vec![]), &Arc::default()).await.unwrap();
        run(&database, Arc::new(account_balance::View)).await.unwrap();
        let balance = account_balance::find(database.pool(), "acme").await.unwrap().value.unwrap();
        assert_eq!(balance.daily_limit_microcredits, daily.map(|limit| limit.0));
        assert_eq!(balance.monthly_limit_microcredits, Some(500));
    }
}

#[tokio::test]
async fn a_ledger_that_contradicts_itself_stops_the_view_at_that_event() {
    let database = database().await;
    let books = open_books(&database).await;
    trade(&books, 0..9).await;
    let last_good = head(&database).await;
    // It claims a balance that its amounts do not come to.
    let mut lie = stream("liar", 0, 1);
    lie.aggregate_type = "account";
    lie.events[0].payload = r#"{"CreditsGranted":{"grant_id":"g","amount_microcredits":5,"available_microcredits":6,
        "reason":"","actor":"","granted_at":"2026-11-22T00:00:00Z"}}"#
        .to_owned();
    books.node.append(unit([lie])).await.unwrap();
    let stopped = run(&database, Arc::new(account_balance::View)).await.unwrap_err();
    let SubscriptionError::Stopped { position, error, .. } = stopped else { panic!("{stopped:?}") };
    assert_eq!(position, last_good + 1);
    assert!(error.contains("account_balance_v1_balances"), "{error}");
    assert_eq!(account_balance::find(database.pool(), "acme").await.unwrap().position, last_good);
}

#[tokio::test]
async fn an_end_without_a_beginning_stops_what_would_show_it() {
    let database = database().await;
    let node = Node::start(&database.database);
    let mut end = stream("request-1", 0, 1);
    end.aggregate_type = "request";
    end.events[0].payload =
        r#"{"RequestAbandoned":{"asked":{"account":"acme","user":"ann","kind":"chat","provider":"auto","model":"m"},
        "reason":"x","abandoned_at":"2026-11-22T00:00:00Z"}}"#
            .to_owned();
    node.append(unit([end])).await.unwrap();
    let stopped = run(&database, Arc::new(request_status::View)).await.unwrap_err();
    assert!(matches!(&stopped, SubscriptionError::Stopped { position: 1, .. }), "{stopped:?}");
}
