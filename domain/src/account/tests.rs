mod notes;

use chrono::{DateTime, Days, TimeDelta, TimeZone, Utc};
use cqrs_es::test::TestFramework;
use proptest::prelude::*;

use super::{
    command::{AccountCommand, Adjustment, Corrected},
    event::AccountEvent,
    *,
};
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
        expires_at: None,
        reason: "test".into(),
        actor: "finance".into(),
        granted_at: at(8),
    }
}

fn reserve(id: &str, amount: i64) -> AccountCommand {
    let amount = credits(amount);
    AccountCommand::ReserveCredits { reservation_id: id.into(), amount, at_least: amount, reserved_at: at(9) }
}

fn extend(id: &str, by: i64, at_least: i64) -> AccountCommand {
    let (by, at_least) = (credits(by), credits(at_least));
    AccountCommand::ExtendReservation { reservation_id: id.into(), by, at_least, extended_at: at(9) }
}

fn settle(id: &str, amount: i64) -> AccountCommand {
    let charge =
        Charge { price_id: Some("p".into()), cost: PicoUsd(1), list: credits(amount), amount: credits(amount) };
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
            expires_at: None,
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

fn held_by(account: &Account, command: AccountCommand) -> Result<Microcredits, AccountError> {
    match &account.decide(command)?[..] {
        [
            AccountEvent::CreditsReserved { amount_microcredits: amount, .. }
            | AccountEvent::ReservationExtended { by_microcredits: amount, .. },
        ] => Ok(*amount),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_last_that_there_is_is_held_where_less_will_do_and_nothing_where_it_will_not() {
    let account = after([grant("g", 5), reserve("r", 3)]);
    assert_eq!(held_by(&account, extend("r", 1, 1)), Ok(credits(1)));
    assert_eq!(held_by(&account, extend("r", 9, 1)), Ok(credits(2)));
    let refused = AccountError::InsufficientCredits { available: credits(2), required: credits(3) };
    assert_eq!(held_by(&account, extend("r", 9, 3)), Err(refused));
    let (amount, at_least) = (credits(9), credits(1));
    let some = AccountCommand::ReserveCredits { reservation_id: "s".into(), amount, at_least, reserved_at: at(9) };
    assert_eq!(held_by(&account, some), Ok(credits(2)));
}

#[test]
fn what_a_limit_leaves_is_the_last_that_there_is() {
    let limits = UsageLimits { daily_microcredits: Some(credits(4)), monthly_microcredits: Some(credits(6)) };
    let set = AccountCommand::SetUsageLimits { limits, reason: "cap".into(), actor: "finance".into(), set_at: at(8) };
    let account = after([grant("g", 100), set, reserve("r", 3)]);
    assert_eq!(held_by(&account, extend("r", 9, 1)), Ok(credits(1)));
    assert!(matches!(held_by(&account, extend("r", 9, 2)), Err(AccountError::UsageLimitExceeded { .. })));
}

#[test]
fn an_amount_beyond_the_largest_is_refused_wherever_one_comes_in() {
    let account = after([grant("g", 5)]);
    let beyond = Microcredits(Microcredits::MAX.0 + 1);
    let most = Microcredits::MAX.0 / Microcredits::PER_CREDIT;
    let refused = Err(AccountError::InvalidAmount(beyond));
    let AccountCommand::GrantCredits { expires_at, reason, actor, granted_at, .. } = grant("h", 1) else { panic!() };
    let too_much =
        AccountCommand::GrantCredits { grant_id: "h".into(), amount: beyond, expires_at, reason, actor, granted_at };
    assert_eq!(account.decide(too_much), refused);
    let AccountCommand::AdjustCredits(mut adjustment) = note("n", AdjustmentKind::DebitNote, 1) else { panic!() };
    adjustment.corrects[0].amount = beyond;
    assert_eq!(account.decide(AccountCommand::AdjustCredits(adjustment)), refused);
    let limits = UsageLimits { daily_microcredits: None, monthly_microcredits: Some(beyond) };
    let set = AccountCommand::SetUsageLimits { limits, reason: "cap".into(), actor: "finance".into(), set_at: at(8) };
    assert_eq!(account.decide(set), refused);
    // Together as well.
    let granted = credits(5);
    let beyond_it = Err(AccountError::GrantedTooMuch { granted, required: Microcredits::MAX });
    assert_eq!(account.decide(grant("h", most)), beyond_it);
    let full = after([grant("g", 5), grant("h", most - 5)]);
    assert_eq!((full.granted(), full.available()), (Microcredits::MAX, Microcredits::MAX));
    assert!(full.decide(grant("i", 1)).is_err());
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
        at_least: credits(3),
        reserved_at: at(9) + Days::new(1),
    };
    assert!(account.decide(tomorrow).is_ok());
}

fn grant_until(id: &str, amount: i64, expires_at: DateTime<Utc>) -> AccountCommand {
    AccountCommand::GrantCredits {
        grant_id: id.into(),
        amount: credits(amount),
        expires_at: Some(expires_at),
        reason: "promotion".into(),
        actor: "finance".into(),
        granted_at: at(8),
    }
}

fn void(id: &str) -> AccountCommand {
    AccountCommand::VoidGrant {
        grant_id: id.into(),
        reason: "three zeros too many".into(),
        actor: "finance".into(),
        voided_at: at(12),
    }
}

fn expire(id: &str, hour: u32) -> AccountCommand {
    AccountCommand::ExpireCredits { grant_id: id.into(), expired_at: at(hour) }
}

fn expired_of(account: &Account, command: AccountCommand) -> Option<(Microcredits, Microcredits)> {
    account.decide(command).unwrap().iter().find_map(|event| match event {
        AccountEvent::CreditsExpired { amount_microcredits, still_held_microcredits, .. } => {
            Some((*amount_microcredits, *still_held_microcredits))
        }
        _ => None,
    })
}

fn note(id: &str, kind: AdjustmentKind, amount: i64) -> AccountCommand {
    note_after(0, id, kind, amount)
}

/// Of an account that has so many.
fn note_after(notes: usize, id: &str, kind: AdjustmentKind, amount: i64) -> AccountCommand {
    AccountCommand::AdjustCredits(Adjustment {
        adjustment_id: id.into(),
        kind,
        corrects: vec![Corrected { charge: "request-1".into(), amount: credits(amount), left: Microcredits::MAX }],
        notes,
        corrects_month: Some("2026-10".parse().unwrap()),
        reason: "billed twice".into(),
        actor: "finance".into(),
        adjusted_at: at(12),
    })
}

#[test]
fn spending_draws_on_the_grant_that_expires_first() {
    let account = after([grant("g", 5), grant_until("late", 5, at(23)), grant_until("soon", 5, at(20))]);
    let account = {
        let mut account = account;
        for command in [reserve("r", 7), settle("r", 7)] {
            for event in account.decide(command).unwrap() {
                account.evolve(&event);
            }
        }
        account
    };
    assert_eq!(expired_of(&account, expire("soon", 20)), Some((credits(0), credits(0))));
    assert_eq!(expired_of(&account, expire("late", 23)), Some((credits(3), credits(0))));
}

#[test]
fn what_is_held_when_a_grant_expires_is_spent_or_expires_when_it_comes_free() {
    let mut account = after([grant("g", 5), grant_until("soon", 5, at(20)), reserve("r", 4)]);
    let mut apply = |command| {
        for event in account.decide(command).unwrap() {
            account.evolve(&event);
        }
        (account.available(), account.held(), account.spent(), account.expired())
    };
    assert_eq!(apply(expire("soon", 20)), (credits(5), credits(4), credits(0), credits(1)));
    assert_eq!(apply(expire("soon", 21)), (credits(5), credits(4), credits(0), credits(1)));
    assert_eq!(apply(settle("r", 1)), (credits(8), credits(0), credits(1), credits(1)));
    assert_eq!(apply(expire("soon", 21)), (credits(5), credits(0), credits(1), credits(4)));
    assert_eq!(account.decide(expire("soon", 22)), Ok(vec![]));
}

#[test]
fn a_grant_is_taken_back_whole_while_nothing_of_it_is_spent_or_held() {
    let mut account = after([grant("g", 5), grant("wrong", 9), reserve("r", 5)]);
    let mut apply = |command| {
        let events = account.decide(command)?;
        for event in &events {
            account.evolve(event);
        }
        Ok::<_, AccountError>((account.granted(), account.available()))
    };
    assert_eq!(apply(void("wrong")), Ok((credits(5), credits(0))));
    assert_eq!(apply(void("wrong")), Ok((credits(5), credits(0))), "once");
    let used =
        |free: i64| Err(AccountError::GrantUsed { grant_id: "g".into(), granted: credits(5), free: credits(free) });
    assert_eq!(apply(void("g")), used(0), "it is held");
    assert_eq!(apply(settle("r", 1)), Ok((credits(5), credits(4))));
    assert_eq!(apply(void("g")), used(4), "something of it is spent");
    assert_eq!(apply(void("?")), Err(AccountError::NoSuchGrant("?".into())));
    assert_eq!(apply(grant("wrong", 9)), Err(AccountError::GrantVoided("wrong".into())), "it is not made again");
}

#[test]
fn a_grant_expires_when_it_is_time_and_a_grant_without_an_end_never() {
    let account = after([grant("g", 5), grant_until("soon", 5, at(20))]);
    let not_expired = |id: &str, expires_at| Err(AccountError::NotExpired { grant_id: id.into(), expires_at });
    assert_eq!(account.decide(expire("soon", 19)), not_expired("soon", Some(at(20))));
    assert_eq!(account.decide(expire("g", 23)), not_expired("g", None));
    assert_eq!(account.decide(expire("?", 23)), Err(AccountError::NoSuchGrant("?".into())));
    assert!(account.decide(grant_until("soon", 5, at(21))).is_err(), "the same grant with another expiry");
}

#[test]
fn the_text_of_every_event_is_pinned() {
    let limits = UsageLimits { daily_microcredits: Some(credits(90)), monthly_microcredits: None };
    let mut account = Account::default();
    let mut events = Vec::new();
    for command in [
        grant("g", 5),
        grant_until("soon", 5, at(20)),
        AccountCommand::SetUsageLimits { limits, reason: "cap".into(), actor: "finance".into(), set_at: at(8) },
        reserve("r1", 3),
        extend("r1", 1, 1),
        settle("r1", 2),
        reserve("r2", 1),
        AccountCommand::ReleaseReservation { reservation_id: "r2".into(), released_at: at(11) },
        grant("by mistake", 7),
        void("by mistake"),
        note("n1", AdjustmentKind::CreditNote, 1),
        note_after(1, "n2", AdjustmentKind::DebitNote, 1),
        expire("soon", 20),
    ] {
        for event in account.decide(command).unwrap() {
            account.evolve(&event);
            events.push(event);
        }
    }
    insta::assert_json_snapshot!(events);
    for event in events {
        let read: AccountEvent = serde_json::from_str(&serde_json::to_string(&event).unwrap()).unwrap();
        assert_eq!(read, event);
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// An id, an amount, and after how many hours it expires, if it does.
    Grant(u8, i64, Option<u8>),
    /// An id, an amount, and what of it will do.
    Reserve(u8, i64, i64),
    Extend(u8, i64, i64),
    Settle(u8, i64),
    Release(u8),
    Expire(u8),
    Void(u8),
    Adjust(u8, AdjustmentKind, i64),
}

impl Step {
    /// One hour passes with each step; the account has so many notes.
    fn command(self, hours: i32, notes: usize) -> AccountCommand {
        let id = |id: u8| format!("r{id}");
        let now = at(1) + TimeDelta::hours(1) * hours;
        match self {
            Self::Grant(grant_id, amount, expires_after_hours) => AccountCommand::GrantCredits {
                grant_id: format!("g{grant_id}"),
                amount: Microcredits(amount),
                expires_at: expires_after_hours.map(|hours| at(1) + TimeDelta::hours(1) * i32::from(hours)),
                reason: String::new(),
                actor: String::new(),
                granted_at: now,
            },
            Self::Reserve(r, amount, at_least) => AccountCommand::ReserveCredits {
                reservation_id: id(r),
                amount: Microcredits(amount),
                at_least: Microcredits(at_least.min(amount)),
                reserved_at: now,
            },
            Self::Extend(r, by, at_least) => AccountCommand::ExtendReservation {
                reservation_id: id(r),
                by: Microcredits(by),
                at_least: Microcredits(at_least.min(by)),
                extended_at: now,
            },
            Self::Settle(r, amount) => AccountCommand::SettleReservation {
                reservation_id: id(r),
                charge: Charge {
                    price_id: None,
                    cost: PicoUsd(0),
                    list: Microcredits(amount),
                    amount: Microcredits(amount),
                },
                settled_at: now,
            },
            Self::Release(r) => AccountCommand::ReleaseReservation { reservation_id: id(r), released_at: now },
            Self::Expire(g) => AccountCommand::ExpireCredits { grant_id: format!("g{g}"), expired_at: now },
            Self::Void(g) => void(&format!("g{g}")),
            Self::Adjust(n, kind, amount) => AccountCommand::AdjustCredits(Adjustment {
                adjustment_id: format!("n{n}"),
                kind,
                corrects: vec![Corrected { charge: "r1".into(), amount: Microcredits(amount), left: Microcredits(50) }],
                notes,
                corrects_month: None,
                reason: String::new(),
                actor: String::new(),
                adjusted_at: now,
            }),
        }
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![Just(AdjustmentKind::CreditNote), Just(AdjustmentKind::DebitNote)];
    prop_oneof![
        (0..9u8, -5..90i64, prop::option::of(0..90u8)).prop_map(|(g, a, hours)| Step::Grant(g, a, hours)),
        (0..9u8, -5..60i64, 1..60i64).prop_map(|(r, a, least)| Step::Reserve(r, a, least)),
        (0..9u8, -5..30i64, 1..30i64).prop_map(|(r, a, least)| Step::Extend(r, a, least)),
        (0..9u8, -5..80i64).prop_map(|(r, a)| Step::Settle(r, a)),
        (0..9u8).prop_map(Step::Release),
        (0..9u8).prop_map(Step::Expire),
        (0..9u8).prop_map(Step::Void),
        (0..20u8, kind, -2..20i64).prop_map(|(n, kind, a)| Step::Adjust(n, kind, a)),
    ]
}

fn sum(amounts: impl IntoIterator<Item = Microcredits>) -> Microcredits {
    amounts.into_iter().fold(Microcredits::ZERO, Microcredits::plus)
}

proptest! {
    #[test]
    fn any_sequence_of_commands_keeps_the_books_balanced(steps in prop::collection::vec(any_step(), 0..120)) {
        let mut account = Account::default();
        for (hours, step) in (0..).zip(steps) {
            let before = account.clone();
            let Ok(events) = account.decide(step.command(hours, account.notes())) else {
                prop_assert_eq!(&account, &before);
                continue;
            };
            for event in &events {
                account.evolve(event);
                let balances = [account.available(), account.held(), account.spent(), account.expired()];
                prop_assert_eq!(account.granted(), sum(balances));
                prop_assert!(balances.into_iter().all(|balance| balance >= Microcredits::ZERO), "{:?}", balances);
                prop_assert_eq!(account.held(), sum(account.holds.values().copied()));
                prop_assert_eq!(account.grants.left(), account.available().plus(account.held()));
            }
        }
    }

    #[test]
    fn every_event_states_the_balance_that_it_leaves(steps in prop::collection::vec(any_step(), 0..60)) {
        let mut account = Account::default();
        for (hours, step) in (0..).zip(steps) {
            for event in account.decide(step.command(hours, account.notes())).unwrap_or_default() {
                account.evolve(&event);
                let json = serde_json::to_value(&event).unwrap();
                let fields = json.as_object().unwrap().values().next().unwrap();
                if let Some(stated) = fields.get("available_microcredits") {
                    prop_assert_eq!(stated.as_i64().unwrap(), account.available().0);
                }
            }
        }
    }

    /// Once everything has ended and expired, nothing is left but what never expires.
    #[test]
    fn every_grant_that_expires_ends_in_a_last_event(steps in prop::collection::vec(any_step(), 0..90)) {
        let mut account = Account::default();
        for (hours, step) in (0..).zip(steps) {
            for event in account.decide(step.command(hours, account.notes())).unwrap_or_default() {
                account.evolve(&event);
            }
        }
        let ends = (0..9).map(Step::Release).chain((0..9).map(Step::Expire)).map(|step| step.command(1_000, 0));
        for command in ends {
            for event in account.decide(command).unwrap_or_default() {
                account.evolve(&event);
            }
        }
        for id in (0..9).map(|g| format!("g{g}")) {
            if let Some(grant) = account.grants.get(&id) {
                prop_assert_eq!(grant.closed, grant.voided || grant.expires_at.is_some());
            }
        }
    }
}
