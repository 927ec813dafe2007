//! URLs that end: `<base>/<key>?expires=<Unix time in s>&signature=<signature>`. The signature is the unpadded base64url of the
//! HMAC-SHA-256, with the shared secret's bytes as its key, over the bytes `v1\n<key>\n<expires>`. It says nothing about the method,
//! so that it is good for `HEAD` too, and nothing about the host, so that the edge of a CDN can check it.

use std::path::Path;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use thiserror::Error;

use crate::secret_file::{SecretFileError, read_or_make};

const FILE_NAME: &str = "dev-media-url-secret";
/// Of a secret, as long as its hash.
pub const MIN_SECRET_BYTES: usize = 32;

/// What URLs are signed with: the first one signs, all of them verify.
pub struct UrlSecrets(Vec<Hmac<Sha256>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("must have {MIN_SECRET_BYTES} bytes or more")]
pub struct WeakSecret;

/// Why a URL opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UrlFault {
    #[error("this URL is not one that was given out here")]
    Forged,
    #[error("this URL has expired")]
    Expired,
}

impl UrlSecrets {
    pub fn new<'a>(current: &'a str, former: impl IntoIterator<Item = &'a str>) -> Result<Self, WeakSecret> {
        let key = |secret: &str| {
            let strong = secret.len() >= MIN_SECRET_BYTES;
            let key = strong.then(|| Hmac::new_from_slice(secret.as_bytes()).ok()).flatten();
            key.ok_or(WeakSecret)
        };
        std::iter::once(current).chain(former).map(key).collect::<Result<_, _>>().map(Self)
    }

    /// The query of a URL that is good until `expires`, in seconds of Unix time.
    pub(super) fn query(&self, key: &str, expires: u64) -> String {
        let signature = self.0.first().map(|mac| of(mac, key, expires).finalize().into_bytes());
        format!("expires={expires}&signature={}", URL_SAFE_NO_PAD.encode(signature.unwrap_or_default()))
    }

    /// Compares in a time that does not depend on what is compared.
    pub(super) fn verify(&self, key: &str, expires: u64, signature: &str) -> Result<(), UrlFault> {
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| UrlFault::Forged)?;
        let good = self.0.iter().any(|mac| of(mac, key, expires).verify_slice(&signature).is_ok());
        if good { Ok(()) } else { Err(UrlFault::Forged) }
    }
}

fn of(mac: &Hmac<Sha256>, key: &str, expires: u64) -> Hmac<Sha256> {
    mac.clone().chain_update(format!("v1\n{key}\n{expires}"))
}

/// For development: the secret in `<data_dir>/dev-media-url-secret`.
pub fn dev_url_secret(data_dir: &Path) -> Result<String, SecretFileError> {
    let make = || URL_SAFE_NO_PAD.encode(rand::random::<[u8; MIN_SECRET_BYTES]>());
    read_or_make(data_dir, FILE_NAME, make).map(|(secret, _)| secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const OTHER: &str = "another secret of thirty-two bytes";
    const KEY: &str = "0198/video.mp4";

    fn signature(query: &str) -> &str {
        query.split_once("signature=").unwrap().1
    }

    #[test]
    fn a_signature_is_what_any_implementation_of_hmac_makes_of_the_same_text() {
        let query = UrlSecrets::new(SECRET, []).unwrap().query(KEY, 1_800_000_000);
        // printf 'v1\n0198/video.mp4\n1800000000' | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef -binary | basenc --base64url
        assert_eq!(query, "expires=1800000000&signature=GSG49fWspCyUWgBROt9sAlpVeV_KFcmy1uCy-lE_Oac");
    }

    #[test]
    fn nothing_about_a_signed_url_can_be_changed() {
        let secrets = UrlSecrets::new(SECRET, []).unwrap();
        let query = secrets.query(KEY, 10);
        let good = signature(&query);
        assert_eq!(secrets.verify(KEY, 10, good), Ok(()));
        let changed = format!("A{}", &good[1..]);
        let others = UrlSecrets::new(OTHER, []).unwrap().query(KEY, 10);
        for (key, expires, signature) in [
            ("0198/video.mp5", 10, good),
            (KEY, 11, good),
            (KEY, 10, &changed),
            (KEY, 10, &good[..20]),
            (KEY, 10, ""),
            (KEY, 10, "ä"),
            (KEY, 10, signature(&others)),
        ] {
            assert_eq!(secrets.verify(key, expires, signature), Err(UrlFault::Forged), "{key} {expires} {signature}");
        }
    }

    #[test]
    fn a_url_signed_with_a_former_secret_is_good_after_the_rotation() {
        let query = UrlSecrets::new(OTHER, []).unwrap().query(KEY, 10);
        let rotated = UrlSecrets::new(SECRET, [OTHER]).unwrap();
        assert_eq!(rotated.verify(KEY, 10, signature(&query)), Ok(()));
        assert_ne!(rotated.query(KEY, 10), query);
    }

    #[test]
    fn a_secret_that_can_be_guessed_is_refused() {
        assert!(UrlSecrets::new("hunter2", []).is_err() && UrlSecrets::new(SECRET, ["hunter2"]).is_err());
    }
}
