// SPDX-License-Identifier: GPL-2.0-or-later
//! Who may be at an address: enrolled clients of the key store, and the one whose cookie an administrator laid down in `magic/`.
//!
//! An enrolled client speaks version 6 with its key. Its address is nobody else's in a dialect without keys, or whoever can
//! send from there would be dumped in its name. What cannot be read counts as enrolled.

use std::net::IpAddr;

use netdump_core::wire::Cookie;
use netdump_keys::Reader;

use crate::crashdir::CrashDir;
use crate::dispatch::OPEN_COOKIE;
use crate::events::Reason;

/// Whose a cookie is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// An enrolled client.
    Enrolled {
        /// Its name.
        id: String,
        /// It was armed with the key before its current one.
        previous: bool,
    },
    /// Whoever has this address.
    Magic,
    /// Anybody (secure=0).
    Anybody,
}

/// Why an address gets no dump without a key.
#[derive(Debug)]
pub struct Refused {
    /// Counted as.
    pub reason: Reason,
    /// In words.
    pub detail: String,
}

/// What a client of an address that shows no key has to know in its place: the cookie laid down for it, or the open one.
pub fn without_key(
    keys: Option<&Reader>,
    root: &CrashDir,
    address: IpAddr,
    secure: bool,
) -> Result<(Cookie, Owner), Refused> {
    let refused = |reason, detail| Err(Refused { reason, detail });
    match keys.map_or(Ok(false), |keys| keys.knows(address)) {
        Ok(false) => {}
        Ok(true) => return refused(Reason::Downgrade, "a client with a key is enrolled at its address".to_owned()),
        Err(error) => return refused(Reason::BadKey, error.to_string()),
    }
    match root.magic(address) {
        Ok(Some(cookie)) => Ok((cookie, Owner::Magic)),
        Ok(None) if secure => refused(Reason::NotRegistered, "nobody is known at its address (secure=1)".to_owned()),
        Ok(None) => Ok((OPEN_COOKIE, Owner::Anybody)),
        Err(error) => refused(Reason::BadMagic, format!("the file in magic/ {error}")),
    }
}

/// Whether anybody is known at an address. What cannot be read is not.
pub fn is_known(keys: Option<&Reader>, root: &CrashDir, address: IpAddr) -> bool {
    keys.is_some_and(|keys| keys.knows(address).unwrap_or(false)) || matches!(root.magic(address), Ok(Some(_)))
}
