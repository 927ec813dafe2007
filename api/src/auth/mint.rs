//! Tokens for development and scripts; in production an identity provider issues them.

use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use thiserror::Error;
use uuid::Uuid;

use super::{
    AuthSettings,
    claims::ClaimRules,
    error::{AuthError, AuthSettingsError},
};

/// What a token is to say.
#[derive(Debug, Clone)]
pub struct NewToken<'a> {
    pub sub: &'a str,
    /// `None`: the account is `sub`.
    pub account: Option<&'a str>,
    pub roles: &'a [String],
    /// How long it is valid, from `now` on.
    pub ttl: TimeDelta,
    pub now: DateTime<Utc>,
}

#[derive(Debug, Error)]
pub enum MintError {
    #[error("`hs256_secret` is not set: tokens are issued by the identity provider of `jwks_url`")]
    NoSecret,
    #[error(transparent)]
    Settings(#[from] AuthSettingsError),
    #[error("it would be refused: {0}")]
    Refused(#[from] AuthError),
    #[error("the token could not be signed: {0}")]
    Signing(#[from] jsonwebtoken::errors::Error),
}

#[derive(Serialize)]
struct Payload<'a> {
    sub: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<&'a str>,
    roles: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    iat: i64,
    exp: i64,
    jti: Uuid,
}

/// An HS256 token that a node with the same settings accepts.
pub fn mint(settings: &AuthSettings, token: &NewToken<'_>) -> Result<String, MintError> {
    let secret = settings.checked_secret()?.ok_or(MintError::NoSecret)?;
    let iat = token.now.timestamp();
    let exp = iat.saturating_add(token.ttl.num_seconds());
    let payload = Payload {
        sub: token.sub,
        account: token.account,
        roles: token.roles,
        iss: settings.issuer.as_deref(),
        aud: settings.audience.as_deref(),
        iat,
        exp,
        jti: Uuid::now_v7(),
    };
    let json = serde_json::to_vec(&payload).map_err(jsonwebtoken::errors::Error::from)?;
    ClaimRules::new(settings)?.check(&json, token.now)?;
    let key = EncodingKey::from_secret(secret.expose().as_bytes());
    Ok(jsonwebtoken::encode(&Header::new(Algorithm::HS256), &payload, &key)?)
}
