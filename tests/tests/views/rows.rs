//! Rows as they are sent.

use aihub_infrastructure::{orphaned_requests::OpenRequest, row, rows::TableRow};
use aihub_projections::{
    account_balance::AccountBalance, credit_ledger::CreditEntry, request_status::RequestStatus, usage::AddedUsage,
    usage_ledger::UsageEntry,
};
use aihub_tests::{TestDatabase, database};
use chrono::{DateTime, NaiveDate, Utc};
use serde_json::{Value, json};

async fn columns(database: &TestDatabase, table: &str) -> Vec<String> {
    let columns = sqlx::query_scalar(
        "SELECT attname::text FROM pg_attribute
         WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
    );
    columns.bind(table).fetch_all(database.pool()).await.unwrap()
}

/// The row, its type, and the tables that an `INSERT … SELECT *` puts it into by its columns' places.
async fn assert_in_order<R: TableRow>(database: &TestDatabase, tables: &[&str]) {
    assert_eq!(columns(database, &format!("rows.{}", R::TYPE)).await, R::COLUMNS, "{}", R::TYPE);
    for table in tables {
        let mut of_table = columns(database, table).await;
        // What the two tables of usage call by names of their own.
        if ["day", "month"].contains(&of_table[0].as_str()) {
            "period".clone_into(&mut of_table[0]);
        }
        assert_eq!(of_table, R::COLUMNS, "{table}");
    }
}

#[tokio::test]
async fn every_row_has_the_columns_of_its_table_in_their_order() {
    let database = database().await;
    assert_in_order::<AccountBalance>(&database, &["account_balance_v1"]).await;
    assert_in_order::<AddedUsage>(&database, &["usage_daily_v1", "usage_monthly_v1"]).await;
    assert_in_order::<CreditEntry>(&database, &["credit_ledger_v1"]).await;
    assert_in_order::<OpenRequest<'_>>(&database, &["open_requests"]).await;
    assert_in_order::<RequestStatus>(&database, &["request_status_v1"]).await;
    assert_in_order::<UsageEntry>(&database, &["usage_ledger_v1"]).await;
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
struct Everything {
    flag: bool,
    small: i32,
    large: i64,
    exact: String,
    day: NaiveDate,
    instant: DateTime<Utc>,
    text: Option<String>,
    document: Option<Value>,
}

struct Sent {
    exact: i128,
    row: Everything,
}

row!(Sent, "everything", row.flag, row.small, row.large, exact, row.day, row.instant, row.text, row.document);

#[tokio::test]
async fn what_is_sent_arrives_as_it_is_but_for_zero_characters() {
    let database = database().await;
    sqlx::query(
        "CREATE TABLE rows.everything (flag boolean, small integer, large bigint, exact numeric(38, 0), day date,
                                       instant timestamptz, text text, document json)",
    )
    .execute(database.pool())
    .await
    .unwrap();
    let most = 10_i128.pow(38) - 1;
    let exact = [0, 1, -1, 9_999, 10_000, -10_000, 100_000_000, 1_234_567_890_123_456_789_012, most, -most];
    let texts = [None, Some(String::new()), Some("é\"\\,(){}\n".to_owned())];
    let sent: Vec<Sent> = exact
        .into_iter()
        .zip(0..)
        .map(|(exact, nth)| Sent {
            exact,
            row: Everything {
                flag: nth % 2 == 0,
                small: i32::MIN + nth,
                large: i64::MAX - i64::from(nth),
                exact: exact.to_string(),
                day: NaiveDate::from_ymd_opt(1999 + nth, 12, 31).unwrap(),
                instant: DateTime::from_timestamp_micros(1_700_000_000_000_000 + i64::from(nth)).unwrap(),
                text: texts.iter().cycle().nth(usize::try_from(nth).unwrap()).unwrap().clone(),
                document: (nth % 3 > 0).then(|| json!({"z": [nth, null, "\u{1}"], "a": {}})),
            },
        })
        .collect();
    let select = "SELECT flag, small, large, exact::text AS exact, day, instant, text, document
                  FROM unnest($1::rows.everything[])";
    let received: Vec<Everything> = sqlx::query_as(select).bind(&sent).fetch_all(database.pool()).await.unwrap();
    assert_eq!(received, sent.iter().map(|sent| sent.row.clone()).collect::<Vec<_>>());

    let (text, document) = (Some("a\0b".to_owned()), Some(json!({"a\0b": r"a\u0000b"})));
    let zero = Sent { exact: 0, row: Everything { text, document, ..received[0].clone() } };
    let received: Vec<Everything> = sqlx::query_as(select).bind([zero]).fetch_all(database.pool()).await.unwrap();
    assert_eq!(received[0].text.as_deref(), Some("a\u{fffd}b"));
    assert_eq!(received[0].document, Some(json!({"a\u{fffd}b": r"a\u0000b"})));
}
