//! What guards a provider: circuit breaker, cool-down, concurrency and rate.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::breaker::{Breaker, BreakerPolicy, BreakerState, Probe};
use crate::ports::provider::{FailureKind, ProviderError};

/// Without a `retry-after`, a provider that said "too many" is left alone for this long.
const DEFAULT_COOL_DOWN: Duration = Duration::from_secs(5);
/// A provider whose money is gone, or that does not take our key, is asked again after this long.
const UNUSABLE_COOL_DOWN: Duration = Duration::from_mins(1);

pub struct Guard {
    breaker: Breaker,
    cooling_until: Mutex<Option<Instant>>,
    permits: Arc<Semaphore>,
    max_concurrency: usize,
    requests: Option<DefaultDirectRateLimiter>,
    tokens: Option<DefaultDirectRateLimiter>,
}

/// What we allow ourselves with one provider.
#[derive(Debug, Clone, Copy)]
pub struct UpstreamLimits {
    pub max_concurrency: usize,
    pub requests_per_minute: Option<NonZeroU32>,
    pub tokens_per_minute: Option<NonZeroU32>,
}

/// Leave to make one call. Held until the call's stream has ended, and told how it went.
pub struct Turn {
    guard: Arc<Guard>,
    probe: Probe,
    _permit: OwnedSemaphorePermit,
}

/// Why a provider is not asked right now, and when it may be again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unavailable {
    pub reason: UnavailableReason,
    pub retry_after: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnavailableReason {
    BreakerOpen,
    CoolingDown,
    ConcurrencyLimit,
    RateLimit,
}

impl UnavailableReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BreakerOpen => "breaker_open",
            Self::CoolingDown => "cooling_down",
            Self::ConcurrencyLimit => "concurrency_limit",
            Self::RateLimit => "rate_limit",
        }
    }
}

/// For `GET /api/providers`.
#[derive(Debug, Clone)]
pub struct UpstreamStatus {
    pub breaker: BreakerState,
    pub cooling_down: Option<Duration>,
    pub running: usize,
    pub max_concurrency: usize,
}

impl Guard {
    pub fn new(name: &str, limits: UpstreamLimits, breaker: BreakerPolicy) -> Arc<Self> {
        let per_minute = |limit: NonZeroU32| RateLimiter::direct(Quota::per_minute(limit));
        Arc::new(Self {
            breaker: Breaker::new(name, breaker),
            cooling_until: Mutex::default(),
            permits: Arc::new(Semaphore::new(limits.max_concurrency)),
            max_concurrency: limits.max_concurrency,
            requests: limits.requests_per_minute.map(per_minute),
            tokens: limits.tokens_per_minute.map(per_minute),
        })
    }

    /// Leave for a call of about `tokens` tokens, or why there is none now. Never waits.
    pub fn turn(self: &Arc<Self>, tokens: u64) -> Result<Turn, Unavailable> {
        if let Some(retry_after) = self.cooling_down() {
            return Err(Unavailable { reason: UnavailableReason::CoolingDown, retry_after });
        }
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            let retry_after = Duration::from_secs(1);
            return Err(Unavailable { reason: UnavailableReason::ConcurrencyLimit, retry_after });
        };
        let probe = self
            .breaker
            .permit()
            .map_err(|retry_after| Unavailable { reason: UnavailableReason::BreakerOpen, retry_after })?;
        // Last, because what was taken off the rate cannot be given back.
        if !self.within_rate(tokens) {
            let retry_after = Duration::from_secs(1);
            return Err(Unavailable { reason: UnavailableReason::RateLimit, retry_after });
        }
        Ok(Turn { guard: self.clone(), probe, _permit: permit })
    }

    pub fn status(&self) -> UpstreamStatus {
        UpstreamStatus {
            breaker: self.breaker.state(),
            cooling_down: self.cooling_down(),
            running: self.max_concurrency - self.permits.available_permits(),
            max_concurrency: self.max_concurrency,
        }
    }

    fn cooling_down(&self) -> Option<Duration> {
        let until = (*self.cooling_until.lock().unwrap_or_else(PoisonError::into_inner))?;
        Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    fn cool_down(&self, cool_down: Duration) {
        let until = Instant::now() + cool_down;
        let mut cooling_until = self.cooling_until.lock().unwrap_or_else(PoisonError::into_inner);
        *cooling_until = Some(cooling_until.map_or(until, |other| other.max(until)));
    }

    fn within_rate(&self, tokens: u64) -> bool {
        let tokens = NonZeroU32::new(u32::try_from(tokens).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
        self.requests.as_ref().is_none_or(|limiter| limiter.check().is_ok())
            // More than a whole minute's tokens in one request can never fit: let the provider judge it.
            && self.tokens.as_ref().is_none_or(|limiter| limiter.check_n(tokens).map_or(true, |fits| fits.is_ok()))
    }
}

impl Turn {
    /// Its first visible piece is there.
    pub fn answered(&mut self) {
        self.probe.answered();
    }

    pub fn succeeded(&mut self) {
        self.probe.succeeded();
    }

    pub fn failed(&mut self, error: &ProviderError) {
        match error.kind {
            FailureKind::RateLimited | FailureKind::Overloaded => {
                // An overload counts for the breaker; it cools down only as long as the provider asks.
                let default = (error.kind == FailureKind::RateLimited).then_some(DEFAULT_COOL_DOWN);
                if let Some(cool_down) = error.retry_after.or(default) {
                    self.guard.cool_down(cool_down);
                }
            }
            FailureKind::QuotaExceeded | FailureKind::Unauthorized => self.guard.cool_down(UNUSABLE_COOL_DOWN),
            _ => {}
        }
        if error.kind.counts_against_provider() {
            self.probe.failed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(requests: u32, tokens: u32) -> Arc<Guard> {
        let limits = UpstreamLimits {
            max_concurrency: 9,
            requests_per_minute: NonZeroU32::new(requests),
            tokens_per_minute: NonZeroU32::new(tokens),
        };
        Guard::new("p", limits, BreakerPolicy { min_calls: 1, ..BreakerPolicy::default() })
    }

    fn reason(turn: Result<Turn, Unavailable>) -> &'static str {
        turn.map_or_else(|unavailable| unavailable.reason.as_str(), |_| "a turn")
    }

    #[test]
    fn a_request_above_a_whole_minutes_tokens_is_left_to_the_provider_and_others_are_limited() {
        let guard = guard(9, 100);
        assert_eq!(reason(guard.turn(101)), "a turn");
        assert_eq!(reason(guard.turn(60)), "a turn");
        assert_eq!(reason(guard.turn(60)), "rate_limit");
    }

    #[test]
    fn what_the_breaker_refuses_is_not_taken_off_the_rate() {
        let guard = guard(2, 100);
        let mut turn = guard.turn(1).ok().unwrap();
        turn.failed(&ProviderError {
            kind: FailureKind::ServerError,
            status: None,
            message: String::new(),
            retry_after: None,
        });
        for _ in 0..5 {
            assert_eq!(reason(guard.turn(1)), "breaker_open");
        }
        assert!(guard.within_rate(1));
    }
}
