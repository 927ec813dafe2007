//! What a token has to be, and every attack on tokens that has a name.

mod claims;
pub(super) mod identity_provider;
mod keys;
mod settings;
mod signature;
pub(super) mod signer;

use std::sync::{Arc, Mutex};

use aihub_application::{ports::clock::Clock, principal::Principal};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;

use self::{identity_provider::IdentityProvider, signer::Signer};
use super::{
    AuthSettings, Authenticator,
    error::AuthError,
    roles::{RoleSettings, Roles},
    secret::Secret,
};

pub const SECRET: &str = "a secret of more than thirty-two bytes";
/// The time at which each test begins, in seconds.
pub const NOW: i64 = 1_800_000_000;

/// A clock that goes when it is told to.
pub struct TestClock(Mutex<DateTime<Utc>>);

impl TestClock {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(DateTime::from_timestamp(NOW, 0).unwrap())))
    }

    pub fn advance(&self, seconds: i64) {
        *self.0.lock().unwrap() += TimeDelta::seconds(seconds);
    }
}

impl Clock for TestClock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap()
    }
}

pub fn authenticator(settings: &AuthSettings) -> Authenticator {
    Authenticator::new(settings, Roles::new(RoleSettings::new()), TestClock::new(), TaskTracker::new()).unwrap()
}

/// Accepts HS256 with [`SECRET`].
pub fn with_secret() -> AuthSettings {
    AuthSettings { hs256_secret: Some(Secret::new(SECRET)), default_role: Some("user"), ..AuthSettings::default() }
}

/// Accepts HS256 with [`SECRET`], and what the keys of the provider sign.
pub fn with_both(provider: &IdentityProvider) -> AuthSettings {
    AuthSettings { jwks_url: Some(provider.url()), ..with_secret() }
}

pub fn hs256() -> Signer {
    Signer::hs256(SECRET.as_bytes())
}

/// The claims of a good token.
pub fn good() -> Value {
    json!({"sub": "ann", "exp": NOW + 600})
}

/// The claims of a good token, with one more or another one.
pub fn good_but(claim: &str, value: Value) -> Value {
    let mut payload = good();
    payload[claim] = value;
    payload
}

pub async fn check(settings: &AuthSettings, token: &str) -> Result<Principal, AuthError> {
    authenticator(settings).authenticate(token).await
}

/// Why a token is refused where HS256 with [`SECRET`] is accepted.
pub async fn refusal(token: &str) -> AuthError {
    check(&with_secret(), token).await.expect_err(token)
}
