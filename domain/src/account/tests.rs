use chrono::{DateTime, TimeZone, Utc};
use cqrs_es::test::TestFramework;
use proptest::prelude::*;

use super::{command::AccountCommand, event::AccountEvent, *};
use crate::{money::PicoUsd, price::Charge};

fn at(hour: u32) -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 22, hour, 0, 0).unwrap()
}

fn credits(credits: i64) -> Microcredits {
    Microcredits::from_credits(credits)
}

fn grant(id: &str, amount: i64) -> AccountCommand {
    AccountCommand::GrantCredits {
        grant_id: id.into(),
        amount: credits(amount),
        reason: "test".into(),
        actor: "finance".into(),
        granted_at: at(8),
    }
}

fn reserve(id: &str, amount: i64) -> AccountCommand {
    AccountCommand::ReserveCredits { reservation_id: id.into(), amount: credits(amount), reserved_at: at(9) }
}

fn settle(id: &str, amount: i64) -> AccountCommand {
    let charge = Charge { price_id: Some("p".into()), cost: PicoUsd(1), amount: credits(amount) };
    AccountCommand::SettleReservation { reservation_id: id.into(), charge, settled_at: at(10) }
}

fn after(commands: impl IntoIterator<Item = AccountCommand>) -> Account {
    let mut account = Account::default();
    for command in commands {
        for event in account.decide(command).unwrap() {
            account.evolve(&event);
        }
    }
    account
}

#[test]
fn a_grant_opens_the_account_and_says_what_is_available() {
    TestFramework::<Account>::with(()).given_no_previous_events().when(grant("g", 5)).then_expect_events(vec![
        AccountEvent::AccountOpened { opened_at: at(8) },
        AccountEvent::CreditsGranted {
            grant_id: "g".into(),
            amount_microcredits: credits(5),
            available_microcredits: credits(5),
            reason: "test".into(),
            actor: "finance".into(),
            granted_at: at(8),
        },
    ]);
}

#[test]
fn the_same_grant_again_changes_nothing_and_another_amount_under_its_key_is_refused() {
    let account = after([grant("g", 5)]);
    assert_eq!(account.decide(grant("g", 5)), Ok(vec![]));
    assert_eq!(
        account.decide(grant("g", 6)),
        Err(AccountError::GrantConflict { grant_id: "g".into(), granted: credits(5) })
    );
}

#[test]
fn an_account_that_is_not_open_reserves_nothing() {
    assert_eq!(Account::default().decide(reserve("r", 1)), Err(AccountError::NotOpen));
}

#[test]
fn a_refusal_states_the_balance_that_it_was_decided_on() {
    let account = after([grant("g", 5), reserve("r1", 3)]);
    assert_eq!(
        account.decide(reserve("r2", 3)),
        Err(AccountError::InsufficientCredits { available: credits(2), required: credits(3) })
    );
}

#[test]
fn settling_takes_the_charge_and_gives_the_rest_back() {
    let account = after([grant("g", 5), reserve("r", 3), settle("r", 1)]);
    assert_eq!((account.spent(), account.held(), account.available()), (credits(1), credits(0), credits(4)));
}

#[test]
fn a_reservation_is_settled_or_released_once() {
    let account = after([grant("g", 5), reserve("r", 3), settle("r", 1)]);
    assert_eq!(account.decide(settle("r", 1)), Err(AccountError::NoSuchReservation("r".into())));
    let release = AccountCommand::ReleaseReservation { reservation_id: "r".into(), released_at: at(11) };
    assert_eq!(account.decide(release), Err(AccountError::NoSuchReservation("r".into())));
}

#[test]
fn a_charge_above_the_hold_is_covered_by_what_is_available_and_never_becomes_a_debt() {
    let account = after([grant("g", 5), reserve("r", 3), settle("r", 4)]);
    assert_eq!((account.spent(), account.available()), (credits(4), credits(1)));

    let account = after([grant("g", 5), reserve("r", 3)]);
    let events = account.decide(settle("r", 9)).unwrap();
    let Some(AccountEvent::CreditsSettled { charged_microcredits, uncovered_microcredits, .. }) = events.last() else {
        panic!("expected a settlement")
    };
    assert_eq!((*charged_microcredits, *uncovered_microcredits), (credits(5), credits(4)));
}

#[test]
fn a_daily_limit_counts_what_is_spent_and_what_is_held_and_starts_anew_the_next_day() {
    let limits = UsageLimits { daily_microcredits: Some(credits(4)), monthly_microcredits: None };
    let set = AccountCommand::SetUsageLimits { limits, reason: "cap".into(), actor: "finance".into(), set_at: at(8) };
    let account = after([grant("g", 100), set, reserve("r1", 2), settle("r1", 2), reserve("r2", 1)]);
    assert_eq!(
        account.decide(reserve("r3", 2)),
        Err(AccountError::UsageLimitExceeded {
            period: Period::Day,
            limit: credits(4),
            used: credits(3),
            required: credits(2),
            resets_at: Utc.with_ymd_and_hms(2026, 11, 23, 0, 0, 0).unwrap(),
        })
    );
    let tomorrow = AccountCommand::ReserveCredits {
        reservation_id: "r3".into(),
        amount: credits(3),
        reserved_at: at(9) + Days::new(1),
    };
    assert!(account.decide(tomorrow).is_ok());
}

#[derive(Debug, Clone)]
enum Step {
    Grant(u8, i64),
    Reserve(u8, i64),
    Extend(u8, i64),
    Settle(u8, i64),
    Release(u8),
}

impl Step {
    fn command(self) -> AccountCommand {
        let id = |id: u8| format!("r{id}");
        match self {
            Self::Grant(grant_id, amount) => AccountCommand::GrantCredits {
                grant_id: format!("g{grant_id}"),
                amount: Microcredits(amount),
                reason: String::new(),
                actor: String::new(),
                granted_at: at(1),
            },
            Self::Reserve(r, amount) => AccountCommand::ReserveCredits {
                reservation_id: id(r),
                amount: Microcredits(amount),
                reserved_at: at(1),
            },
            Self::Extend(r, by) => {
                AccountCommand::ExtendReservation { reservation_id: id(r), by: Microcredits(by), extended_at: at(1) }
            }
            Self::Settle(r, amount) => AccountCommand::SettleReservation {
                reservation_id: id(r),
                charge: Charge { price_id: None, cost: PicoUsd(0), amount: Microcredits(amount) },
                settled_at: at(1),
            },
            Self::Release(r) => AccountCommand::ReleaseReservation { reservation_id: id(r), released_at: at(1) },
        }
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..9u8, -5..90i64).prop_map(|(g, a)| Step::Grant(g, a)),
        (0..9u8, -5..60i64).prop_map(|(r, a)| Step::Reserve(r, a)),
        (0..9u8, -5..30i64).prop_map(|(r, a)| Step::Extend(r, a)),
        (0..9u8, -5..80i64).prop_map(|(r, a)| Step::Settle(r, a)),
        (0..9u8).prop_map(Step::Release),
    ]
}

proptest! {
    #[test]
    fn any_sequence_of_commands_keeps_the_books_balanced(steps in prop::collection::vec(any_step(), 0..120)) {
        let mut account = Account::default();
        for step in steps {
            let before = account.clone();
            let Ok(events) = account.decide(step.command()) else {
                prop_assert_eq!(&account, &before);
                continue;
            };
            for event in &events {
                account.evolve(event);
            }
            prop_assert_eq!(account.granted(), account.available() + account.held() + account.spent());
            prop_assert_eq!(account.held(), account.holds.values().copied().sum::<Microcredits>());
            prop_assert!(account.available() >= Microcredits::ZERO);
        }
    }

    #[test]
    fn every_event_states_the_balance_that_it_leaves(steps in prop::collection::vec(any_step(), 0..60)) {
        let mut account = Account::default();
        for step in steps {
            for event in account.decide(step.command()).unwrap_or_default() {
                account.evolve(&event);
                let json = serde_json::to_value(&event).unwrap();
                let fields = json.as_object().unwrap().values().next().unwrap();
                if let Some(stated) = fields.get("available_microcredits") {
                    prop_assert_eq!(stated.as_i64().unwrap(), account.available().0);
                }
            }
        }
    }
}
