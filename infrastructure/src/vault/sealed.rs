//! AES-256-GCM with its nonce in front: `nonce (12 bytes) || ciphertext || tag (16 bytes)`.
//!
//! 96-bit nonces that are random, or as good as that, allow 2³² messages under one key before a repetition becomes likelier
//! than 2⁻³². A subject's key seals the pieces of one kind and month, a master key one key for each of those.

use aes_gcm::{
    Aes256Gcm,
    aead::{Aead, AeadInOut, Nonce, Payload},
};

pub const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// `None` only for more than 64 GiB. No two plaintexts may have the same nonce.
pub fn seal(cipher: &Aes256Gcm, nonce: [u8; NONCE_BYTES], associated: &[u8], plaintext: &[u8]) -> Option<Vec<u8>> {
    let mut sealed = Vec::with_capacity(NONCE_BYTES + plaintext.len() + TAG_BYTES);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(plaintext);
    let text = sealed.get_mut(NONCE_BYTES..)?;
    let tag = cipher.encrypt_inout_detached(&Nonce::<Aes256Gcm>::from(nonce), associated, text.into()).ok()?;
    sealed.extend_from_slice(&tag);
    Some(sealed)
}

/// `None` for anything but what [`seal`] gave, under the same key and associated data.
pub fn open(cipher: &Aes256Gcm, associated: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, text) = sealed.split_first_chunk::<NONCE_BYTES>()?;
    cipher.decrypt(&Nonce::<Aes256Gcm>::from(*nonce), Payload { msg: text, aad: associated }).ok()
}

#[cfg(test)]
mod tests {
    use aes_gcm::KeyInit;

    use super::*;

    #[test]
    fn what_is_sealed_opens_with_its_key_and_associated_data_alone() {
        let cipher = Aes256Gcm::new(&[7; 32].into());
        let sealed = seal(&cipher, [1; NONCE_BYTES], b"a", b"text").unwrap();
        assert_eq!(sealed.len(), NONCE_BYTES + 4 + TAG_BYTES);
        assert_eq!(open(&cipher, b"a", &sealed).unwrap(), b"text");
        assert_eq!(open(&cipher, b"b", &sealed), None);
        assert_eq!(open(&Aes256Gcm::new(&[8; 32].into()), b"a", &sealed), None);
    }

    #[test]
    fn a_changed_or_shortened_text_does_not_open() {
        let cipher = Aes256Gcm::new(&[7; 32].into());
        let sealed = seal(&cipher, [1; NONCE_BYTES], b"a", b"text").unwrap();
        for nth in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[nth] ^= 1;
            assert_eq!(open(&cipher, b"a", &changed), None);
            assert_eq!(open(&cipher, b"a", &sealed[..nth]), None);
        }
    }
}
