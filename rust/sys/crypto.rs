// SPDX-License-Identifier: GPL-2.0-only

//! The kernel's cryptography, for version 6 (`lib/crypto`). Panic path: its functions may be called in any context.
//!
//! Its ChaCha20 uses the CPU's vector units without asking whether it may, and always believes that they are faster. A panic
//! may strike while the kernel uses them, and where they are emulated they are several times slower than plain instructions.
//! So there are two ways to the same bytes, and this machine's was chosen, by trying, while it was well.

use super::bindings;
use crate::wire::v6::secure::{same_mac, Crypto, KEY_LEN};
use crate::wire::v6::TAG_LEN;
use core::mem::MaybeUninit;
use kernel::prelude::*;

/// Up to so many bytes at a time the kernel's ChaCha20 does without vector units: a block.
const PLAIN_CHACHA: usize = 64;
/// And its Poly1305: it asks for 18 blocks before it uses them.
const PLAIN_POLY: usize = 256;

/// What ChaCha20-Poly1305 is computed with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Simd {
    /// What is faster.
    Auto,
    /// The CPU's vector units.
    On,
    /// Plain instructions.
    Off,
}

/// SHA-256, HMAC-SHA256 and ChaCha20-Poly1305 of the kernel.
#[derive(Clone, Copy)]
pub struct Kernel {
    /// ChaCha20-Poly1305 is to use the CPU's vector units.
    vectors: bool,
}

/// Nanoseconds for a datagram, the least of some.
struct Speed {
    vectors: u64,
    plain: u64,
}

impl Kernel {
    /// Tries both ways, and takes the one that is wanted. Process context.
    ///
    /// # Errors
    ///
    /// EIO if the cipher's answer is wrong.
    pub fn choose(simd: Simd) -> Result<Self> {
        const TRIES: usize = 5;
        let mut speed = Speed { vectors: u64::MAX, plain: u64::MAX };
        let mut datagram = KVec::from_elem(0u8, KNOWN_LEN + TAG_LEN, GFP_KERNEL)?;
        for _ in 0..TRIES {
            speed.vectors = speed.vectors.min(Self { vectors: true }.known_answer(&mut datagram)?);
            speed.plain = speed.plain.min(Self { vectors: false }.known_answer(&mut datagram)?);
        }
        let vectors = match simd {
            Simd::Auto => speed.vectors <= speed.plain,
            Simd::On => true,
            Simd::Off => false,
        };
        pr_info!(
            "sealing {KNOWN_LEN} bytes takes {} ns with the CPU's vector units and {} ns without: they are {}used\n",
            speed.vectors,
            speed.plain,
            if vectors { "" } else { "not " }
        );
        Ok(Self { vectors })
    }

    /// Seals and opens a text whose tag is known; the nanoseconds for sealing.
    fn known_answer(self, datagram: &mut [u8]) -> Result<u64> {
        let (key, aad) = (core::array::from_fn(|n| n as u8 | 0x80), core::array::from_fn::<u8, 16, _>(|n| n as u8));
        let text = || (0..KNOWN_LEN).map(|n| (n * 7 + 3) as u8);
        for (to, from) in datagram.iter_mut().zip(text()) {
            *to = from;
        }
        let begin = super::clock::monotonic();
        let sealed = self.seal(&key, KNOWN_NONCE, &aad, datagram);
        let took = super::clock::monotonic().saturating_sub(begin);
        let right = sealed && datagram.ends_with(&KNOWN_TAG);
        if !right
            || !self.open(&key, KNOWN_NONCE, &aad, datagram)
            || !datagram.iter().copied().zip(text()).all(|(a, b)| a == b)
        {
            pr_err!("the kernel's ChaCha20-Poly1305 gives a wrong answer (with vector units: {})\n", self.vectors);
            return Err(EIO);
        }
        Ok(took)
    }

    /// What may be used now: vector units only if the panic did not strike while the kernel used them. Panic path, outside of
    /// what the kernel takes for an NMI.
    pub fn in_panic(self) -> Self {
        // SAFETY: Reads this CPU's state.
        Self { vectors: self.vectors && unsafe { bindings::irq_fpu_usable() } }
    }
}

// The known answer, from Python's cryptography 48.0 (OpenSSL): key 80, 81, … 9f; nonce four zero bytes and this number, little
// endian; additional data 0, 1, … 15; text 3, 10, 17, …
const KNOWN_LEN: usize = 1390;
const KNOWN_NONCE: u64 = 0x0123_4567_89ab_cdef;
const KNOWN_TAG: [u8; TAG_LEN] =
    [0xce, 0x4a, 0x4d, 0x07, 0xed, 0x2d, 0xf2, 0x93, 0x9a, 0x44, 0x45, 0xfc, 0x7c, 0xce, 0xef, 0x02];

/// ChaCha20-Poly1305 (RFC 8439) without vector units. Panic path.
struct Plain {
    stream: bindings::chacha_state,
    mac_key: [u8; 32],
}

impl Plain {
    fn new(key: &[u8; KEY_LEN], nonce: u64) -> Self {
        // "expand 32-byte k", the key, the number of the block, and 96 bits of the nonce.
        let mut stream = bindings::chacha_state { x: [0; 16] };
        let [c0, c1, c2, c3, rest @ ..] = &mut stream.x;
        (*c0, *c1, *c2, *c3) = (0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574);
        for (to, word) in rest.iter_mut().zip(key.chunks_exact(4)) {
            *to = word.first_chunk().map_or(0, |word| u32::from_le_bytes(*word));
        }
        let [.., low, high] = rest;
        (*low, *high) = (nonce as u32, (nonce >> 32) as u32);
        let mut plain = Self { stream, mac_key: [0; 32] };
        // The first block is the key of the MAC, the others are for the text.
        let mut mac_key = [0; 32];
        plain.apply(&mut mac_key);
        plain.mac_key = mac_key;
        plain
    }

    /// Applies the stream to whole blocks, and to a last one.
    fn apply(&mut self, bytes: &mut [u8]) {
        const ROUNDS: i32 = 20;
        for block in bytes.chunks_mut(PLAIN_CHACHA) {
            let at = block.as_mut_ptr();
            // SAFETY: In place, which it allows; a live slice.
            unsafe { bindings::chacha_crypt(&raw mut self.stream, at, at, block.len() as u32, ROUNDS) };
        }
    }

    /// The tag of a text that is encrypted.
    fn tag(&self, aad: &[u8], text: &[u8]) -> [u8; TAG_LEN] {
        let mut tag = [0; TAG_LEN];
        let mut poly = MaybeUninit::<bindings::poly1305_desc_ctx>::uninit();
        // SAFETY: The first call makes the state that the others use; key and tag have the lengths that it wants.
        unsafe {
            bindings::poly1305_init(poly.as_mut_ptr(), self.mac_key.as_ptr());
            for part in [aad, text] {
                for bytes in part.chunks(PLAIN_POLY) {
                    bindings::poly1305_update(poly.as_mut_ptr(), bytes.as_ptr(), bytes.len() as u32);
                }
                let padding = part.len().wrapping_neg() % TAG_LEN;
                bindings::poly1305_update(poly.as_mut_ptr(), [0u8; TAG_LEN].as_ptr(), padding as u32);
            }
            let lengths = (aad.len() as u128) | ((text.len() as u128) << 64);
            bindings::poly1305_update(poly.as_mut_ptr(), lengths.to_le_bytes().as_ptr(), TAG_LEN as u32);
            bindings::poly1305_final(poly.as_mut_ptr(), tag.as_mut_ptr());
        }
        tag
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        wipe(&mut self.stream.x);
        wipe(&mut self.mac_key);
    }
}

/// Leaves nothing of a secret.
fn wipe<T: Copy + Default, const N: usize>(secret: &mut [T; N]) {
    *secret = [T::default(); N];
    core::hint::black_box(secret);
}

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
        let Some((text, tag)) = text_and_tag.split_last_chunk_mut::<TAG_LEN>() else { return false };
        if !self.vectors {
            let mut plain = Plain::new(key, nonce);
            plain.apply(text);
            *tag = plain.tag(aad, text);
            return true;
        }
        let (len, text) = (text.len(), text.as_mut_ptr());
        // SAFETY: In place, which it allows; behind the text there is room for the tag.
        unsafe {
            bindings::chacha20poly1305_encrypt(text, text, len, aad.as_ptr(), aad.len(), nonce, key.as_ptr());
        }
        true
    }

    fn open(&self, key: &[u8; KEY_LEN], nonce: u64, aad: &[u8], text_and_tag: &mut [u8]) -> bool {
        if !self.vectors {
            let Some((text, tag)) = text_and_tag.split_last_chunk_mut::<TAG_LEN>() else { return false };
            let mut plain = Plain::new(key, nonce);
            let right = same_mac(&plain.tag(aad, text), tag);
            if right {
                plain.apply(text);
            }
            return right;
        }
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
