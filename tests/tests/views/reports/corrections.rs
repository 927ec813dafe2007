//! Reconciliation with a provider's export, and other prices for a month.

use std::collections::BTreeMap;

use aihub_domain::{
    money::MicrocreditsPerUsd,
    price::{PicoUsdPerToken, Price, Rates},
};
use aihub_projections::{
    reconciliation::{Export, Tolerance, Vendor, differences, ours},
    repricing::{BookedMonth, Comparison, Prices},
};
use chrono::DateTime;
use futures::TryStreamExt;
use serde_json::json;

use super::{catch_up, close, open_books, trade};

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
    let price = |micro_usd: u64| {
        let rate = PicoUsdPerToken(micro_usd * 1_000_000);
        let rates = Rates { input: rate, cached_input: rate, cache_write: rate, output: rate };
        Price {
            id: "corrected".to_owned(),
            rates,
            long_context: None,
            valid_from: DateTime::UNIX_EPOCH,
            valid_until: None,
            source: "test".to_owned(),
        }
    };
    // A microcredit a token.
    let rate = MicrocreditsPerUsd(1_000_000);
    let prices: Prices =
        BTreeMap::from([("openai".to_owned(), BTreeMap::from([("gpt-6-2026".to_owned(), vec![price(1)])]))]);
    let compare = async || {
        let mut month = BookedMonth::of(database.pool(), october).await.unwrap();
        assert!(month.is_closed);
        let basis = month.basis.clone();
        let requests: Vec<_> = month.requests(&prices, rate).try_collect().await.unwrap();
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
        let tokens = entry.input_tokens + entry.cached_input_tokens + entry.cache_write_tokens + entry.output_tokens;
        assert_eq!(request.charge.0, tokens);
        assert_eq!(request.correction(), tokens - entry.charged_microcredits);
    }
    assert!(
        requests.iter().any(|request| request.correction() < 0)
            && requests.iter().any(|request| request.correction() > 0)
    );
    trade(&books, 60..80).await;
    catch_up(&database).await;
    assert_eq!(compare().await, (requests, watermark));
}
