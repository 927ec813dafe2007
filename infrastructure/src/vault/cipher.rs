//! One piece of a text under a subject's key. The same text is always the same sealed bytes, so that it can be kept once and
//! be addressed by their hash.
//!
//! What is sealed is a byte that says the form (0 as it is, 1 zstd) and the piece in that form. Its nonce is the beginning of
//! a MAC over it, made with another key: the same nonce comes with the same plaintext alone, also where another version of
//! the compressor makes something else of the text.

use std::cell::RefCell;

use aes_gcm::{Aes256Gcm, KeyInit};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;
use zstd::bulk::{Compressor, Decompressor};

use super::{
    master_key::SubjectKey,
    sealed::{self, NONCE_BYTES},
};
use crate::contents::pieces::MAX_PIECE_BYTES;

/// Shorter pieces hardly get shorter.
const WORTH_COMPRESSING_BYTES: usize = 512;
/// zstd's fastest: the higher ones take three times as long for a tenth less.
const COMPRESSION_LEVEL: i32 = 1;

const AS_IT_IS: u8 = 0;
const ZSTD: u8 = 1;

thread_local! {
    /// Its tables are not made anew for each piece. `None` where there is no memory for them: then nothing is compressed.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = RefCell::new(Compressor::new(COMPRESSION_LEVEL).ok());
}

/// A subject's key, ready for use.
pub struct ContentCipher {
    cipher: Aes256Gcm,
    nonces: Hmac<Sha256>,
    fingerprints: Hmac<Sha256>,
}

impl ContentCipher {
    pub fn new(key: &SubjectKey) -> Self {
        let encryption = Zeroizing::new(derived(key, b"aihub content encryption"));
        Self {
            cipher: Aes256Gcm::new((&*encryption).into()),
            nonces: mac(&derived(key, b"aihub content nonces")),
            fingerprints: mac(&derived(key, b"aihub content fingerprints")),
        }
    }

    /// What the same text is known by under this key, and says nothing without it.
    pub fn fingerprint(&self, text: &[u8]) -> [u8; 32] {
        self.fingerprints.clone().chain_update(text).finalize().into_bytes().into()
    }

    /// `None` only for more than 64 GiB. `compress`: where it pays.
    pub fn seal(&self, text: &[u8], compress: bool) -> Option<Vec<u8>> {
        let compressed = if compress && text.len() >= WORTH_COMPRESSING_BYTES { compressed(text) } else { None };
        let formed = compressed.unwrap_or_else(|| [&[AS_IT_IS], text].concat());
        let mac: [u8; 32] = self.nonces.clone().chain_update(&formed).finalize().into_bytes().into();
        let nonce: &[u8; NONCE_BYTES] = mac.first_chunk()?;
        sealed::seal(&self.cipher, *nonce, &[], &formed)
    }

    /// `bytes`: how long the text was. `None` for anything that [`seal`](Self::seal) did not give of such a text.
    pub fn open(&self, sealed: &[u8], bytes: u64) -> Option<Vec<u8>> {
        let formed = sealed::open(&self.cipher, &[], sealed)?;
        let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes <= MAX_PIECE_BYTES)?;
        let text = match formed.split_first()? {
            (&AS_IT_IS, text) => text.to_vec(),
            (&ZSTD, text) => Decompressor::new().ok()?.decompress(text, bytes).ok()?,
            _ => return None,
        };
        (text.len() == bytes).then_some(text)
    }
}

/// The text behind the byte that says so; `None` where that is not an eighth shorter.
fn compressed(text: &[u8]) -> Option<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|compressor| {
        let mut formed = vec![0; 1 + text.len() - text.len() / 8];
        let (form, room) = formed.split_first_mut()?;
        *form = ZSTD;
        // It fails where the room does not suffice.
        let length = compressor.as_mut()?.compress_to_buffer(text, room).ok()?;
        formed.truncate(1 + length);
        Some(formed)
    })
}

fn derived(key: &SubjectKey, purpose: &[u8]) -> [u8; 32] {
    mac(key).chain_update(purpose).finalize().into_bytes().into()
}

fn mac(key: &[u8; 32]) -> Hmac<Sha256> {
    // A key that is shorter than a block counts as filled up with zeros.
    let mut block = Zeroizing::new([0; 64]);
    block[..key.len()].copy_from_slice(key);
    Hmac::new((&*block).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cipher(byte: u8) -> ContentCipher {
        ContentCipher::new(&Zeroizing::new([byte; 32]))
    }

    #[test]
    fn the_same_text_is_the_same_under_its_key_and_another_one_under_another() {
        let text = b"a secret ".repeat(100);
        for compress in [true, false] {
            let sealed = cipher(1).seal(&text, compress).unwrap();
            assert_eq!(cipher(1).seal(&text, compress).unwrap(), sealed);
            assert_ne!(cipher(2).seal(&text, compress).unwrap(), sealed);
            assert_eq!(cipher(1).open(&sealed, text.len() as u64).unwrap(), text);
            assert_eq!(cipher(2).open(&sealed, text.len() as u64), None);
            assert_eq!(cipher(1).open(&sealed, text.len() as u64 + 1), None);
            assert_eq!(cipher(1).open(&sealed, 10), None);
            assert_eq!(compress, sealed.len() < text.len() / 2);
        }
        assert_eq!(cipher(1).fingerprint(&text), cipher(1).fingerprint(&text));
        assert_ne!(cipher(1).fingerprint(&text), cipher(2).fingerprint(&text));
    }

    #[test]
    fn what_does_not_get_shorter_stays_as_it_is() {
        let noise: Vec<u8> = (0..2_000).map(|_| rand::random()).collect();
        assert_eq!(cipher(1).seal(&noise, true).unwrap().len(), NONCE_BYTES + 1 + noise.len() + 16);
        assert_eq!(cipher(1).seal(b"", true).unwrap().len(), NONCE_BYTES + 1 + 16);
    }

    #[test]
    fn other_texts_have_other_nonces() {
        let nonces = |text: &[u8]| cipher(1).seal(text, false).unwrap()[..NONCE_BYTES].to_vec();
        assert_ne!(nonces(b"one"), nonces(b"two"));
    }
}
