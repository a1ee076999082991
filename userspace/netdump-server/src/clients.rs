// SPDX-License-Identifier: GPL-2.0-or-later
//! Who may be at an address: enrolled clients of the key store, and the one whose cookie an administrator laid down in `magic/`.
//!
//! Addresses are handed on and keys change, so there may be several. All their cookies are tried; which one the client
//! answers says who it is. An address that somebody is known at is never dumped with the open cookie.

use std::net::IpAddr;

use netdump_core::wire::Cookie;
use netdump_keys::Reader;

use crate::crashdir::CrashDir;
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

/// A cookie, and whose it is.
pub type Candidate = (Cookie, Owner);

/// Something that is known of an address is of no use.
#[derive(Debug)]
pub struct Useless {
    /// Counted as.
    pub reason: Reason,
    /// In words.
    pub detail: String,
}

/// The candidates at an address, likeliest first, and what was wrong with others.
pub fn candidates(keys: Option<&Reader>, root: &CrashDir, address: IpAddr) -> (Vec<Candidate>, Vec<Useless>) {
    let (mut known, mut useless) = (Vec::new(), Vec::new());
    match keys.map_or(Ok(Vec::new()), |keys| keys.clients_at(address)) {
        Ok(clients) => {
            // Everybody's current key before anybody's previous one.
            for generation in 0..2 {
                for client in &clients {
                    let owner = Owner::Enrolled { id: client.id.to_string(), previous: generation > 0 };
                    known.extend(client.cookies.get(generation).map(|cookie| (*cookie, owner)));
                }
            }
        }
        Err(error) => useless.push(Useless { reason: Reason::BadKey, detail: error.to_string() }),
    }
    match root.magic(address) {
        Ok(cookie) => known.extend(cookie.map(|cookie| (cookie, Owner::Magic))),
        Err(error) => {
            useless.push(Useless { reason: Reason::BadMagic, detail: format!("the file in magic/ {error}") });
        }
    }
    (known, useless)
}

/// Whether anybody is known at an address. What cannot be read is not.
pub fn is_known(keys: Option<&Reader>, root: &CrashDir, address: IpAddr) -> bool {
    keys.is_some_and(|keys| keys.knows(address).unwrap_or(false)) || matches!(root.magic(address), Ok(Some(_)))
}
