//! Amounts have an end, which every door knows, and no sum goes beyond what it fits into.

use aihub::month_close::close_month;
use aihub_domain::{
    money::{Microcredits, PicoUsd},
    period::event::PeriodEvent,
    price::Charge,
    request::event::Outcome,
};
use aihub_infrastructure::event_store::upcast::Upcasters;
use aihub_projections::{rebuild::views, report::selection::Name};
use aihub_tests::{
    audit::Audit,
    books::{Books, End, accepted, now, outcome},
    database,
    log::Node,
};

use crate::{
    audit::cli::{aihub, done},
    views::{assert_same, catch_up, copy, reports, rows},
};

/// As many accounts as together have more than 64 bits hold.
const ACCOUNTS: u64 = 12;
/// 0.9 of what an account may have.
const SPENT: i64 = 900_000_000_000_000_000;

#[tokio::test]
async fn an_amount_beyond_the_most_is_refused_by_name_at_every_door_and_changes_nothing() {
    let database = database().await;
    let refused = async |arguments: &[&str], reason: &str| {
        let (code, text) = aihub(Some(&database), arguments).await;
        assert!(code != 0 && text.contains(reason), "{arguments:?}: {code} {text}");
    };
    let of = ["--account", "acme", "--reason", "a test"];
    let bound = "at most 1000000000000";
    for credits in ["9000000000000", "9223372036854", "9223372036855", "1000000000000.000001", "1e30", "-1"] {
        let reason = if credits.starts_with("1e") || credits.starts_with('-') { "" } else { bound };
        refused(&[&["account", "grant", "--credits", credits][..], &of].concat(), reason).await;
        refused(&[&["account", "limit", "--daily", credits][..], &of].concat(), reason).await;
        refused(&[&["account", "adjust", "--corrects", "r-1", "--credit", credits][..], &of].concat(), reason).await;
        refused(&[&["account", "adjust", "--corrects", "r-1", "--debit", credits][..], &of].concat(), reason).await;
    }
    let past = ["account", "grant", "--credits", "1", "--expires", "2024-12-31"];
    refused(&[&past[..], &of].concat(), "expired already").await;
    // The most that there may be goes in, and then nothing more.
    let grant = |credits| [&["account", "grant", "--credits", credits][..], &of].concat();
    done(&database, &grant("999999999999.999999")).await;
    refused(&grant("1000000000000"), "999999999999.999999 credits were granted").await;
    refused(&grant("0.000002"), "altogether").await;
    done(&database, &grant("0.000001")).await;
    refused(&grant("0.000001"), "altogether").await;
    let audit = Audit::of(database.pool()).await;
    assert_eq!(audit.accounts["acme"].available(), Microcredits::MAX.0);
    catch_up(&database).await;
    let shown = done(&database, &["account", "show", "--account", "acme"]).await;
    assert!(shown.contains("1000000000000"), "{shown}");
}

#[tokio::test]
async fn what_many_accounts_have_and_spend_is_summed_beyond_64_bits_in_every_view_report_and_close() {
    let database = database().await;
    let books = Books::open(Node::start(&database.database));
    for nth in 0..ACCOUNTS {
        let (account, request) = (format!("account-{nth}"), format!("request-{nth}"));
        books.grant(&account, Microcredits::MAX.0).await;
        books.accept(&request, accepted(&account, "ann", "node-1", SPENT)).await;
        let (list, amount) = (Microcredits(SPENT), Microcredits(SPENT));
        let charge =
            Charge { price_id: Some("openai/gpt-6@2026-11-22".to_owned()), cost: PicoUsd(i64::MAX), list, amount };
        // All in October 2024, and of one provider and model.
        books.end(&account, &request, End::Completed(Outcome { charge, ..outcome(2, 1) })).await.unwrap();
    }
    books.accept("open", accepted("account-0", "ann", "node-1", 1)).await;
    catch_up(&database).await;
    let spent = i128::from(SPENT) * i128::from(ACCOUNTS);
    assert!(spent > i128::from(i64::MAX));

    let closed =
        close_month(&database.database, &Upcasters::default(), "2024-10".parse().unwrap(), "ada", now()).await.unwrap();
    let PeriodEvent::MonthClosed { totals, .. } = &closed.event;
    assert_eq!(totals.charged_microcredits.0, spent);
    assert_eq!(totals.cost_picousd.0, i128::from(i64::MAX) * i128::from(ACCOUNTS));
    catch_up(&database).await;
    for table in ["usage_daily_v1", "usage_monthly_v1", "usage_ledger_v1"] {
        let sums =
            copy(&database, &format!("SELECT sum(charged_microcredits), sum(list_microcredits) FROM {table}")).await;
        assert_eq!(sums, [format!("{spent}\t{spent}")], "{table}");
    }
    assert_eq!(copy(&database, "SELECT charged_microcredits FROM month_close_v1").await, [spent.to_string()]);

    let files = reports::all_files(&database, None).await;
    assert!(files.iter().all(|(_, _, bytes)| !bytes.is_empty()));
    let days = [("from", "2024-10-01"), ("to", "2099-12-31")];
    let usage = reports::json(&database, Name::Usage, &days).await.to_string();
    let in_credits = "10800000000000";
    assert!(usage.contains(in_credits) || usage.contains(&spent.to_string()), "{usage}");
    let granted = i128::from(Microcredits::MAX.0) * i128::from(ACCOUNTS);
    let trial = reports::json(&database, Name::TrialBalance, &[]).await.to_string();
    assert!(trial.contains(&granted.to_string()) || trial.contains("12000000000000"), "{trial}");

    let verified = done(&database, &["audit", "verify"]).await;
    assert!(verified.contains(&format!("{ACCOUNTS} accounts")) && verified.contains("intact"), "{verified}");
    catch_up(&database).await;
    let mut before = Vec::new();
    for view in views() {
        before.push(rows(&database, &*view).await);
    }
    reports::rebuild_all(&database).await;
    for (view, before) in views().into_iter().zip(before) {
        assert_same(view.name(), &rows(&database, &*view).await, &before);
    }
}
