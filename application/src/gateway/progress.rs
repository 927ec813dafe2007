//! What is known of a request's work at any moment. It outlives the work, which may be interrupted anywhere.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use aihub_domain::{
    money::{Microcredits, MicrocreditsPerUsd},
    price::{Charge, Price, TokenUsage},
    request::event::{Attempt, Billed},
};
use tokio::time::Instant;

use super::{
    Job,
    allowance::Allowance,
    dispatch::{failure_name, millis},
    hedging::Side,
    meter::{CallEnd, Meter},
};
use crate::{
    catalog::Candidate,
    ports::provider::{Delta, FinishReason, ProviderError, Reached},
};

/// The most attempts at a request, those included that were passed over: the event of its end has all of them, and has to fit
/// into the log.
pub const MAX_ATTEMPTS: usize = 32;

/// The failure of an attempt that another one was faster than.
const HEDGED: &str = "hedged";

pub struct Progress {
    pub reserved: Microcredits,
    /// What the account had left when it was last asked.
    pub spare: Microcredits,
    pub attempts: Vec<Attempt>,
    /// Providers that are not asked again: each time would begin the work anew.
    pub passed_over: Vec<String>,
    /// The call that is being made, or was made last, unless it failed: then it is an attempt like the ones before it.
    pub call: Option<Call>,
    pub first_chunk_ms: Option<u64>,
    pub finish_reason: Option<FinishReason>,
    /// The provider's own word for it, where that is another one.
    pub provider_finish_reason: Option<String>,
    pub vectors: Vec<Vec<f32>>,
    /// Output tokens that were taken off the limits.
    pub debited: u64,
    /// Where a second provider is asked beside the first: which of the two this is, and what of `reserved` is the other one's.
    pub side: Option<Side>,
    pub beside: Microcredits,
    /// The answer was cut where the hold ended: no more than that is charged, whatever the provider says later.
    pub is_cut: bool,
}

/// A call to a provider.
pub struct Call {
    pub provider: String,
    /// By the name that clients use.
    pub model: String,
    /// By the provider's, as it says.
    pub answered_model: Option<String>,
    pub simulated: bool,
    pub price: Price,
    pub reached: Reached,
    pub meter: Meter,
    pub allowance: Allowance,
    /// How much there was of the output when the account had no more to hold; `None` where it had, when it was last asked.
    pub exhausted_at: Option<u64>,
    /// [`CallEnd::Left`] until it is known to have ended otherwise.
    pub end: CallEnd,
    started: Instant,
}

impl Progress {
    pub fn new(job: &Job, reserved: Microcredits, spare: Microcredits) -> Self {
        Self {
            reserved,
            spare,
            attempts: vec![],
            passed_over: vec![],
            call: None,
            first_chunk_ms: None,
            finish_reason: None,
            provider_finish_reason: None,
            vectors: vec![],
            debited: job.output_tokens,
            side: None,
            beside: Microcredits::ZERO,
            is_cut: false,
        }
    }

    pub fn begin_attempt(&mut self, job: &Job, candidate: &Candidate, allowance: Allowance) {
        let input_tokens = job.request.input_tokens_estimate(&candidate.model);
        self.call = Some(Call {
            provider: candidate.upstream.name.clone(),
            model: candidate.model_name.clone(),
            answered_model: None,
            simulated: candidate.upstream.simulated,
            price: candidate.price.clone(),
            reached: Reached::default(),
            meter: Meter::new(input_tokens, allowance.cap),
            allowance,
            exhausted_at: None,
            end: CallEnd::Left,
            started: Instant::now(),
        });
        self.attempts.push(Attempt {
            provider: candidate.upstream.name.clone(),
            model: candidate.model_name.clone(),
            skipped: false,
            failure: None,
            status: None,
            duration_ms: 0,
            flaws: vec![],
            billed: None,
        });
    }

    /// Notes how long the attempt took, and why it failed if it did.
    pub fn end_attempt(&mut self, error: Option<&ProviderError>) {
        let (Some(call), Some(attempt)) = (&self.call, self.attempts.last_mut()) else { return };
        attempt.duration_ms = millis(call.started.elapsed());
        attempt.failure = error.map(|error| failure_name(error.kind));
        attempt.status = error.and_then(|error| error.status);
        if let Some(flaw) = error.and_then(|error| error.flaw.clone()) {
            attempt.note(flaw);
        }
    }

    /// Keeps what is said about an answer beside it.
    pub fn note(&mut self, delta: Delta) {
        match delta {
            Delta::Model(name) => {
                if let Some(call) = &mut self.call {
                    call.answered_model = Some(name);
                }
            }
            Delta::Flaw(flaw) => {
                if let Some(attempt) = self.attempts.last_mut() {
                    attempt.note(flaw);
                }
            }
            _ => {}
        }
    }

    /// Puts a call behind that ended so before it showed anything; what it did hidden is paid for.
    pub fn leave_attempt(&mut self, end: CallEnd, rate: MicrocreditsPerUsd, charge_abandoned: bool) {
        if let Some(call) = &mut self.call {
            call.end = end;
        }
        let billed = self.billed(rate, charge_abandoned);
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.billed = billed;
        }
        self.call = None;
    }

    /// A candidate that was not asked, and why.
    pub fn skip(&mut self, candidate: &Candidate, reason: &str) {
        self.attempts.push(Attempt {
            provider: candidate.upstream.name.clone(),
            model: candidate.model_name.clone(),
            skipped: true,
            failure: Some(reason.to_owned()),
            status: None,
            duration_ms: 0,
            flaws: vec![],
            billed: None,
        });
    }

    /// What the attempts before the running one have cost, and what is held for one that is made beside it.
    pub fn spent(&self) -> Microcredits {
        self.left().fold(self.beside, |spent, billed| spent.plus(billed.charge.list))
    }

    /// How many attempts may be made: of two who ask at once, the second one has a quarter.
    pub fn most_attempts(&self) -> usize {
        match &self.side {
            None => MAX_ATTEMPTS,
            Some(Side { is_second: true, .. }) => MAX_ATTEMPTS / 4,
            Some(_) => MAX_ATTEMPTS / 4 * 3,
        }
    }

    /// This one's account with that of the other one, who was left, before it. What both hold is one hold.
    #[must_use]
    pub fn with_left(mut self, mut left: Self, rate: MicrocreditsPerUsd, charge_abandoned: bool) -> Self {
        if left.call.is_some() {
            left.end_attempt(None);
            left.leave_attempt(CallEnd::Left, rate, charge_abandoned);
            if let Some(attempt) = left.attempts.last_mut() {
                attempt.failure = Some(HEDGED.to_owned());
            }
        }
        self.reserved = self.reserved.plus(left.reserved).minus(self.beside.max(left.beside));
        self.beside = Microcredits::ZERO;
        self.debited = self.debited.max(left.debited);
        left.attempts.append(&mut self.attempts);
        self.attempts = left.attempts;
        self
    }

    /// What is to be paid for the last call; `None` where it is nothing.
    ///
    /// One that was left before it showed anything is paid for by the operator's rule; what never reached its provider costs
    /// nothing.
    pub fn billed(&self, rate: MicrocreditsPerUsd, charge_abandoned: bool) -> Option<Billed> {
        let call = self.call.as_ref()?;
        let is_abandoned = call.end != CallEnd::Finished && self.first_chunk_ms.is_none();
        if is_abandoned && !(charge_abandoned && call.reached.is_noted()) {
            return None;
        }
        let metered = call.meter.metered(call.end);
        if metered.usage.total_tokens() == 0 {
            return None;
        }
        let cost = call.price.cost(&metered.usage);
        let list = rate.charge(cost);
        let charge = Charge { price_id: Some(call.price.id.clone()), cost, list, amount: list };
        Some(Billed { usage: metered.usage, estimated: metered.estimated, charge })
    }

    /// All attempts together, `last` being what is to be paid for the last call.
    pub fn total(&self, last: Option<&Billed>) -> Billed {
        let nothing = Billed { usage: TokenUsage::default(), estimated: false, charge: Charge::default() };
        self.left().chain(last).fold(nothing, |sum, billed| Billed {
            usage: sum.usage.plus(&billed.usage),
            estimated: sum.estimated || billed.estimated,
            charge: Charge {
                price_id: billed.charge.price_id.clone(),
                cost: sum.charge.cost.plus(billed.charge.cost),
                list: sum.charge.list.plus(billed.charge.list),
                amount: sum.charge.amount.plus(billed.charge.amount),
            },
        })
    }

    fn left(&self) -> impl Iterator<Item = &Billed> {
        self.attempts.iter().filter_map(|attempt| attempt.billed.as_ref())
    }
}
