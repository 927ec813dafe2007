//! Who is at the door: JSON Web Tokens (RFC 7519) are checked here, before anything else is done for a request.
//!
//! | module | holds |
//! |---|---|
//! | [`extract`] | where a request carries its token |
//! | `token` | the form of a token and its signature |
//! | `jwks` | the public keys of an identity provider, cached |
//! | `claims` | what a verified token has to say |
//! | [`roles`] | what the roles that a token names grant here |
//! | [`mint`], [`dev_secret`] | tokens for development and scripts |
//! | [`error`], [`secret`] | refusals, and secrets that do not show themselves |

mod claims;
pub mod dev_secret;
pub mod error;
pub mod extract;
mod jwks;
pub mod mint;
pub mod roles;
pub mod secret;
#[cfg(test)]
mod tests;
mod token;

use std::sync::Arc;

use aihub_application::{ports::clock::Clock, principal::Principal};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::{Deserialize, Serialize};
use tokio_util::task::TaskTracker;

use self::{
    claims::ClaimRules,
    error::{AuthError, AuthSettingsError},
    jwks::Jwks,
    roles::Roles,
    secret::Secret,
    token::UnverifiedToken,
};

/// RFC 7518, section 3.2: an HS256 key has at least as many bits as the hash.
const MIN_SECRET_BYTES: usize = 32;

/// Which tokens are accepted.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthSettings {
    /// The shared secret of HS256 tokens, at least 32 bytes. Without it there are no HS256 tokens.
    pub hs256_secret: Option<Secret>,
    /// Where the keys of RS256, ES256 and `EdDSA` tokens are. Without it there are no such tokens.
    pub jwks_url: Option<String>,
    /// What `iss` has to be, if set.
    pub issuer: Option<String>,
    /// What `aud` has to be or to contain, if set.
    pub audience: Option<String>,
    /// By how much the issuer's clock may differ, for `exp` and `nbf`.
    pub leeway_s: u64,
    pub max_token_bytes: usize,
    /// The role of a token that names none, which is convenient in development. Without it, as in production, a token whose
    /// roles grant nothing here has no right.
    #[serde(skip)]
    pub default_role: Option<&'static str>,
}

impl Default for AuthSettings {
    fn default() -> Self {
        Self {
            hs256_secret: None,
            jwks_url: None,
            issuer: None,
            audience: None,
            leeway_s: 30,
            max_token_bytes: 8_192,
            default_role: None,
        }
    }
}

impl AuthSettings {
    /// The HS256 secret, if there is one; an error if it is too short.
    pub fn checked_secret(&self) -> Result<Option<&Secret>, AuthSettingsError> {
        match &self.hs256_secret {
            Some(secret) if secret.expose().len() < MIN_SECRET_BYTES => {
                Err(AuthSettingsError::ShortSecret { bytes: secret.expose().len(), min: MIN_SECRET_BYTES })
            }
            secret => Ok(secret.as_ref()),
        }
    }
}

/// Turns tokens into principals.
pub struct Authenticator {
    secret: Option<DecodingKey>,
    jwks: Option<Jwks>,
    claim_rules: ClaimRules,
    max_token_bytes: usize,
    roles: Roles,
    clock: Arc<dyn Clock>,
}

impl Authenticator {
    /// Fetches nothing yet. The tasks that fetch the key set run on `tracker`.
    pub fn new(
        settings: &AuthSettings,
        roles: Roles,
        clock: Arc<dyn Clock>,
        tracker: TaskTracker,
    ) -> Result<Self, AuthSettingsError> {
        let secret = settings.checked_secret()?.map(|secret| DecodingKey::from_secret(secret.expose().as_bytes()));
        let jwks = settings.jwks_url.as_deref().map(|url| Jwks::new(url, clock.clone(), tracker)).transpose()?;
        if secret.is_none() && jwks.is_none() {
            return Err(AuthSettingsError::NoKeys);
        }
        if jwks.is_some() && settings.audience.is_none() {
            tracing::warn!("jwks_url is set without audience: tokens that were issued for other services are accepted");
        }
        let claim_rules = ClaimRules::new(settings)?;
        Ok(Self { secret, jwks, claim_rules, max_token_bytes: settings.max_token_bytes, roles, clock })
    }

    /// The principal of a token. Nothing of the token is believed before its signature was verified, with a key that
    /// is made for its algorithm: the secret checks HS256 and nothing else, a key of the set only its own algorithm.
    pub async fn authenticate(&self, token: &str) -> Result<Principal, AuthError> {
        if token.len() > self.max_token_bytes {
            return Err(AuthError::TooLong { limit: self.max_token_bytes });
        }
        let token = UnverifiedToken::parse(token)?;
        let payload = match (token.algorithm, &self.secret, &self.jwks) {
            (Algorithm::HS256, Some(secret), _) => token.verify(secret)?,
            (Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA, _, Some(jwks)) => {
                token.verify(&jwks.key(token.algorithm, token.key_id.as_deref()).await?)?
            }
            _ => return Err(AuthError::Algorithm),
        };
        let claims = self.claim_rules.check(&payload, self.clock.now())?;
        let capabilities = self.roles.capabilities(&claims.roles);
        if self.claim_rules.wants_a_role() && capabilities.are_none() {
            return Err(AuthError::NoRole);
        }
        Ok(Principal {
            capabilities,
            user: claims.user,
            account: claims.account,
            roles: claims.roles,
            expires_at: claims.expires_at,
        })
    }
}
