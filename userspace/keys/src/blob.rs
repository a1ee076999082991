// SPDX-License-Identifier: GPL-2.0-or-later
//! What the module is given: keys that are good for one arming, through its device, in one write.

use netdump_core::wire::arm::{FIXED_LEN, HAS_COOKIE, MAGIC};
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::message::KeyFile;
use crate::names::ServerId;
use crate::secret::probe_key;

/// The blob for a key that the server has accepted, with a fresh arming number. Layout: docs/keys.md.
pub fn arming(key: &KeyFile, server: &ServerId) -> Result<Zeroizing<Vec<u8>>> {
    let mut arm_id = [0; 16];
    getrandom::fill(&mut arm_id).map_err(Error::NoRandomness)?;
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(Error::NoRandomness)?;
    let arm_key = key.root.arm_key(&key.key_id, &arm_id, server, b"");
    let probe_key = probe_key(&arm_key);
    let cookie = Zeroizing::new(key.root.classic_cookie(&key.key_id).expose().to_le_bytes());
    let mut blob = Zeroizing::new(Vec::with_capacity(FIXED_LEN));
    let parts: [&[u8]; 11] = [
        MAGIC,
        &(FIXED_LEN as u32).to_le_bytes(),
        &HAS_COOKIE.to_le_bytes(),
        &key.key_id.0,
        &arm_id,
        &*arm_key,
        &*seed,
        &*probe_key,
        &server.0,
        &*cookie,
        &0u16.to_le_bytes(),
    ];
    for part in parts {
        blob.extend_from_slice(part);
    }
    Ok(blob)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::KeyId;
    use crate::secret::Root;

    #[test]
    fn the_layout() {
        let since = "2026-11-27T06:00:00Z".parse().unwrap();
        let key = KeyFile { key_id: KeyId([5; 16]), root: Root::random().unwrap(), server_id: None, since };
        let server = ServerId([6; 16]);
        let blob = arming(&key, &server).unwrap();
        assert_eq!(blob.len(), FIXED_LEN);
        assert_eq!(blob[..16], *b"NDARM002\xaa\0\0\0\x01\0\0\0");
        assert_eq!(blob[16..32], [5; 16]);
        let arm_id: [u8; 16] = blob[32..48].try_into().unwrap();
        assert_eq!(blob[48..80], *key.root.arm_key(&key.key_id, &arm_id, &server, b""));
        assert_eq!(blob[112..144], *probe_key(blob[48..80].try_into().unwrap()));
        assert_eq!(blob[144..160], [6; 16]);
        assert_eq!(blob[160..168], key.root.classic_cookie(&key.key_id).expose().to_le_bytes());
        assert_eq!(blob[168..170], [0; 2]);
        assert_ne!(blob[32..48], arming(&key, &server).unwrap()[32..48], "a number for each arming");
    }
}
