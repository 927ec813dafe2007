//! What one user and one account may ask of this node, and how much all of them together.

mod load;
mod pace;
mod places;

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};
use serde::{Deserialize, Serialize};

pub use places::{Entry, Place, Waiting};

use self::{
    pace::{Pace, Steps},
    places::Places,
};
use crate::{error::GatewayError, principal::Principal, shares::Scope};

/// The most for one user, or for one account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allowance {
    pub requests_per_minute: NonZeroU32,
    /// Input as estimated plus the output that may be produced.
    pub tokens_per_minute: NonZeroU32,
    /// Of requests as they come, and of answers: about what goes into the log.
    pub bytes_per_minute: NonZeroU32,
    pub concurrent_requests: u32,
    /// The next four are for whoever comes in at a door: open sockets, HTTP calls that are being answered, those of them that
    /// wait for a change, and those that have a report or an audit made.
    pub sockets: usize,
    pub concurrent_calls: usize,
    pub long_polls: usize,
    pub reports: usize,
}

/// The most for this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capacity {
    pub running_requests: usize,
    pub waiting_requests: usize,
    pub wait_ms: u64,
    /// While whoever is ready to go on waits longer than this for a processor, fewer run than may, and slower; zero: never.
    pub max_lag_ms: u64,
}

/// Allowances of users or of accounts.
struct Allowances {
    scope: Scope,
    allowance: Allowance,
    requests: DefaultKeyedRateLimiter<String>,
    tokens: DefaultKeyedRateLimiter<String>,
    bytes: DefaultKeyedRateLimiter<String>,
    running: Arc<Mutex<HashMap<String, u32>>>,
    /// Made once: making one asks the processor what it is, which on a virtual machine takes as long as all the rest.
    clock: DefaultClock,
}

pub struct Limits {
    users: Allowances,
    accounts: Allowances,
    places: Places,
    pace: Pace,
}

/// Counted as running for its user and its account until dropped.
pub struct Running {
    _counted: [Counted; 2],
}

struct Counted {
    running: Arc<Mutex<HashMap<String, u32>>>,
    key: String,
}

impl Limits {
    pub fn new(per_user: Allowance, per_account: Allowance, capacity: Capacity) -> Self {
        let accounts = Allowances::new(Scope::Account, per_account);
        let places = Places::new(capacity, accounts.running.clone());
        let pace = Pace::new(Duration::from_millis(capacity.max_lag_ms));
        Self { users: Allowances::new(Scope::User, per_user), accounts, places, pace }
    }

    /// Takes one request of `tokens` tokens off the principal's allowances.
    ///
    /// The rates cannot be given back. So the user's are asked first: one user who asks for too much then takes
    /// nothing from the others of the account, while an account that refuses costs this user a part of an allowance
    /// that is of no use to them at the time. What the account would never allow costs nobody anything.
    pub fn admit(&self, principal: &Principal, tokens: u64) -> Result<Running, GatewayError> {
        let user = self.users.count(&principal.user)?;
        let account = self.accounts.count(&principal.account)?;
        self.accounts.check_size(tokens)?;
        self.users.check_rate(&principal.user, tokens)?;
        self.accounts.check_rate(&principal.account, tokens)?;
        Ok(Running { _counted: [user, account] })
    }

    /// Takes `bytes` that have come in off the principal's allowances, before anything is done with them.
    pub fn take_bytes(&self, principal: &Principal, bytes: usize) -> Result<(), GatewayError> {
        self.users.check_bytes(&principal.user, bytes)?;
        self.accounts.check_bytes(&principal.account, bytes)
    }

    /// Takes `tokens` more off the allowances, for a request that turned out larger than it was admitted for. Where
    /// fewer are left, it takes those: what is running goes on.
    pub fn debit(&self, principal: &Principal, tokens: u64) {
        self.users.debit(&principal.user, tokens);
        self.accounts.debit(&principal.account, tokens);
    }

    /// The same with bytes, those of an answer.
    pub fn debit_bytes(&self, principal: &Principal, bytes: usize) {
        self.users.debit_bytes(&principal.user, bytes);
        self.accounts.debit_bytes(&principal.account, bytes);
    }

    /// A place at once, if there is one and nobody is before it; or one in the queue, unless that is full.
    pub fn enter(&self, principal: &Principal) -> Result<Entry, GatewayError> {
        self.places.enter(principal)
    }

    /// Waits for a place, in the order of arrival, at most as long as configured. `tell` hears how many wait before this one,
    /// itself included, whenever that has changed.
    pub async fn place(&self, waiting: Waiting, tell: impl Fn(usize)) -> Result<Place, GatewayError> {
        self.places.wait(waiting, tell).await
    }

    /// Forgets those who have not asked for a while. To be called now and then.
    pub fn forget_idle(&self) {
        for allowances in [&self.users, &self.accounts] {
            for rates in [&allowances.requests, &allowances.tokens, &allowances.bytes] {
                rates.retain_recent();
            }
        }
        self.pace.forget_idle();
    }

    /// Whoever was ready waited so long for a processor: while that is too long, fewer run than may, no user's requests begin faster
    /// than people ask, and no user's answers go on faster than a model writes one.
    pub fn feel(&self, lag: Duration) {
        self.places.feel(lag);
        self.pace.feel(lag);
    }

    /// Until a request of `user` may begin, which is at once unless the processors are busy and it comes soon after another.
    pub async fn start(&self, user: &str) {
        self.pace.start(user).await;
    }

    /// The steps of an answer of `user`, whose pieces are passed on one after another.
    pub fn steps<'a>(&'a self, user: &'a str) -> Steps<'a> {
        self.pace.steps(user)
    }

    pub fn running(&self) -> usize {
        self.places.taken()
    }
}

impl Allowances {
    fn new(scope: Scope, allowance: Allowance) -> Self {
        Self {
            scope,
            allowance,
            requests: RateLimiter::keyed(Quota::per_minute(allowance.requests_per_minute)),
            tokens: RateLimiter::keyed(Quota::per_minute(allowance.tokens_per_minute)),
            bytes: RateLimiter::keyed(Quota::per_minute(allowance.bytes_per_minute)),
            running: Arc::default(),
            clock: DefaultClock::default(),
        }
    }

    fn count(&self, key: &str) -> Result<Counted, GatewayError> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let count = running.entry(key.to_owned()).or_default();
        if *count >= self.allowance.concurrent_requests {
            return Err(self.exceeded(
                "concurrent requests",
                self.allowance.concurrent_requests,
                Duration::from_secs(1),
            ));
        }
        *count += 1;
        drop(running);
        Ok(Counted { running: self.running.clone(), key: key.to_owned() })
    }

    fn check_bytes(&self, key: &String, bytes: usize) -> Result<(), GatewayError> {
        let Some(bytes) = u32::try_from(bytes).ok().and_then(NonZeroU32::new) else {
            return if bytes == 0 { Ok(()) } else { Err(self.too_many_bytes(Duration::ZERO)) };
        };
        match self.bytes.check_key_n(key, bytes) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => Err(self.too_many_bytes(not_until.wait_time_from(self.clock.now()))),
            Err(_) => Err(self.too_many_bytes(Duration::ZERO)),
        }
    }

    fn too_many_bytes(&self, wait: Duration) -> GatewayError {
        self.exceeded("bytes a minute", self.allowance.bytes_per_minute.get(), wait)
    }

    fn check_rate(&self, key: &String, tokens: u64) -> Result<(), GatewayError> {
        self.requests.check_key(key).map_err(|not_until| {
            let wait = not_until.wait_time_from(self.clock.now());
            self.exceeded("requests a minute", self.allowance.requests_per_minute.get(), wait)
        })?;
        let limit = self.allowance.tokens_per_minute.get();
        let tokens = NonZeroU32::new(u32::try_from(tokens).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
        match self.tokens.check_key_n(key, tokens) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => {
                Err(self.exceeded("tokens a minute", limit, not_until.wait_time_from(self.clock.now())))
            }
            Err(_) => self.check_size(tokens.get().into()),
        }
    }

    /// Whether a request of `tokens` tokens can ever fit.
    fn check_size(&self, tokens: u64) -> Result<(), GatewayError> {
        let limit = self.allowance.tokens_per_minute.get();
        if tokens <= limit.into() {
            return Ok(());
        }
        Err(self.exceeded("tokens in one request", limit, Duration::ZERO))
    }

    fn debit(&self, key: &String, tokens: u64) {
        take_what_is_there(&self.tokens, key, tokens, self.allowance.tokens_per_minute);
    }

    fn debit_bytes(&self, key: &String, bytes: usize) {
        take_what_is_there(&self.bytes, key, bytes as u64, self.allowance.bytes_per_minute);
    }

    fn exceeded(&self, what: &'static str, limit: u32, retry_after: Duration) -> GatewayError {
        GatewayError::RateLimitExceeded { what, scope: self.scope, limit: limit.into(), retry_after }
    }
}

/// Takes what is there, up to `amount`. The limiter takes a number or none, so it is asked for ever smaller ones.
fn take_what_is_there(rates: &DefaultKeyedRateLimiter<String>, key: &String, amount: u64, most: NonZeroU32) {
    let mut left = u32::try_from(amount).unwrap_or(u32::MAX).min(most.get());
    let mut portion = left;
    while let Some(some) = NonZeroU32::new(portion.min(left)) {
        if matches!(rates.check_key_n(key, some), Ok(Ok(()))) {
            left -= some.get();
        }
        portion /= 2;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = running.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                running.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::principal::Capabilities;

    fn principal(user: &str) -> Principal {
        Principal {
            user: user.into(),
            account: "acme".into(),
            roles: vec![],
            expires_at: chrono::DateTime::UNIX_EPOCH,
            capabilities: Capabilities::default(),
        }
    }

    fn allowance(requests: u32, tokens: u32, concurrent_requests: u32) -> Allowance {
        Allowance {
            requests_per_minute: NonZeroU32::new(requests).unwrap(),
            tokens_per_minute: NonZeroU32::new(tokens).unwrap(),
            bytes_per_minute: NonZeroU32::new(1_000).unwrap(),
            concurrent_requests,
            sockets: 1,
            concurrent_calls: 1,
            long_polls: 1,
            reports: 1,
        }
    }

    fn limits(per_user: Allowance, per_account: Allowance) -> Limits {
        Limits::new(
            per_user,
            per_account,
            Capacity { running_requests: 1, waiting_requests: 1, wait_ms: 10, max_lag_ms: 0 },
        )
    }

    fn what(result: &Result<Running, GatewayError>) -> &'static str {
        match result {
            Err(GatewayError::RateLimitExceeded { what, .. }) => what,
            _ => "admitted",
        }
    }

    #[test]
    fn requests_tokens_and_concurrency_are_limited_for_a_user_and_for_an_account() {
        let wide = allowance(1_000, 1_000_000, 100);
        let held: Vec<_> = (0..2).map(|_| limits(allowance(9, 900, 2), wide)).collect();
        let running: Vec<_> = (0..2).map(|_| held[0].admit(&principal("ada"), 1).unwrap()).collect();
        assert_eq!(what(&held[0].admit(&principal("ada"), 1)), "concurrent requests");
        drop(running);
        assert_eq!(what(&held[0].admit(&principal("ada"), 1)), "admitted");
        assert_eq!(what(&held[1].admit(&principal("ada"), 900)), "admitted");
        assert_eq!(what(&held[1].admit(&principal("ada"), 900)), "tokens a minute");
        assert_eq!(what(&held[1].admit(&principal("eve"), 901)), "tokens in one request");

        let by_account = limits(wide, allowance(2, 1_000, 10));
        assert_eq!(what(&by_account.admit(&principal("ada"), 1)), "admitted");
        assert_eq!(what(&by_account.admit(&principal("eve"), 1)), "admitted");
        assert_eq!(what(&by_account.admit(&principal("bob"), 1)), "requests a minute");
    }

    #[test]
    fn what_a_running_request_needs_more_is_taken_off_as_far_as_it_is_there() {
        let limits = limits(allowance(9, 900, 9), allowance(9, 2_000, 9));
        let _running = limits.admit(&principal("ada"), 100).unwrap();
        limits.debit(&principal("ada"), 300);
        assert_eq!(what(&limits.admit(&principal("ada"), 600)), "tokens a minute");
        limits.debit(&principal("ada"), 899);
        assert_eq!(what(&limits.admit(&principal("ada"), 50)), "tokens a minute");
        assert_eq!(what(&limits.admit(&principal("eve"), 850)), "tokens a minute");
        assert_eq!(what(&limits.admit(&principal("bob"), 600)), "admitted");
    }

    #[test]
    fn what_the_account_never_allows_is_not_taken_off_the_user() {
        let limits = limits(allowance(1, 900, 9), allowance(9, 500, 9));
        assert_eq!(what(&limits.admit(&principal("ada"), 501)), "tokens in one request");
        assert_eq!(what(&limits.admit(&principal("ada"), 500)), "admitted");
    }

    #[test]
    fn bytes_that_come_in_are_limited_and_those_of_an_answer_are_taken_off_as_far_as_they_are_there() {
        let wide = allowance(1_000, 1_000_000, 100);
        let limits = limits(wide, Allowance { bytes_per_minute: NonZeroU32::new(1_500).unwrap(), ..wide });
        let refused = |user: &str, bytes| match limits.take_bytes(&principal(user), bytes) {
            Err(GatewayError::RateLimitExceeded { what: "bytes a minute", scope, limit, .. }) => Some((scope, limit)),
            other => other.map(|()| None).unwrap(),
        };
        assert_eq!(refused("ada", 1_001), Some((Scope::User, 1_000)));
        assert_eq!(refused("ada", 600), None);
        limits.debit_bytes(&principal("ada"), 5_000);
        assert_eq!(refused("ada", 300), Some((Scope::User, 1_000)));
        assert_eq!(refused("eve", 600), Some((Scope::Account, 1_500)));
        assert_eq!(refused("eve", 0), None);
    }
}
