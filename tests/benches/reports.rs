//! How long finance waits: reports over a ledger of many rows.
//!
//! `cargo bench -p aihub-tests --bench reports -- [ROWS]`, 5 million if nothing is said. The rows are made in SQL, in a
//! database of its own: a month, 500 accounts with 4 users each, 12 models of 3 providers. The daily and monthly views are
//! added up from them, as the views themselves would have it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measurement that cannot go on should say where"
)]

use std::time::{Duration, Instant};

use aihub_projections::report::{
    Piece, Report,
    format::Format,
    selection::{Name, Parameters, Selection},
    watermark::Watermark,
};
use aihub_tests::{TestDatabase, database};
use futures::{StreamExt, pin_mut};
use sqlx::Executor;

const TIMES: usize = 7;

#[tokio::main]
async fn main() {
    let rows = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(5_000_000_u64);
    let database = database().await;
    let began = Instant::now();
    fill(&database, rows).await;
    println!("{rows} rows made in {:.0?}", began.elapsed());
    let [last_but_one, middle] = [rows - 1, rows / 2].map(|position| position.to_string());
    for (what, name, group_by, as_of) in [
        ("usage by model", Name::Usage, Some("model"), None),
        ("usage by account and model", Name::Usage, Some("account,model"), None),
        ("usage by day and model", Name::Usage, Some("day,model"), None),
        ("margin", Name::Margin, None, None),
        ("usage by model as of the last but one", Name::Usage, Some("model"), Some(last_but_one)),
        ("usage by model as of the middle", Name::Usage, Some("model"), Some(middle)),
    ] {
        let parameters = Parameters {
            month: Some("2026-10".to_owned()),
            group_by: group_by.map(str::to_owned),
            as_of,
            ..Parameters::default()
        };
        let mut took: Vec<(Duration, usize, Watermark)> = Vec::new();
        for _ in 0..TIMES {
            took.push(make(&database, name, parameters.clone()).await);
        }
        took.sort_by_key(|took| took.0);
        let (median, bytes, watermark) = &took[TIMES / 2];
        println!("{what:<40} {:>8.1?} median of {TIMES}, {} rows, {bytes} bytes", median, watermark.rows);
    }
}

async fn make(database: &TestDatabase, name: Name, parameters: Parameters) -> (Duration, usize, Watermark) {
    let began = Instant::now();
    let selection = Selection::of(name, parameters, "2026-11-22".parse().unwrap()).unwrap();
    let pieces = Report::open(database.pool(), selection, Format::Json).await.unwrap().pieces();
    pin_mut!(pieces);
    let (mut bytes, mut watermark) = (0, None);
    while let Some(piece) = pieces.next().await {
        match piece.unwrap() {
            Piece::Bytes(more) => bytes += more.len(),
            Piece::Watermark(end) => watermark = Some(end),
        }
    }
    (began.elapsed(), bytes, watermark.unwrap())
}

async fn fill(database: &TestDatabase, rows: u64) {
    let mut connection = database.pool().acquire().await.unwrap();
    let ledger = format!(
        "SET statement_timeout = 0;
         INSERT INTO usage_ledger_v1
         SELECT n, 0, at, at, at::date, '2026-10-01', NULL, 'request-' || n, 'account-' || n * 7919 % 500,
                'user-' || n * 104729 % 4, 'chat', 'provider-' || n % 3, 'model-' || n % 12, 'completed', false, false,
                n % 900, n % 300, 0, 0, n % 400, n % 100, 0, 'price', n % 5000, n % 5000, n % 5000 * 1000000, 1
         FROM (SELECT n, timestamptz '2026-10-01Z' + n * (interval '31 days' / {rows}) - interval '1 microsecond' AS at
               FROM generate_series(1::bigint, {rows}) AS n) rows"
    );
    let sums =
        "count(*), 0, 0, sum(input_tokens), sum(cached_input_tokens), sum(cache_write_tokens), sum(cache_write_1h_tokens),
         sum(output_tokens), sum(reasoning_tokens), sum(video_seconds), sum(list_microcredits), sum(charged_microcredits),
         sum(cost_picousd), min(position), max(position)";
    let names = "account, user_id, provider, model";
    let added_up = format!(
        "INSERT INTO usage_daily_v1 SELECT usage_day, {names}, {sums} FROM usage_ledger_v1 GROUP BY usage_day, {names};
         INSERT INTO usage_monthly_v1
             SELECT accounting_month, {names}, {sums} FROM usage_ledger_v1 GROUP BY accounting_month, {names};
         INSERT INTO subscriptions (name, position, chain_hash, updated_at)
             SELECT name, {rows}, sha256('x'), now()
             FROM unnest(ARRAY['usage_ledger_v1', 'usage_daily_v1', 'usage_monthly_v1']) AS name;
         -- Events where the reports as of a position stand.
         INSERT INTO events SELECT 'bench', 'bench', n, 'bench', '1', '{{}}', '{{}}', n, now(), NULL, sha256('x'), sha256('x')
             FROM unnest(ARRAY[{rows} / 2, {rows} - 1]) AS n;
         RESET statement_timeout"
    );
    for statement in [&ledger, &added_up] {
        connection.execute(sqlx::raw_sql(statement)).await.unwrap();
    }
    connection
        .execute("VACUUM ANALYZE read.usage_ledger_v1, read.usage_daily_v1, read.usage_monthly_v1")
        .await
        .unwrap();
}
