//! The circuit breaker of a provider's model: failsafe's state machine with our own rule for opening, because failsafe's rate is
//! an average that decays with time and cannot open before its window has passed once.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::{Duration, Instant},
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
    /// Opens at so many failures one after another, however few calls there are and however long that takes.
    pub consecutive_failures: u32,
    /// A probe is let through after this long.
    pub open_for: Duration,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            window: Duration::from_mins(1),
            min_calls: 10,
            failure_percent: 50,
            consecutive_failures: 5,
            open_for: Duration::from_secs(30),
        }
    }
}

/// From good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
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
    pub fn new(provider: &str, model: &str, policy: BreakerPolicy) -> Self {
        let observed = Observed {
            state: Arc::default(),
            opened_at: Arc::default(),
            provider: provider.into(),
            model: model.into(),
        };
        let failure_policy = RollingFailureRate {
            policy,
            calls: WindowedAdder::new(policy.window, SLICES),
            failures: WindowedAdder::new(policy.window, SLICES),
            in_a_row: 0,
        };
        let machine = Config::new().failure_policy(failure_policy).instrument(observed.clone()).build();
        Self { machine, observed, open_for: policy.open_for, probing: Arc::default() }
    }

    /// Whether a call would be let through: it is closed, or has been open for long enough that one is to find out.
    pub fn lets_through(&self) -> bool {
        match self.state() {
            BreakerState::Closed => true,
            BreakerState::HalfOpen => !self.probing.load(Ordering::Acquire),
            BreakerState::Open => self.observed.opened_for().is_none_or(|open| open >= self.open_for),
        }
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
    /// It finds out how things are, and others are kept from calling as long as it does.
    pub fn is_finding_out(&self) -> bool {
        self.probing.is_some()
    }

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
    in_a_row: u32,
}

impl FailurePolicy for RollingFailureRate {
    fn record_success(&mut self) {
        self.in_a_row = 0;
        self.calls.add(1);
    }

    fn mark_dead_on_failure(&mut self) -> Option<Duration> {
        self.calls.add(1);
        self.failures.add(1);
        let (calls, failures) = (self.calls.sum(), self.failures.sum());
        self.in_a_row = self.in_a_row.saturating_add(1);
        let is_high = failures * 100 >= calls * i64::from(self.policy.failure_percent);
        let dead = (calls >= i64::from(self.policy.min_calls) && is_high)
            || self.in_a_row >= self.policy.consecutive_failures.max(1);
        dead.then_some(self.policy.open_for)
    }

    fn revived(&mut self) {
        self.in_a_row = 0;
        self.calls.reset();
        self.failures.reset();
    }
}

/// Keeps the state where it can be read, and tells the metrics.
#[derive(Clone)]
struct Observed {
    state: Arc<AtomicU8>,
    opened_at: Arc<Mutex<Option<Instant>>>,
    provider: Arc<str>,
    model: Arc<str>,
}

impl Observed {
    fn opened_for(&self) -> Option<Duration> {
        self.opened_at.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed())
    }

    fn set(&self, state: u8) {
        self.state.store(state, Ordering::Release);
        metrics::gauge!(
            "aihub_provider_breaker_state",
            "provider" => self.provider.to_string(),
            "model" => self.model.to_string()
        )
        .set(f64::from(state));
    }
}

impl Instrument for Observed {
    fn on_call_rejected(&self) {
        metrics::counter!("aihub_provider_breaker_rejections_total", "provider" => self.provider.to_string())
            .increment(1);
    }

    fn on_open(&self) {
        tracing::warn!(provider.name = %self.provider, model.name = %self.model, "circuit breaker opened");
        *self.opened_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
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
        Breaker::new("p", "m", BreakerPolicy { open_for, min_calls: 4, ..BreakerPolicy::default() })
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
    fn it_opens_at_failures_in_a_row_at_the_lowest_traffic_and_a_success_begins_the_row_anew() {
        let policy =
            BreakerPolicy { window: Duration::from_millis(12), consecutive_failures: 3, ..BreakerPolicy::default() };
        let breaker = Breaker::new("p", "m", policy);
        for fails in [true, true, false, true, true] {
            call(&breaker, fails);
            std::thread::sleep(Duration::from_millis(15));
            assert_eq!(breaker.state(), BreakerState::Closed);
        }
        call(&breaker, true);
        assert_eq!(breaker.state(), BreakerState::Open);
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
