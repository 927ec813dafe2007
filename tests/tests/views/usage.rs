//! Daily usage: its sums are those of the ledger, however it is broken down.

use std::sync::Arc;

use aihub_domain::account::{Account, event::AccountEvent};
use aihub_infrastructure::event_store::decode::{entries, events_of};
use aihub_projections::{
    account_balance, request_status,
    usage::Usage,
    usage_daily::{self, Dimension, ReportError, UsageFilter, UsageRow},
    watermark::AsOf,
};
use aihub_tests::{
    TestDatabase,
    books::{End, accepted, outcome},
    database,
    log::verified,
};
use chrono::NaiveDate;

use super::{ACCOUNTS, catch_up, head, open_books, run, trade};

pub fn everything() -> UsageFilter {
    let day = |year| NaiveDate::from_ymd_opt(year, 1, 1).unwrap();
    UsageFilter { from: day(2000), to: day(2100), account: None, user: None }
}

async fn report(database: &TestDatabase, filter: &UsageFilter, keep_apart: &[Dimension]) -> Vec<UsageRow> {
    usage_daily::report(database.pool(), filter, keep_apart).await.unwrap().value
}

#[tokio::test]
async fn usage_the_ledger_and_the_balances_come_to_the_same_sums() {
    let database = database().await;
    let books = open_books(&database).await;
    trade(&books, 0..90).await;
    // It can pay for its hold and for a bit more, not for all that was used.
    books.grant("poor", 45).await;
    books.accept("too dear", accepted("poor", "ann", "node-1", 40)).await;
    books.end("poor", "too dear", End::Completed(outcome(90, 70))).await.unwrap();
    catch_up(&database).await;

    let (mut settled, mut cost, mut uncovered) = (0_i128, 0, 0);
    let log = entries(verified(database.pool()).await);
    for change in events_of::<Account>(&log) {
        if let AccountEvent::CreditsSettled { charged_microcredits, uncovered_microcredits, cost_picousd, .. } =
            change.unwrap().1
        {
            settled += i128::from(charged_microcredits.0);
            uncovered += i128::from(uncovered_microcredits.0);
            cost += i128::from(cost_picousd.0);
        }
    }
    assert_eq!(uncovered, 25);
    let total = report(&database, &everything(), &[]).await;
    assert_eq!((total[0].usage.charged_microcredits, total[0].usage.cost_picousd), (settled, cost));

    let (mut spent, mut lost) = (0_i128, 0_i128);
    for account in ACCOUNTS.into_iter().chain(["poor"]) {
        let AsOf { position, value } = account_balance::find(database.pool(), account).await.unwrap();
        let (balance, truth) = (value.unwrap(), books.accounts.load(account).await.unwrap());
        assert_eq!(position, head(&database).await);
        assert_eq!(balance.granted_microcredits, truth.granted().0);
        assert_eq!(balance.held_microcredits, truth.held().0);
        assert_eq!(balance.spent_microcredits, truth.spent().0);
        assert_eq!(balance.available_microcredits, truth.available().0);
        let of_account = UsageFilter { account: Some(account.to_owned()), ..everything() };
        let charged = report(&database, &of_account, &[]).await[0].usage.charged_microcredits;
        assert_eq!(charged, balance.spent_microcredits.into());
        spent += charged;
        lost += i128::from(balance.uncovered_microcredits);
    }
    assert_eq!((spent, lost), (settled, uncovered));
}

#[tokio::test]
async fn a_report_keeps_apart_what_it_was_asked_to_and_adds_up_the_rest() {
    let database = database().await;
    let books = open_books(&database).await;
    trade(&books, 0..60).await;
    run(&database, Arc::new(usage_daily::View)).await.unwrap();

    let total = report(&database, &everything(), &[]).await;
    let [UsageRow { day: None, account: None, user: None, provider: None, model: None, usage: total }] = &total[..]
    else {
        panic!("{total:?}")
    };
    // Of 60 requests, 7 are open; of each nine, two fail and one is abandoned.
    assert_eq!((total.requests, total.failed), (53, 7 + 7 + 7));
    let dimensions = [Dimension::Day, Dimension::Account, Dimension::User, Dimension::Provider, Dimension::Model];
    for keep_apart in [&dimensions[..], &dimensions[..1], &dimensions[1..3], &dimensions[3..]] {
        let rows = report(&database, &everything(), keep_apart).await;
        assert!(rows.len() > 1);
        let add = |sum: Usage, row: &UsageRow| Usage {
            requests: sum.requests + row.usage.requests,
            failed: sum.failed + row.usage.failed,
            estimated: sum.estimated + row.usage.estimated,
            input_tokens: sum.input_tokens + row.usage.input_tokens,
            cached_input_tokens: sum.cached_input_tokens + row.usage.cached_input_tokens,
            cache_write_tokens: sum.cache_write_tokens + row.usage.cache_write_tokens,
            cache_write_1h_tokens: sum.cache_write_1h_tokens + row.usage.cache_write_1h_tokens,
            output_tokens: sum.output_tokens + row.usage.output_tokens,
            reasoning_tokens: sum.reasoning_tokens + row.usage.reasoning_tokens,
            video_seconds: sum.video_seconds + row.usage.video_seconds,
            list_microcredits: sum.list_microcredits + row.usage.list_microcredits,
            charged_microcredits: sum.charged_microcredits + row.usage.charged_microcredits,
            cost_picousd: sum.cost_picousd + row.usage.cost_picousd,
        };
        assert_eq!(rows.iter().fold(Usage::default(), add), *total);
        for row in &rows {
            assert_eq!(row.day.is_some(), keep_apart.contains(&Dimension::Day));
            assert_eq!(row.user.is_some(), keep_apart.contains(&Dimension::User));
            assert_eq!(row.model.is_some(), keep_apart.contains(&Dimension::Model));
        }
    }
    // What nobody answered stands under what was asked for.
    let providers = report(&database, &everything(), &[Dimension::Provider]).await;
    let names: Vec<_> = providers.iter().map(|row| row.provider.as_deref().unwrap()).collect();
    assert_eq!(names, ["anthropic", "openai", "unknown"]);

    let first = report(&database, &everything(), &[Dimension::Day]).await[0].day.unwrap();
    let of_the_day = UsageFilter { from: first, to: first, user: Some("bob".to_owned()), ..everything() };
    let rows = report(&database, &of_the_day, &[Dimension::User, Dimension::Day]).await;
    assert!(matches!(&rows[..], [UsageRow { day: Some(day), user: Some(user), .. }] if *day == first && user == "bob"));
    let nobody = UsageFilter { account: Some("nobody".to_owned()), ..everything() };
    assert!(report(&database, &nobody, &[]).await.is_empty());
}

#[tokio::test]
async fn a_report_over_its_limit_is_refused() {
    let database = database().await;
    sqlx::query(
        "INSERT INTO usage_daily_v1 SELECT '2026-11-22', 'account-' || n, 'u', 'p', 'm', 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
             99999999999999999999999999999, 1, 1 FROM generate_series(0, $1) n",
    )
    .bind(i32::try_from(usage_daily::MAX_ROWS).unwrap())
    .execute(database.pool())
    .await
    .unwrap();
    let refused = usage_daily::report(database.pool(), &everything(), &[Dimension::Account]).await;
    assert!(matches!(refused, Err(ReportError::TooManyRows)), "{refused:?}");
    let total = report(&database, &everything(), &[]).await;
    assert_eq!(total[0].usage.cost_picousd, 10_001 * 99_999_999_999_999_999_999_999_999_999);
}

#[tokio::test]
async fn no_name_that_a_provider_gives_its_model_stops_a_view() {
    let database = database().await;
    let books = open_books(&database).await;
    let long = "m".repeat(5_000);
    // Random, so that the index cannot compress it.
    let user: String = std::iter::repeat_with(|| rand::random_range('a'..='z')).take(9_000).collect();
    for (nth, model) in ["zero \0", "zero \u{fffd}", &long, &format!("{long}x")].into_iter().enumerate() {
        let request_id = format!("request-{nth}");
        books.accept(&request_id, accepted("acme", &user, "node-1", 40)).await;
        let mut odd = outcome(1, 10);
        odd.model = Some(model.to_owned());
        odd.finish_reason = Some("\0".to_owned());
        books.end("acme", &request_id, End::Completed(odd)).await.unwrap();
    }
    catch_up(&database).await;
    let models = report(&database, &everything(), &[Dimension::Model]).await;
    assert_eq!(models.iter().map(|row| row.usage.requests).collect::<Vec<_>>(), [1, 1, 2], "{models:?}");
    let of_user = UsageFilter { user: Some(user), ..everything() };
    assert_eq!(report(&database, &of_user, &[]).await[0].usage.requests, 4);
    let odd = request_status::find(database.pool(), "request-0").await.unwrap().value.unwrap();
    assert_eq!((odd.model.as_deref(), odd.finish_reason.as_deref()), (Some("zero \u{fffd}"), Some("\u{fffd}")));
}
