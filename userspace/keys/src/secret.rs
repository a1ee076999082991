// SPDX-License-Identifier: GPL-2.0-or-later
//! The root key, and what is derived from it (HKDF-SHA256, RFC 5869, with an empty salt).

use std::fmt;

use data_encoding::HEXLOWER;
use hkdf::Hkdf;
use netdump_core::wire::v6::probe::LABEL;
use netdump_core::wire::Cookie;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::error::Error;
use crate::names::{hex, KeyId, ServerId};

/// The 256-bit secret of one client and one server. Only they know it; the kernel never does. It shows itself nowhere.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Root([u8; 32]);

impl Root {
    /// A fresh one.
    pub fn random() -> Result<Root, Error> {
        let mut root = Root([0; 32]);
        getrandom::fill(&mut root.0).map_err(Error::NoRandomness)?;
        Ok(root)
    }

    /// From 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Result<Root, Error> {
        hex(text).map(Root)
    }

    /// As 64 hexadecimal digits, for a file that nobody else can read or for ssh's standard input.
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(HEXLOWER.encode(&self.0))
    }

    /// Whether it is the same, in a time that does not tell how much of it is.
    pub fn same(&self, other: &Root) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// The cookie of the classic protocol: the first 8 bytes of HKDF(root, "nd classic" ‖ key_id), never 0.
    pub fn classic_cookie(&self, key_id: &KeyId) -> Cookie {
        let mut bytes = [0; 8];
        self.expand(&[b"nd classic", &key_id.0], &mut bytes);
        Cookie::new(u64::from_be_bytes(bytes).max(1))
    }

    /// The arm key: HKDF(root, "nd6 arm" ‖ key_id ‖ arm_id ‖ server_id ‖ kx_blob).
    pub fn arm_key(&self, key_id: &KeyId, arm_id: &[u8; 16], server: &ServerId, kx_blob: &[u8]) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        self.expand(&[b"nd6 arm", &key_id.0, arm_id, &server.0, kx_blob], &mut *key);
        key
    }

    fn expand(&self, info: &[&[u8]], out: &mut [u8]) {
        // It fails only beyond 255 blocks of output.
        if Hkdf::<Sha256>::new(None, &self.0).expand_multi_info(info, out).is_err() {
            unreachable!("an output of {} bytes", out.len());
        }
    }
}

/// The key of probes: HKDF-Expand(arm key, "nd6 probe").
pub fn probe_key(arm_key: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    // Both lengths are those of one block.
    match Hkdf::<Sha256>::from_prk(arm_key).map(|prk| prk.expand(LABEL, &mut *key)) {
        Ok(Ok(())) => key,
        _ => unreachable!("a key of 32 bytes"),
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Root(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with Python's hmac and hashlib: prk = hmac(32 zero bytes, root), then T(n) = hmac(prk, T(n-1) + info + n).
    #[test]
    fn known_answers() {
        let root = Root(std::array::from_fn(|n| n as u8));
        let key_id = KeyId(std::array::from_fn(|n| 0x10 + n as u8));
        let arm_id = [0x22; 16];
        let server = ServerId([0x33; 16]);
        assert_eq!(root.classic_cookie(&key_id).expose(), COOKIE);
        assert_eq!(HEXLOWER.encode(&*root.arm_key(&key_id, &arm_id, &server, b"")), ARM_KEY);
        assert_eq!(HEXLOWER.encode(&*root.arm_key(&key_id, &arm_id, &server, b"kx")), ARM_KEY_KX);
    }

    const COOKIE: u64 = 0x0662_ad8c_76c8_f9a7;
    const ARM_KEY: &str = "2f2701602640c41b327f20373c4cadbd186b204a3c0dcd3e30861e862a9daff3";
    const ARM_KEY_KX: &str = "ffcae9eb335fabc1d2f0d6a3a2d010f4da8d324f9fce8ef9f2de1d9b806b2266";

    #[test]
    fn shows_nothing() {
        let root = Root::random().unwrap();
        assert_eq!(format!("{root:?} {:?}", root.classic_cookie(&KeyId([0; 16]))), "Root(..) Cookie(..)");
        assert_eq!(*Root::from_hex(&root.to_hex()).unwrap().to_hex(), *root.to_hex());
        assert!(Root::from_hex("00").is_err());
        let mut other = root.clone();
        assert!(other.same(&root));
        other.0[31] ^= 1;
        assert!(!other.same(&root));
    }
}
