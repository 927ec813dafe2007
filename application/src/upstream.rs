//! One configured provider with what guards it.

mod breaker;
pub mod guard;

use std::{sync::Arc, time::Duration};

pub use breaker::{BreakerPolicy, BreakerState};

use crate::{
    catalog::Models,
    ports::provider::Provider,
    principal::Principal,
    request::AnswerRequest,
    shares::{Holder, Portions},
};
use guard::{Guard, Turn, Unavailable, UpstreamLimits, UpstreamStatus};

/// How a provider streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streaming {
    /// And says at the end what was used.
    Counted,
    /// And does not say what was used.
    Uncounted,
    /// It does not: every answer comes in one piece.
    Never,
}

/// How long an attempt may take, if somebody else can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From sending the request to a status.
    pub first_byte: Duration,
    /// From sending the request, or the last that was thought, to the first visible piece. Keep-alives do not prolong it.
    pub first_piece: Duration,
    /// From one piece to the next, also where nobody else can be asked.
    pub silence: Duration,
    /// From sending the request to the end of the answer, likewise.
    pub whole: Duration,
}

pub struct Upstream {
    pub name: String,
    /// Its answers are made up: it runs inside this process or was configured as such.
    pub simulated: bool,
    /// Lower is tried first.
    pub priority: u32,
    pub weight: u32,
    pub streaming: Streaming,
    pub timing: Timing,
    pub models: Models,
    pub provider: Arc<dyn Provider>,
    guard: Arc<Guard>,
}

pub struct UpstreamSettings {
    pub name: String,
    pub simulated: bool,
    pub priority: u32,
    pub weight: u32,
    pub streaming: Streaming,
    pub timing: Timing,
    pub models: Models,
    pub limits: UpstreamLimits,
    pub breaker: BreakerPolicy,
}

impl Upstream {
    pub fn new(settings: UpstreamSettings, provider: Arc<dyn Provider>) -> Arc<Self> {
        Arc::new(Self {
            guard: Guard::new(
                &settings.name,
                settings.limits,
                settings.breaker,
                Portions::of(settings.limits.max_concurrency),
            ),
            name: settings.name,
            simulated: settings.simulated,
            priority: settings.priority,
            weight: settings.weight,
            streaming: settings.streaming,
            timing: settings.timing,
            models: settings.models,
            provider,
        })
    }

    /// Whether it is to stream the answer, which a whole one is made of as well: so it can be held for as it grows, cut,
    /// and paid for up to where it was left. Only where a stream is not counted, and all of the answer is held for anyway, is
    /// a whole one asked for whole.
    pub fn is_asked_for_a_stream(&self, request: &AnswerRequest) -> bool {
        match self.streaming {
            Streaming::Counted => true,
            Streaming::Uncounted => request.stream || request.max_tokens.is_none(),
            Streaming::Never => false,
        }
    }

    /// Leave for a call of about `tokens` tokens to its `model`, or why there is none now. Never waits.
    pub fn turn(&self, principal: &Principal, model: &str, tokens: u64) -> Result<Turn, Unavailable> {
        self.guard.turn(Holder::of(principal), model, tokens)
    }

    /// Whether there would be a turn for its `model` within so long.
    pub fn is_available_within(&self, model: &str, wait: Duration) -> bool {
        self.guard.is_available_within(model, wait)
    }

    pub fn status(&self) -> UpstreamStatus {
        self.guard.status()
    }
}
