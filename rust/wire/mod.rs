// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What netdump says on the wire: the datagrams, the frames around them, and the string that names the other end.
//!
//! - [`arm`]: the keys that user space gives the module.
//! - [`classic`]: versions 4 and 5, as Red Hat spoke them.
//! - [`ext`]: the items that our one extension of it carries.
//! - [`log`]: console text, of netlog, syslog and upstream's netconsole.
//! - [`frame`]: Ethernet, IP and UDP, for a client that has no network stack any more.
//! - [`target`]: the parameter `netdump=`.
//! - [`v6`]: version 6, in which the client sends pages by itself, packed and sealed.
//!
//! Messages have a zero-copy view (`…View::new_checked`) and a plain representation (`Request`, `Reply`) with `parse`,
//! `buffer_len` and `emit`. Both directions are here, because the same source is compiled into the client (a kernel
//! module) and the server. Nothing allocates, nothing can panic.
//!
//! All integers on the wire are big-endian, except register blocks and memory, which are the client's.

pub mod arm;
pub mod classic;
mod cursor;
pub mod ext;
pub mod frame;
pub mod log;
pub mod tags;
pub mod target;
pub mod v6;

use core::fmt;

pub use cursor::{Reader, Writer};

/// Why a message could not be read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The message ends before or inside the named field.
    Truncated(&'static str),
    /// The named field holds a value that its message does not allow.
    Invalid(&'static str),
    /// The version byte is none that we speak.
    Version(u8),
    /// The output buffer is too short; nothing useful was written.
    NoRoom,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Truncated(field) => write!(f, "truncated at {field}"),
            Error::Invalid(field) => write!(f, "invalid {field}"),
            Error::Version(v) => write!(f, "unknown protocol version {v}"),
            Error::NoRoom => f.write_str("output buffer too short"),
        }
    }
}

impl core::error::Error for Error {}

/// Shorthand for results of this module.
pub type Result<T> = core::result::Result<T, Error>;

/// Page frame number: a physical address divided by the client's page size.
///
/// Classic messages carry only 32 bits of it (16 TiB at 4 KiB a page).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Pfn(pub u64);

/// Physical address in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PhysAddr(pub u64);

/// The number that the server gives a request and the client echoes in each answer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RequestId(pub u32);

/// The 64-bit secret that client and server agreed on beforehand; it stands in each classic request.
///
/// Comparison looks at all eight bytes at once and does not depend on where they differ. `Debug` does not show it.
#[derive(Clone, Copy, Default)]
pub struct Cookie(u64);

impl Cookie {
    /// The cookie as one number.
    pub const fn new(value: u64) -> Self {
        Cookie(value)
    }

    /// The cookie of the module parameters `magic1=` (low half) and `magic2=` (high half).
    pub const fn from_magic(magic1: u32, magic2: u32) -> Self {
        Cookie(((magic2 as u64) << 32) | magic1 as u64)
    }

    /// The eight bytes as they stand in a request.
    pub const fn to_be_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    /// The number itself, for whoever must store it.
    pub const fn expose(self) -> u64 {
        self.0
    }
}

impl PartialEq for Cookie {
    fn eq(&self, other: &Self) -> bool {
        // One 64-bit difference, hidden from the optimizer, and one test of the whole: no early exit.
        core::hint::black_box(self.0 ^ other.0) == 0
    }
}

impl Eq for Cookie {}

impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cookie(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookie_halves_are_low_and_high() {
        let cookie = Cookie::from_magic(0x1122_3344, 0xaabb_ccdd);
        assert_eq!(cookie, Cookie::new(0xaabb_ccdd_1122_3344));
        assert_eq!(cookie.to_be_bytes(), [0xaa, 0xbb, 0xcc, 0xdd, 0x11, 0x22, 0x33, 0x44]);
    }

    #[test]
    fn cookie_differs_in_any_single_bit() {
        let cookie = Cookie::new(0x0123_4567_89ab_cdef);
        for bit in 0..64 {
            assert_ne!(cookie, Cookie::new(0x0123_4567_89ab_cdef ^ (1 << bit)), "bit {bit}");
        }
    }

    #[test]
    fn cookie_is_not_printed() {
        assert_eq!(std::format!("{:?}", Cookie::new(0x1234_5678)), "Cookie(..)");
    }
}
