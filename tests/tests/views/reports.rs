//! Reports: at a watermark there is one file, whenever it is made; what it says is what the ledgers and the events say.

mod corrections;
mod doors;
mod figures;
mod files;

use aihub::month_close::close_month;
use aihub_domain::{account::AdjustmentKind, period::event::PeriodEvent};
use aihub_infrastructure::event_store::upcast::Upcasters;
use aihub_projections::{
    rebuild::{Rebuild, views},
    report::{
        Piece, Report, ReportError,
        format::Format,
        selection::{Name, Parameters, Selection},
        watermark::Watermark,
    },
};
use aihub_tests::{
    TestDatabase,
    books::{Books, End, accepted, now, outcome},
};
use chrono::NaiveDate;
use futures::{StreamExt, TryStreamExt, pin_mut};
use serde_json::Value;

use super::{catch_up, head, open_books, trade};

/// Every report, with days that hold all that is traded.
const ALL: [(Name, &[(&str, &str)]); 9] = [
    (Name::Usage, &[("from", "2024-10-01"), ("to", "2099-12-31"), ("groupBy", "day,account,user,provider,model")]),
    (Name::Usage, &[("from", "2024-10-01"), ("to", "2099-12-31"), ("groupBy", "month,model")]),
    (Name::Usage, &[("from", "2024-10-07"), ("to", "2024-10-19"), ("account", "acme"), ("user", "bob")]),
    (Name::Margin, &[("from", "2024-10-01"), ("to", "2099-12-31")]),
    (Name::Statement, &[("from", "2024-10-01"), ("to", "2099-12-31")]),
    (Name::Statement, &[("month", "2024-10"), ("account", "globex")]),
    (Name::Holds, &[]),
    (Name::TrialBalance, &[]),
    (Name::Close, &[("month", "2024-10")]),
];
const FORMATS: [Format; 5] = [Format::Json, Format::Csv, Format::Parquet, Format::Xlsx, Format::Watermark];

fn parameters(pairs: &[(&str, &str)]) -> Parameters {
    let mut parameters = Parameters::default();
    for (name, value) in pairs {
        let field = match *name {
            "month" => &mut parameters.month,
            "from" => &mut parameters.from,
            "to" => &mut parameters.to,
            "account" => &mut parameters.account,
            "user" => &mut parameters.user,
            "provider" => &mut parameters.provider,
            "model" => &mut parameters.model,
            "groupBy" => &mut parameters.group_by,
            "asOf" => &mut parameters.as_of,
            "limit" => &mut parameters.limit,
            "cursor" => &mut parameters.cursor,
            other => panic!("{other}"),
        };
        *field = Some((*value).to_owned());
    }
    parameters
}

async fn try_made(
    database: &TestDatabase,
    name: Name,
    pairs: &[(&str, &str)],
    format: Format,
) -> Result<(Vec<u8>, Watermark), ReportError> {
    let today = NaiveDate::from_ymd_opt(2026, 11, 22).unwrap();
    let selection = Selection::of(name, parameters(pairs), today)?;
    let pieces = Report::open(database.pool(), selection, format).await?.pieces();
    pin_mut!(pieces);
    let (mut bytes, mut watermark) = (Vec::new(), None);
    while let Some(piece) = pieces.next().await {
        match piece? {
            Piece::Bytes(more) => bytes.extend_from_slice(&more),
            Piece::Watermark(end) => assert!(watermark.replace(end).is_none()),
        }
    }
    Ok((bytes, watermark.unwrap()))
}

pub async fn made(database: &TestDatabase, name: Name, pairs: &[(&str, &str)], format: Format) -> (Vec<u8>, Watermark) {
    try_made(database, name, pairs, format).await.unwrap_or_else(|error| panic!("{name:?} {pairs:?}: {error}"))
}

pub async fn json(database: &TestDatabase, name: Name, pairs: &[(&str, &str)]) -> Value {
    serde_json::from_slice(&made(database, name, pairs, Format::Json).await.0).unwrap()
}

/// Every report in every format, the way it is now or was then.
pub async fn all_files(database: &TestDatabase, as_of: Option<u64>) -> Vec<(u64, String, Vec<u8>)> {
    let as_of = as_of.map(|position| position.to_string());
    let mut files = Vec::new();
    for (name, pairs) in ALL {
        let mut pairs = pairs.to_vec();
        pairs.extend(as_of.as_deref().map(|as_of| ("asOf", as_of)));
        for format in FORMATS {
            let (bytes, watermark) = made(database, name, &pairs, format).await;
            files.push((watermark.basis.position, format!("{name:?} {:?} {format:?}", &pairs), bytes));
        }
    }
    let mut pairs = ALL[0].1[..2].to_vec();
    pairs.extend(as_of.as_deref().map(|as_of| ("asOf", as_of)));
    let (bytes, watermark) = made(database, Name::Usage, &pairs, Format::Focus).await;
    files.push((watermark.basis.position, "focus".to_owned(), bytes));
    files
}

async fn close(database: &TestDatabase, month: &str) -> u64 {
    let upcasters = Upcasters::default();
    let closed = close_month(&database.database, &upcasters, month.parse().unwrap(), "ada", now()).await.unwrap();
    catch_up(database).await;
    let PeriodEvent::MonthClosed { position, .. } = closed.event;
    position
}

async fn late(books: &Books, request_id: &str, at: &str) {
    books.accept(request_id, accepted("acme", "ann", "node-1", 40)).await;
    let ended_at = at.parse().unwrap();
    let end = aihub_domain::request::event::Outcome { ended_at, ..outcome(3, 20) };
    books.end("acme", request_id, End::Completed(end)).await.unwrap();
}

pub async fn rebuild_all(database: &TestDatabase) {
    for view in views() {
        Rebuild::begin(&database.database, std::sync::Arc::default(), view).await.unwrap().run(|_| ()).await.unwrap();
    }
}

#[tokio::test]
async fn the_report_of_then_is_the_file_of_then_also_after_more_traffic_and_a_rebuild() {
    let database = aihub_tests::database().await;
    let books = open_books(&database).await;
    trade(&books, 0..75).await;
    catch_up(&database).await;
    let then = head(&database).await;
    let files = all_files(&database, None).await;
    assert!(files.iter().all(|(position, ..)| *position == then));
    let asked = all_files(&database, Some(then)).await;
    trade(&books, 75..160).await;
    // A day in the midst of the others changes as well.
    late(&books, "late", "2024-10-09T12:00:00Z").await;
    super::ledgers::execute(&books, "acme", super::ledgers::note("n", AdjustmentKind::CreditNote, 5, None)).await;
    catch_up(&database).await;
    let again = all_files(&database, Some(then)).await;
    for ((first, asked), (_, name, again)) in files.iter().zip(asked).zip(again) {
        assert!(first.2 == again && asked.2 == again, "{name}");
    }
    let later = all_files(&database, None).await;
    // A table's rows may be the same as before; what carries its watermark is another file.
    let is_table = |name: &str| name.ends_with("Csv") || name == "focus";
    assert!(later.iter().zip(&files).all(|(later, file)| later.0 > then && (later.2 != file.2 || is_table(&file.1))));
    rebuild_all(&database).await;
    assert_eq!(
        all_files(&database, Some(then)).await.into_iter().map(|file| file.2).collect::<Vec<_>>(),
        files.into_iter().map(|file| file.2).collect::<Vec<_>>()
    );
    assert_eq!(all_files(&database, None).await, later);
}

#[tokio::test]
async fn a_report_made_while_traffic_goes_on_is_the_one_of_its_watermark() {
    let database = aihub_tests::database().await;
    let books = open_books(&database).await;
    let (subscriptions, _guard) = super::subscriptions(&database);
    for view in views() {
        subscriptions.run(view);
    }
    let is_over = tokio_util::sync::CancellationToken::new();
    let trading = async {
        trade(&books, 0..400).await;
        is_over.cancel();
    };
    let reading = async {
        let mut seen = Vec::new();
        while !is_over.is_cancelled() {
            for (name, pairs) in ALL {
                let (bytes, watermark) = made(&database, name, pairs, Format::Json).await;
                seen.push((name, pairs, watermark.basis.position, bytes));
            }
        }
        seen
    };
    let ((), seen) = tokio::join!(trading, reading);
    let positions: std::collections::BTreeSet<_> = seen.iter().map(|seen| seen.2).collect();
    assert!(positions.len() > 3, "{positions:?}");
    let last = head(&database).await;
    for view in views() {
        subscriptions.wait_for(view.name(), last, aihub_tests::PATIENCE).await.unwrap();
    }
    for (name, pairs, position, bytes) in seen.into_iter().step_by(7) {
        let position = position.to_string();
        let pairs: Vec<_> = pairs.iter().copied().chain([("asOf", position.as_str())]).collect();
        assert!(made(&database, name, &pairs, Format::Json).await.0 == bytes, "{name:?} {pairs:?}");
    }
}

#[tokio::test]
async fn the_report_of_a_closed_month_is_one_file_for_good() {
    let database = aihub_tests::database().await;
    let books = open_books(&database).await;
    trade(&books, 0..75).await;
    catch_up(&database).await;
    let watermark = close(&database, "2024-10").await;
    let its_own = (watermark + 1).to_string();
    let october: [(Name, &[(&str, &str)]); 6] = [
        (Name::Usage, &[("month", "2024-10"), ("groupBy", "day,model")]),
        (Name::Usage, &[("month", "2024-10"), ("groupBy", "account")]),
        (Name::Usage, &[("from", "2024-10-03"), ("to", "2024-10-20")]),
        (Name::Margin, &[("month", "2024-10")]),
        (Name::Statement, &[("month", "2024-10")]),
        (Name::Close, &[("month", "2024-10"), ("asOf", &its_own)]),
    ];
    let files = async || {
        let mut files = Vec::new();
        for (name, pairs) in october {
            for format in FORMATS {
                files.push(made(&database, name, pairs, format).await);
            }
        }
        files.push(made(&database, Name::Usage, &[("month", "2024-10")], Format::Focus).await);
        files
    };
    let closed = files().await;
    let close_at = closed.iter().map(|file| file.1.basis.position).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(close_at.into_iter().collect::<Vec<_>>(), [watermark, watermark + 1]);
    trade(&books, 75..120).await;
    late(&books, "late", "2024-10-31T23:59:59Z").await;
    super::ledgers::execute(&books, "acme", super::ledgers::note("n", AdjustmentKind::CreditNote, 5, Some("2024-10")))
        .await;
    catch_up(&database).await;
    assert!(files().await == closed);
    close(&database, "2024-11").await;
    rebuild_all(&database).await;
    assert!(files().await == closed);

    // The close tells what came later, without being asked: what was stated has not moved, and the month stands elsewhere.
    let pack = json(&database, Name::Close, &[("month", "2024-10")]).await;
    let rows = pack["rows"].as_array().unwrap();
    let lines = |section: &str| rows.iter().filter(|row| row["section"] == section).collect::<Vec<_>>();
    let [stated, ledger, difference] = ["stated", "ledger", "difference"].map(|section| lines(section)[0]);
    assert_eq!((&stated["requests"], &stated["charged_credits"]), (&ledger["requests"], &ledger["charged_credits"]));
    assert_eq!((&difference["requests"], &difference["provider_cost_usd"]), (&Value::from(0), &Value::from("0")));
    assert!(lines("later_end").iter().any(|row| row["reference"] == "late" && row["booked_month"] == "2024-11"));
    assert!(lines("late_end").is_empty());
    let next = json(&database, Name::Close, &[("month", "2024-11")]).await;
    assert!(
        next["rows"]
            .as_array()
            .unwrap()
            .iter()
            .any(|row| row["section"] == "late_end" && row["corrects_month"] == "2024-10")
    );
    assert_eq!(lines("later_note")[0]["credit_notes_credits"], "0.000005");
    let stands = lines("stands")[0];
    let requests = |line: &Value| line["requests"].as_i64().unwrap();
    let later: i64 = lines("later_end").iter().map(|line| requests(line)).sum();
    // What months stand at adds up, whatever was booked where.
    let of_next = |section: &str| {
        let rows = next["rows"].as_array().unwrap();
        rows.iter().find(|row| row["section"] == section).unwrap().clone()
    };
    for name in ["requests", "charged_credits", "granted_credits"] {
        let figure =
            |line: &Value| line[name].as_f64().unwrap_or_else(|| line[name].as_str().unwrap().parse().unwrap());
        let difference = figure(stands) + figure(&of_next("stands")) - figure(ledger) - figure(&of_next("ledger"));
        assert!(difference.abs() < 1e-9, "{name}: {difference}");
    }
    assert_eq!(requests(stands), requests(stated) + later);
    let credits = |line: &Value, name: &str| line[name].as_str().unwrap().parse::<f64>().unwrap();
    let given_back = credits(stands, "credit_notes_credits") - credits(stated, "credit_notes_credits");
    assert!((given_back - 0.000_005).abs() < 1e-9, "{stands}");
    let later: f64 = lines("later_end").iter().map(|line| credits(line, "charged_credits")).sum();
    assert!((credits(stands, "charged_credits") - credits(stated, "charged_credits") - later).abs() < 1e-9, "{stands}");
}

#[tokio::test]
async fn an_instant_names_the_last_position_that_was_recorded_up_to_it() {
    let database = aihub_tests::database().await;
    let books = open_books(&database).await;
    trade(&books, 0..30).await;
    catch_up(&database).await;
    let times: Vec<(i64, chrono::DateTime<chrono::Utc>)> =
        sqlx::query_as("SELECT position, recorded_at FROM events ORDER BY position")
            .fetch_all(database.pool())
            .await
            .unwrap();
    let last = times.last().unwrap().1;
    for (_, at) in times.iter().filter(|(_, at)| *at < last).step_by(11) {
        let up_to = times.iter().rev().find(|(_, other)| other <= at).unwrap().0;
        let time = at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        let (_, watermark) = made(&database, Name::TrialBalance, &[("asOf", &time)], Format::Csv).await;
        assert_eq!(watermark.basis.position.cast_signed(), up_to);
        assert_eq!(watermark.basis.recorded_at, Some(*at));
    }
    let before = made(&database, Name::TrialBalance, &[("asOf", "2020-01-01T00:00:00Z")], Format::Csv).await.1;
    assert_eq!((before.basis.position, before.rows, before.basis.chain_hash.as_str()), (0, 0, "0".repeat(64).as_str()));
    for (as_of, why) in [("2099-01-01T00:00:00Z", "may still be recorded"), ("999999", "come up to position")] {
        let refused = try_made(&database, Name::TrialBalance, &[("asOf", as_of)], Format::Csv).await.unwrap_err();
        let ReportError::Fault(fault) = refused else { panic!("{refused}") };
        assert!(fault.field == "asOf" && fault.reason.contains(why), "{fault}");
    }
    let hash: String = sqlx::query_scalar("SELECT encode(chain_hash, 'hex') FROM events WHERE position = 9")
        .fetch_one(database.pool())
        .await
        .unwrap();
    assert_eq!(made(&database, Name::Holds, &[("asOf", "9")], Format::Csv).await.1.basis.chain_hash, hash);
    // Nothing is left behind that a pool's connection would remember.
    assert!(sqlx::query("SELECT 1").fetch(database.pool()).try_next().await.unwrap().is_some());
}
