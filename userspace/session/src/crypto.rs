// SPDX-License-Identifier: GPL-2.0-or-later
//! The cryptography of version 6 in user space: ring's.

use netdump_core::wire::v6::secure::{Crypto, KEY_LEN};
use netdump_core::wire::v6::TAG_LEN;
use ring::aead::{Aad, LessSafeKey, Nonce, UnboundKey, CHACHA20_POLY1305};
use ring::{digest, hmac};

/// SHA-256, HMAC-SHA256 and ChaCha20-Poly1305 of the library ring.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ring;

/// Four zero bytes and the number, little-endian, as the kernel's library has it.
fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn cipher(key: &[u8; KEY_LEN]) -> Option<LessSafeKey> {
    Some(LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).ok()?))
}

impl Crypto for Ring {
    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        parts.iter().for_each(|part| context.update(part));
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        hash
    }

    fn hmac(&self, key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
        parts.iter().for_each(|part| context.update(part));
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }

    fn seal(&self, key: &[u8; KEY_LEN], number: u64, aad: &[u8], text_and_tag: &mut [u8]) -> bool {
        let Some((text, place)) = text_and_tag.split_last_chunk_mut::<TAG_LEN>() else { return false };
        let sealed = cipher(key).and_then(|c| c.seal_in_place_separate_tag(nonce(number), Aad::from(aad), text).ok());
        let Some(tag) = sealed else { return false };
        place.copy_from_slice(tag.as_ref());
        true
    }

    fn open(&self, key: &[u8; KEY_LEN], number: u64, aad: &[u8], text_and_tag: &mut [u8]) -> bool {
        cipher(key).is_some_and(|c| c.open_in_place(nonce(number), Aad::from(aad), text_and_tag).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
    }

    /// RFC 4231, case 2; FIPS 180-2, "abc".
    #[test]
    fn hashes() {
        let mac = Ring.hmac(b"Jefe", &[b"what do ya want ", b"for nothing?"]);
        assert_eq!(mac[..], hex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"));
        let hash = Ring.sha256(&[b"a", b"", b"bc"]);
        assert_eq!(hash[..], hex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"));
    }

    /// RFC 8439, 2.8.2, but for its nonce, whose first four bytes are 0 here: computed with Python's cryptography.
    #[test]
    fn sealing() {
        let key: [u8; 32] = std::array::from_fn(|n| 0x80 + n as u8);
        let mut text = b"Ladies and Gentlemen".to_vec();
        text.extend([0; TAG_LEN]);
        let aad = hex("50515253c0c1c2c3c4c5c6c7");
        assert!(Ring.seal(&key, 0x4746_4544_4342_4140, &aad, &mut text));
        assert_eq!(text, hex(SEALED));
        let mut forged = text.clone();
        forged[3] ^= 1;
        assert!(!Ring.open(&key, 0x4746_4544_4342_4140, &aad, &mut forged));
        assert!(!Ring.open(&key, 0x4746_4544_4342_4141, &aad, &mut text.clone()));
        assert!(Ring.open(&key, 0x4746_4544_4342_4140, &aad, &mut text));
        assert!(text.starts_with(b"Ladies and Gentlemen"));
    }

    const SEALED: &str = "a479cb54628946d6f4042a8e384ef4bd2fbc733081542c6cc1c348f28440dd858f05f7e0";
}
