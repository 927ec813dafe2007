//! The key that the subjects' keys are wrapped with. It comes from the configuration and never goes into the database.
//! While it is changed for another, both are configured, see [`super::rotation`].

use std::{fmt, path::Path};

use aes_gcm::{Aes256Gcm, KeyInit};
use aihub_domain::content::ContentKey;
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use thiserror::Error;
use zeroize::Zeroizing;

use super::{associated, sealed};
use crate::{
    audit::hex,
    secret_file::{SecretFileError, read_or_make},
};

const FILE_NAME: &str = "dev-master-key";

/// A subject's key in clear; wiped when it is dropped.
pub type SubjectKey = Zeroizing<[u8; 32]>;

pub struct MasterKey {
    id: String,
    cipher: Aes256Gcm,
    /// Hashes what may be compared and not told.
    prints: Hmac<Sha256>,
}

/// The one that new keys are wrapped with, and those that old ones may still be wrapped with.
#[derive(Debug)]
pub struct MasterKeys {
    pub current: MasterKey,
    pub former: Vec<MasterKey>,
}

impl From<MasterKey> for MasterKeys {
    fn from(current: MasterKey) -> Self {
        Self { current, former: vec![] }
    }
}

impl MasterKeys {
    pub fn all(&self) -> impl Iterator<Item = &MasterKey> {
        [&self.current].into_iter().chain(&self.former)
    }

    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.all().map(MasterKey::id)
    }

    /// The one with this id.
    pub fn find(&self, id: &str) -> Option<&MasterKey> {
        self.all().find(|key| key.id == id)
    }
}

#[derive(Debug, Error)]
pub enum MasterKeyError {
    #[error("a master key is 32 bytes in base64, 44 characters: `openssl rand -base64 32` makes one")]
    Invalid,
    #[error(transparent)]
    File(#[from] SecretFileError),
}

impl MasterKey {
    /// From 32 bytes in base64, standard alphabet with padding.
    pub fn from_base64(text: &str) -> Result<Self, MasterKeyError> {
        let bytes = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| MasterKeyError::Invalid)?);
        let key: &[u8; 32] = bytes.as_slice().try_into().map_err(|_| MasterKeyError::Invalid)?;
        // Eight bytes of a hash over a text of its own tell keys apart and tell nothing about them.
        let digest: [u8; 32] = Sha256::new().chain_update("aihub master key id").chain_update(key).finalize().into();
        let id = digest.first_chunk().copied().map_or(0, u64::from_be_bytes);
        let prints = Sha256::new().chain_update("aihub settings").chain_update(key).finalize();
        let prints = Hmac::new_from_slice(&prints).map_err(|_| MasterKeyError::Invalid)?;
        Ok(Self { id: format!("{id:016x}"), cipher: Aes256Gcm::new(key.into()), prints })
    }

    /// Sixteen hex digits that tell it from other master keys.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A hash of a secret that says nothing to who has not this key, and is another one for each `name`.
    pub fn print(&self, name: &str, secret: &str) -> String {
        let print = self.prints.clone().chain_update(name).chain_update([0]).chain_update(secret);
        hex(print.finalize().into_bytes().as_slice())
    }

    /// The key as it is kept, 60 bytes: it unwraps under this name only.
    pub(super) fn wrap(&self, name: &ContentKey, key: &SubjectKey) -> Option<Vec<u8>> {
        sealed::seal(&self.cipher, rand::random(), &associated(name), key.as_slice())
    }

    pub(super) fn unwrap(&self, name: &ContentKey, wrapped: &[u8]) -> Option<SubjectKey> {
        let key = Zeroizing::new(sealed::open(&self.cipher, &associated(name), wrapped)?);
        key.as_slice().try_into().ok().map(Zeroizing::new)
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// For development: the key in `<data_dir>/dev-master-key`, and whether it was made by this call. Nodes that share a
/// database have to share it; without it everything that was sealed is lost.
pub fn dev_master_key(data_dir: &Path) -> Result<(MasterKey, bool), MasterKeyError> {
    let (text, made) = read_or_make(data_dir, FILE_NAME, || STANDARD.encode(rand::random::<[u8; 32]>()))?;
    Ok((MasterKey::from_base64(&text)?, made))
}

#[cfg(test)]
mod tests {
    use aihub_domain::content::ContentKind;

    use super::*;

    #[test]
    fn a_wrapped_key_unwraps_for_its_subject_kind_and_month_and_under_its_master_key_only() {
        let master = MasterKey::from_base64(&STANDARD.encode([1; 32])).unwrap();
        let other = MasterKey::from_base64(&STANDARD.encode([2; 32])).unwrap();
        let key = Zeroizing::new([3; 32]);
        let name = |subject: &str, month: &str| ContentKey {
            subject: subject.to_owned(),
            kind: ContentKind::Chat,
            month: month.parse().unwrap(),
        };
        let acme = name("acme", "2026-11-01");
        let embedding = ContentKey { kind: ContentKind::Embedding, ..acme.clone() };
        let wrapped = master.wrap(&acme, &key).unwrap();
        assert_eq!(wrapped.len(), 60);
        assert_eq!(master.unwrap(&acme, &wrapped), Some(key));
        assert_eq!(master.unwrap(&name("other", "2026-11-01"), &wrapped), None);
        assert_eq!(master.unwrap(&name("acme", "2026-12-01"), &wrapped), None);
        assert_eq!(master.unwrap(&embedding, &wrapped), None);
        assert_eq!(other.unwrap(&acme, &wrapped), None);
        assert_ne!(master.id(), other.id());
    }

    #[test]
    fn a_master_key_of_another_length_or_alphabet_is_refused() {
        for text in ["", "not base64", &STANDARD.encode([1; 31]), &STANDARD.encode([1; 33])] {
            assert!(matches!(MasterKey::from_base64(text), Err(MasterKeyError::Invalid)), "{text}");
        }
    }

    #[test]
    fn the_key_for_development_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let (first, made) = dev_master_key(dir.path()).unwrap();
        let (second, made_again) = dev_master_key(dir.path()).unwrap();
        assert!(made && !made_again && first.id() == second.id());
        assert!(!format!("{first:?}").contains(&std::fs::read_to_string(dir.path().join(FILE_NAME)).unwrap()));
    }
}
