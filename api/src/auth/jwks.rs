//! The keys of the identity provider: fetched when first needed, cached, and fetched again when they are old or when
//! a token names one that is not there.
//!
//! A fetch runs as a task of its own. A caller who leaves while it waits for one neither cancels it for the others
//! nor starts the next one early.

mod fetch;
mod keys;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aihub_application::ports::clock::Clock;
use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::{Algorithm, DecodingKey};
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard},
    task::JoinHandle,
};
use tokio_util::task::TaskTracker;

use self::{fetch::Source, keys::KeySet};
use super::error::{AuthError, AuthSettingsError};

/// From one fetch to the next, whether it succeeded or not, whatever tokens ask for.
const MIN_FETCH_INTERVAL: TimeDelta = TimeDelta::seconds(10);
/// How long keys that have become old stay in use while no new ones can be had. An identity provider that is down
/// for longer issues no tokens that are still valid then.
const MAX_STALE: TimeDelta = TimeDelta::hours(1);

/// The cached key set of one URL.
pub struct Jwks {
    shared: Arc<Shared>,
    tracker: TaskTracker,
}

struct Shared {
    source: Source,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Held by the one fetch that runs.
    flight: Arc<AsyncMutex<()>>,
}

#[derive(Default)]
struct State {
    cached: Option<Cached>,
    attempted_at: Option<DateTime<Utc>>,
    /// The last attempt failed.
    failing: bool,
}

struct Cached {
    keys: KeySet,
    fetched_at: DateTime<Utc>,
    fresh_until: DateTime<Utc>,
}

/// What the cache has for a token.
enum Lookup {
    Fresh(DecodingKey),
    /// Old, but not too old to be used if there is no newer one.
    Stale {
        key: DecodingKey,
        failing: bool,
    },
    Missing(AuthError),
}

impl Jwks {
    pub fn new(url: &str, clock: Arc<dyn Clock>, tracker: TaskTracker) -> Result<Self, AuthSettingsError> {
        let (state, flight) = (Mutex::default(), Arc::default());
        Ok(Self { shared: Arc::new(Shared { source: Source::new(url)?, clock, state, flight }), tracker })
    }

    /// The key that a token of this algorithm and `kid` has to be signed with.
    ///
    /// `UnknownKey` if the provider has none, `KeysUnavailable` if that could not be learned.
    pub async fn key(&self, algorithm: Algorithm, id: Option<&str>) -> Result<DecodingKey, AuthError> {
        match self.shared.lookup(algorithm, id) {
            Lookup::Fresh(key) => return Ok(key),
            // While the identity provider is down, nobody waits for it.
            Lookup::Stale { key, failing: true } => {
                if let Ok(flight) = self.shared.flight.clone().try_lock_owned() {
                    self.fetch_if_due(flight);
                }
                return Ok(key);
            }
            Lookup::Stale { failing: false, .. } | Lookup::Missing(_) => {}
        }
        // Whoever waits here for another's fetch is content with its result.
        let flight = self.shared.flight.clone().lock_owned().await;
        if let Some(fetch) = self.fetch_if_due(flight) {
            fetch.await.ok();
        }
        match self.shared.lookup(algorithm, id) {
            Lookup::Fresh(key) | Lookup::Stale { key, .. } => Ok(key),
            Lookup::Missing(error) => Err(error),
        }
    }

    fn fetch_if_due(&self, flight: OwnedMutexGuard<()>) -> Option<JoinHandle<()>> {
        let now = self.shared.clock.now();
        let attempted_at = self.shared.state().attempted_at;
        // A clock that was set back must not stop the fetches until it has caught up.
        if attempted_at.is_some_and(|at| (at..at + MIN_FETCH_INTERVAL).contains(&now)) {
            return None;
        }
        let shared = self.shared.clone();
        Some(self.tracker.spawn(async move {
            shared.fetch(now).await;
            drop(flight);
        }))
    }
}

impl Shared {
    fn lookup(&self, algorithm: Algorithm, id: Option<&str>) -> Lookup {
        let now = self.clock.now();
        let state = self.state();
        let Some(cached) = state.cached.as_ref().filter(|cached| now < cached.fresh_until + MAX_STALE) else {
            return Lookup::Missing(AuthError::KeysUnavailable);
        };
        match cached.keys.find(algorithm, id).cloned() {
            Some(key) if (cached.fetched_at..cached.fresh_until).contains(&now) => Lookup::Fresh(key),
            Some(key) => Lookup::Stale { key, failing: state.failing },
            None if state.failing => Lookup::Missing(AuthError::KeysUnavailable),
            None => Lookup::Missing(AuthError::UnknownKey),
        }
    }

    async fn fetch(&self, now: DateTime<Utc>) {
        self.state().attempted_at = Some(now);
        let result = self.source.fetch().await;
        let mut state = self.state();
        state.failing = result.is_err();
        match result {
            Ok((keys, max_age)) => {
                state.cached = Some(Cached { keys, fetched_at: now, fresh_until: now + max_age });
            }
            Err(error) => tracing::warn!(error = format!("{error:#}"), "the JWK set could not be fetched"),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
