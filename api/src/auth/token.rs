//! The form of a token, before anything in it is believed.
//!
//! Reading is as strict as the compact serialisation allows (RFC 7515, section 3.1), so that there is one way to
//! write a token and nothing that two readers could understand differently.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::error::AuthError;

/// A token whose signature has not been checked.
pub struct UnverifiedToken<'a> {
    pub algorithm: Algorithm,
    pub key_id: Option<String>,
    signed: &'a str,
    payload: &'a str,
    signature: &'a str,
}

/// What is read of the JOSE header.
///
/// `jwk`, `jku`, `x5u` and `x5c` are not here: where the keys come from is configured, and a token cannot say. Serde
/// refuses a field of this struct that comes twice.
#[derive(Deserialize)]
struct Header {
    alg: String,
    typ: Option<String>,
    kid: Option<String>,
    /// Extensions that a reader must understand. None is understood here.
    crit: Option<Value>,
    /// Present if the payload is another token.
    cty: Option<Value>,
    /// Present if the token is encrypted.
    enc: Option<Value>,
    /// Present if the payload is compressed.
    zip: Option<Value>,
    /// Present if the payload may not be base64.
    b64: Option<Value>,
}

impl<'a> UnverifiedToken<'a> {
    pub fn parse(token: &'a str) -> Result<Self, AuthError> {
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(AuthError::Malformed("it must have three parts"));
        };
        let signed = &token[..header.len() + 1 + payload.len()];
        let header: Header = object(&decode(header)?)
            .ok_or(AuthError::Malformed("its header is not a JSON object with `alg`, each field once"))?;
        let algorithm = algorithm(&header)?;
        Ok(Self { algorithm, key_id: header.kid, signed, payload, signature })
    }

    /// The payload's bytes, if the signature is that of `key`. HMACs are compared in constant time (`verify_slice`
    /// of the `hmac` crate).
    pub fn verify(&self, key: &DecodingKey) -> Result<Vec<u8>, AuthError> {
        match crypto::verify(self.signature, self.signed.as_bytes(), key, self.algorithm) {
            Ok(true) => decode(self.payload),
            Ok(false) | Err(_) => Err(AuthError::Signature),
        }
    }
}

/// The four algorithms that are accepted; the key has to be made for the one that the header names.
fn algorithm(header: &Header) -> Result<Algorithm, AuthError> {
    if header.crit.is_some() || header.b64.is_some() {
        return Err(AuthError::Malformed("its header asks for an extension"));
    }
    if header.enc.is_some() || header.zip.is_some() || header.cty.is_some() {
        return Err(AuthError::Malformed("it is encrypted, compressed or nested"));
    }
    // Other types (`logout+jwt`, `dpop+jwt`, ...) are signed with the same keys and are no permission to enter.
    let accepted_type =
        |typ: &str| ["JWT", "at+jwt", "application/at+jwt"].iter().any(|one| one.eq_ignore_ascii_case(typ));
    if header.typ.as_deref().is_some_and(|typ| !accepted_type(typ)) {
        return Err(AuthError::Malformed("its `typ` is neither JWT nor at+jwt"));
    }
    match header.alg.as_str() {
        "HS256" => Ok(Algorithm::HS256),
        "RS256" => Ok(Algorithm::RS256),
        "ES256" => Ok(Algorithm::ES256),
        "EdDSA" => Ok(Algorithm::EdDSA),
        _ => Err(AuthError::Algorithm),
    }
}

/// Strict: no padding, no other alphabet, no space, no stray bits in the last character.
fn decode(part: &str) -> Result<Vec<u8>, AuthError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| AuthError::Malformed("a part is not base64url"))
}

/// A JSON object. Serde would read a struct from an array as well, by the order of its fields.
pub fn object<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
    json.starts_with(b"{").then(|| serde_json::from_slice(json).ok())?
}
