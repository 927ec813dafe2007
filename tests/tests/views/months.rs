//! Months are closed: what a closed month comes to never changes, and what is late counts for an open one.

use aihub::month_close::{CloseError, Closed, close_month};
use aihub_domain::{
    account::AdjustmentKind,
    period::{Month, PeriodError, event::PeriodEvent},
};
use aihub_infrastructure::event_store::{subscription::checkpoint, upcast::Upcasters};
use aihub_projections::{credit_ledger, rebuild::views, usage_ledger};
use aihub_tests::{
    TestDatabase,
    books::{Books, End, accepted, now, outcome},
    database,
};
use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::{assert_same, catch_up, copy, head, ledgers::note, open_books, rows, subscriptions, trade};

async fn close(database: &TestDatabase, month: &str) -> Result<Closed, CloseError> {
    close_month(&database.database, &Upcasters::default(), month.parse().unwrap(), "ada", now()).await
}

async fn refused(database: &TestDatabase, month: &str) -> PeriodError {
    match close(database, month).await {
        Err(CloseError::Refused(refused)) => refused,
        other => panic!("{other:?}"),
    }
}

/// Everything that is booked in the month.
async fn booked(database: &TestDatabase, month: &str) -> Vec<String> {
    let mut rows = Vec::new();
    for select in [
        format!("SELECT * FROM usage_ledger_v1 WHERE accounting_month = '{month}-01' ORDER BY position"),
        format!("SELECT * FROM credit_ledger_v1 WHERE accounting_month = '{month}-01' ORDER BY account, position"),
        format!("SELECT * FROM usage_monthly_v1 t WHERE month = '{month}-01' ORDER BY t"),
        format!("SELECT * FROM usage_daily_v1 t WHERE date_trunc('month', day) = '{month}-01' ORDER BY t"),
        format!("SELECT * FROM month_close_v1 WHERE month = '{month}-01'"),
    ] {
        rows.extend(copy(database, &select).await);
    }
    rows
}

async fn ended_at(books: &Books, request_id: &str, ended_at: DateTime<Utc>) {
    books.accept(request_id, accepted("acme", "ann", "node-1", 40)).await;
    books
        .end("acme", request_id, End::Completed(aihub_domain::request::event::Outcome { ended_at, ..outcome(3, 20) }))
        .await
        .unwrap();
}

#[tokio::test]
async fn what_comes_after_the_close_counts_for_the_open_month_and_names_its_own() {
    let database = database().await;
    let books = open_books(&database).await;
    // In October 2024.
    trade(&books, 0..60).await;
    catch_up(&database).await;
    let closed = close(&database, "2024-10").await.unwrap();
    let PeriodEvent::MonthClosed { position, totals, .. } = &closed.event;
    assert_eq!((closed.position, *position), (head(&database).await, head(&database).await - 1));
    catch_up(&database).await;
    let before = booked(&database, "2024-10").await;
    assert!(before.len() > 100);
    let mut connection = database.pool().acquire().await.unwrap();
    let october: Month = "2024-10".parse().unwrap();
    assert_eq!(usage_ledger::totals(&mut connection, october, *position).await.unwrap().requests, totals.requests);
    let all_closes = usage_ledger::closes(&mut connection).await.unwrap();
    assert_eq!((all_closes[0].month, all_closes[0].watermark, &all_closes[0].totals), (october, *position, &**totals));

    trade(&books, 60..75).await;
    ended_at(&books, "late", "2024-10-31T23:59:59.999999Z".parse().unwrap()).await;
    ended_at(&books, "in time", "2024-11-30T00:00:00Z".parse().unwrap()).await;
    super::ledgers::execute(&books, "acme", note("n", AdjustmentKind::CreditNote, 5, Some("2024-10"))).await;
    catch_up(&database).await;
    assert_same("2024-10", &booked(&database, "2024-10").await, &before);
    let row = copy(
        &database,
        "SELECT request_id, usage_day, accounting_month, corrects_month FROM usage_ledger_v1
         WHERE request_id IN ('late', 'in time') ORDER BY position",
    );
    assert_eq!(row.await, ["late\t2024-11-01\t2024-11-01\t2024-10-01", "in time\t2024-11-30\t2024-11-01\t\\N"]);
    let settled = copy(
        &database,
        "SELECT accounting_month, corrects_month FROM credit_ledger_v1 WHERE reference = 'late' AND movement = 'settle'",
    );
    assert_eq!(settled.await, ["2024-11-01\t2024-10-01"]);
    let daily = copy(&database, "SELECT sum(requests) FROM usage_daily_v1 WHERE day = '2024-11-01'");
    let late = copy(&database, "SELECT count(*) FROM usage_ledger_v1 WHERE corrects_month IS NOT NULL");
    assert_eq!(daily.await, late.await);

    // The next one takes what was late for the one before.
    let next = close(&database, "2024-11").await.unwrap();
    let PeriodEvent::MonthClosed { totals: next, .. } = &next.event;
    catch_up(&database).await;
    // What was abandoned was so today.
    let all = "SELECT count(*), sum(charged_microcredits) FROM usage_ledger_v1 WHERE accounting_month < '2025-01-01'";
    let all = copy(&database, all).await;
    let charged = totals.charged_microcredits.0 + next.charged_microcredits.0;
    assert_eq!(all, [format!("{}\t{}", totals.requests + next.requests, charged)]);
    assert_same("2024-10", &booked(&database, "2024-10").await, &before);

    for view in views() {
        let live = rows(&database, &*view).await;
        let rebuild =
            aihub_projections::rebuild::Rebuild::begin(&database.database, std::sync::Arc::default(), view.clone());
        rebuild.await.unwrap().run(|_| ()).await.unwrap();
        assert_same(view.name(), &rows(&database, &*view).await, &live);
    }
}

#[tokio::test]
async fn a_month_is_closed_once_in_its_turn_when_it_is_over_and_everything_is_counted() {
    let database = database().await;
    let books = open_books(&database).await;
    trade(&books, 0..20).await;
    let behind = close(&database, "2024-10").await.unwrap_err();
    assert!(matches!(behind, CloseError::Behind { view: usage_ledger::NAME, position: 0, .. }), "{behind}");
    catch_up(&database).await;
    let month = |month: &str| month.parse::<Month>().unwrap();
    let october = month("2024-10");
    assert_eq!(
        refused(&database, "2024-12").await,
        PeriodError::EarlierMonthOpen { month: month("2024-12"), first_open: october }
    );
    assert_eq!(
        refused(&database, "2024-09").await,
        PeriodError::BeforeTheLog { month: month("2024-09"), first_open: october }
    );
    assert!(matches!(refused(&database, &Month::of(now()).to_string()).await, PeriodError::NotOver { .. }));
    close(&database, "2024-10").await.unwrap();
    catch_up(&database).await;
    assert_eq!(refused(&database, "2024-10").await, PeriodError::AlreadyClosed(october));

    trade(&books, 20..25).await;
    checkpoint::pause(database.pool(), credit_ledger::NAME).await.unwrap();
    let head = head(&database).await;
    for view in views() {
        if view.name() != credit_ledger::NAME {
            super::run(&database, view).await.unwrap();
        }
    }
    let paused = close(&database, "2024-11").await.unwrap_err();
    let CloseError::Behind { view, head: known, .. } = paused else { panic!("{paused}") };
    assert_eq!((view, known), (credit_ledger::NAME, head));
}

#[tokio::test]
async fn no_end_slips_in_between_the_totals_of_a_month_and_its_close() {
    let database = database().await;
    let books = open_books(&database).await;
    trade(&books, 0..30).await;
    let (subscriptions, _guard) = subscriptions(&database);
    for view in views() {
        subscriptions.run(view);
    }
    let is_closed = CancellationToken::new();
    let trading = async {
        let mut nth = 0;
        while !is_closed.is_cancelled() {
            // Now and then one of that very month.
            let at = if nth % 8 == 0 { "2024-10-20T00:00:00Z" } else { "2024-11-05T00:00:00Z" };
            ended_at(&books, &format!("r{nth}"), at.parse().unwrap()).await;
            nth += 1;
        }
        ended_at(&books, "the last", "2024-10-20T00:00:00Z".parse().unwrap()).await;
    };
    let closing = async {
        let closed = loop {
            match close(&database, "2024-10").await {
                Ok(closed) => break closed,
                Err(CloseError::NeverStill | CloseError::Behind { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        };
        is_closed.cancel();
        closed
    };
    let ((), closed) = tokio::join!(trading, closing);
    let head = head(&database).await;
    subscriptions.wait_for(usage_ledger::NAME, head, aihub_tests::PATIENCE).await.unwrap();
    let PeriodEvent::MonthClosed { totals, .. } = closed.event;
    let select =
        "SELECT count(*), sum(charged_microcredits) FROM usage_ledger_v1 WHERE accounting_month = '2024-10-01'";
    assert_eq!(copy(&database, select).await, [format!("{}\t{}", totals.requests, totals.charged_microcredits.0)]);
    assert_ne!(totals.charged_microcredits.0, 0);
    let late = "SELECT corrects_month FROM usage_ledger_v1 WHERE request_id = 'the last'";
    assert_eq!(copy(&database, late).await, ["2024-10-01"]);
}
