//! A checkpoint as a signed text, in the form of C2SP's tlog-checkpoint and signed-note, so that other programs and
//! witnesses can read and countersign it:
//!
//! ```text
//! aihub                                          the log's name
//! 812345                                         how many events it has, which is the last position
//! c2l4dHktc2V2ZW4gc2hlZXAgb24gYSBoaWxsc2lkZSE=   the root of the tree over them, see `merkle`
//! chain bmluZXR5LWVpZ2h0IGJvdHRsZXMgb2YgYmVlciE= the chain hash of the last
//! time 2026-11-22T18:00:00.000000Z
//!
//! — aihub 6jxkBwI9…                              a line of each signer
//! ```
//!
//! A key is known by its verifier key, `name+id+key`, that of `note` in Go: the id is 8 hexadecimal digits.

use std::{fmt, path::Path, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, SecondsFormat, Utc};
use ed25519_dalek::Signer;
use sha2::{Digest, Sha256};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::{
    event_store::chain::{ChainHead, Hash},
    secret_file::{SecretFileError, read_or_make},
};

const FILE_NAME: &str = "dev-audit-key";
/// Of Ed25519, in the id and in front of the key.
const ALGORITHM: u8 = 1;
/// The most that a note may have; a witness's line is about 120 bytes.
pub const MAX_NOTE_BYTES: usize = 64 << 10;

/// What the log was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name.
    pub origin: String,
    /// The last position and its chain hash.
    pub head: ChainHead,
    pub root_hash: Hash,
    /// To the microsecond.
    pub signed_at: DateTime<Utc>,
}

/// Signs checkpoints. Its name is the log's.
pub struct SigningKey {
    name: String,
    key: ed25519_dalek::SigningKey,
}

/// Checks signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    key: ed25519_dalek::VerifyingKey,
}

#[derive(Debug, Error)]
pub enum KeyError {
    #[error("a signing key is 32 bytes in base64, 44 characters: `openssl rand -base64 32` makes one")]
    Signing,
    #[error("the log's name must not be empty or have spaces or a `+` in it")]
    Name,
    #[error("a verifier key has the form name+id+key, as `aihub audit key` prints it")]
    Verifier,
    #[error(transparent)]
    File(#[from] SecretFileError),
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoteError {
    #[error("the checkpoint is not of the form that C2SP's tlog-checkpoint and this log define")]
    Malformed,
    #[error("the checkpoint has no signature of the key {0}")]
    Unsigned(String),
    #[error("the signature of {0} is not that of this checkpoint")]
    Forged(String),
}

impl SigningKey {
    /// `text` is 32 bytes in base64, standard alphabet with padding.
    pub fn from_base64(name: &str, text: &str) -> Result<Self, KeyError> {
        if name.is_empty() || name.contains(|char: char| char.is_whitespace() || char == '+') {
            return Err(KeyError::Name);
        }
        let bytes = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| KeyError::Signing)?);
        let bytes = bytes.as_slice().try_into().map_err(|_| KeyError::Signing)?;
        Ok(Self { name: name.to_owned(), key: ed25519_dalek::SigningKey::from_bytes(bytes) })
    }

    pub fn verifier(&self) -> VerifierKey {
        VerifierKey { name: self.name.clone(), key: self.key.verifying_key() }
    }

    /// Says that `successor` is to be trusted by whoever trusts this key.
    pub fn endorse(&self, successor: &VerifierKey) -> String {
        STANDARD.encode(self.key.sign(endorsement(successor).as_bytes()).to_bytes())
    }

    /// The checkpoint of this key's log, as a note.
    pub fn sign(&self, head: ChainHead, root_hash: Hash, signed_at: DateTime<Utc>) -> String {
        let text = Checkpoint { origin: self.name.clone(), head, root_hash, signed_at }.to_string();
        let mut signature = self.verifier().id().to_vec();
        signature.extend_from_slice(&self.key.sign(text.as_bytes()).to_bytes());
        format!("{text}\n— {} {}\n", self.name, STANDARD.encode(signature))
    }
}

/// For development: the key in `<data_dir>/dev-audit-key`.
pub fn dev_signing_key(name: &str, data_dir: &Path) -> Result<SigningKey, KeyError> {
    let (text, _) = read_or_make(data_dir, FILE_NAME, || STANDARD.encode(rand::random::<[u8; 32]>()))?;
    SigningKey::from_base64(name, &text)
}

impl VerifierKey {
    fn id(&self) -> [u8; 4] {
        let id: Hash = Sha256::new()
            .chain_update(&self.name)
            .chain_update([b'\n', ALGORITHM])
            .chain_update(self.key.as_bytes())
            .finalize()
            .into();
        id.first_chunk().copied().unwrap_or_default()
    }

    /// Whether it was this key's that said so.
    pub fn endorsed(&self, successor: &Self, signature: &str) -> bool {
        let signature = STANDARD.decode(signature).ok();
        let signature = signature.and_then(|bytes| ed25519_dalek::Signature::from_slice(&bytes).ok());
        signature.is_some_and(|signature| self.key.verify_strict(endorsement(successor).as_bytes(), &signature).is_ok())
    }

    /// The checkpoint that this key signed in the note. Lines of other signers are passed over.
    pub fn open(&self, note: &str) -> Result<Checkpoint, NoteError> {
        let (text, signatures) = split(note)?;
        let mut found = NoteError::Unsigned(self.to_string());
        for line in signatures.lines() {
            let (name, signature) =
                line.strip_prefix("— ").and_then(|line| line.split_once(' ')).ok_or(NoteError::Malformed)?;
            let signature = STANDARD.decode(signature).map_err(|_| NoteError::Malformed)?;
            let Some((id, signature)) = signature.split_first_chunk::<4>() else { return Err(NoteError::Malformed) };
            if name != self.name || *id != self.id() {
                continue;
            }
            let signature = ed25519_dalek::Signature::from_slice(signature).map_err(|_| NoteError::Malformed)?;
            if self.key.verify_strict(text.as_bytes(), &signature).is_ok() {
                let checkpoint: Checkpoint = text.parse()?;
                return if checkpoint.origin == self.name { Ok(checkpoint) } else { Err(NoteError::Malformed) };
            }
            found = NoteError::Forged(self.to_string());
        }
        Err(found)
    }
}

/// No checkpoint begins like this: a log's name has no spaces.
fn endorsement(successor: &VerifierKey) -> String {
    format!("aihub audit key\n{successor}\n")
}

/// What the note says, whoever signed it.
pub fn unverified(note: &str) -> Result<Checkpoint, NoteError> {
    split(note)?.0.parse()
}

/// The checkpoint that one of the keys signed.
pub fn open(note: &str, keys: &[VerifierKey]) -> Result<Checkpoint, NoteError> {
    let mut refusal = NoteError::Unsigned("of anybody who is known".to_owned());
    for key in keys {
        match key.open(note) {
            Ok(checkpoint) => return Ok(checkpoint),
            Err(error) if matches!(refusal, NoteError::Forged(_)) && matches!(error, NoteError::Unsigned(_)) => {}
            Err(error) => refusal = error,
        }
    }
    Err(refusal)
}

/// Text, with its last line's end, and signatures.
fn split(note: &str) -> Result<(&str, &str), NoteError> {
    if note.len() > MAX_NOTE_BYTES || !note.ends_with('\n') {
        return Err(NoteError::Malformed);
    }
    let end = note.rfind("\n\n").ok_or(NoteError::Malformed)?;
    Ok((&note[..=end], &note[end + 2..]))
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, head, root_hash, signed_at } = self;
        let time = signed_at.to_rfc3339_opts(SecondsFormat::Micros, true);
        let (root, chain) = (STANDARD.encode(root_hash), STANDARD.encode(head.chain_hash));
        write!(f, "{origin}\n{}\n{root}\nchain {chain}\ntime {time}\n", head.position)
    }
}

impl FromStr for Checkpoint {
    type Err = NoteError;

    /// Takes exactly what is written.
    fn from_str(text: &str) -> Result<Self, NoteError> {
        let parse = || {
            let mut lines = text.lines();
            let (origin, position, root, chain, time) =
                (lines.next()?, lines.next()?, lines.next()?, lines.next()?, lines.next()?);
            let hash = |text: &str| STANDARD.decode(text).ok()?.as_slice().try_into().ok();
            let chain_hash = hash(chain.strip_prefix("chain ")?)?;
            let time = DateTime::parse_from_rfc3339(time.strip_prefix("time ")?).ok()?;
            let head = ChainHead { position: position.parse().ok()?, chain_hash };
            Some(Self { origin: origin.to_owned(), head, root_hash: hash(root)?, signed_at: time.to_utc() })
        };
        parse().filter(|checkpoint| checkpoint.to_string() == text).ok_or(NoteError::Malformed)
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key: Vec<u8> = [&[ALGORITHM][..], self.key.as_bytes()].concat();
        write!(f, "{}+{:08x}+{}", self.name, u32::from_be_bytes(self.id()), STANDARD.encode(key))
    }
}

impl FromStr for VerifierKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        // The key itself may have a `+` in it.
        let parse = || {
            let (name, rest) = text.trim().split_once('+')?;
            let (_, key) = rest.split_once('+')?;
            let bytes = STANDARD.decode(key).ok()?;
            let (algorithm, bytes) = bytes.split_first()?;
            let key = ed25519_dalek::VerifyingKey::from_bytes(bytes.try_into().ok()?).ok()?;
            (*algorithm == ALGORITHM).then(|| Self { name: name.to_owned(), key })
        };
        parse().filter(|key| key.to_string() == text.trim()).ok_or(KeyError::Verifier)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.verifier().to_string()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SigningKey {
        SigningKey::from_base64("aihub", &STANDARD.encode([byte; 32])).unwrap()
    }

    fn note() -> String {
        let at = DateTime::from_timestamp_micros(1_763_836_800_000_001).unwrap();
        key(1).sign(ChainHead { position: 812_345, chain_hash: [7; 32] }, [8; 32], at)
    }

    #[test]
    fn a_checkpoint_opens_with_its_key_and_no_byte_of_it_can_be_changed() {
        let (note, verifier) = (note(), key(1).verifier());
        let checkpoint = verifier.open(&note).unwrap();
        assert_eq!(
            (checkpoint.head.position, checkpoint.head.chain_hash, checkpoint.root_hash),
            (812_345, [7; 32], [8; 32])
        );
        assert_eq!(unverified(&note), Ok(checkpoint));
        for nth in 0..note.len() {
            let mut changed = note.clone().into_bytes();
            changed[nth] ^= 1;
            if let Ok(changed) = String::from_utf8(changed) {
                assert!(verifier.open(&changed).is_err(), "{changed}");
            }
        }
    }

    #[test]
    fn a_witness_may_sign_as_well_and_cannot_sign_alone() {
        let (note, witness) = (note(), SigningKey::from_base64("witness", &STANDARD.encode([2; 32])).unwrap());
        let (text, own) = split(&note).unwrap();
        let mut signature = witness.verifier().id().to_vec();
        signature.extend_from_slice(&witness.key.sign(text.as_bytes()).to_bytes());
        let line = format!("— witness {}\n", STANDARD.encode(signature));
        assert!(key(1).verifier().open(&format!("{text}\n{line}{own}")).is_ok());
        let alone = key(1).verifier().open(&format!("{text}\n{line}"));
        assert!(matches!(alone, Err(NoteError::Unsigned(_))), "{alone:?}");
        assert!(matches!(key(3).verifier().open(&note), Err(NoteError::Unsigned(_))));
    }

    #[test]
    fn an_endorsement_is_of_one_key_by_one_key() {
        let endorsed = key(1).endorse(&key(2).verifier());
        assert!(key(1).verifier().endorsed(&key(2).verifier(), &endorsed));
        assert!(!key(1).verifier().endorsed(&key(3).verifier(), &endorsed));
        assert!(!key(2).verifier().endorsed(&key(2).verifier(), &endorsed));
        assert!(!key(1).verifier().endorsed(&key(2).verifier(), "nonsense"));
    }

    #[test]
    fn a_verifier_key_is_read_as_it_is_printed() {
        for byte in 0..50 {
            let verifier = key(byte).verifier();
            assert_eq!(verifier.to_string().parse::<VerifierKey>().unwrap(), verifier);
        }
        for text in ["", "aihub", "aihub+00000000+AAAA", &key(1).verifier().to_string().replace("aihub", "other")] {
            assert!(text.parse::<VerifierKey>().is_err(), "{text}");
        }
    }
}
