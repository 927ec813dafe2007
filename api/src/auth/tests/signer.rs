//! Keys, and tokens of any form made with them.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, EncodingKey, crypto, jwk::Jwk};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use serde_json::{Value, json};

/// An RSA key of 2048 bits in PKCS#1, made for these tests: nothing here makes RSA keys.
const RSA_KEY: &str = "\
MIIEowIBAAKCAQEAp7sZDFcNHYd43CU8s9dt4bNyo6uIjxRXvrmoqa0yS+YH2KrUV67BGt1jHpFC5XhqXJYgE0IpDxToQ8f3+7ljk6bvfm+NrD
5Cmv6u+pdQEwvOO4ooeELCFqO3JsLAfOBwxBC0xOyp46KXQoMnijIxNohGVvIljdwwPjEw2O/t6p4zJ8YBffJ8i3xnHGemBbtxVtxvZ8yNYSZS
ausSmgW+G/jUsk/X59Q4+HM3GgWQxtbdYF/NZY9Cx7/y4woxA+9LbmbdZLatCwK++NyhRuBKQeKBhCCIeA15lYnEXQ3FzuqUAa7TI8HCROWNhe
IVnaSDKejI8sW93blujHbiagwfZwIDAQABAoIBACFKXcDYwEYlnsPW8jLhpbH/y1eX0p1PVNEKiWLP+OUejV0gHtAeY75gxW0KOMRRv46Lz2bz
ITIYnLbjSCFinNRv9CXcnzpaCx83QGSFRsPY+oBPvhOMcHhM2yuqyMigRVFs3WweauO+4BW38U+ZAbKInqlgGzsKQlr9qWvNRyPjGtpoBf8VmF
sG2VA15nUDedZN5bqtCf58WXoM5tEtHxyr9c+gquGAe2jnLEWrF3BFkpNoJ2cBSJkDcgDn1gRKkKDHC6tmtvUU7Lz17ajfNiURcPMShyEckA6R
/gCA7CuCA86sGbhXbZbANwmg2gAf9s924rr0LzgnKusQiJNoE70CgYEA3wrpNPfuT/oRqmeKsOqY2BOiU2s1nqP6tL5u7qeVD/Eee5FmbIOux2
aHXBn27xO5G1oNYV5TR9DmH4wjTMV5dFYff/BwOKJKS70bEpn0oThDG0k7R7KE/QZyiPfjTXXY4rzC0h+4BOuiIc0Tu2iFKgiquxD6nVoVtkHN
+EsAwysCgYEAwIPlDBI4u7cNgHO8ETjQupY3ilEQlkhMUQnBXutiwBnOy7gcc7kF6BnOjA2euUAo2eNkwjA3WnDIi5r2OX1R1eM3Ky4k+GnJHR
UR5IIO1vUklv/LR6/NNYmg2YMVGl9sI9GLSzvZrhyy931A8TNDZ6pnqm/zXwOoEWcFYfq9ZrUCgYEAqRKtSyCx/uAyKflJMejzqb/gadm4EKR+
9CnzD2frX+VIVSUX/iQoBjFbZF6uR/asd+ZghDGrcaIR/1IMpDKBacWrJSGO/+9N4HHeJtCbluZ+QB3YGPZjRyZvBhLatCokGWQ7TmsK5Hf2NC
cv0P1fDEj7msg5IbRbBwiE6LV6Q3cCgYAHPm9F7wGXfqHRbYlsFHk2LCTW3YoEPaAxhG50ReMnW1E+tSTM7e9c9muhNXn9en6PBFFsRSgwDQJe
zmvpad/EbpJK26ekeUaKA5rywDoSuJKx49ogTmsoUo9s39PRdDm7d00Ifa4JMSdCzMG+0bD9m5ne/etobdjLHtdDAo5R6QKBgHjirYGVgRKe6B
OPH6JlAsnABlZ4bhocmieJehr9uFIZlm0CyrEyZiKjhl1NuUknBUHRI6pybv9vJLH+icjGohJPJLTcX3RPbVKX+A8NtUv3esuVYUao7zbWNBGn
CqNf04gjP7wcYkNoH59vzOv+wiBeGSQaxoe9eav5WIBGxY2x";

/// A key that signs tokens, and its public part.
pub struct Signer {
    pub algorithm: Algorithm,
    key: EncodingKey,
    /// The public key as a JWK with `kid`; of a shared secret it is null.
    pub jwk: Value,
}

impl Signer {
    pub fn hs256(secret: &[u8]) -> Self {
        Self { algorithm: Algorithm::HS256, key: EncodingKey::from_secret(secret), jwk: Value::Null }
    }

    pub fn rs256(kid: &str) -> Self {
        let key = EncodingKey::from_rsa_der(&STANDARD.decode(RSA_KEY.replace('\n', "")).unwrap());
        let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&key, Algorithm::RS256).unwrap()).unwrap();
        jwk["kid"] = json!(kid);
        Self { algorithm: Algorithm::RS256, key, jwk }
    }

    pub fn es256(kid: &str) -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let jwk = json!({"kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y), "alg": "ES256", "kid": kid});
        Self { algorithm: Algorithm::ES256, key: EncodingKey::from_ec_der(pkcs8.as_ref()), jwk }
    }

    pub fn eddsa(kid: &str) -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        let x = encode(pair.public_key().as_ref());
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": x, "alg": "EdDSA", "use": "sig", "kid": kid});
        Self { algorithm: Algorithm::EdDSA, key: EncodingKey::from_ed_der(pkcs8.as_ref()), jwk }
    }

    /// The header that a token of this key usually has.
    pub fn header(&self) -> Value {
        let mut header = json!({"alg": format!("{:?}", self.algorithm), "typ": "JWT"});
        if let Some(kid) = self.jwk.get("kid") {
            header["kid"] = kid.clone();
        }
        header
    }

    pub fn token(&self, payload: &Value) -> String {
        self.token_with(&self.header(), payload)
    }

    /// A token whose header says what it is told to, signed with this key.
    pub fn token_with(&self, header: &Value, payload: &Value) -> String {
        self.sign(&header.to_string(), &payload.to_string())
    }

    /// A token of two texts, which need not be JSON.
    pub fn sign(&self, header: &str, payload: &str) -> String {
        self.sign_parts(&encode(header), &encode(payload))
    }

    /// A token of two parts, which need not be base64.
    pub fn sign_parts(&self, header: &str, payload: &str) -> String {
        let message = format!("{header}.{payload}");
        let signature = crypto::sign(message.as_bytes(), &self.key, self.algorithm).unwrap();
        format!("{message}.{signature}")
    }
}

pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
