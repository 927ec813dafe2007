//! What reports say adds up, and is what the ledgers and the events say.

use aihub_domain::{
    account::{Account, AdjustmentKind, event::AccountEvent},
    request::Request,
};
use aihub_infrastructure::event_store::decode::{entries, events_of};
use aihub_projections::report::{format::Format, selection::Name};
use aihub_tests::log::verified;
use serde_json::Value;

use super::{ALL, catch_up, head, json, late, made, open_books, trade};
use crate::views::ledgers::{execute, note};

/// Millionths of what is written, exactly.
fn micro(value: &Value) -> i64 {
    scaled(value, 6).try_into().unwrap()
}

fn scaled(value: &Value, places: usize) -> i128 {
    let text = value.as_str().unwrap();
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    assert!(rest.len() <= places, "{text}");
    format!("{whole}{rest:0<places$}").parse().unwrap()
}

#[tokio::test]
async fn statements_add_up_and_each_begins_where_the_one_before_has_ended() {
    let database = aihub_tests::database().await;
    let books = open_books(&database).await;
    trade(&books, 0..150).await;
    execute(&books, "acme", note("n1", AdjustmentKind::CreditNote, 7, Some("2024-10"))).await;
    execute(&books, "acme", note("n2", AdjustmentKind::DebitNote, 3, None)).await;
    catch_up(&database).await;
    // Grants were made today, holds as well, and settled in the books' past: all of it has to be in some month.
    for account in ["acme", "globex", "initech"] {
        let mut before = (0, 0);
        for (from, to) in [("2024-10-01", "2024-10-31"), ("2024-11-01", "2024-12-31"), ("2025-01-01", "2027-12-31")] {
            let report = json(&database, Name::Statement, &[("from", from), ("to", to), ("account", account)]).await;
            let row = &report["rows"][0];
            let of = |name: &str| micro(&row[format!("{name}_credits")]);
            assert_eq!((of("opening_available"), of("opening_held")), before, "{row}");
            let available = of("opening_available") + of("granted") - of("held") + of("released") - of("expired")
                + of("credit_notes")
                - of("debit_notes");
            assert_eq!(available, of("closing_available"), "{row}");
            assert_eq!(of("opening_held") + of("held") - of("released") - of("settled"), of("closing_held"), "{row}");
            before = (of("closing_available"), of("closing_held"));
        }
        let truth = books.accounts.load(account).await.unwrap();
        assert_eq!(before, (truth.available().0, truth.held().0));
    }
}

#[tokio::test]
async fn the_trial_balance_the_usage_and_the_events_come_to_the_same_sums() {
    let database = aihub_tests::database().await;
    let books = open_books(&database).await;
    trade(&books, 0..90).await;
    books.grant("poor", 45).await;
    late(&books, "late", "2024-10-31T00:00:00Z").await;
    execute(&books, "acme", note("n1", AdjustmentKind::CreditNote, 7, None)).await;
    catch_up(&database).await;
    let log = entries(verified(database.pool()).await);
    let (mut granted, mut settled, mut cost, mut noted) = (0, 0, 0, 0);
    for change in events_of::<Account>(&log) {
        match change.unwrap().1 {
            AccountEvent::CreditsGranted { amount_microcredits, .. } => granted += amount_microcredits.0,
            AccountEvent::CreditsAdjusted { amount_microcredits, .. } => noted -= amount_microcredits.0,
            AccountEvent::CreditsSettled { charged_microcredits, cost_picousd, .. } => {
                settled += charged_microcredits.0;
                cost += i128::from(cost_picousd.0);
            }
            _ => {}
        }
    }
    let (mut ends, mut tokens) = (0, 0);
    for end in events_of::<Request>(&log) {
        let end = end.unwrap().1;
        ends += i64::from(end.ended().is_some());
        tokens += end.outcome().map_or(0, |outcome| outcome.usage.output);
    }
    let balance = json(&database, Name::TrialBalance, &[]).await;
    let totals = &balance["watermark"]["totals"];
    assert_eq!(balance["rows"].as_array().unwrap().len(), 4);
    assert_eq!((micro(&totals["granted_credits"]), micro(&totals["spent_credits"])), (granted, settled + noted));
    assert_eq!((micro(&totals["settled_credits"]), micro(&totals["notes_credits"])), (settled, noted));
    for difference in ["difference_credits", "usage_difference_credits", "cost_difference_usd"] {
        assert_eq!(totals[difference], "0", "{difference}");
        assert!(balance["rows"].as_array().unwrap().iter().all(|row| row[difference] == "0"));
    }
    for (name, pairs) in
        ALL.into_iter().filter(|(name, pairs)| matches!(name, Name::Usage | Name::Margin) && pairs[0].1 == "2024-10-01")
    {
        let usage = json(&database, name, pairs).await;
        let totals = &usage["watermark"]["totals"];
        assert_eq!(totals["requests"], ends.to_string());
        assert_eq!(totals["output_tokens"], tokens.to_string());
        assert_eq!(micro(&totals["charged_credits"]), settled);
        assert_eq!(scaled(&totals["provider_cost_usd"], 12), cost);
        let summed: i64 = usage["rows"].as_array().unwrap().iter().map(|row| micro(&row["charged_credits"])).sum();
        assert_eq!(summed, settled);
    }
    let (_, focus) = made(&database, Name::Usage, &ALL[0].1[..2], Format::Focus).await;
    let total = |name: &str| Value::from(focus.totals.iter().find(|(known, _)| *known == name).unwrap().1.clone());
    assert_eq!(scaled(&total("BilledCost"), 12), cost);
    assert_eq!(micro(&total("PricingCurrencyEffectiveCost")), settled + noted);
    // What failed at no cost is no charge.
    let priced = "SELECT sum(requests)::text FROM usage_ledger_v1 WHERE price_id IS NOT NULL";
    let priced: String = sqlx::query_scalar(priced).fetch_one(database.pool()).await.unwrap();
    assert_eq!(total("x_Requests"), priced);
}

#[tokio::test]
async fn open_holds_are_listed_with_their_age_at_the_watermark_and_go_when_they_end() {
    let database = aihub_tests::database().await;
    let books = open_books(&database).await;
    trade(&books, 0..30).await;
    catch_up(&database).await;
    let report = json(&database, Name::Holds, &[]).await;
    let held: i64 = sqlx::query_scalar("SELECT sum(held_microcredits)::bigint FROM account_balance_v1")
        .fetch_one(database.pool())
        .await
        .unwrap();
    let rows = report["rows"].as_array().unwrap();
    let mut open: Vec<_> = rows.iter().map(|row| row["request_id"].as_str().unwrap()).collect();
    open.sort_unstable();
    assert_eq!(open, ["request-0", "request-18", "request-27", "request-9"]);
    assert_eq!(micro(&report["watermark"]["totals"]["held_credits"]), held);
    assert!(rows.iter().all(|row| row["age_seconds"].as_i64().unwrap() >= 0 && row["held_since"].is_string()));
    let then = head(&database).await.to_string();
    books.end("acme", "request-0", aihub_tests::books::End::Abandoned(aihub_tests::books::now())).await.unwrap();
    catch_up(&database).await;
    assert_eq!(json(&database, Name::Holds, &[]).await["watermark"]["rows"], 3);
    assert_eq!(json(&database, Name::Holds, &[("asOf", &then)]).await, report);
    let one = json(&database, Name::Holds, &[("asOf", &then), ("account", "acme")]).await;
    assert!(one["rows"].as_array().unwrap().iter().all(|row| row["account"] == "acme"));
}
