use aihub_domain::price::{PicoUsdPerToken, Rates};
use chrono::DateTime;
use proptest::prelude::*;

use super::*;

const RATE: MicrocreditsPerUsd = MicrocreditsPerUsd(1_000_000_000);

fn price(input: u64, output: u64) -> Price {
    let [input, output] = [input, output].map(PicoUsdPerToken);
    Price {
        id: "p".into(),
        rates: Rates { input, output, ..Rates::default() },
        long_context: None,
        valid_from: DateTime::UNIX_EPOCH,
        valid_until: None,
        source: "test".into(),
    }
}

fn tariff(price: &Price, input_tokens: u64) -> Tariff<'_> {
    Tariff { price, rate: RATE, input_tokens, writes_for_an_hour: false, spent: Microcredits(7) }
}

fn wish(limit: u64, hold: u64, can_grow: bool) -> Wish {
    Wish { limit, hold, least: 1, can_grow }
}

#[test]
fn the_cap_is_what_the_account_can_pay_for_and_no_more() {
    let price = price(100_000, 500_000);
    let tariff = tariff(&price, 10);
    // The input is 1,000, a token of output 500.
    assert_eq!(tariff.cost(4), Microcredits(7 + 1_000 + 4 * 500));
    let allowance = |reserved, spare, wish| Allowance::of(wish, &tariff, Microcredits(reserved), Microcredits(spare));
    let shown = allowance(7 + 1_000 + 4 * 500, 3 * 500 + 499, wish(100, 4, true));
    assert_eq!((shown.held, shown.cap, shown.is_lowered()), (4, 7, true));
    let hidden = allowance(7 + 1_000 + 4 * 500 + 499, 1_000_000, wish(4, 4, false));
    assert_eq!((hidden.held, hidden.cap, hidden.is_lowered()), (4, 4, false));
    let poor = allowance(7 + 1_000 + 2 * 500, 1_000_000, wish(4, 4, false));
    assert_eq!((poor.held, poor.cap, poor.is_lowered()), (2, 2, true));
    let rich = allowance(7 + 1_000 + 4 * 500, 1_000_000, wish(100, 4, true));
    assert_eq!((rich.held, rich.cap, rich.is_lowered()), (4, 100, false));
}

#[test]
fn what_is_free_is_limited_by_no_account() {
    let price = price(0, 0);
    let free = Tariff { spent: Microcredits::ZERO, ..tariff(&price, 10) };
    assert_eq!(free.affordable(Microcredits::ZERO, 128_000), 128_000);
}

#[test]
fn a_hold_grows_ahead_of_what_is_seen_and_stops_at_the_cap() {
    let allowance = Allowance { cap: 100, held: 20, limit: 100 };
    assert_eq!(allowance.due(13, 20), None);
    // Seven more would be beyond it, and as many are what our count may be wrong by.
    assert_eq!(allowance.due(14, 20), Some(14 + 7 + 20));
    assert_eq!(Allowance { held: 90, ..allowance }.due(70, 20), Some(100));
    assert_eq!(Allowance { held: 100, ..allowance }.due(99, 20), None);
}

#[test]
fn what_is_not_held_for_is_not_handed_out_and_our_count_is_doubted_only_where_all_of_the_cap_is_held() {
    let covers = |held, cap, seen| Allowance { cap, held, limit: cap }.cover(seen, 0);
    assert_eq!(covers(30, 100, 20), Cover::Held);
    assert_eq!(covers(30, 100, 21), Cover::Doubtful, "it may be 31 by the provider's count");
    assert_eq!(covers(30, 100, 30), Cover::Doubtful);
    assert_eq!(covers(30, 100, 31), Cover::Beyond);
    assert_eq!(covers(100, 100, 100), Cover::Held);
    assert_eq!(covers(100, 100, 101), Cover::Doubtful);
    assert_eq!(covers(100, 100, 150), Cover::Doubtful);
    assert_eq!(covers(100, 100, 151), Cover::Beyond);
    assert_eq!(covers(1, 1, 33), Cover::Doubtful);
    assert_eq!(covers(1, 1, 34), Cover::Beyond);
    let told = |told| Allowance { cap: 100, held: 100, limit: 100 }.cover(told, told);
    assert_eq!((told(100), told(101)), (Cover::Held, Cover::Beyond), "the provider's own count is not doubted");
}

proptest! {
    #[test]
    fn what_is_affordable_is_paid_for_by_the_budget_and_one_token_more_is_not(
        input in 0..10_000_000_u64,
        output in 1..100_000_000_u64,
        input_tokens in 0..2_000_000_u64,
        budget in 0..10_000_000_000_i64,
        most in 0..200_000_u64,
    ) {
        let price = price(input, output);
        let (tariff, budget) = (tariff(&price, input_tokens), Microcredits(budget));
        let affordable = tariff.affordable(budget, most);
        prop_assert!(affordable <= most);
        prop_assert!(affordable == 0 || tariff.cost(affordable) <= budget);
        prop_assert!(affordable == most || tariff.cost(affordable + 1) > budget);
    }

    #[test]
    fn as_long_as_the_account_pays_half_again_as_much_is_held_as_was_seen(
        cap in 1..20_000_u64,
        held in 1..20_000_u64,
        pieces in prop::collection::vec(1..300_u64, 0..200),
    ) {
        let mut allowance = Allowance { cap, held: held.min(cap), limit: cap };
        let mut seen = 0;
        for piece in pieces {
            seen += piece;
            if let Some(target) = allowance.due(seen, 2_048) {
                prop_assert!(target > allowance.held);
                allowance.held = target;
            }
            prop_assert!(allowance.held >= (seen + seen / 2).min(cap));
        }
    }
}
