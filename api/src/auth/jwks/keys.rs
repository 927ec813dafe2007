//! The keys of a JWK set that can check tokens here.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey, crypto,
    jwk::{AlgorithmParameters, CommonParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;

/// A set with more keys is refused.
const MAX_KEYS: usize = 64;
/// RFC 7518, section 3.3: a shorter modulus must not be used.
const MIN_RSA_BITS: usize = 2048;
/// What the `rsa` crate verifies with.
const MAX_RSA_BITS: usize = 4096;

/// The usable keys of a set, each for exactly one algorithm.
#[derive(Default)]
pub struct KeySet(Vec<Key>);

struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    verifier: DecodingKey,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

impl KeySet {
    /// Reads an RFC 7517 key set. A key that is of another kind, too short, broken or meant for something else is
    /// passed over, for it stands in a set that others read too. A set without one usable key is refused: it is
    /// more likely an error page than the wish to let nobody in.
    pub fn parse(body: &[u8]) -> Result<Self, &'static str> {
        let document: Document = serde_json::from_slice(body).map_err(|_| "it is not a JWK set")?;
        if document.keys.len() > MAX_KEYS {
            return Err("it has more than 64 keys");
        }
        let keys: Vec<Key> = document.keys.into_iter().filter_map(usable).collect();
        if keys.is_empty() { Err("it has no key for RS256, ES256 or EdDSA") } else { Ok(Self(keys)) }
    }

    /// The key of this id for this algorithm. A token without an id can only mean the one key that its algorithm
    /// has: trying several would give a forger as many verifications a token as there are keys.
    pub fn find(&self, algorithm: Algorithm, id: Option<&str>) -> Option<&DecodingKey> {
        let mut fitting = self.0.iter().filter(|key| key.algorithm == algorithm);
        match id {
            Some(id) => fitting.find(|key| key.id.as_deref() == Some(id)),
            None => fitting.next().filter(|_| fitting.next().is_none()),
        }
        .map(|found| &found.verifier)
    }
}

fn usable(jwk: Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(jwk).ok()?;
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) if (MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits(&rsa.n)?) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => Algorithm::ES256,
        // `jsonwebtoken` takes the first 32 bytes of the key, and panics if there are fewer.
        AlgorithmParameters::OctetKeyPair(okp) if okp.curve == EllipticCurve::Ed25519 && bytes(&okp.x)?.len() == 32 => {
            Algorithm::EdDSA
        }
        // A symmetric key in a public document is no secret.
        _ => return None,
    };
    if !made_for(&jwk.common, algorithm) {
        return None;
    }
    let verifier = DecodingKey::from_jwk(&jwk).ok()?;
    // A point that is not on the curve comes to light when the verifier is made.
    crypto::verify("", b"", &verifier, algorithm).ok()?;
    Some(Key { id: jwk.common.key_id, algorithm, verifier })
}

/// Whether what the set says about the key allows checking signatures of this algorithm.
fn made_for(key: &CommonParameters, algorithm: Algorithm) -> bool {
    key.key_algorithm.is_none_or(|named| named == KeyAlgorithm::from(algorithm))
        && key.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature)
        && key.key_operations.as_ref().is_none_or(|operations| operations.contains(&KeyOperations::Verify))
}

fn bytes(part: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(part).ok()
}

fn bits(number: &str) -> Option<usize> {
    let number = bytes(number)?;
    let leading_zeros = number.iter().take_while(|byte| **byte == 0).count();
    let first = number.get(leading_zeros)?;
    Some((number.len() - leading_zeros) * 8 - first.leading_zeros() as usize)
}
