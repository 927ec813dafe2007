//! Signatures of webhooks as <https://www.standardwebhooks.com> has them, which OpenAI uses unchanged: those that we send,
//! and those that providers send us. The crate of that name takes no time from outside, and
//! knows one secret only.
//!
//! Signed is `ID.TIMESTAMP.BODY` with HMAC-SHA256. While a secret is changed for another, there is a signature of each.

use std::fmt;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use sha2::Sha256;
use thiserror::Error;
use zeroize::Zeroizing;

pub const WEBHOOK_ID: &str = "webhook-id";
pub const WEBHOOK_TIMESTAMP: &str = "webhook-timestamp";
pub const WEBHOOK_SIGNATURE: &str = "webhook-signature";

/// How far the sender's clock may be from ours, in both directions. What is older may be a repetition.
pub const TOLERANCE_SECONDS: i64 = 300;

const SECRET_PREFIX: &str = "whsec_";
const VERSION_PREFIX: &str = "v1,";
/// The most signatures of one webhook that are looked at.
const MAX_SIGNATURES: usize = 16;

/// Some tools leave the padding out.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Of a master key.
pub const MIN_MASTER_BYTES: usize = 32;

/// What both sides know. Never printed.
#[derive(Clone)]
pub struct WebhookSecret {
    bytes: Zeroizing<Vec<u8>>,
    mac: Hmac<Sha256>,
}

/// What the accounts' secrets are made from, so that these need not be kept: the present master key, and former ones.
/// Never printed.
#[derive(Clone)]
pub struct WebhookMasters(Vec<Hmac<Sha256>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("must have {MIN_MASTER_BYTES} bytes or more")]
pub struct WeakMaster;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a webhook secret is `whsec_` and base64, or a text of its own, and not empty")]
pub struct InvalidWebhookSecret;

/// Why a webhook is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unverified {
    #[error("the header {0} is missing or unreadable")]
    Header(&'static str),
    #[error("the timestamp is more than {TOLERANCE_SECONDS} s from now")]
    Timestamp,
    #[error("no signature is of a secret that we know")]
    Signature,
}

impl WebhookSecret {
    /// `whsec_` and base64; a text without that prefix is the secret itself, as OpenAI's SDK has it.
    pub fn parse(text: &str) -> Result<Self, InvalidWebhookSecret> {
        Self::from_bytes(match text.trim().strip_prefix(SECRET_PREFIX) {
            Some(base64) => LENIENT.decode(base64).map_err(|_| InvalidWebhookSecret)?,
            None => text.trim().as_bytes().to_vec(),
        })
    }

    fn from_bytes(bytes: Vec<u8>) -> Result<Self, InvalidWebhookSecret> {
        let bytes = Zeroizing::new(bytes);
        if bytes.is_empty() {
            return Err(InvalidWebhookSecret);
        }
        let mac = Hmac::new_from_slice(&bytes).map_err(|_| InvalidWebhookSecret)?;
        Ok(Self { bytes, mac })
    }

    /// `whsec_…`, for who has to verify.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{SECRET_PREFIX}{}", STANDARD.encode(&*self.bytes)))
    }

    /// Over `ID.TIMESTAMP.BODY`.
    fn mac(&self, id: &str, timestamp: i64, body: &[u8]) -> Hmac<Sha256> {
        self.mac.clone().chain_update(format!("{id}.{timestamp}.")).chain_update(body)
    }
}

impl WebhookMasters {
    pub fn new<'a>(current: &'a [u8], former: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, WeakMaster> {
        let key = |master: &[u8]| {
            let strong = master.len() >= MIN_MASTER_BYTES;
            strong.then(|| Hmac::new_from_slice(master).ok()).flatten().ok_or(WeakMaster)
        };
        std::iter::once(current).chain(former).map(key).collect::<Result<_, _>>().map(Self)
    }

    /// Those of an account, one of each master key: the first is the one to be told.
    pub fn secrets(&self, account: &str) -> Vec<WebhookSecret> {
        let secret = |master: &Hmac<Sha256>| {
            let mac = master.clone().chain_update(format!("aihub webhook secret v1:{account}"));
            WebhookSecret::from_bytes(mac.finalize().into_bytes().to_vec()).ok()
        };
        self.0.iter().filter_map(secret).collect()
    }
}

impl fmt::Debug for WebhookMasters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebhookMasters({})", self.0.len())
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(…)")
    }
}

/// The text of `webhook-signature`: one of each secret. `timestamp` is in Unix seconds, as its header has it.
pub fn sign(secrets: &[WebhookSecret], id: &str, timestamp: i64, body: &[u8]) -> String {
    let signature = |secret: &WebhookSecret| {
        format!("{VERSION_PREFIX}{}", STANDARD.encode(secret.mac(id, timestamp, body).finalize().into_bytes()))
    };
    secrets.iter().map(signature).collect::<Vec<_>>().join(" ")
}

/// What the headers of a webhook say, before its body is read.
#[derive(Debug)]
pub struct Signed<'a> {
    id: &'a str,
    timestamp: i64,
    signatures: Vec<Vec<u8>>,
}

impl<'a> Signed<'a> {
    /// Whether it can be a webhook of now that somebody signed.
    pub fn of(headers: &'a HeaderMap, now: DateTime<Utc>) -> Result<Self, Unverified> {
        let header = |name| {
            let text = headers.get(name).and_then(|value| value.to_str().ok());
            text.filter(|text| !text.is_empty()).ok_or(Unverified::Header(name))
        };
        let (id, signatures) = (header(WEBHOOK_ID)?, header(WEBHOOK_SIGNATURE)?);
        let timestamp: i64 = header(WEBHOOK_TIMESTAMP)?.parse().map_err(|_| Unverified::Header(WEBHOOK_TIMESTAMP))?;
        if now.timestamp().abs_diff(timestamp) > TOLERANCE_SECONDS.unsigned_abs() {
            return Err(Unverified::Timestamp);
        }
        let signatures = signatures.split(' ').take(MAX_SIGNATURES).filter_map(|one| one.strip_prefix(VERSION_PREFIX));
        let signatures: Vec<_> = signatures.filter_map(|one| STANDARD.decode(one).ok()).collect();
        if signatures.is_empty() { Err(Unverified::Signature) } else { Ok(Self { id, timestamp, signatures }) }
    }

    /// Its id, if it is one: it is to be used to recognise repetitions.
    pub fn verify(&self, secrets: &[WebhookSecret], body: &[u8]) -> Result<&'a str, Unverified> {
        let is_ours = |signature: &Vec<u8>| {
            // Compares in constant time.
            secrets.iter().any(|secret| secret.mac(self.id, self.timestamp, body).verify_slice(signature).is_ok())
        };
        if self.signatures.iter().any(is_ours) { Ok(self.id) } else { Err(Unverified::Signature) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verify<'a>(
        secrets: &[WebhookSecret],
        headers: &'a HeaderMap,
        body: &[u8],
        now: DateTime<Utc>,
    ) -> Result<&'a str, Unverified> {
        Signed::of(headers, now)?.verify(secrets, body)
    }

    // The example of the specification's own libraries.
    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const ID: &str = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
    const AT: i64 = 1_649_367_553;
    const BODY: &[u8] = br#"{"email":"test@example.com","username":"test_user"}"#;
    const SIGNATURE: &str = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";

    fn secret(text: &str) -> WebhookSecret {
        WebhookSecret::parse(text).unwrap()
    }

    fn headers(signature: &str, timestamp: &str) -> HeaderMap {
        let headers = [(WEBHOOK_ID, ID), (WEBHOOK_TIMESTAMP, timestamp), (WEBHOOK_SIGNATURE, signature)];
        let filled = headers.into_iter().filter(|(_, value)| !value.is_empty());
        filled.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn verified(secrets: &[WebhookSecret], signature: &str, late_seconds: i64, body: &[u8]) -> Result<(), Unverified> {
        let now = DateTime::from_timestamp(AT + late_seconds, 0).unwrap();
        let headers = headers(signature, &AT.to_string());
        verify(secrets, &headers, body, now).map(|id| assert_eq!(id, ID))
    }

    #[test]
    fn the_specifications_example_is_signed_and_verified_as_it_says() {
        assert_eq!(sign(&[secret(SECRET)], ID, AT, BODY), SIGNATURE);
        assert_eq!(verified(&[secret(SECRET)], SIGNATURE, 0, BODY), Ok(()));
    }

    #[test]
    fn any_known_secret_and_any_of_several_signatures_will_do() {
        let (old, new) = (secret("whsec_b2xk"), secret("a text of its own"));
        let both = sign(&[new.clone(), old.clone()], ID, AT, BODY);
        assert_eq!(both.split(' ').count(), 2);
        for secrets in [vec![old.clone()], vec![new.clone()], vec![secret(SECRET), old.clone()]] {
            assert_eq!(verified(&secrets, &both, 0, BODY), Ok(()));
        }
        let unknown_first = format!("v1a,abc v1,AAAA v2,x {both}");
        assert_eq!(verified(&[old], &unknown_first, 0, BODY), Ok(()));
    }

    #[test]
    fn what_was_forged_changed_or_kept_is_not_believed() {
        let secrets = [secret(SECRET)];
        assert_eq!(verified(&secrets, SIGNATURE, 0, b"{}"), Err(Unverified::Signature));
        assert_eq!(verified(&[secret("whsec_b2xk")], SIGNATURE, 0, BODY), Err(Unverified::Signature));
        assert_eq!(verified(&[], SIGNATURE, 0, BODY), Err(Unverified::Signature));
        for forged in ["v1,", "v1,AAAA", "v1,not base64", &SIGNATURE[3..], &SIGNATURE.replace("v1", "v2")] {
            assert_eq!(verified(&secrets, forged, 0, BODY), Err(Unverified::Signature), "{forged}");
        }
        for late_seconds in [-300, 300] {
            assert_eq!(verified(&secrets, SIGNATURE, late_seconds, BODY), Ok(()));
        }
        for late_seconds in [-301, 301] {
            assert_eq!(verified(&secrets, SIGNATURE, late_seconds, BODY), Err(Unverified::Timestamp));
        }
        for timestamp in ["", "soon", "9223372036854775808"] {
            let headers = headers(SIGNATURE, timestamp);
            let refused = verify(&secrets, &headers, BODY, DateTime::UNIX_EPOCH).unwrap_err();
            assert_eq!(refused, Unverified::Header(WEBHOOK_TIMESTAMP));
        }
        assert_eq!(verified(&secrets, "", 0, BODY), Err(Unverified::Header(WEBHOOK_SIGNATURE)));
    }

    #[test]
    fn an_accounts_secret_is_always_the_same_and_nobody_elses() {
        let (present, former) = ([1; 32], [2; 40]);
        let masters = WebhookMasters::new(&present, [&former[..]]).unwrap();
        let of = |account| masters.secrets(account).iter().map(WebhookSecret::reveal).collect::<Vec<_>>();
        let acme = of("acme");
        assert_eq!(acme, of("acme"));
        // printf 'aihub webhook secret v1:acme' | openssl dgst -sha256 -mac HMAC -macopt hexkey:0101…01 -binary | base64
        assert_eq!(*acme[0], "whsec_8uhSwy3sGBWPVf7II6IrAYZSwaoKK/VQpGPzTOoehIM=");
        assert_eq!((acme.len(), acme[0].len()), (2, "whsec_".len() + 44));
        assert!(acme[0] != acme[1] && !of("other").contains(&acme[0]));
        assert_eq!(secret(&acme[0]).reveal(), acme[0]);
        let after = WebhookMasters::new(&former, [&present[..]]).unwrap();
        assert_eq!(after.secrets("acme")[1].reveal(), acme[0], "the one that was told signs on");
        assert_eq!(WebhookMasters::new(&present, [&former[..31]]).unwrap_err(), WeakMaster);
        assert_eq!(format!("{masters:?}"), "WebhookMasters(2)");
    }

    #[test]
    fn a_secret_may_lack_its_padding_but_not_everything_and_is_not_printed() {
        assert_eq!(secret("whsec_b2xkIQ").reveal(), secret("whsec_b2xkIQ==").reveal());
        for invalid in ["", " ", "whsec_", "whsec_!"] {
            assert_eq!(WebhookSecret::parse(invalid).unwrap_err(), InvalidWebhookSecret);
        }
        assert_eq!(format!("{:?}", secret("secret")), "WebhookSecret(…)");
    }
}
