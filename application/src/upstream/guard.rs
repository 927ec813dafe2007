//! What guards a provider: circuit breaker and cool-down for each of its models, concurrency and rate. What one model does, or who
//! asks for it, keeps nobody from another.

use std::{
    collections::BTreeMap,
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
    name: String,
    policy: BreakerPolicy,
    models: Mutex<BTreeMap<String, Arc<ModelGuard>>>,
    /// Of whatever model: its money is gone, or it does not take our key.
    cooling: CoolDown,
    calls: Arc<Share>,
    requests: Option<DefaultDirectRateLimiter>,
    tokens: Option<DefaultDirectRateLimiter>,
}

struct ModelGuard {
    breaker: Breaker,
    cooling: CoolDown,
}

#[derive(Default)]
struct CoolDown(Mutex<Option<Instant>>);

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
    model: Arc<ModelGuard>,
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
    /// Of the model for which it is worst.
    pub breaker: BreakerState,
    /// The models for which it is not closed.
    pub breakers: BTreeMap<String, BreakerState>,
    /// Of the model that cools down longest.
    pub cooling_down: Option<Duration>,
    pub running: usize,
    pub max_concurrency: usize,
}

impl Guard {
    /// `calls` is how the calls that may be made at once are divided among callers.
    pub fn new(name: &str, limits: UpstreamLimits, breaker: BreakerPolicy, calls: Portions) -> Arc<Self> {
        let per_minute = |limit: NonZeroU32| RateLimiter::direct(Quota::per_minute(limit));
        Arc::new(Self {
            name: name.to_owned(),
            policy: breaker,
            models: Mutex::default(),
            cooling: CoolDown::default(),
            calls: Share::new("calls of one provider", calls),
            requests: limits.requests_per_minute.map(per_minute),
            tokens: limits.tokens_per_minute.map(per_minute),
        })
    }

    /// Leave for a call of about `tokens` tokens to this model, by a name of which there are not any number, or why there is none now. Never waits. Whoever holds many calls
    /// keeps others from none.
    pub fn turn(self: &Arc<Self>, caller: Holder, model: &str, tokens: u64) -> Result<Turn, Unavailable> {
        let model = self.model(model);
        if let Some(retry_after) = self.cooling_down(&model) {
            return Err(Unavailable { reason: UnavailableReason::CoolingDown, retry_after });
        }
        let Ok(call) = self.calls.take(caller, 1) else {
            let retry_after = Duration::from_secs(1);
            return Err(Unavailable { reason: UnavailableReason::ConcurrencyLimit, retry_after });
        };
        let probe = model
            .breaker
            .permit()
            .map_err(|retry_after| Unavailable { reason: UnavailableReason::BreakerOpen, retry_after })?;
        // Last, because what was taken off the rate cannot be given back.
        if !self.within_rate(tokens) {
            let retry_after = Duration::from_secs(1);
            return Err(Unavailable { reason: UnavailableReason::RateLimit, retry_after });
        }
        Ok(Turn { guard: self.clone(), model, probe, silent_since: Some(Instant::now()), _call: call })
    }

    pub fn status(&self) -> UpstreamStatus {
        let models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        let breakers: BTreeMap<_, _> = models
            .iter()
            .map(|(name, model)| (name.clone(), model.breaker.state()))
            .filter(|(_, state)| *state != BreakerState::Closed)
            .collect();
        UpstreamStatus {
            breaker: breakers.values().copied().max().unwrap_or(BreakerState::Closed),
            breakers,
            cooling_down: models.values().filter_map(|model| self.cooling_down(model)).max(),
            running: self.calls.taken(),
            max_concurrency: self.calls.portions().all,
        }
    }

    /// Whether there would be a turn for this model within so long, as far as it is not for others' calls and for rates.
    pub fn is_available_within(&self, model: &str, wait: Duration) -> bool {
        let model = self.model(model);
        model.breaker.lets_through() && self.cooling_down(&model).is_none_or(|left| left <= wait)
    }

    fn model(&self, name: &str) -> Arc<ModelGuard> {
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = models.get(name) {
            return known.clone();
        }
        let breaker = Breaker::new(&self.name, name, self.policy);
        let model = Arc::new(ModelGuard { breaker, cooling: CoolDown::default() });
        models.insert(name.to_owned(), model.clone());
        model
    }

    fn cooling_down(&self, model: &ModelGuard) -> Option<Duration> {
        self.cooling.left().max(model.cooling.left())
    }

    fn within_rate(&self, tokens: u64) -> bool {
        let tokens = NonZeroU32::new(u32::try_from(tokens).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
        self.requests.as_ref().is_none_or(|limiter| limiter.check().is_ok())
            // More than a whole minute's tokens in one request can never fit: let the provider judge it.
            && self.tokens.as_ref().is_none_or(|limiter| limiter.check_n(tokens).map_or(true, |fits| fits.is_ok()))
    }
}

impl CoolDown {
    fn left(&self) -> Option<Duration> {
        let until = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    fn begin(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut cooling_until = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *cooling_until = Some(cooling_until.map_or(until, |other| other.max(until)));
    }
}

impl Turn {
    /// Others are kept from this model until it is known how this call goes.
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
                    self.model.cooling.begin(cool_down);
                }
            }
            FailureKind::QuotaExceeded | FailureKind::Unauthorized => self.guard.cooling.begin(UNUSABLE_COOL_DOWN),
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

    fn turn_of(guard: &Arc<Guard>, model: &str, tokens: u64) -> Result<Turn, Unavailable> {
        guard.turn(Holder::Principal { user: "ann".into(), account: "ann".into() }, model, tokens)
    }

    fn failure(kind: FailureKind) -> ProviderError {
        ProviderError { kind, status: None, message: String::new(), retry_after: None, flaw: None }
    }

    fn turn(guard: &Arc<Guard>, tokens: u64) -> Result<Turn, Unavailable> {
        turn_of(guard, "m", tokens)
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
        first.failed(&failure(FailureKind::ServerError));
        for _ in 0..5 {
            assert_eq!(reason(turn(&guard, 1)), "breaker_open");
        }
        assert!(guard.within_rate(1));
    }
    #[test]
    fn a_model_that_fails_or_is_limited_keeps_nobody_from_another_but_a_key_that_is_refused_is_of_all() {
        let guard = guard(99, 100);
        turn_of(&guard, "a", 1).ok().unwrap().failed(&failure(FailureKind::Timeout));
        turn_of(&guard, "b", 1).ok().unwrap().failed(&failure(FailureKind::RateLimited));
        assert_eq!(reason(turn_of(&guard, "a", 1)), "breaker_open");
        assert_eq!(reason(turn_of(&guard, "b", 1)), "cooling_down");
        assert!(guard.is_available_within("c", Duration::ZERO));
        let status = guard.status();
        assert_eq!(status.breakers.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!((status.breaker, status.cooling_down.is_some()), (BreakerState::Open, true));
        turn_of(&guard, "c", 1).ok().unwrap().failed(&failure(FailureKind::Unauthorized));
        assert_eq!(reason(turn_of(&guard, "d", 1)), "cooling_down");
    }
}
