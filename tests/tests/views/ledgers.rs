//! The ledgers: every movement with the balances that it left, every end with its figures, and never a difference
//! between them, the accounts and the events.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aihub_domain::{
    account::{
        Account, AdjustmentKind,
        command::{AccountCommand, Adjustment, Corrected},
        event::AccountEvent,
    },
    money::{Microcredits, PicoUsd},
    price::Charge,
};
use aihub_infrastructure::event_store::decode::{entries, events_of};
use aihub_projections::{credit_ledger, provider_health, usage_ledger::UsageEntry};
use aihub_tests::{
    TestDatabase,
    books::{Books, End, accepted, now, outcome},
    database,
    log::{Node, verified},
};
use chrono::{DateTime, TimeDelta, Utc};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{ACCOUNTS, assert_same, catch_up, copy, head, open_books, trade};

/// With the notes that the account has by now.
async fn reckoned(books: &Books, account: &str, mut command: AccountCommand) -> AccountCommand {
    if let AccountCommand::AdjustCredits(adjustment) = &mut command {
        adjustment.notes = books.accounts.load(account).await.unwrap().notes();
    }
    command
}

pub async fn execute(books: &Books, account: &str, command: AccountCommand) {
    let command = reckoned(books, account, command).await;
    books.accounts.execute(account, &command, &|_| Ok(vec![]), &Arc::default()).await.unwrap();
}

pub fn note(id: &str, kind: AdjustmentKind, amount: i64, month: Option<&str>) -> AccountCommand {
    AccountCommand::AdjustCredits(Adjustment {
        adjustment_id: id.to_owned(),
        kind,
        corrects: vec![Corrected {
            charge: "request-5".to_owned(),
            amount: Microcredits(amount),
            left: Microcredits(amount),
        }],
        notes: 0,
        corrects_month: month.map(|month| month.parse().unwrap()),
        reason: "billed twice".to_owned(),
        actor: "finance".to_owned(),
        adjusted_at: now(),
    })
}

fn void(grant_id: &str) -> AccountCommand {
    AccountCommand::VoidGrant {
        grant_id: grant_id.to_owned(),
        reason: "made in error".to_owned(),
        actor: "finance".to_owned(),
        voided_at: now(),
    }
}

async fn all_usage(database: &TestDatabase) -> Vec<UsageEntry> {
    sqlx::query_as("SELECT * FROM usage_ledger_v1 ORDER BY position").fetch_all(database.pool()).await.unwrap()
}

#[tokio::test]
async fn every_movement_stands_in_the_ledger_with_the_balances_that_it_left() {
    let database = database().await;
    let books = open_books(&database).await;
    let soon = AccountCommand::GrantCredits {
        grant_id: "soon".to_owned(),
        amount: Microcredits(500),
        expires_at: Some(now() - TimeDelta::hours(1)),
        reason: "promotion".to_owned(),
        actor: "ada".to_owned(),
        granted_at: now() - TimeDelta::days(1),
    };
    execute(&books, "acme", soon).await;
    trade(&books, 0..60).await;
    catch_up(&database).await;
    let mistaken = AccountCommand::GrantCredits {
        grant_id: "mistaken".to_owned(),
        amount: Microcredits(77),
        expires_at: Some(now() + TimeDelta::days(400)),
        reason: "a gift".to_owned(),
        actor: "finance".to_owned(),
        granted_at: now(),
    };
    execute(&books, "acme", mistaken).await;
    execute(&books, "acme", void("mistaken")).await;
    execute(&books, "acme", note("n1", AdjustmentKind::CreditNote, 7, Some("2024-10"))).await;
    execute(&books, "acme", note("n2", AdjustmentKind::DebitNote, 3, None)).await;
    execute(&books, "acme", AccountCommand::ExpireCredits { grant_id: "soon".to_owned(), expired_at: now() }).await;
    // It takes more than it holds: the hold is extended first.
    books.accept("dear", accepted("acme", "ann", "node-1", 40)).await;
    books.end("acme", "dear", End::Completed(outcome(3, 70))).await.unwrap();
    books.accept("lost", accepted("acme", "ann", "node-1", 40)).await;
    books.end("acme", "lost", End::Abandoned(now())).await.unwrap();
    catch_up(&database).await;

    let mut account = Account::default();
    let log = entries(verified(database.pool()).await);
    let mut connection = database.pool().acquire().await.unwrap();
    let rows = credit_ledger::movements(&mut connection, "acme", 0, u64::MAX >> 1, 1_000).await.unwrap();
    let mut row = rows.iter();
    for change in events_of::<Account>(&log) {
        let (event, change) = change.unwrap();
        if event.aggregate_id != "acme" {
            continue;
        }
        account.evolve(change);
        if matches!(change, AccountEvent::AccountOpened { .. }) {
            continue;
        }
        let row = row.next().unwrap();
        assert_eq!(row.position.cast_unsigned(), event.position);
        let balances = row.balances;
        assert_eq!(balances.granted_microcredits, account.granted().0);
        assert_eq!(balances.available_microcredits, account.available().0);
        assert_eq!(balances.held_microcredits, account.held().0);
        assert_eq!(balances.spent_microcredits, account.spent().0);
        assert_eq!(balances.expired_microcredits, account.expired().0);
        // As of then it is what it was then.
        assert_eq!(credit_ledger::balances_at(&mut connection, "acme", event.position).await.unwrap(), balances);
    }
    assert!(row.next().is_none());

    let kinds: BTreeSet<_> = rows.iter().map(|row| row.movement.as_str()).collect();
    let all = ["adjust", "expire", "extend", "grant", "release", "reserve", "settle", "void"];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), all);
    let of = |reference: &str| rows.iter().find(|row| row.reference == reference).unwrap();
    assert_eq!((of("soon").reason.as_deref(), of("soon").actor.as_deref()), (Some("promotion"), Some("ada")));
    assert!(of("soon").expires_at.is_some());
    let credit = of("n1");
    assert_eq!((credit.spent_change_microcredits, credit.available_change_microcredits), (-7, 7));
    assert_eq!(credit.corrects_month.map(|month| month.to_string()).as_deref(), Some("2024-10-01"));
    assert_eq!(credit.corrects.as_ref().unwrap()[0]["charge"], "request-5");
}

#[tokio::test]
async fn the_ledgers_the_usage_and_the_events_come_to_the_same_sums() {
    let database = database().await;
    let books = open_books(&database).await;
    trade(&books, 0..90).await;
    execute(&books, "acme", note("n1", AdjustmentKind::CreditNote, 7, None)).await;
    execute(&books, "globex", note("n2", AdjustmentKind::DebitNote, 5, None)).await;
    books.grant("poor", 45).await;
    books.accept("too dear", accepted("poor", "ann", "node-1", 40)).await;
    books.end("poor", "too dear", End::Completed(outcome(90, 70))).await.unwrap();
    catch_up(&database).await;

    let log = entries(verified(database.pool()).await);
    let (mut settled, mut cost, mut uncovered) = (0, 0, 0);
    for change in events_of::<Account>(&log) {
        if let AccountEvent::CreditsSettled { charged_microcredits, uncovered_microcredits, cost_picousd, .. } =
            change.unwrap().1
        {
            settled += charged_microcredits.0;
            uncovered += uncovered_microcredits.0;
            cost += cost_picousd.0;
        }
    }
    let usage = all_usage(&database).await;
    assert_eq!(usage.iter().map(|end| end.charged_microcredits).sum::<i64>(), settled);
    assert_eq!(usage.iter().map(|end| end.cost_picousd).sum::<i64>(), cost);
    assert_eq!(usage.iter().map(|end| end.list_microcredits).sum::<i64>(), settled + uncovered);

    let sum = async |select: &str| sqlx::query_scalar::<_, i64>(select).fetch_one(database.pool()).await.unwrap();
    let settlements = "SELECT sum(spent_change_microcredits)::bigint FROM credit_ledger_v1 WHERE movement = 'settle'";
    assert_eq!(sum(settlements).await, settled);
    for table in ["usage_daily_v1", "usage_monthly_v1"] {
        assert_eq!(sum(&format!("SELECT sum(charged_microcredits)::bigint FROM {table}")).await, settled);
        assert_eq!(sum(&format!("SELECT sum(list_microcredits)::bigint FROM {table}")).await, settled + uncovered);
        assert_eq!(
            sum(&format!("SELECT sum(requests)::bigint FROM {table}")).await,
            i64::try_from(usage.len()).unwrap()
        );
    }
    let mut connection = database.pool().acquire().await.unwrap();
    for account in ACCOUNTS.into_iter().chain(["poor"]) {
        let (truth, head) = (books.accounts.load(account).await.unwrap(), head(&database).await);
        let balances = credit_ledger::balances_at(&mut connection, account, head).await.unwrap();
        assert_eq!(balances.spent_microcredits, truth.spent().0);
        assert_eq!(balances.available_microcredits, truth.available().0);
    }
    assert_eq!(sum("SELECT sum(adjusted_microcredits)::bigint FROM account_balance_v1").await, 5 - 7);
}

#[tokio::test]
async fn a_provider_is_as_healthy_as_its_calls() {
    let database = database().await;
    let books = open_books(&database).await;
    for nth in 0..8 {
        let request_id = format!("request-{nth}");
        books.accept(&request_id, accepted("acme", "ann", "node-1", 40)).await;
        let mut outcome = outcome(0, 10);
        outcome.ended_at = DateTime::UNIX_EPOCH + TimeDelta::minutes(10) * i32::try_from(nth).unwrap();
        let mut failed = outcome.attempts[0].clone();
        failed.failure = Some("overloaded".to_owned());
        let mut skipped = failed.clone();
        (skipped.skipped, skipped.failure) = (true, Some("breaker_open".to_owned()));
        outcome.attempts[0].duration_ms = 100 * (nth + 1);
        if nth == 1 {
            outcome.attempts.splice(0..0, [failed, skipped]);
        }
        books.end("acme", &request_id, End::Completed(outcome)).await.unwrap();
    }
    catch_up(&database).await;
    let all = provider_health::report(database.pool(), DateTime::UNIX_EPOCH, now()).await.unwrap().value;
    let [first, second] = &all[..] else { panic!("{all:?}") };
    assert_eq!((first.hour, first.provider.as_str()), (DateTime::<Utc>::UNIX_EPOCH, "openai"));
    assert_eq!((first.called, first.answered), (7, 6));
    assert_eq!(first.failed.iter().collect::<Vec<_>>(), [(&"overloaded".to_owned(), &1)]);
    assert_eq!(first.passed_over.iter().collect::<Vec<_>>(), [(&"breaker_open".to_owned(), &1)]);
    assert_eq!((first.p50_ms, first.p95_ms), (Some(320), Some(640)));
    assert_eq!((second.called, second.answered, second.p99_ms), (2, 2, Some(896)));
}

/// Whatever is asked of an account, by chance.
fn anything(rng: &mut StdRng) -> AccountCommand {
    let mut id = |kind: &str, of: u32| format!("{kind}{}", rng.random_range(0..of));
    let (reservation_id, grant_id, adjustment_id) = (id("r", 12), id("g", 30), id("n", 40));
    let amount = Microcredits(rng.random_range(1..80));
    let at = now();
    match rng.random_range(0..11) {
        10 => void(&grant_id),
        0 => AccountCommand::GrantCredits {
            grant_id,
            amount,
            expires_at: rng.random_bool(0.5).then_some(at),
            reason: String::new(),
            actor: String::new(),
            granted_at: at,
        },
        1 => AccountCommand::ExpireCredits { grant_id, expired_at: at },
        2..5 => AccountCommand::ReserveCredits { reservation_id, amount, at_least: amount, reserved_at: at },
        5 => {
            AccountCommand::ExtendReservation { reservation_id, by: amount, at_least: Microcredits(1), extended_at: at }
        }
        6 | 7 => AccountCommand::SettleReservation {
            reservation_id,
            charge: Charge { price_id: None, cost: PicoUsd(amount.0), list: amount, amount },
            settled_at: at,
        },
        8 => AccountCommand::ReleaseReservation { reservation_id, released_at: at },
        _ => {
            let kind = if rng.random_bool(0.5) { AdjustmentKind::CreditNote } else { AdjustmentKind::DebitNote };
            note(&adjustment_id, kind, amount.0, None)
        }
    }
}

#[tokio::test]
async fn whatever_is_asked_of_accounts_the_ledger_says_at_every_position_what_they_had_then() {
    let database = database().await;
    let books = Books::open(Node::start(&database.database));
    let mut rng = StdRng::seed_from_u64(4);
    let mut seen: Vec<(u64, Vec<String>)> = Vec::new();
    let as_of = |position: u64| {
        format!("SELECT * FROM credit_ledger_v1 WHERE position <= {position} ORDER BY account, position")
    };
    for step in 0..600 {
        let account = ACCOUNTS[rng.random_range(0..ACCOUNTS.len())];
        // Much of it is refused, and changes nothing.
        let command = reckoned(&books, account, anything(&mut rng)).await;
        let _ = books.accounts.execute(account, &command, &|_| Ok(vec![]), &Arc::default()).await;
        if step % 150 == 149 {
            catch_up(&database).await;
            let position = head(&database).await;
            seen.push((position, copy(&database, &as_of(position)).await));
        }
    }
    // All work ends, and everything expires that may.
    for account in ACCOUNTS {
        let release = (0..12)
            .map(|nth| AccountCommand::ReleaseReservation { reservation_id: format!("r{nth}"), released_at: now() });
        let expire =
            (0..30).map(|nth| AccountCommand::ExpireCredits { grant_id: format!("g{nth}"), expired_at: now() });
        for command in release.chain(expire) {
            let _ = books.accounts.execute(account, &command, &|_| Ok(vec![]), &Arc::default()).await;
        }
    }
    catch_up(&database).await;
    for (position, then) in &seen {
        assert_same("as of then", &copy(&database, &as_of(*position)).await, then);
    }
    let mut connection = database.pool().acquire().await.unwrap();
    let mut accounts: BTreeMap<String, Account> = BTreeMap::new();
    let log = entries(verified(database.pool()).await);
    for change in events_of::<Account>(&log) {
        let (event, change) = change.unwrap();
        let account = accounts.entry(event.aggregate_id.clone()).or_default();
        account.evolve(change);
        let ledger = credit_ledger::balances_at(&mut connection, &event.aggregate_id, event.position).await.unwrap();
        let balances = [account.granted(), account.available(), account.held(), account.spent(), account.expired()];
        assert_eq!(
            [
                ledger.granted_microcredits,
                ledger.available_microcredits,
                ledger.held_microcredits,
                ledger.spent_microcredits,
                ledger.expired_microcredits
            ],
            balances.map(|balance| balance.0)
        );
    }
    let differ = "SELECT b.account FROM account_balance_v1 b CROSS JOIN LATERAL (
             SELECT * FROM credit_ledger_v1 l WHERE l.account = b.account ORDER BY position DESC LIMIT 1) l
         WHERE (b.granted_microcredits, b.available_microcredits, b.held_microcredits, b.spent_microcredits,
                b.expired_microcredits) IS DISTINCT FROM
               (l.granted_microcredits, l.available_microcredits, l.held_microcredits, l.spent_microcredits,
                l.expired_microcredits)";
    assert_eq!(copy(&database, differ).await, [""; 0]);
    assert!(accounts.values().any(|account| account.expired() > Microcredits::ZERO), "{accounts:?}");
}
