// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What user space gives the module to be armed with (`/dev/netdump`, docs/keys.md): keys for one arming, never the secret
//! that they come from. It is the one thing here that is no datagram, and little-endian.

use super::v6::handshake::KeyName;
use super::{Cookie, Error, Reader, Result};

/// First bytes of a blob.
pub const MAGIC: &[u8; 8] = b"NDARM002";
/// Written alone, it erases what was given before.
pub const WIPE: &[u8; 8] = b"NDWIPE01";
/// Longest blob.
pub const MAX_LEN: usize = FIXED_LEN + MAX_KX_LEN;
/// Length of a blob without a key exchange.
pub const FIXED_LEN: usize = 170;
/// Longest key exchange.
pub const MAX_KX_LEN: usize = 1152;
/// Flag: there is a classic cookie. All others must be 0.
pub const HAS_COOKIE: u32 = 1;

/// Names a root key. Not secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyId(pub [u8; 16]);

impl core::fmt::Display for KeyId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A blob whose form is right. It has no `Debug`: nearly all of it is secret.
#[derive(Clone, Copy)]
pub struct Arming<'a> {
    key_id: &'a [u8; 16],
    arm_id: &'a [u8; 16],
    arm_key: &'a [u8; 32],
    seed: &'a [u8; 32],
    probe_key: &'a [u8; 32],
    cookie: Option<&'a [u8; 8]>,
}

impl<'a> Arming<'a> {
    /// Looks at a blob where it is; nothing secret is copied. Flags of a later version are refused: they would ask for
    /// something that is not done here.
    pub fn new_checked(blob: &'a [u8]) -> Result<Self> {
        let mut reader = Reader::new(blob);
        if reader.array("magic")? != MAGIC {
            return Err(Error::Invalid("magic"));
        }
        let length = u32::from_le_bytes(*reader.array("length")?);
        if usize::try_from(length) != Ok(blob.len()) {
            return Err(Error::Invalid("length"));
        }
        let flags = u32::from_le_bytes(*reader.array("flags")?);
        if flags & !HAS_COOKIE != 0 {
            return Err(Error::Invalid("flags"));
        }
        let key_id = reader.array("key_id")?;
        let (arm_id, arm_key, seed) = (reader.array("arm_id")?, reader.array("arm_key")?, reader.array("seed")?);
        let probe_key = reader.array("probe_key")?;
        reader.bytes(16, "server_id")?;
        let cookie = reader.array::<8>("cookie")?;
        let kx_len = usize::from(u16::from_le_bytes(*reader.array("kx_len")?));
        if kx_len > MAX_KX_LEN || reader.rest().len() != kx_len {
            return Err(Error::Invalid("kx_len"));
        }
        // Without the flag the field must be 0, and with it it must not: 0 is what a machine without a cookie has.
        let present = flags & HAS_COOKIE != 0;
        if present != (*cookie != [0; 8]) {
            return Err(Error::Invalid("cookie"));
        }
        Ok(Self { key_id, arm_id, arm_key, seed, probe_key, cookie: if present { Some(cookie) } else { None } })
    }

    /// Which root key the keys come from.
    pub fn key_id(&self) -> KeyId {
        KeyId(*self.key_id)
    }

    /// What a client calls its keys by in version 6.
    pub fn name(&self) -> KeyName {
        KeyName { key_id: *self.key_id, arm_id: *self.arm_id }
    }

    /// The arm key. Secret.
    pub fn arm_key(&self) -> &'a [u8; 32] {
        self.arm_key
    }

    /// Randomness for the panic. Secret.
    pub fn seed(&self) -> &'a [u8; 32] {
        self.seed
    }

    /// The key of probes, which those who have a dump of this machine may know.
    pub fn probe_key(&self) -> &'a [u8; 32] {
        self.probe_key
    }

    /// The classic cookie, where one is wanted. A copy of a secret: not to be kept.
    pub fn cookie(&self) -> Option<Cookie> {
        self.cookie.map(|bytes| Cookie::new(u64::from_le_bytes(*bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(flags: u32, cookie: u64, kx: &[u8]) -> std::vec::Vec<u8> {
        let mut blob = MAGIC.to_vec();
        blob.extend(((FIXED_LEN + kx.len()) as u32).to_le_bytes());
        blob.extend(flags.to_le_bytes());
        blob.extend([7; 16]);
        blob.extend([1; 80]);
        blob.extend([2; 32]);
        blob.extend([3; 16]);
        blob.extend(cookie.to_le_bytes());
        blob.extend((kx.len() as u16).to_le_bytes());
        blob.extend(kx);
        blob
    }

    #[test]
    fn a_good_one() {
        for kx in [&[][..], &[9; MAX_KX_LEN]] {
            let blob = blob(1, 0x1122_3344_5566_7788, kx);
            let arming = Arming::new_checked(&blob).ok().unwrap();
            assert_eq!((arming.key_id(), arming.probe_key()), (KeyId([7; 16]), &[2; 32]));
            assert_eq!(arming.cookie(), Some(Cookie::new(0x1122_3344_5566_7788)));
            assert_eq!(std::format!("{}", arming.key_id()), "07".repeat(16));
        }
        assert!(Arming::new_checked(&blob(0, 0, b"")).ok().unwrap().cookie().is_none());
    }

    #[test]
    fn bad_ones() {
        let good = blob(1, 5, b"kx");
        for len in 0..good.len() {
            assert!(Arming::new_checked(&good[..len]).is_err(), "{len}");
        }
        let longer = [&good[..], &[0]].concat();
        assert!(Arming::new_checked(&longer).is_err());
        for bad in [blob(2, 5, b""), blob(0, 5, b""), blob(1, 0, b""), blob(1, 5, &[0; MAX_KX_LEN + 1])] {
            assert!(Arming::new_checked(&bad).is_err());
        }
        for at in 0..16 {
            let mut bad = good.clone();
            bad[at] ^= 0x80;
            assert!(Arming::new_checked(&bad).is_err(), "byte {at}");
        }
        assert!(Arming::new_checked(WIPE).is_err());
    }
}
