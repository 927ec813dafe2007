//! What the log says against what the providers' books say, with a computation of its own.

use std::collections::BTreeMap;

use aihub_domain::{
    account::{Account, event::AccountEvent},
    price::{Price, Rates, TokenUsage},
    request::event::{CancelReason, Outcome, RequestEvent},
};
use aihub_infrastructure::event_store::decode::{entries, events_of};
use aihub_tests::{
    audit::{Audit, AuditedRequest},
    log::verified,
};
use sqlx::PgPool;

use super::{
    provider::{CallEnd, Served},
    world::World,
};

/// What happened in all worlds together, so that nothing was looked for in vain.
#[derive(Debug, Default)]
pub struct Seen(BTreeMap<&'static str, usize>);

impl Seen {
    fn note(&mut self, what: &'static str, is_so: bool) {
        *self.0.entry(what).or_default() += usize::from(is_so);
    }

    /// What was never seen so far.
    pub fn never(&self) -> Vec<&'static str> {
        self.0.iter().filter(|(_, times)| **times == 0).map(|(what, _)| *what).collect()
    }
}

/// What is to be paid: the provider's cost and its price in credits, rounded up once.
fn bill(price: &Price, rate: u32, usage: &TokenUsage) -> (i128, i128) {
    let prompt = usage.input + usage.cached_input + usage.cache_write + usage.cache_write_1h;
    let rates = match &price.long_context {
        Some(long) if prompt > long.above_input_tokens => &long.rates,
        _ => &price.rates,
    };
    let Rates { input, cached_input, cache_write, cache_write_1h, output } = rates;
    let cost: i128 = [
        (usage.input, input.0),
        (usage.cached_input, cached_input.0),
        (usage.cache_write, cache_write.0),
        (usage.cache_write_1h, cache_write_1h.0),
        (usage.output, output.0),
    ]
    .into_iter()
    .map(|(tokens, picousd)| i128::from(tokens) * i128::from(picousd))
    .sum();
    let trillion = 1_000_000_000_000;
    (cost, (cost * i128::from(rate) + trillion - 1) / trillion)
}

/// The most that a call may cost which keeps to its cap, by trying what may happen to its input.
fn most(call: &Served, rate: u32, for_an_hour: bool) -> i128 {
    let all = call.input.0;
    let long = call.price.long_context.map_or(all, |long| all.min(long.above_input_tokens));
    let of = |usage: TokenUsage| bill(&call.price, rate, &TokenUsage { output: call.cap, ..usage }).1;
    let nothing = TokenUsage::default();
    let costs = [all, long].into_iter().flat_map(|tokens| {
        [
            of(TokenUsage { input: tokens, ..nothing }),
            of(TokenUsage { cached_input: tokens, ..nothing }),
            of(TokenUsage { cache_write: tokens, ..nothing }),
            if for_an_hour { of(TokenUsage { cache_write_1h: tokens, ..nothing }) } else { 0 },
        ]
    });
    costs.max().unwrap()
}

/// What its provider is to be paid for a call, and whether that is an estimate.
fn owed(call: &Served, is_shown: bool, charges_abandoned: bool) -> Option<(TokenUsage, bool)> {
    let words = call.words.min(call.cap);
    let estimate = match call.said {
        Some((said, _)) => TokenUsage { output: words.max(said.output), ..said },
        None => TokenUsage { input: call.input.1, output: words, ..TokenUsage::default() },
    };
    match (call.end, call.said) {
        (CallEnd::Unreached | CallEnd::Refused, _) => None,
        (CallEnd::Finished, Some((said, after))) if after == call.words => {
            (said != TokenUsage::default()).then_some((said, false))
        }
        (CallEnd::Finished, _) => Some((estimate, true)),
        (CallEnd::Broken, _) if call.words == 0 => None,
        (CallEnd::Broken | CallEnd::Working, _) => (is_shown || charges_abandoned).then_some((estimate, true)),
    }
}

struct Hold {
    amount: i128,
    extensions: usize,
}

async fn holds(pool: &PgPool) -> BTreeMap<String, Hold> {
    let log = entries(verified(pool).await);
    let mut holds = BTreeMap::<String, Hold>::new();
    for change in events_of::<Account>(&log) {
        match change.unwrap().1 {
            AccountEvent::CreditsReserved { reservation_id, amount_microcredits, .. } => {
                holds.insert(reservation_id.clone(), Hold { amount: amount_microcredits.0.into(), extensions: 0 });
            }
            AccountEvent::ReservationExtended { reservation_id, by_microcredits, .. } => {
                let hold = holds.get_mut(reservation_id).unwrap();
                hold.amount += i128::from(by_microcredits.0);
                hold.extensions += 1;
            }
            _ => {}
        }
    }
    holds
}

pub async fn check(world: &World, audit: &Audit, served: &[Served], pool: &PgPool, seen: &mut Seen) {
    let holds = holds(pool).await;
    let mut calls: BTreeMap<&str, Vec<&Served>> = BTreeMap::new();
    for call in served {
        calls.entry(&call.request_id).or_default().push(call);
    }
    let mut spent: BTreeMap<&str, i128> = world.accounts.iter().map(|(account, _)| (account.as_str(), 0)).collect();
    for (id, request) in &audit.requests {
        let Some(spent) = spent.get_mut(request.accepted.account.as_str()) else { continue };
        let calls = calls.get(id.as_str()).map_or(&[][..], Vec::as_slice);
        let Some(outcome) = request.end.as_ref().and_then(RequestEvent::outcome) else {
            seen.note("a request died with its node", true);
            continue;
        };
        let hold = &holds[id];
        seen.note("a hold was extended", hold.extensions > 0);
        check_request(world, (id, request, outcome), calls, hold, seen);
        *spent += i128::from(outcome.charge.amount.0);
    }
    for (account, granted) in &world.accounts {
        let balance = &audit.accounts[account];
        assert_eq!(i128::from(balance.spent), spent[account.as_str()], "{account}");
        assert_eq!((balance.held(), balance.granted, balance.uncovered), (0, *granted, 0), "{account}");
        seen.note("an account was nearly used up", balance.available() * 20 < balance.granted);
    }
    let known = audit.requests.len();
    assert!(calls.keys().all(|id| audit.requests.contains_key(*id)), "{known}");
}

fn check_request(
    world: &World,
    (id, request, outcome): (&str, &AuditedRequest, &Outcome),
    calls: &[&Served],
    hold: &Hold,
    seen: &mut Seen,
) {
    let rate = world.settings.rate.0;
    let case = format!("{id} of {}: {calls:#?} {outcome:#?}", request.accepted.account);
    let is_shown = outcome.first_chunk_ms.is_some();
    let charges_abandoned = world.settings.charge_abandoned;
    let for_want_of_credits =
        matches!(request.end, Some(RequestEvent::RequestCancelled { reason: CancelReason::CreditsExhausted, .. }));
    let may_be_cut = for_want_of_credits || (!world.keeps_caps && outcome.finish_reason.as_deref() == Some("length"));
    let ask = calls.first().and_then(|call| world.asks.iter().find(|ask| ask.key == call.key));
    let for_an_hour = ask.is_some_and(|ask| ask.request.prompt.writes_for_an_hour());

    let parts = outcome.parts();
    let mut paid = parts.iter().filter(|part| part.billed.charge.price_id.is_some());
    let mut attempts = outcome.attempts.iter().filter(|attempt| !attempt.skipped);
    let (mut cost, mut list) = (0, 0);
    for (nth, call) in calls.iter().enumerate() {
        let is_last = nth + 1 == calls.len();
        let whole = list + most(call, rate, for_an_hour);
        let account = world.accounts.iter().find(|(account, _)| *account == request.accepted.account).unwrap();
        assert!(
            whole <= if call.is_held_whole { hold.amount } else { account.1.into() },
            "{whole} was asked for: {case}"
        );
        // Who took too long and had nothing to show was left for the next one, as one that failed.
        let failure = attempts.next().and_then(|attempt| attempt.failure.as_deref());
        let took_too_long = failure == Some("timeout") && call.words == 0;
        seen.note("a call took too long", took_too_long);
        let owed = owed(call, is_shown && is_last, charges_abandoned).filter(|_| !took_too_long);
        let Some((usage, estimated)) = owed else {
            seen.note("a call was for nothing", true);
            continue;
        };
        let part = paid.next().unwrap_or_else(|| panic!("{usage:?} is owed: {case}"));
        assert_eq!(part.provider, Some(call.provider.as_str()), "{case}");
        let billed = &part.billed;
        if !(is_last && may_be_cut) {
            assert_eq!((billed.usage, billed.estimated), (usage, estimated), "{case}");
        } else if billed.usage != usage {
            let produced = call.words.max(call.said.map_or(0, |(said, _)| said.output));
            assert!(billed.usage.output <= produced, "{case}");
            seen.note("an answer was cut", true);
        }
        seen.note("the provider told what was used", !estimated);
        seen.note("what was used is an estimate", estimated);
        seen.note("a call was left before it showed anything", call.end == CallEnd::Working && !is_shown);
        seen.note("what came to nothing was paid for beside the answer", !is_last);
        let of_call = bill(&call.price, rate, &billed.usage);
        assert_eq!((i128::from(billed.charge.cost.0), i128::from(billed.charge.list.0)), of_call, "{case}");
        cost += of_call.0;
        list += of_call.1;
    }
    assert!(paid.next().is_none(), "nobody was asked: {case}");
    let charge = &outcome.charge;
    assert_eq!((i128::from(charge.cost.0), i128::from(charge.list.0)), (cost, list), "{case}");
    let amount = i128::from(charge.amount.0);
    assert!(amount <= hold.amount, "{amount} of {}: {case}", hold.amount);
    assert!(amount == list || (may_be_cut && amount == hold.amount), "{case}");
    seen.note("an answer ended for want of credits", for_want_of_credits);
}
