// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Console text on the wire (docs/protocol.md, "Console text"): what netconsole.ko sends and netdump-server stores.
//!
//! | format | a datagram is |
//! |--|--|
//! | [`netlog`] | a REPLY_LOG of the classic protocol: text and its place in the stream |
//! | [`syslog`] | one line, in the form of the original netdump or of RFC 5424 |
//! | [`basic`] | text, as upstream's netconsole sends it |
//! | [`extended`] | a record with number, level and time, or a piece of one, likewise |
//!
//! Each has a cursor ([`Datagrams`]) that writes one datagram after another into a buffer of the caller's: one buffer of
//! [`MAX_DATAGRAM`] bytes is enough for whatever printk hands over. Everything here may run in a panic: nothing allocates,
//! and each loop goes once over its input.

pub mod basic;
mod datetime;
pub mod extended;
pub mod netlog;
mod number;
pub mod printk;
pub mod record;
pub mod syslog;

use super::Result;

pub use datetime::UnixTime;
pub use printk::{Lines, Priority, Unescaped};

/// The longest datagram that any cursor here writes, in bytes: with IPv6 and UDP in front it fits the smallest MTU that
/// IPv6 allows (1280), so nothing needs fragments.
pub const MAX_DATAGRAM: usize = 1232;

/// Text on its way into datagrams.
pub trait Datagrams {
    /// Writes the next datagram to the front of `buf` and returns its length, or `None` when all has been written.
    ///
    /// # Errors
    ///
    /// [`NoRoom`](super::Error::NoRoom) if `buf` is too short; the cursor has not moved then. Any other error means that
    /// the input cannot be sent in this format at all.
    fn emit_next(&mut self, buf: &mut [u8]) -> Result<Option<usize>>;

    /// The next datagram where it stands, if it is a piece of the input just as it is: it need not be copied then.
    /// Otherwise, and at the end, `None`, and the cursor has not moved.
    fn next_in_place(&mut self) -> Option<&[u8]> {
        None
    }
}

#[cfg(test)]
mod tests;
