// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Classic netdump, versions 4 and 5, as RHEL 3 and RHEL 4 spoke it (docs/protocol.md, "Classic").
//!
//! The server sends 24-byte requests; the client answers with a 13-byte header and a payload:
//!
//! ```text
//! request   0 cookie u64 | 8 nr u32 | 12 command u32 | 16 from u32 | 20 to u32
//! reply     0 version u8 | 1 nr u32 |  5 code u32    |  9 info u32 | 13 payload …
//! ```

mod reply;
mod request;

pub use reply::{bad_page_text, unknown_command_text, Body, Code, Reply, ReplyHeader, ReplyView, Start};
pub use request::{Command, ItemId, Request, RequestView};

/// Length of a request. Longer ones are accepted, what follows is ignored, as the original did.
pub const REQUEST_LEN: usize = 24;
/// Length of the header of a reply.
pub const REPLY_HEADER_LEN: usize = 13;
/// Bytes of memory in one REPLY_MEM.
pub const CHUNK_LEN: usize = 1024;
/// The largest payload of a reply.
pub const MAX_PAYLOAD: usize = 1024;
/// The largest reply.
pub const MAX_REPLY_LEN: usize = REPLY_HEADER_LEN + MAX_PAYLOAD;
/// The largest piece of log text that a client puts into one REPLY_LOG.
pub const MAX_LOG_TEXT: usize = 1000;
/// Item bytes in one reply to [`Command::Ext`]: its payload less the total length in front.
pub const MAX_EXT_DATA: usize = MAX_PAYLOAD - 4;
/// Command and reply code of our extension. Red Hat used 0 to 12, LKCD 9 to 12.
pub const EXT: u32 = 0x4e44_0001;
/// The UDP port of both ends, unless told otherwise.
pub const DEFAULT_PORT: u16 = 6666;

/// `info` of REPLY_HELLO: the version that every dialect starts from.
pub const BASE_VERSION: u32 = 4;
/// The newest version that we speak.
pub const MAX_VERSION: u32 = 5;

/// Payload of REPLY_HELLO.
pub const HELLO_TEXT: &[u8] = b"Hello, this is netdump version 0.04\n";
/// Payload of REPLY_END_NETDUMP.
pub const END_TEXT: &[u8] = b"NETDUMP end.\n";
/// First bytes of the payload of REPLY_REGS; the registers follow at once.
pub const REGS_TEXT: &[u8] = b"Sending register info.\n";
/// Payload of the START_NETDUMP of a version 4 client.
pub const START_V4_TEXT: &[u8] = b"NETDUMP start, waiting for start-ACK.\n";

/// `e_machine` of a client's ELF class, as sent in START_NETDUMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Machine(pub u16);

impl Machine {
    /// i386; also what a version 4 client is taken for.
    pub const I386: Machine = Machine(3);
    /// ppc64.
    pub const PPC64: Machine = Machine(21);
    /// ia64.
    pub const IA64: Machine = Machine(50);
    /// x86_64.
    pub const X86_64: Machine = Machine(62);

    /// Bytes in the register block of REPLY_REGS, where we know the machine.
    pub const fn regs_len(self) -> Option<usize> {
        match self {
            Machine::I386 => Some(68),
            Machine::PPC64 => Some(384),
            Machine::IA64 => Some(448),
            Machine::X86_64 => Some(216),
            _ => None,
        }
    }

    /// Whether the client may fall back to version 4, which only i386 can.
    pub const fn speaks_version_4(self) -> bool {
        self.0 == Machine::I386.0
    }
}

/// Version byte of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// Every log packet, and a dump before the handshake is done.
    V4,
    /// Agreed on in the handshake.
    V5,
}

impl Version {
    /// As it stands on the wire.
    pub const fn to_wire(self) -> u8 {
        match self {
            Version::V4 => 4,
            Version::V5 => 5,
        }
    }

    /// The version of that number, if we speak it.
    pub const fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            4 => Some(Version::V4),
            5 => Some(Version::V5),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
