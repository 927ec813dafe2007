//! Why a request was not let in, and why the configuration was not accepted.

use http::StatusCode;
use thiserror::Error;

/// Why a request has no principal.
///
/// The text goes to the caller. It names the rule, never what the token or the key held, and stands inside the
/// quotes of a header: no `"`, no `\`, ASCII only.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuthError {
    #[error("no token: send `Authorization: Bearer` with a JWT")]
    Missing,
    #[error("more than one token: send it in the Authorization header, as a WebSocket subprotocol or as ?token=, once")]
    Ambiguous,
    #[error("the Authorization header must be `Bearer` and one JWT")]
    NotBearer,
    #[error("the token exceeds the limit of {limit} bytes")]
    TooLong { limit: usize },
    #[error("the token is not a signed JWT: {0}")]
    Malformed(&'static str),
    #[error("the token's `alg` is not accepted here")]
    Algorithm,
    #[error("the token's key is not known here")]
    UnknownKey,
    #[error("the token's signature does not verify")]
    Signature,
    #[error("the token has no `{0}`")]
    ClaimMissing(&'static str),
    #[error("the token's `{claim}` {rule}")]
    ClaimInvalid { claim: &'static str, rule: &'static str },
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token was issued by someone else")]
    Issuer,
    #[error("the token was issued for someone else")]
    Audience,
    #[error("the token has no role that grants anything here, and so no right")]
    NoRole,
    /// Not the caller's fault: the same token may pass in a moment.
    #[error("the keys to check the token with cannot be fetched at the moment")]
    KeysUnavailable,
}

impl AuthError {
    /// 401, 403 if no better token could be brought by the same caller, or 503 if it is the key set that is missing.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::KeysUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoRole => StatusCode::FORBIDDEN,
            _ => StatusCode::UNAUTHORIZED,
        }
    }

    /// The value of `WWW-Authenticate` (RFC 6750, section 3). A request without a token gets no error code, as it
    /// did nothing wrong; `None` if another token would not help.
    pub fn www_authenticate(&self) -> Option<String> {
        let code = match self {
            Self::KeysUnavailable => return None,
            Self::Missing => return Some("Bearer".to_owned()),
            Self::Ambiguous | Self::NotBearer => "invalid_request",
            Self::NoRole => "insufficient_scope",
            _ => "invalid_token",
        };
        Some(format!("Bearer error=\"{code}\", error_description=\"{self}\""))
    }
}

/// Why the node does not start with these settings.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum AuthSettingsError {
    #[error("no token could be checked: set `hs256_secret` or `jwks_url`")]
    NoKeys,
    #[error("`hs256_secret` has {bytes} bytes and needs at least {min}: a shorter one can be guessed from one token")]
    ShortSecret { bytes: usize, min: usize },
    #[error("`jwks_url` must be an https URL without credentials, or http to a loopback address: {0}")]
    JwksUrl(String),
    #[error("the client for `jwks_url` could not be made: {0}")]
    JwksClient(String),
    #[error("`leeway_s` is {seconds} and may be at most {max}: a longer one is no correction of clocks")]
    LongLeeway { seconds: u64, max: u64 },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_token_is_asked_for_and_a_bad_one_is_explained() {
        assert_eq!(AuthError::Missing.www_authenticate().unwrap(), "Bearer");
        assert_eq!(
            AuthError::Expired.www_authenticate().unwrap(),
            "Bearer error=\"invalid_token\", error_description=\"the token has expired\""
        );
        assert_eq!(AuthError::KeysUnavailable.www_authenticate(), None);
        assert_eq!(AuthError::KeysUnavailable.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
