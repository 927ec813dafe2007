//! What an attempt may produce, and how much of it is held for. Pure: the account has the last word.
//!
//! The cap that is sent to the provider is never above what the account can pay for when it is sent. Where output is shown as
//! it is made, a portion of the cap is held for at first, and more before more is handed out; where it is not, because a model
//! works hidden or an answer comes in one piece, or where the client set the limit, all of the cap is held from the beginning.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use aihub_domain::{
    money::{Microcredits, MicrocreditsPerUsd},
    price::{Bound, Price},
    request::event::RequestKind,
};

use super::GatewaySettings;
use crate::{catalog::Candidate, request::AnswerRequest};

/// A lower cap than this is of no use to anybody (`OpenAI`'s responses API refuses one): where the account cannot pay for so
/// much, the request is refused.
const LEAST_OUTPUT_TOKENS: u64 = 16;
/// By how much our own count may exceed a small cap before that is taken to be ignored.
const COUNTING_ERROR_TOKENS: u64 = 32;

/// What an attempt at one candidate costs at most.
pub(super) struct Tariff<'a> {
    pub price: &'a Price,
    pub rate: MicrocreditsPerUsd,
    pub input_tokens: u64,
    pub writes_for_an_hour: bool,
    /// What the attempts before it have cost.
    pub spent: Microcredits,
}

/// What is wished for, before the account is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    /// The highest cap that is of use: the client's, the model's, or the operator's for what cannot be seen.
    pub limit: u64,
    /// How much output is held for at first.
    pub hold: u64,
    /// Less will not do.
    pub least: u64,
    /// More can be held for later, as output is shown.
    pub can_grow: bool,
}

/// What an attempt has, in tokens of output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Allowance {
    /// As it was sent to the provider.
    pub cap: u64,
    /// Of the cap.
    pub held: u64,
    /// What the cap would be if the account had enough.
    limit: u64,
}

/// Whether what was produced by now may be handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cover {
    Held,
    /// Our own count is only so good, and the provider's will tell: all of the cap is held, and by ours that is exceeded; or
    /// the account has no more to hold, and what is held would not do if ours were too low by a third.
    Doubtful,
    /// There is nothing left to hold, or the provider ignores its cap.
    Beyond,
}

impl Tariff<'_> {
    /// What is to be held for `output` tokens.
    pub fn cost(&self, output: u64) -> Microcredits {
        let bound = Bound { input: self.input_tokens, output, writes_for_an_hour: self.writes_for_an_hour };
        self.spent.plus(self.rate.charge(self.price.worst_case(bound)))
    }

    /// How many tokens, at most `most`, `budget` pays for. More tokens never cost less, so halving finds it.
    pub fn affordable(&self, budget: Microcredits, most: u64) -> u64 {
        if self.cost(most) <= budget {
            return most;
        }
        let (mut can, mut cannot) = (0, most);
        while cannot.saturating_sub(can) > 1 {
            let middle = can.midpoint(cannot);
            if self.cost(middle) <= budget { can = middle } else { cannot = middle }
        }
        can
    }
}

impl Wish {
    pub fn of(request: &AnswerRequest, candidate: &Candidate, settings: &GatewaySettings) -> Self {
        if request.kind == RequestKind::Embedding {
            return Self { limit: 0, hold: 0, least: 0, can_grow: false };
        }
        // What does not fit into the context beside the input is not produced.
        let room = candidate.model.context_tokens.saturating_sub(request.input_tokens_at_least()).max(1);
        let model = u64::from(candidate.model.max_output_tokens).min(room);
        let is_shown = !candidate.model.hidden_output && candidate.upstream.is_asked_for_a_stream(request);
        match request.max_tokens {
            Some(most) => {
                let limit = model.min(most.into());
                Self { limit, hold: limit, least: limit, can_grow: false }
            }
            None if is_shown => {
                let hold = model.min(settings.output_hold_tokens.into());
                Self { limit: model, hold, least: hold.min(LEAST_OUTPUT_TOKENS), can_grow: true }
            }
            None => {
                let limit = model.min(settings.hidden_output_hold_tokens.into());
                Self { limit, hold: limit, least: limit.min(LEAST_OUTPUT_TOKENS), can_grow: false }
            }
        }
    }
}

impl Allowance {
    /// What `reserved` holds for, with `spare` left in the account.
    pub fn of(wish: Wish, tariff: &Tariff<'_>, reserved: Microcredits, spare: Microcredits) -> Self {
        let held = tariff.affordable(reserved, wish.limit);
        let cap = if wish.can_grow { tariff.affordable(reserved.plus(spare), wish.limit) } else { held };
        Self { cap, held, limit: wish.limit }
    }

    /// The cap is lower than it could be, because the account could not pay for more.
    pub fn is_lowered(&self) -> bool {
        self.cap < self.limit
    }

    /// What is to be held now that so many tokens were seen, where that is more than what is held; `step` is the least by
    /// which a hold grows.
    ///
    /// Half again as much is held as was counted, see [`with_margin`].
    pub fn due(&self, seen: u64, step: u64) -> Option<u64> {
        let ahead = with_margin(seen).max(seen.saturating_add(step / 8));
        let target = with_margin(seen).saturating_add(step).min(self.cap);
        (self.held < ahead.min(self.cap)).then_some(target)
    }

    /// `seen` is what was produced by now, and `told` how much of that the provider itself has counted.
    pub fn cover(&self, seen: u64, told: u64) -> Cover {
        // A provider that keeps to its cap produces no more, whatever we count.
        let is_full = self.held == self.cap;
        let tolerated = if is_full {
            with_margin(self.held).max(self.held.saturating_add(COUNTING_ERROR_TOKENS))
        } else {
            self.held
        };
        let needed = if is_full { seen } else { with_margin(seen) };
        if told > self.held || seen > tolerated {
            Cover::Beyond
        } else if needed > self.held {
            Cover::Doubtful
        } else {
            Cover::Held
        }
    }
}

/// What so many tokens by our count may be by the provider's: half again as many. Pieces that are too long for one token are
/// counted at four bytes a token, which is what English has; so this covers everything that has more than 2.7, which is code
/// and most scripts in current tokenizers.
fn with_margin(counted: u64) -> u64 {
    counted.saturating_add(counted / 2)
}

#[cfg(test)]
mod tests;
