//! What a verified token says, and whether that is enough.

use aihub_application::principal::{IDENTIFIER_RULE, is_identifier};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{
    AuthSettings,
    error::{AuthError, AuthSettingsError},
    token::object,
};

const MAX_ROLES: usize = 32;
const MAX_LEEWAY_S: u64 = 300;
/// 9999-12-31T23:59:59Z, the last second that RFC 3339 can write.
const MAX_TIMESTAMP_S: i64 = 253_402_300_799;

/// What every token has to satisfy.
pub struct ClaimRules {
    issuer: Option<String>,
    audience: Option<String>,
    leeway: TimeDelta,
    default_role: Option<&'static str>,
}

/// What a token that satisfies the rules says.
#[derive(Debug, PartialEq, Eq)]
pub struct Claims {
    pub user: String,
    pub account: String,
    pub roles: Vec<String>,
    /// `exp` and the leeway.
    pub expires_at: DateTime<Utc>,
}

/// The claims that are read. A `null` is a value of the wrong type, not an absence, and serde refuses a claim that
/// comes twice.
#[derive(Deserialize)]
struct Payload {
    #[serde(default, deserialize_with = "present")]
    exp: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    nbf: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    iss: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    aud: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    sub: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    account: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    roles: Option<Value>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl ClaimRules {
    pub fn new(settings: &AuthSettings) -> Result<Self, AuthSettingsError> {
        let leeway = settings.leeway_s;
        if leeway > MAX_LEEWAY_S {
            return Err(AuthSettingsError::LongLeeway { seconds: leeway, max: MAX_LEEWAY_S });
        }
        let leeway = TimeDelta::seconds(leeway.cast_signed());
        let AuthSettings { issuer, audience, default_role, .. } = settings.clone();
        Ok(Self { issuer, audience, leeway, default_role })
    }

    /// Whether a token has no right without a role that grants something.
    pub fn wants_a_role(&self) -> bool {
        self.default_role.is_none()
    }

    /// Reads the payload of a token whose signature was verified.
    pub fn check(&self, payload: &[u8], now: DateTime<Utc>) -> Result<Claims, AuthError> {
        let payload: Payload =
            object(payload).ok_or(AuthError::Malformed("its payload is not a JSON object with each claim once"))?;

        let expires_at = timestamp("exp", &payload.exp.ok_or(AuthError::ClaimMissing("exp"))?)? + self.leeway;
        if now >= expires_at {
            return Err(AuthError::Expired);
        }
        if let Some(nbf) = payload.nbf
            && now < timestamp("nbf", &nbf)? - self.leeway
        {
            return Err(AuthError::NotYetValid);
        }
        if let Some(issuer) = &self.issuer
            && payload.iss.ok_or(AuthError::ClaimMissing("iss"))? != *issuer.as_str()
        {
            return Err(AuthError::Issuer);
        }
        if let Some(audience) = &self.audience {
            let found = match payload.aud.ok_or(AuthError::ClaimMissing("aud"))? {
                Value::Array(several) => several.iter().any(|one| one == audience.as_str()),
                one => one == *audience.as_str(),
            };
            if !found {
                return Err(AuthError::Audience);
            }
        }

        let user = identifier("sub", payload.sub.ok_or(AuthError::ClaimMissing("sub"))?)?;
        let account = match payload.account {
            Some(account) => identifier("account", account)?,
            None => user.clone(),
        };
        let roles = match payload.roles {
            Some(roles) => role_names(roles)?,
            None => self.default_role.map(str::to_owned).into_iter().collect(),
        };
        Ok(Claims { user, account, roles, expires_at })
    }
}

/// RFC 7519's `NumericDate`, which may have a fraction: a second is as exact as is of use, and the earlier one is taken.
fn timestamp(claim: &'static str, value: &Value) -> Result<DateTime<Utc>, AuthError> {
    #[expect(clippy::cast_possible_truncation, reason = "what is beyond all whole numbers is beyond the range as well")]
    let seconds =
        value.as_i64().or_else(|| value.as_f64().filter(|seconds| *seconds >= 0.0).map(|seconds| seconds as i64));
    seconds
        .filter(|seconds| (0..=MAX_TIMESTAMP_S).contains(seconds))
        .and_then(|seconds| DateTime::from_timestamp(seconds, 0))
        .ok_or(AuthError::ClaimInvalid { claim, rule: "must be seconds from 1970 to the year 9999" })
}

fn identifier(claim: &'static str, value: Value) -> Result<String, AuthError> {
    match value {
        Value::String(text) if is_identifier(&text) => Ok(text),
        _ => Err(AuthError::ClaimInvalid { claim, rule: IDENTIFIER_RULE }),
    }
}

/// An empty list is a token without roles: it gets no default.
fn role_names(value: Value) -> Result<Vec<String>, AuthError> {
    let invalid = AuthError::ClaimInvalid { claim: "roles", rule: "must be an array of at most 32 names" };
    match value {
        Value::Array(roles) if roles.len() <= MAX_ROLES => {
            let names = roles.into_iter().map(|role| identifier("roles", role));
            names.collect::<Result<_, _>>().map_err(|_| invalid)
        }
        _ => Err(invalid),
    }
}
