// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Version 6 (docs/protocol.md, "Version 6"): the server grants, the client sends clusters of pages.
//!
//! - [`handshake`]: START6 and ACK6, which agree on keys or on doing without.
//! - [`hint`]: what a server that has forgotten says.
//! - [`secure`]: the keys, and what is done with them to a datagram.
//! - [`probe`]: what is said while all is well.
//! - [`message`]: what is in a datagram of either direction.
//! - [`cluster`]: pages on their way, whole and in pieces.
//!
//! ```text
//! datagram   0 version u8 = 6 | 1 kind u8 ≥ 1 | 2 session of the receiver | 8 counter u64 | 16 body … | tag 16, if sealed
//! START6     0 version u8 = 6 | 1 nr u32 < 2^24 | …
//! ```

pub mod cluster;
pub mod handshake;
pub mod hint;
pub mod message;
pub mod probe;
pub mod secure;

use super::{Error, Reader, Result, Writer};

/// First byte of all that a client sends, and of a server's datagrams after the handshake.
pub const VERSION: u8 = 6;
/// Bytes in front of a datagram's body.
pub const HEADER_LEN: usize = 16;
/// Bytes behind a sealed body.
pub const TAG_LEN: usize = 16;
/// No datagram is smaller on its way than the path allows: 1,280 for IPv6, less its headers and some room for tunnels.
pub const MIN_MAX_DATAGRAM: u16 = 1200;
/// The largest UDP payload that is ever used: a jumbo frame of 9,000 bytes over IPv4.
pub const MAX_MAX_DATAGRAM: u16 = 8972;

/// Names a session at one end. Random, so that a stranger does not guess it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SessionId(pub [u8; 6]);

/// Numbers the datagrams of one direction of a session from 0 on. None is used twice under one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Counter(pub u64);

/// What stands in front of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Says how to read the body; never 0.
    pub kind: u8,
    /// The receiver's.
    pub session: SessionId,
    /// This datagram's number.
    pub counter: Counter,
}

impl Header {
    /// Reads the header, and returns what is behind it.
    pub fn parse(datagram: &[u8]) -> Result<(Self, &[u8])> {
        let mut r = Reader::new(datagram);
        let version = r.u8("version")?;
        if version != VERSION {
            return Err(Error::Version(version));
        }
        let kind = r.u8("kind")?;
        if kind == 0 {
            return Err(Error::Invalid("kind"));
        }
        let header = Header { kind, session: SessionId(*r.array("session")?), counter: Counter(r.u64("counter")?) };
        Ok((header, r.rest()))
    }

    /// Whether a datagram of version 6 is a START6 rather than one with this header.
    pub fn is_start(datagram: &[u8]) -> bool {
        matches!(datagram, [VERSION, 0, ..])
    }

    /// Writes the header.
    pub fn emit(&self, buf: &mut [u8]) -> Result<()> {
        let mut w = Writer::new(buf);
        w.u8(VERSION)?;
        w.u8(self.kind)?;
        w.bytes(&self.session.0)?;
        w.u64(self.counter.0)
    }
}

/// What is left out of a dump: a sum of bits, as in makedumpfile's `-d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Level(u8);

impl Level {
    /// Everything that can be read.
    pub const ALL: Level = Level(0);
    /// Pages of zeroes. They are not lost: a reader sees zeroes.
    pub const ZERO: u8 = 1;
    /// Cache without private data.
    pub const CACHE: u8 = 2;
    /// All cache.
    pub const PRIVATE_CACHE: u8 = 4;
    /// Memory of processes.
    pub const USER: u8 = 8;
    /// Free memory.
    pub const FREE: u8 = 16;
    /// All of them.
    pub const MAX: Level = Level(31);

    /// The level of that number, if there is one.
    pub const fn new(number: u8) -> Option<Self> {
        if number <= Self::MAX.0 {
            Some(Level(number))
        } else {
            None
        }
    }

    /// What is known of that number: bits of a later version leave nothing out.
    pub const fn known(number: u8) -> Self {
        Level(number & Self::MAX.0)
    }

    /// Its number.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Whether it has one of these bits.
    pub const fn leaves_out(self, bits: u8) -> bool {
        self.0 & bits != 0
    }

    /// What either leaves out.
    #[must_use]
    pub const fn or(self, other: Level) -> Self {
        Level(self.0 | other.0)
    }
}

/// Why page frames are not in a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// Nobody uses it.
    Free = 0,
    /// Cache without private data.
    Cache = 1,
    /// Cache with private data.
    PrivateCache = 2,
    /// Memory of processes.
    User = 3,
    /// The hardware says that it is broken.
    HwPoison = 4,
    /// Offline, ballooned away, not accepted, or not mapped: there is nothing that could be read.
    Unreadable = 5,
    /// The keys of this dump.
    Secret = 6,
}

impl Reason {
    /// How many there are.
    pub const COUNT: usize = 7;
    /// All of them, in the order of their numbers.
    pub const EACH: [Reason; Self::COUNT] = [
        Reason::Free,
        Reason::Cache,
        Reason::PrivateCache,
        Reason::User,
        Reason::HwPoison,
        Reason::Unreadable,
        Reason::Secret,
    ];

    /// One word for meta data.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Free => "free",
            Reason::Cache => "cache",
            Reason::PrivateCache => "private_cache",
            Reason::User => "user",
            Reason::HwPoison => "hwpoison",
            Reason::Unreadable => "unreadable",
            Reason::Secret => "secret",
        }
    }
}

/// How a cluster is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Codec {
    /// Not at all.
    #[default]
    Raw = 0,
    /// One LZ4 block.
    Lz4 = 1,
    /// One zstd frame.
    Zstd = 2,
}

impl Codec {
    /// The codec of that number.
    pub const fn from_wire(number: u8) -> Option<Self> {
        match number {
            0 => Some(Codec::Raw),
            1 => Some(Codec::Lz4),
            2 => Some(Codec::Zstd),
            _ => None,
        }
    }

    /// Its bit in a set of codecs.
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back() {
        let header = Header { kind: 0x42, session: SessionId(*b"sessio"), counter: Counter(0x0102_0304_0506_0708) };
        let mut buf = [0xee; 20];
        header.emit(&mut buf).unwrap();
        assert_eq!(buf[..16], *b"\x06\x42sessio\x01\x02\x03\x04\x05\x06\x07\x08");
        assert_eq!(Header::parse(&buf).unwrap(), (header, &[0xee; 4][..]));
        assert_eq!(header.emit(&mut buf[..15]), Err(Error::NoRoom));
        assert_eq!(Header::parse(&[5; 16]), Err(Error::Version(5)));
        assert_eq!(Header::parse(&[6, 0, 0, 0]), Err(Error::Invalid("kind")));
        assert!(Header::is_start(&[6, 0, 0, 0, 0x3e]) && !Header::is_start(&buf) && !Header::is_start(&[6]));
    }

    #[test]
    fn levels_are_makedumpfiles() {
        assert_eq!((Level::new(32), Level::known(32 + 9).number()), (None, 9));
        let level = Level::new(1).unwrap().or(Level::new(16).unwrap());
        assert_eq!(level.number(), 17);
        assert!(level.leaves_out(Level::FREE) && level.leaves_out(Level::ZERO | Level::USER));
        assert!(!level.leaves_out(Level::CACHE | Level::PRIVATE_CACHE | Level::USER));
    }
}
