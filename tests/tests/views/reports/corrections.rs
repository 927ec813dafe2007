//! Reconciliation with a provider's export, and other prices for a month.

use std::collections::BTreeMap;

use aihub_domain::{
    money::MicrocreditsPerUsd,
    price::{PicoUsdPerToken, Price, Rates},
    request::event::{Accepted, Outcome},
};
use aihub_infrastructure::event_store::subscription::checkpoint;
use aihub_projections::{
    credit_ledger,
    reconciliation::{Export, Tolerance, Vendor, differences, ours},
    repricing::{BookedMonth, Comparison, Prices},
};
use aihub_tests::books::{End, accepted, outcome};
use chrono::DateTime;
use futures::TryStreamExt;
use serde_json::{Value, json};

use super::{super::repricing, catch_up, close, open_books, trade};

#[tokio::test]
async fn an_export_that_says_what_the_ledger_says_has_no_difference_and_one_that_does_not_is_found() {
    let database = aihub_tests::database().await;
    let books = open_books(&database).await;
    trade(&books, 0..90).await;
    catch_up(&database).await;
    close(&database, "2024-10").await;
    let days = ("2024-10-01".parse().unwrap(), "2024-11-30".parse().unwrap());
    let (known, basis) = ours(database.pool(), &["openai".to_owned()], days).await.unwrap();
    assert!(known.len() > 10 && basis.position > 0);
    // The provider's own words for the same: input with what is written to the cache and read from it.
    let export = |more: u64| {
        let buckets: Vec<_> = known
            .iter()
            .map(|((day, model), sums)| {
                let start = day.and_hms_opt(0, 0, 0).unwrap().and_utc().timestamp();
                json!({ "object": "bucket", "start_time": start, "end_time": start + 86_400, "results": [{
                    "object": "organization.usage.completions.result", "model": model,
                    "input_tokens": sums.input_tokens + sums.cache_write_tokens + sums.cached_input_tokens,
                    "input_cached_tokens": sums.cached_input_tokens, "output_tokens": sums.output_tokens + more,
                    "num_model_requests": sums.requests.unwrap() }] })
            })
            .collect();
        let page = json!({ "object": "page", "data": buckets, "has_more": false, "next_page": null });
        Export::read(Vendor::OpenAi, page.to_string().as_bytes()).unwrap()
    };
    let tolerance = Tolerance { ppm: 5_000 };
    assert_eq!(differences(&known, &export(0).figures, Vendor::OpenAi, tolerance), []);
    let found = differences(&known, &export(1_000).figures, Vendor::OpenAi, tolerance);
    assert_eq!(found.len(), known.len());
    assert!(found.iter().all(|found| found.figure == "output_tokens" && found.is_beyond));
    let generous = differences(&known, &export(1_000).figures, Vendor::OpenAi, Tolerance { ppm: 1_000_000 });
    assert!(generous.iter().all(|found| !found.is_beyond));
}

#[tokio::test]
async fn another_price_gives_what_was_charged_too_much_and_takes_what_was_charged_too_little() {
    let database = aihub_tests::database().await;
    let books = open_books(&database).await;
    trade(&books, 0..60).await;
    catch_up(&database).await;
    let october = "2024-10".parse().unwrap();
    assert!(!BookedMonth::of(database.pool(), october).await.unwrap().is_closed);
    close(&database, "2024-10").await;
    let price = || {
        let rate = PicoUsdPerToken(200_000);
        let rates = Rates { input: rate, cached_input: rate, cache_write: rate, cache_write_1h: rate, output: rate };
        Price {
            id: "corrected".to_owned(),
            rates,
            long_context: None,
            valid_from: DateTime::UNIX_EPOCH,
            valid_until: None,
            source: "test".to_owned(),
        }
    };
    // A microcredit for five tokens, which come in tens.
    let rate = MicrocreditsPerUsd(1_000_000);
    let tokens = BTreeMap::from([("openai".to_owned(), BTreeMap::from([("gpt-6".to_owned(), vec![price()])]))]);
    let prices = Prices { tokens, ..Prices::default() };
    let compare = async || {
        let mut month = BookedMonth::of(database.pool(), october).await.unwrap();
        assert!(month.is_closed);
        let basis = month.basis.clone();
        let requests: Vec<_> = month.requests(&prices, rate, &repricing()).try_collect().await.unwrap();
        let mut comparison = Comparison::default();
        for request in &requests {
            comparison.add(request);
        }
        (requests, comparison.watermark(basis))
    };
    let (requests, watermark) = compare().await;
    assert!(
        requests.len() > 10
            && requests.is_sorted_by_key(|request| (request.entry.account.clone(), request.entry.position))
    );
    for request in &requests {
        let entry = &request.entry;
        assert_eq!(entry.provider, "openai");
        let written = entry.cache_write_tokens + entry.cache_write_1h_tokens;
        let tokens = entry.input_tokens + entry.cached_input_tokens + written + entry.output_tokens;
        assert_eq!(request.charge.0, tokens / 5);
        assert_eq!(request.correction(), tokens / 5 - entry.charged_microcredits);
    }
    assert!(
        requests.iter().any(|request| request.correction() < 0)
            && requests.iter().any(|request| request.correction() > 0)
    );
    trade(&books, 60..80).await;
    catch_up(&database).await;
    assert_eq!(compare().await, (requests, watermark));
}

#[tokio::test]
async fn tokens_are_repriced_at_the_price_of_the_instant_at_which_they_were_asked_for() {
    let database = aihub_tests::database().await;
    let books = open_books(&database).await;
    let accepted_at = "2024-10-08T23:59:59Z".parse().unwrap();
    books.accept("over-midnight", Accepted { accepted_at, ..accepted("acme", "ann", "node-1", 40) }).await;
    let ended_at = "2024-10-09T00:00:05Z".parse().unwrap();
    books.end("acme", "over-midnight", End::Completed(Outcome { ended_at, ..outcome(8, 20) })).await.unwrap();
    catch_up(&database).await;
    let price = |id: &str, picousd, from: &str, until: Option<&str>| Price {
        id: id.to_owned(),
        rates: Rates { input: PicoUsdPerToken(picousd), ..Rates::default() },
        long_context: None,
        valid_from: from.parse().unwrap(),
        valid_until: until.map(|until| until.parse().unwrap()),
        source: "test".to_owned(),
    };
    let midnight = "2024-10-09T00:00:00Z";
    let prices = vec![
        price("of-the-8th", 1_000_000, "2024-10-08T00:00:00Z", Some(midnight)),
        price("of-the-9th", 7_000_000, midnight, None),
    ];
    let tokens = BTreeMap::from([("openai".to_owned(), BTreeMap::from([("gpt-6".to_owned(), prices)]))]);
    let prices = Prices { tokens, ..Prices::default() };
    let mut month = BookedMonth::of(database.pool(), "2024-10".parse().unwrap()).await.unwrap();
    let requests: Vec<_> =
        month.requests(&prices, MicrocreditsPerUsd(1_000_000), &repricing()).try_collect().await.unwrap();
    assert_eq!(requests.iter().map(|request| request.charge.0).collect::<Vec<_>>(), [9]);
}

/// Runs a command line on the database, as a process of its own; its exit code.
async fn run(database: &aihub_tests::TestDatabase, dir: &std::path::Path, line: &[&str]) -> Option<i32> {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_aihub-under-test"));
    let command = command.env_clear().env("DATABASE_URL", &database.options.url).current_dir(dir).args(line);
    command.output().await.unwrap().status.code()
}

#[tokio::test]
async fn a_closed_month_is_repriced_once_by_notes_that_name_what_they_correct() {
    let (database, dir) = (aihub_tests::database().await, tempfile::tempdir().unwrap());
    let books = open_books(&database).await;
    trade(&books, 0..60).await;
    catch_up(&database).await;
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let [prices, others] = [("prices.toml", "0.000001"), ("others.toml", "0.000002")].map(|(name, usd)| {
        let text = format!("[[openai.\"gpt-6\"]]\nid = \"corrected\"\ninput_usd_per_mtok = \"{usd}\"\n");
        std::fs::write(file(name), text).unwrap();
        file(name)
    });
    let apply = ["reprice", "--month", "2024-10", "--apply", "--actor", "ada", "--reason", "wrong price", "--prices"];
    let with =
        |prices: &str| apply.iter().map(|part| (*part).to_owned()).chain([prices.to_owned()]).collect::<Vec<_>>();
    let reprice = async |prices: &str| {
        let line = with(prices);
        run(&database, dir.path(), &line.iter().map(String::as_str).collect::<Vec<_>>()).await
    };
    let (done, failed) = (Some(0), Some(1));
    assert_eq!(reprice(&prices).await, failed, "the month is open");
    close(&database, "2024-10").await;
    let before = super::head(&database).await;
    assert_eq!(run(&database, dir.path(), &["reprice", "--month", "2024-10", "--prices", &prices]).await, done);
    let before = before + 1;
    assert_eq!(super::head(&database).await, before, "a what-if changes nothing, and is on record");
    catch_up(&database).await;
    assert_eq!(reprice(&prices).await, done);
    let after = super::head(&database).await;
    assert_eq!(after, before + 4, "a note for each account, and that it was looked at");
    // The notes are in no view yet: what they say is not known, and so nothing is corrected.
    checkpoint::pause(database.pool(), credit_ledger::NAME).await.unwrap();
    assert_eq!(reprice(&others).await, failed, "not on top of what no view has");
    checkpoint::resume(database.pool(), credit_ledger::NAME).await.unwrap();
    assert_eq!(super::head(&database).await, after);
    catch_up(&database).await;
    assert_eq!(reprice(&prices).await, done);
    assert_eq!(super::head(&database).await, after + 1, "made once, and looked at again");
    catch_up(&database).await;
    assert_eq!(reprice(&others).await, failed, "not on top");
    assert_eq!(super::head(&database).await, after + 1);

    // The price is next to nothing, a microcredit a request: all else is given back, to the requests that it names.
    let given_back: (i64, i64) = sqlx::query_as(
        "SELECT (SELECT -sum(spent_change_microcredits)::bigint FROM credit_ledger_v1
                 WHERE movement = 'adjust' AND corrects_month = '2024-10-01' AND reason = 'wrong price'),
                (SELECT sum(charged_microcredits - 1)::bigint FROM usage_ledger_v1
                 WHERE accounting_month = '2024-10-01' AND provider = 'openai' AND price_id IS NOT NULL)",
    )
    .fetch_one(database.pool())
    .await
    .unwrap();
    assert_eq!(given_back.0, given_back.1);
    let named: Vec<String> = sqlx::query_scalar(
        "SELECT json_array_elements(corrects) ->> 'charge' AS id FROM credit_ledger_v1 WHERE reason = 'wrong price' ORDER BY id",
    )
    .fetch_all(database.pool())
    .await
    .unwrap();
    let charged: Vec<String> = sqlx::query_scalar(
        "SELECT request_id FROM usage_ledger_v1 WHERE accounting_month = '2024-10-01' AND provider = 'openai'
             AND price_id IS NOT NULL ORDER BY request_id",
    )
    .fetch_all(database.pool())
    .await
    .unwrap();
    assert_eq!(named, charged);
}

/// The last note of acme: how much it gave back, of what, and the closed month that it corrects.
async fn last_note(database: &aihub_tests::TestDatabase) -> (i64, Value, Option<String>) {
    catch_up(database).await;
    let note = "SELECT -spent_change_microcredits, corrects, to_char(corrects_month, 'YYYY-MM') FROM credit_ledger_v1
                WHERE movement = 'adjust' AND account = 'acme' ORDER BY position DESC LIMIT 1";
    sqlx::query_as(note).fetch_one(database.pool()).await.unwrap()
}

#[tokio::test]
async fn a_note_names_charges_of_its_account_gives_back_what_is_left_of_them_and_is_of_their_month() {
    let (database, dir) = (aihub_tests::database().await, tempfile::tempdir().unwrap());
    let books = open_books(&database).await;
    trade(&books, 0..120).await;
    catch_up(&database).await;
    close(&database, "2024-10").await;
    let adjust = async |kind: &str, microcredits: i64, corrects: &[&str], key: &str| {
        let credits = format!("0.{microcredits:06}");
        let line = ["account", "adjust", "--account", "acme", kind, &credits, "--reason", "wrong price", "--key", key];
        run(&database, dir.path(), &[&line[..], &["--corrects"], corrects].concat()).await
    };
    // What acme was charged for: the first two of the closed month, and the last one of the open month.
    let charged = "SELECT reference, spent_change_microcredits, position FROM credit_ledger_v1
                   WHERE account = 'acme' AND movement = 'settle' AND spent_change_microcredits > 0 ORDER BY position";
    let charged: Vec<(String, i64, i64)> = sqlx::query_as(charged).fetch_all(database.pool()).await.unwrap();
    let ((first, of_first, _), (second, of_second, position)) = (&charged[0], &charged[1]);
    let open = &charged.last().unwrap().0;
    let others: String =
        sqlx::query_scalar("SELECT reference FROM credit_ledger_v1 WHERE account = 'globex' AND movement = 'settle'")
            .fetch_one(database.pool())
            .await
            .unwrap();
    let running = "request-0";
    let before = super::head(&database).await;
    for (kind, microcredits, corrects) in [
        ("--credit", 1, &["no-such-request"][..]),
        ("--credit", 1, &[&*others]),
        ("--credit", 1, &[running]),
        ("--credit", 1, &["999999"]),
        ("--debit", 1, &["no-such-request"]),
        ("--credit", of_first + 1, &[&**first]),
        ("--credit", of_first + 1, &[&**first, &**first]),
        ("--credit", 2, &[&**first, &**open]),
        ("--debit", 1, &[&**first, &**second]),
    ] {
        assert_eq!(
            adjust(kind, microcredits, corrects, "refused").await,
            Some(1),
            "{kind} {microcredits} {corrects:?}"
        );
    }
    assert_eq!(super::head(&database).await, before);

    // Of the first and then of the second, which is named by the position of its settlement.
    let both = [&**first, &*position.to_string()];
    assert_eq!(adjust("--credit", of_first + 2, &both, "n1").await, Some(0));
    let parts = json!([
        { "charge": first, "amount_microcredits": of_first }, { "charge": second, "amount_microcredits": 2 }
    ]);
    assert_eq!(last_note(&database).await, (of_first + 2, parts, Some("2024-10".to_owned())));
    let after = super::head(&database).await;
    assert_eq!(adjust("--credit", of_first + 2, &both, "n1").await, Some(0), "made once");
    assert_eq!(super::head(&database).await, after);
    assert_eq!(adjust("--credit", 1, &[first], "n2").await, Some(1), "nothing is left of it");
    assert_eq!(adjust("--credit", of_second - 1, &[second], "n2").await, Some(1));
    assert_eq!(adjust("--debit", 1, &[second], "n3").await, Some(0));
    assert_eq!(adjust("--credit", of_second - 1, &[second], "n2").await, Some(0), "with what was taken on top");
    assert_eq!(adjust("--credit", 1, &[open], "n4").await, Some(0));
    let parts = json!([{ "charge": open, "amount_microcredits": 1 }]);
    assert_eq!(last_note(&database).await, (1, parts, Some("2024-11".to_owned())), "which is open yet, and over");

    // Whoever corrects the month's prices afterwards gives nothing back twice.
    std::fs::write(
        dir.path().join("prices.toml"),
        "[[openai.\"gpt-6\"]]\nid = \"free\"\ninput_usd_per_mtok = \"0\"\n[[anthropic.\"gpt-6\"]]\nid = \"free\"\ninput_usd_per_mtok = \"0\"\n",
    )
    .unwrap();
    let apply = ["reprice", "--month", "2024-10", "--apply", "--actor", "ada", "--reason", "all free", "--prices"];
    assert_eq!(run(&database, dir.path(), &[&apply[..], &["prices.toml"]].concat()).await, Some(0));
    catch_up(&database).await;
    let left = "SELECT (SELECT sum(charged_microcredits)::bigint FROM usage_ledger_v1
                        WHERE account = 'acme' AND accounting_month = '2024-10-01'),
                       (SELECT -sum(spent_change_microcredits)::bigint FROM credit_ledger_v1
                        WHERE account = 'acme' AND movement = 'adjust' AND corrects_month = '2024-10-01')";
    let (charged, given_back): (i64, i64) = sqlx::query_as(left).fetch_one(database.pool()).await.unwrap();
    assert_eq!(given_back, charged);
}

#[tokio::test]
async fn however_many_correct_one_charge_at_once_no_more_is_given_back_than_was_charged() {
    let (database, dir) = (aihub_tests::database().await, tempfile::tempdir().unwrap());
    let books = open_books(&database).await;
    trade(&books, 0..7).await;
    let notes = (0..6).map(async |nth: u32| {
        let key = nth.to_string();
        let line = ["account", "adjust", "--account", "acme", "--credit", "0.000005", "--reason", "wrong price"];
        run(&database, dir.path(), &[&line[..], &["--corrects", "request-6", "--key", &key]].concat()).await
    });
    let made = futures::future::join_all(notes).await.into_iter().filter(|code| *code == Some(0)).count();
    // Sixteen microcredits were charged.
    assert_eq!(made, 3);
}

#[tokio::test]
async fn what_notes_took_on_top_is_not_taken_again_and_a_correction_is_made_again_from_where_it_was_left() {
    let (database, dir) = (aihub_tests::database().await, tempfile::tempdir().unwrap());
    let books = open_books(&database).await;
    trade(&books, 0..7).await;
    catch_up(&database).await;
    close(&database, "2024-10").await;
    let adjust = async |kind: &str, credits: &str, reason: &str| {
        let line =
            ["account", "adjust", "--account", "acme", kind, credits, "--reason", reason, "--corrects", "request-6"];
        run(&database, dir.path(), &line).await
    };
    let reprice = async || {
        let line = ["reprice", "--month", "2024-10", "--apply", "--actor", "ada", "--reason", "too cheap", "--prices"];
        let done = run(&database, dir.path(), &[&line[..], &["prices.toml"]].concat()).await;
        catch_up(&database).await;
        done
    };
    // It was charged 16 microcredits, and is to be 28; five were taken on top by hand.
    let price = "[[openai.\"gpt-6\"]]\nid = \"dear\"\ninput_usd_per_mtok = \"0.00025\"\n";
    std::fs::write(dir.path().join("prices.toml"), price).unwrap();
    assert_eq!(adjust("--debit", "0.000005", "a part of it").await, Some(0));
    catch_up(&database).await;
    assert_eq!(reprice().await, Some(0));
    let parts = json!([{ "charge": "request-6", "amount_microcredits": 7 }]);
    assert_eq!(last_note(&database).await, (-7, parts, Some("2024-10".to_owned())));
    // Whatever comes meanwhile, what it has corrected it does not correct again.
    assert_eq!(adjust("--credit", "0.000003", "for your patience").await, Some(0));
    catch_up(&database).await;
    let before = super::head(&database).await;
    assert_eq!(reprice().await, Some(0));
    assert_eq!(super::head(&database).await, before + 1, "that it was looked at");
    assert_eq!(adjust("--credit", "0.000026", "too much").await, Some(1), "25 are left");
    assert_eq!(adjust("--credit", "0.000025", "all of it").await, Some(0));
}
