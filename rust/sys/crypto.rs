// SPDX-License-Identifier: GPL-2.0-only

//! The kernel's cryptography, for version 6 (`lib/crypto`). Panic path: its functions may be called in any context.

use super::bindings;
use crate::wire::v6::secure::{Crypto, KEY_LEN};
use crate::wire::v6::TAG_LEN;
use core::mem::MaybeUninit;

/// SHA-256, HMAC-SHA256 and ChaCha20-Poly1305 of the kernel.
#[derive(Clone, Copy)]
pub struct Kernel;

impl Crypto for Kernel {
    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut hash = [0; 32];
        let mut context = MaybeUninit::<bindings::sha256_ctx>::uninit();
        // SAFETY: The context is made by the first call and used by the others; the parts are live slices; the hash has the
        // length of one.
        unsafe {
            bindings::sha256_init(context.as_mut_ptr());
            for part in parts {
                bindings::__sha256_update(&raw mut (*context.as_mut_ptr()).ctx, part.as_ptr(), part.len());
            }
            bindings::sha256_final(context.as_mut_ptr(), hash.as_mut_ptr());
        }
        hash
    }

    fn hmac(&self, key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = [0; 32];
        let mut context = MaybeUninit::<bindings::hmac_sha256_ctx>::uninit();
        // SAFETY: As above.
        unsafe {
            bindings::hmac_sha256_init_usingrawkey(context.as_mut_ptr(), key.as_ptr(), key.len());
            for part in parts {
                let inner = &raw mut (*context.as_mut_ptr()).ctx.sha_ctx;
                bindings::__sha256_update(inner, part.as_ptr(), part.len());
            }
            bindings::hmac_sha256_final(context.as_mut_ptr(), mac.as_mut_ptr());
        }
        mac
    }

    fn seal(&self, key: &[u8; KEY_LEN], nonce: u64, aad: &[u8], text_and_tag: &mut [u8]) -> bool {
        let Some(len) = text_and_tag.len().checked_sub(TAG_LEN) else { return false };
        let text = text_and_tag.as_mut_ptr();
        // SAFETY: In place, which it allows; behind the text there is room for the tag.
        unsafe {
            bindings::chacha20poly1305_encrypt(text, text, len, aad.as_ptr(), aad.len(), nonce, key.as_ptr());
        }
        true
    }

    fn open(&self, key: &[u8; KEY_LEN], nonce: u64, aad: &[u8], text_and_tag: &mut [u8]) -> bool {
        let (text, len) = (text_and_tag.as_mut_ptr(), text_and_tag.len());
        // SAFETY: In place, which it allows. It refuses what is shorter than a tag.
        unsafe { bindings::chacha20poly1305_decrypt(text, text, len, aad.as_ptr(), aad.len(), nonce, key.as_ptr()) }
    }
}

/// A number that differs when the bytes do. Panic path.
pub fn hash(bytes: &[u8]) -> u32 {
    // SAFETY: A live slice.
    unsafe { bindings::xxh64(bytes.as_ptr().cast(), bytes.len(), 0) as u32 }
}

/// Fills with randomness. Process context.
pub fn random(bytes: &mut [u8]) {
    // SAFETY: A live slice.
    unsafe { bindings::get_random_bytes(bytes.as_mut_ptr().cast(), bytes.len()) };
}

/// What is different each time: clocks, and the CPU's own randomness where it has some. Panic path.
pub fn entropy() -> [u8; 24] {
    // SAFETY: Reads counters.
    let words =
        unsafe { [bindings::ktime_get_real_fast_ns(), bindings::nd_cycles(), bindings::nd_cpu_random() as u64] };
    let mut bytes = [0; 24];
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}
