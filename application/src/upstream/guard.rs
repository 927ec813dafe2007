//! What guards a provider: circuit breaker, cool-down, concurrency and rate.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use super::breaker::{Breaker, BreakerPolicy, BreakerState, Probe};
use crate::{
    ports::provider::{FailureKind, ProviderError},
    shares::{Held, Holder, Portions, Share},
};

/// Without a `retry-after`, a provider that said "too many" is left alone for this long.
const DEFAULT_COOL_DOWN: Duration = Duration::from_secs(5);
/// A provider whose money is gone, or that does not take our key, is asked again after this long.
const UNUSABLE_COOL_DOWN: Duration = Duration::from_mins(1);

pub struct Guard {
    breaker: Breaker,
    cooling_until: Mutex<Option<Instant>>,
    calls: Arc<Share>,
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
    /// Since when nothing is heard of it; `None` once something was.
    silent_since: Option<Instant>,
    _call: Held,
}

/// A call that is let go of after so long, and of which nothing was heard, speaks against the provider, whoever lets it go.
const SILENCE: Duration = Duration::from_secs(30);

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
    /// `calls` is how the calls that may be made at once are divided among callers.
    pub fn new(name: &str, limits: UpstreamLimits, breaker: BreakerPolicy, calls: Portions) -> Arc<Self> {
        let per_minute = |limit: NonZeroU32| RateLimiter::direct(Quota::per_minute(limit));
        Arc::new(Self {
            breaker: Breaker::new(name, breaker),
            cooling_until: Mutex::default(),
            calls: Share::new("calls of one provider", calls),
            requests: limits.requests_per_minute.map(per_minute),
            tokens: limits.tokens_per_minute.map(per_minute),
        })
    }

    /// Leave for a call of about `tokens` tokens, or why there is none now. Never waits. Whoever holds many calls keeps others
    /// from none.
    pub fn turn(self: &Arc<Self>, caller: Holder, tokens: u64) -> Result<Turn, Unavailable> {
        if let Some(retry_after) = self.cooling_down() {
            return Err(Unavailable { reason: UnavailableReason::CoolingDown, retry_after });
        }
        let Ok(call) = self.calls.take(caller, 1) else {
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
        Ok(Turn { guard: self.clone(), probe, silent_since: Some(Instant::now()), _call: call })
    }

    pub fn status(&self) -> UpstreamStatus {
        UpstreamStatus {
            breaker: self.breaker.state(),
            cooling_down: self.cooling_down(),
            running: self.calls.taken(),
            max_concurrency: self.calls.portions().all,
        }
    }

    /// Whether there would be a turn within so long, as far as it is not for others' calls and for rates.
    pub fn is_available_within(&self, wait: Duration) -> bool {
        self.breaker.lets_through() && self.cooling_down().is_none_or(|left| left <= wait)
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
    /// Others are kept from this provider until it is known how this call goes.
    pub fn is_finding_out(&self) -> bool {
        self.probe.is_finding_out()
    }

    /// Its first visible piece is there.
    pub fn answered(&mut self) {
        self.silent_since = None;
        self.probe.answered();
    }

    pub fn succeeded(&mut self) {
        self.silent_since = None;
        self.probe.succeeded();
    }

    pub fn failed(&mut self, error: &ProviderError) {
        self.silent_since = None;
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

impl Drop for Turn {
    fn drop(&mut self) {
        if self.silent_since.is_some_and(|since| since.elapsed() >= SILENCE) {
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
        Guard::new("p", limits, BreakerPolicy { min_calls: 1, ..BreakerPolicy::default() }, Portions::undivided(9))
    }

    fn turn(guard: &Arc<Guard>, tokens: u64) -> Result<Turn, Unavailable> {
        guard.turn(Holder::Principal { user: "ann".into(), account: "ann".into() }, tokens)
    }

    fn reason(turn: Result<Turn, Unavailable>) -> &'static str {
        turn.map_or_else(|unavailable| unavailable.reason.as_str(), |_| "a turn")
    }

    #[test]
    fn a_request_above_a_whole_minutes_tokens_is_left_to_the_provider_and_others_are_limited() {
        let guard = guard(9, 100);
        assert_eq!(reason(turn(&guard, 101)), "a turn");
        assert_eq!(reason(turn(&guard, 60)), "a turn");
        assert_eq!(reason(turn(&guard, 60)), "rate_limit");
    }

    #[test]
    fn what_the_breaker_refuses_is_not_taken_off_the_rate() {
        let guard = guard(2, 100);
        let mut first = turn(&guard, 1).ok().unwrap();
        first.failed(&ProviderError {
            kind: FailureKind::ServerError,
            status: None,
            message: String::new(),
            retry_after: None,
            flaw: None,
        });
        for _ in 0..5 {
            assert_eq!(reason(turn(&guard, 1)), "breaker_open");
        }
        assert!(guard.within_rate(1));
    }
}
