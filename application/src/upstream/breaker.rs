//! A provider's circuit breaker: failsafe's state machine with our own rule for opening, because failsafe's rate is
//! an average that decays with time and cannot open before its window has passed once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::Duration,
};

use failsafe::{Config, FailurePolicy, Instrument, StateMachine, WindowedAdder};
use serde::Serialize;

/// The slices of the rolling window: it forgets a sixth of itself at a time.
const SLICES: u8 = 6;

#[derive(Debug, Clone, Copy)]
pub struct BreakerPolicy {
    pub window: Duration,
    /// Below this many calls in the window it does not open.
    pub min_calls: u32,
    /// Opens at this share of failures, in per cent.
    pub failure_percent: u32,
    /// A probe is let through after this long.
    pub open_for: Duration,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self { window: Duration::from_mins(1), min_calls: 10, failure_percent: 50, open_for: Duration::from_secs(30) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    Closed,
    HalfOpen,
    Open,
}

pub struct Breaker {
    machine: StateMachine<RollingFailureRate, Observed>,
    observed: Observed,
    open_for: Duration,
    /// While half open one call at a time finds out how things are.
    probing: Arc<AtomicBool>,
}

/// One call's say on the provider's health. What says nothing (dropped) counts for nothing.
pub struct Probe {
    machine: StateMachine<RollingFailureRate, Observed>,
    probing: Option<Arc<AtomicBool>>,
}

impl Breaker {
    pub fn new(provider: &str, policy: BreakerPolicy) -> Self {
        let observed = Observed { state: Arc::default(), provider: provider.into() };
        let failure_policy = RollingFailureRate {
            policy,
            calls: WindowedAdder::new(policy.window, SLICES),
            failures: WindowedAdder::new(policy.window, SLICES),
        };
        let machine = Config::new().failure_policy(failure_policy).instrument(observed.clone()).build();
        Self { machine, observed, open_for: policy.open_for, probing: Arc::default() }
    }

    /// Leave to call, or after how long to ask again.
    pub fn permit(&self) -> Result<Probe, Duration> {
        if !self.machine.is_call_permitted() {
            return Err(self.open_for);
        }
        let half_open = self.state() == BreakerState::HalfOpen;
        if half_open && self.probing.swap(true, Ordering::AcqRel) {
            return Err(Duration::from_secs(1));
        }
        Ok(Probe { machine: self.machine.clone(), probing: half_open.then(|| self.probing.clone()) })
    }

    pub fn state(&self) -> BreakerState {
        match self.observed.state.load(Ordering::Acquire) {
            0 => BreakerState::Closed,
            1 => BreakerState::HalfOpen,
            _ => BreakerState::Open,
        }
    }
}

impl Probe {
    /// The call is being answered. That is all a probe is to find out: the breaker closes and others may call, however
    /// long the answer goes on. Any other call is counted once, at its end.
    pub fn answered(&mut self) {
        if let Some(probing) = self.probing.take() {
            self.machine.on_success();
            probing.store(false, Ordering::Release);
        }
    }

    pub fn succeeded(&self) {
        self.machine.on_success();
    }

    pub fn failed(&self) {
        self.machine.on_error();
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(probing) = &self.probing {
            probing.store(false, Ordering::Release);
        }
    }
}

#[derive(Debug)]
struct RollingFailureRate {
    policy: BreakerPolicy,
    calls: WindowedAdder,
    failures: WindowedAdder,
}

impl FailurePolicy for RollingFailureRate {
    fn record_success(&mut self) {
        self.calls.add(1);
    }

    fn mark_dead_on_failure(&mut self) -> Option<Duration> {
        self.calls.add(1);
        self.failures.add(1);
        let (calls, failures) = (self.calls.sum(), self.failures.sum());
        let dead = calls >= i64::from(self.policy.min_calls)
            && failures * 100 >= calls * i64::from(self.policy.failure_percent);
        dead.then_some(self.policy.open_for)
    }

    fn revived(&mut self) {
        self.calls.reset();
        self.failures.reset();
    }
}

/// Keeps the state where it can be read, and tells the metrics.
#[derive(Clone)]
struct Observed {
    state: Arc<AtomicU8>,
    provider: Arc<str>,
}

impl Observed {
    fn set(&self, state: u8) {
        self.state.store(state, Ordering::Release);
        metrics::gauge!("aihub_provider_breaker_state", "provider" => self.provider.to_string()).set(f64::from(state));
    }
}

impl Instrument for Observed {
    fn on_call_rejected(&self) {
        metrics::counter!("aihub_provider_breaker_rejections_total", "provider" => self.provider.to_string())
            .increment(1);
    }

    fn on_open(&self) {
        tracing::warn!(provider.name = %self.provider, "circuit breaker opened");
        self.set(2);
    }

    fn on_half_open(&self) {
        self.set(1);
    }

    fn on_closed(&self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker(open_for: Duration) -> Breaker {
        Breaker::new("p", BreakerPolicy { open_for, min_calls: 4, ..BreakerPolicy::default() })
    }

    fn call(breaker: &Breaker, fails: bool) {
        let probe = breaker.permit().ok().unwrap();
        if fails { probe.failed() } else { probe.succeeded() }
    }

    #[test]
    fn it_opens_at_half_failures_but_not_below_the_minimum_of_calls() {
        let breaker = breaker(Duration::from_secs(30));
        for fails in [true, true, false] {
            call(&breaker, fails);
            assert_eq!(breaker.state(), BreakerState::Closed);
        }
        call(&breaker, true);
        assert_eq!(breaker.state(), BreakerState::Open);
        assert!(breaker.permit().is_err());
    }

    #[test]
    fn after_its_time_it_lets_one_probe_through_at_a_time_and_closes_on_success() {
        let breaker = breaker(Duration::ZERO);
        for _ in 0..4 {
            call(&breaker, true);
        }
        // It opened just now; the clock has to move on once.
        let probe = loop {
            if let Ok(probe) = breaker.permit() {
                break probe;
            }
        };
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        assert!(breaker.permit().is_err());
        probe.succeeded();
        drop(probe);
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert!(breaker.permit().is_ok());
    }

    #[test]
    fn a_probe_that_is_being_answered_lets_others_call_and_its_later_failure_counts() {
        let breaker = breaker(Duration::ZERO);
        for _ in 0..4 {
            call(&breaker, true);
        }
        let mut probe = loop {
            if let Ok(probe) = breaker.permit() {
                break probe;
            }
        };
        probe.answered();
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert!(breaker.permit().is_ok());
        probe.failed();
        for fails in [true, true] {
            call(&breaker, fails);
        }
        assert_eq!(breaker.state(), BreakerState::Open);
    }
}
