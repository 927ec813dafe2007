//! One configured provider with what guards it.

mod breaker;
pub mod guard;

use std::sync::Arc;

pub use breaker::{BreakerPolicy, BreakerState};

use crate::{catalog::Models, ports::provider::Provider};
use guard::{Guard, Turn, Unavailable, UpstreamLimits, UpstreamStatus};

pub struct Upstream {
    pub name: String,
    /// Its answers are made up: it runs inside this process or was configured as such.
    pub simulated: bool,
    /// Lower is tried first.
    pub priority: u32,
    pub weight: u32,
    pub models: Models,
    pub provider: Arc<dyn Provider>,
    guard: Arc<Guard>,
}

pub struct UpstreamSettings {
    pub name: String,
    pub simulated: bool,
    pub priority: u32,
    pub weight: u32,
    pub models: Models,
    pub limits: UpstreamLimits,
    pub breaker: BreakerPolicy,
}

impl Upstream {
    pub fn new(settings: UpstreamSettings, provider: Arc<dyn Provider>) -> Arc<Self> {
        Arc::new(Self {
            guard: Guard::new(&settings.name, settings.limits, settings.breaker),
            name: settings.name,
            simulated: settings.simulated,
            priority: settings.priority,
            weight: settings.weight,
            models: settings.models,
            provider,
        })
    }

    /// Leave for a call of about `tokens` tokens, or why there is none now. Never waits.
    pub fn turn(&self, tokens: u64) -> Result<Turn, Unavailable> {
        self.guard.turn(tokens)
    }

    pub fn status(&self) -> UpstreamStatus {
        self.guard.status()
    }
}
