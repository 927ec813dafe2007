//! What videos came to: used, charged, closed with their month, and repriced.

use std::collections::BTreeMap;

use aihub::month_close::close_month;
use aihub_domain::{
    money::{MicrocreditsPerUsd, PicoUsd},
    period::event::PeriodEvent,
    price::{Price, Rates},
    video::{format::Resolution, price::VideoPrice},
};
use aihub_infrastructure::event_store::upcast::Upcasters;
use aihub_projections::{
    reconciliation::ours,
    report::{format::Format, selection::Name},
    repricing::{BookedMonth, Prices, Repriced},
    usage_daily::{self, Dimension},
};
use aihub_tests::{books::now, database};
use chrono::{DateTime, Utc};
use futures::TryStreamExt;

use super::super::{
    ACCOUNTS, catch_up, copy, head, open_books, reports, repricing, trade,
    usage::{self, everything},
};
use super::filming::{Filming, complete, film, record, request, start, store};

#[tokio::test]
async fn videos_are_in_usage_with_their_seconds_and_no_tokens_and_the_books_balance() {
    let database = database().await;
    let books = open_books(&database).await;
    film(&books, 0..27).await;
    catch_up(&database).await;
    let ledger = copy(
        &database,
        "SELECT request_id, kind, provider, model, status, video_seconds, charged_microcredits, price_id,
                input_tokens + cached_input_tokens + cache_write_tokens + cache_write_1h_tokens + output_tokens
                + reasoning_tokens
         FROM usage_ledger_v1 ORDER BY position LIMIT 5",
    );
    assert_eq!(
        ledger.await,
        [
            "video-0\tvideo\txai\timagine\tcompleted\t8\t80\txai/imagine@2026-11-22\t0",
            "video-1\tvideo\tveo\tveo-4\tcompleted\t5\t50\tveo/veo-4@2026-11-22\t0",
            "video-2\tvideo\tveo\tveo-4\tfailed\t0\t0\t\\N\t0",
            "video-3\tvideo\tveo\tveo-4\tcancelled\t0\t0\t\\N\t0",
            "video-4\tvideo\tunknown\tveo-4\texpired\t0\t0\t\\N\t0",
        ]
    );
    let total = usage_daily::report(database.pool(), &everything(), &[]).await.unwrap().value.remove(0).usage;
    // Of nine, three are completed (21 seconds), one each fails, expires and is cancelled, and three go on.
    assert_eq!((total.requests, total.failed, total.video_seconds, total.charged_microcredits), (18, 6, 63, 630));
    assert_eq!((total.cost_picousd, total.input_tokens, total.output_tokens), (630_000_000, 0, 0));
    let models = usage_daily::report(database.pool(), &everything(), &[Dimension::Model]).await.unwrap().value;
    let seconds = models.iter().map(|row| (row.model.as_deref().unwrap(), row.usage.video_seconds));
    assert_eq!(seconds.collect::<Vec<_>>(), [("imagine", 24), ("veo-4", 39)]);

    let all = [("from", "2024-10-01"), ("to", "2099-12-31")];
    let by_model = [all[0], all[1], ("groupBy", "model")];
    let report = reports::json(&database, Name::Usage, &by_model).await;
    assert_eq!((&report["rows"][1]["model"], &report["rows"][1]["video_seconds"]), (&"veo-4".into(), &39.into()));
    assert_eq!(report["watermark"]["totals"]["video_seconds"], "63");
    let margin = reports::json(&database, Name::Margin, &all).await;
    assert_eq!(margin["watermark"]["totals"]["provider_cost_usd"], "0.00063");
    assert_eq!(margin["watermark"]["totals"]["charged_credits"], "0.00063");
    let balance = reports::json(&database, Name::TrialBalance, &[]).await;
    let totals = &balance["watermark"]["totals"];
    for nothing in ["difference_credits", "usage_difference_credits", "cost_difference_usd"] {
        assert_eq!(totals[nothing], "0", "{nothing}");
    }
    assert_eq!((&totals["settled_credits"], &totals["held_credits"]), (&"0.00063".into(), &"0.00072".into()));
    let holds = reports::json(&database, Name::Holds, &[]).await;
    assert_eq!((&holds["watermark"]["rows"], &holds["rows"][0]["request_id"]), (&9.into(), &"video-15".into()));
    let (csv, _) = reports::made(&database, Name::Usage, &by_model, Format::Csv).await;
    assert!(String::from_utf8(csv).unwrap().lines().next().unwrap().contains(",reasoning_tokens,video_seconds,"));
}

#[tokio::test]
async fn a_month_is_closed_with_its_videos_and_one_that_comes_late_counts_for_the_next() {
    let database = database().await;
    let books = open_books(&database).await;
    trade(&books, 0..30).await;
    film(&books, 0..27).await;
    catch_up(&database).await;
    let month = "2024-10".parse().unwrap();
    let closed = close_month(&database.database, &Upcasters::default(), month, "ada", now()).await.unwrap();
    let PeriodEvent::MonthClosed { totals, .. } = &closed.event;
    let requests = copy(&database, "SELECT count(*) FROM usage_ledger_v1 WHERE accounting_month = '2024-10-01'").await;
    assert_eq!((totals.video_seconds, vec![totals.requests.to_string()]), (63, requests));

    let mut late = Filming::request(&books, "late", request(0)).await;
    for command in [start(0, 0), record("veo", 1, 0), store("late", 8_000, 0)] {
        late.then(command).await;
    }
    late.end(complete(0)).await;
    catch_up(&database).await;
    let booked =
        "SELECT accounting_month, corrects_month, video_seconds FROM usage_ledger_v1 WHERE request_id = 'late'";
    assert_eq!(copy(&database, booked).await, ["2024-11-01\t2024-10-01\t8"]);
    let last = head(&database).await.to_string();
    let pack = reports::json(&database, Name::Close, &[("month", "2024-10"), ("asOf", &last)]).await;
    let line = |section: &str| {
        let rows = pack["rows"].as_array().unwrap();
        rows.iter().find(|row| row["section"] == section).unwrap_or_else(|| panic!("{section}")).clone()
    };
    assert_eq!((&line("stated")["video_seconds"], &line("ledger")["video_seconds"]), (&63.into(), &63.into()));
    let difference = line("difference");
    for (name, nothing) in [("requests", 0.into()), ("video_seconds", 0.into()), ("charged_credits", "0".into())] {
        let nothing: serde_json::Value = nothing;
        assert_eq!(difference[name], nothing, "{name}");
    }
    let later = line("later_end");
    assert_eq!((&later["reference"], &later["video_seconds"]), (&"late".into(), &8.into()));
}

#[tokio::test]
async fn focus_counts_videos_by_the_second_beside_tokens() {
    let database = database().await;
    let books = open_books(&database).await;
    trade(&books, 0..30).await;
    film(&books, 0..27).await;
    catch_up(&database).await;
    let all = [("from", "2024-10-01"), ("to", "2099-12-31")];
    let (file, watermark) = reports::made(&database, Name::Usage, &all, Format::Focus).await;
    let mut reader = csv::Reader::from_reader(file.as_slice());
    let rows: Vec<BTreeMap<String, String>> = reader.deserialize().map(Result::unwrap).collect();
    let of = |unit: &'static str| rows.iter().filter(move |row| row["ConsumedUnit"] == unit);
    let seconds: u32 = of("Seconds").map(|row| row["x_VideoSeconds"].parse::<u32>().unwrap()).sum();
    assert_eq!(seconds, 63);
    assert!(of("Seconds").all(
        |row| row["ConsumedQuantity"] == format!("{}.0", row["x_VideoSeconds"]) && row["PricingUnit"] == "Seconds"
    ));
    assert!(of("Tokens").count() > 5 && of("Tokens").all(|row| row["x_VideoSeconds"] == "0"));
    let totals: BTreeMap<_, _> = watermark.totals.into_iter().collect();
    assert_eq!((totals.get("x_VideoSeconds").map(String::as_str), totals.get("ConsumedQuantity")), (Some("63"), None));
}

#[tokio::test]
async fn a_providers_export_of_tokens_is_compared_with_no_videos() {
    let database = database().await;
    let books = open_books(&database).await;
    film(&books, 0..27).await;
    catch_up(&database).await;
    let days = ("2024-10-01".parse().unwrap(), "2024-11-30".parse().unwrap());
    let (known, _) = ours(database.pool(), &["veo".to_owned(), "xai".to_owned()], days).await.unwrap();
    assert!(known.is_empty(), "{known:?}");
}

#[tokio::test]
async fn videos_are_repriced_by_the_second_at_the_price_of_the_day_they_were_requested() {
    let database = database().await;
    let books = open_books(&database).await;
    film(&books, 0..27).await;
    catch_up(&database).await;
    let charged: Vec<(String, i64, i64, String, DateTime<Utc>)> = sqlx::query_as(
        "SELECT video_id, video_seconds, u.charged_microcredits, resolution, requested_at
         FROM usage_ledger_v1 u JOIN video_status_v1 v ON video_id = request_id
         WHERE u.provider = 'veo' AND u.model = 'veo-4' AND u.price_id IS NOT NULL AND accounting_month = '2024-10-01'
         ORDER BY u.account, u.position",
    )
    .fetch_all(database.pool())
    .await
    .unwrap();
    assert!(!charged.is_empty());
    let last = charged.iter().map(|charged| charged.4).max().unwrap();
    // Of one who was requested last, nobody has said another price.
    let price = VideoPrice {
        id: "corrected".to_owned(),
        per_second: BTreeMap::from([(Resolution::P720, PicoUsd(7_000_000)), (Resolution::P1080, PicoUsd(9_000_000))]),
        valid_from: DateTime::UNIX_EPOCH,
        valid_until: Some(last),
        source: "test".to_owned(),
    };
    let of_models =
        |model: &str| BTreeMap::from([("veo".to_owned(), BTreeMap::from([(model.to_owned(), vec![price.clone()])]))]);
    let rate = MicrocreditsPerUsd(1_000_000);
    let repriced = async |videos| {
        let prices = Prices { videos, ..Prices::default() };
        let mut month = BookedMonth::of(database.pool(), "2024-10".parse().unwrap()).await.unwrap();
        let repriced: Vec<_> = month.requests(&prices, rate, &repricing()).try_collect().await.unwrap();
        let told = |one: Repriced| (one.entry.request_id.clone(), one.charge.0, one.correction());
        (repriced.into_iter().map(told).collect::<Vec<_>>(), month.passed_over)
    };
    let expected: Vec<_> = charged
        .iter()
        .filter(|(.., requested_at)| *requested_at < last)
        .map(|(id, seconds, charged, resolution, _)| {
            let charge = seconds * if resolution == "720p" { 7 } else { 9 };
            (id.clone(), charge, charge - charged)
        })
        .collect();
    assert_eq!(repriced(of_models("veo-4")).await, (expected, 0));
    assert_eq!(repriced(of_models("veo-9")).await, (vec![], 0));
    // Those of a resolution that the other price has not keep theirs, and it is known how many.
    let mut of_1080p = of_models("veo-4");
    for price in of_1080p.values_mut().flat_map(BTreeMap::values_mut).flatten() {
        price.per_second.remove(&Resolution::P720);
    }
    let (of_720p, of_others): (Vec<_>, Vec<_>) = charged
        .iter()
        .filter(|(.., requested_at)| *requested_at < last)
        .partition(|(.., resolution, _)| resolution == "720p");
    assert!(!of_720p.is_empty());
    let (repriced, passed_over) = repriced(of_1080p).await;
    assert_eq!((repriced.len(), passed_over), (of_others.len(), of_720p.len() as u64));
    // Prices of tokens are none of a video, whatever the model is called.
    let tokens = Price {
        id: "free".to_owned(),
        rates: Rates::default(),
        long_context: None,
        valid_from: DateTime::UNIX_EPOCH,
        valid_until: None,
        source: "test".to_owned(),
    };
    let tokens = BTreeMap::from([("veo".to_owned(), BTreeMap::from([("veo-4".to_owned(), vec![tokens])]))]);
    let prices = Prices { tokens, ..Prices::default() };
    let mut month = BookedMonth::of(database.pool(), "2024-10".parse().unwrap()).await.unwrap();
    let none: Vec<Repriced> = month.requests(&prices, rate, &repricing()).try_collect().await.unwrap();
    assert_eq!(none, []);
}

#[tokio::test]
async fn balances_are_what_the_accounts_say_with_videos_as_well() {
    let database = database().await;
    let books = open_books(&database).await;
    film(&books, 0..27).await;
    catch_up(&database).await;
    let mut spent = 0;
    for account in ACCOUNTS {
        let truth = books.accounts.load(account).await.unwrap();
        let of_account = usage_daily::UsageFilter { account: Some(account.to_owned()), ..usage::everything() };
        let used = usage_daily::report(database.pool(), &of_account, &[]).await.unwrap().value.remove(0).usage;
        assert_eq!(used.charged_microcredits, truth.spent().0.into());
        spent += truth.spent().0;
    }
    assert_eq!(spent, 630);
}
