// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Replies: what the client sends, asked or not.

use super::super::{Cookie, Error, Pfn, Reader, RequestId, Result, Writer};
use super::{
    Machine, Version, CHUNK_LEN, END_TEXT, EXT, HELLO_TEXT, MAX_EXT_DATA, MAX_VERSION, REGS_TEXT, REPLY_HEADER_LEN,
    START_V4_TEXT,
};

/// The code of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // named as in the protocol, described at `Body`
pub enum Code {
    Error,
    Log,
    Mem,
    Reserved,
    Hello,
    NrPages,
    PageSize,
    Start,
    End,
    Regs,
    ShowState,
    Ext,
    Unknown(u32),
}

impl Code {
    /// As it stands on the wire.
    pub const fn to_wire(self) -> u32 {
        match self {
            Code::Error => 1,
            Code::Log => 2,
            Code::Mem => 3,
            Code::Reserved => 4,
            Code::Hello => 5,
            Code::NrPages => 6,
            Code::PageSize => 7,
            Code::Start => 8,
            Code::End => 9,
            Code::Regs => 10,
            Code::ShowState => 12,
            Code::Ext => EXT,
            Code::Unknown(n) => n,
        }
    }

    /// The code of that number.
    pub const fn from_wire(number: u32) -> Self {
        match number {
            1 => Code::Error,
            2 => Code::Log,
            3 => Code::Mem,
            4 => Code::Reserved,
            5 => Code::Hello,
            6 => Code::NrPages,
            7 => Code::PageSize,
            8 => Code::Start,
            9 => Code::End,
            10 => Code::Regs,
            12 => Code::ShowState,
            EXT => Code::Ext,
            n => Code::Unknown(n),
        }
    }
}

/// The header of a reply, for a sender that fills the payload in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyHeader {
    /// See [`Version`].
    pub version: Version,
    /// Echo of the request's number; 0 when nothing was asked; the machine in START_NETDUMP.
    pub nr: RequestId,
    /// What the reply is.
    pub code: Code,
    /// By code.
    pub info: u32,
}

impl ReplyHeader {
    /// Writes the header to the front of `buf` and returns what lies behind it, for the payload.
    pub fn emit<'b>(&self, buf: &'b mut [u8]) -> Result<&'b mut [u8]> {
        let (head, payload) = buf.split_first_chunk_mut::<REPLY_HEADER_LEN>().ok_or(Error::NoRoom)?;
        let [n0, n1, n2, n3] = self.nr.0.to_be_bytes();
        let [c0, c1, c2, c3] = self.code.to_wire().to_be_bytes();
        let [i0, i1, i2, i3] = self.info.to_be_bytes();
        *head = [self.version.to_wire(), n0, n1, n2, n3, c0, c1, c2, c3, i0, i1, i2, i3];
        Ok(payload)
    }
}

/// A reply as it lies in a datagram.
#[derive(Debug, Clone, Copy)]
pub struct ReplyView<'a> {
    version: u8,
    nr: &'a [u8; 4],
    code: &'a [u8; 4],
    info: &'a [u8; 4],
    payload: &'a [u8],
}

impl<'a> ReplyView<'a> {
    /// Checks that the header is whole and the payload not too long to be one.
    ///
    /// A log packet of 2.4 holds up to 1447 bytes of text and a REPLY_REGS may have garbage at its end,
    /// so only the size of an Ethernet frame bounds the payload.
    pub fn new_checked(datagram: &'a [u8]) -> Result<Self> {
        let mut r = Reader::new(datagram);
        let view = ReplyView {
            version: r.u8("version")?,
            nr: r.array("nr")?,
            code: r.array("code")?,
            info: r.array("info")?,
            payload: r.rest(),
        };
        if view.payload.len() > MAX_FOREIGN_PAYLOAD {
            return Err(Error::Invalid("payload length"));
        }
        Ok(view)
    }

    /// The version byte, whatever it is.
    pub fn version(&self) -> u8 {
        self.version
    }

    /// The number of the request that this answers.
    pub fn nr(&self) -> RequestId {
        RequestId(u32::from_be_bytes(*self.nr))
    }

    /// What the reply is.
    pub fn code(&self) -> Code {
        Code::from_wire(u32::from_be_bytes(*self.code))
    }

    /// The argument.
    pub fn info(&self) -> u32 {
        u32::from_be_bytes(*self.info)
    }

    /// Everything behind the header.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// The largest payload that any classic client can send in one Ethernet frame.
const MAX_FOREIGN_PAYLOAD: usize = 1500 - 20 - 8 - REPLY_HEADER_LEN;

/// The contents of a START_NETDUMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// An i386 kernel from before versions were negotiated.
    V4,
    /// Anything since.
    V5 {
        /// The client's machine.
        machine: Machine,
        /// The highest version that the client speaks, 5 or more.
        max_version: u32,
        /// Address of the task that crashed.
        task_struct: u64,
        /// Kernel virtual address of physical address 0.
        page_offset: u64,
        /// The cookie in clear, as the original sent it. We send 0.
        magic: Cookie,
    },
}

impl Start {
    fn parse(nr: RequestId, info: u32, payload: &[u8]) -> Result<Self> {
        if info == 0 {
            return Ok(Start::V4);
        }
        if info < MAX_VERSION {
            return Err(Error::Invalid("info of START_NETDUMP"));
        }
        let machine = u16::try_from(nr.0).map_err(|_| Error::Invalid("machine"))?;
        Ok(Start::V5 {
            machine: Machine(machine),
            max_version: info,
            task_struct: hex_field(payload, b"task_struct:0x", "task_struct")?,
            page_offset: hex_field(payload, b"page_offset:0x", "page_offset")?,
            magic: Cookie::new(hex_field(payload, b"netdump_magic:0x", "netdump_magic")?),
        })
    }
}

/// The number behind `key` in a line of blank-separated words.
fn hex_field(text: &[u8], key: &[u8], name: &'static str) -> Result<u64> {
    let digits = text
        .split(|b| b.is_ascii_whitespace() || *b == 0)
        .find_map(|word| word.strip_prefix(key))
        .ok_or(Error::Truncated(name))?;
    if digits.is_empty() || digits.len() > 16 {
        return Err(Error::Invalid(name));
    }
    let mut value = 0u64;
    for byte in digits {
        let digit = char::from(*byte).to_digit(16).ok_or(Error::Invalid(name))?;
        value = (value << 4) | u64::from(digit);
    }
    Ok(value)
}

/// What a reply says. Texts that only repeat a number are written by `emit` and not kept by `parse`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body<'a> {
    /// The request could not be met: no such page (`info` 0) or no such command (`info` is its number).
    Error {
        /// 0, or the command.
        info: u32,
        /// The reason; see [`bad_page_text`] and [`unknown_command_text`].
        text: &'a [u8],
    },
    /// Console text.
    Log {
        /// Place of the text in the client's log stream since its module was loaded; wraps.
        offset: u32,
        /// Raw text, not cut at lines.
        text: &'a [u8],
    },
    /// A quarter of a page (of 4 KiB).
    Mem {
        /// Place in the page, a multiple of 1024.
        offset: u32,
        /// The memory.
        data: &'a [u8; CHUNK_LEN],
    },
    /// The page is not memory that can be read.
    Reserved {
        /// The next page that is, if there is one.
        next: Option<Pfn>,
    },
    /// The client is there.
    Hello {
        /// [`BASE_VERSION`].
        version: u32,
    },
    /// Number of page frames, holes included.
    NrPages(u32),
    /// Bytes in a page.
    PageSize(u32),
    /// The client crashed and asks for a server.
    Start(Start),
    /// The answer to [`Command::Exit`].
    End,
    /// The registers of the CPU that crashed.
    Regs {
        /// Pages of RAM, low 32 bits.
        total_ram_pages: u32,
        /// The register block in the client's byte order, and perhaps garbage behind it:
        /// take [`Machine::regs_len`] bytes.
        block: &'a [u8],
    },
    /// The task listing is done, or begins: the kernels differ.
    ShowState,
    /// Bytes of an item of the extension.
    Ext {
        /// Place of `data` in the item.
        offset: u32,
        /// Length of the item; 0 if the client has none.
        total: u32,
        /// The bytes: [`MAX_EXT_DATA`], or what there is up to the end.
        data: &'a [u8],
    },
    /// A code that we do not know.
    Unknown {
        /// The code.
        code: u32,
        /// Its argument.
        info: u32,
        /// Its payload.
        payload: &'a [u8],
    },
}

/// A reply, client to server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply<'a> {
    /// See [`Version`].
    pub version: Version,
    /// Echo of the request; 0 for log text, START_NETDUMP and END_NETDUMP.
    pub nr: RequestId,
    /// What it says.
    pub body: Body<'a>,
}

impl<'a> Reply<'a> {
    /// Reads a datagram.
    pub fn parse(datagram: &'a [u8]) -> Result<Self> {
        Self::from_view(&ReplyView::new_checked(datagram)?)
    }

    /// Checks and types the fields of `view`.
    pub fn from_view(view: &ReplyView<'a>) -> Result<Self> {
        let version = Version::from_wire(view.version()).ok_or(Error::Version(view.version()))?;
        let (mut nr, info, payload) = (view.nr(), view.info(), view.payload());
        let body = match view.code() {
            Code::Error => Body::Error { info, text: payload },
            Code::Log => Body::Log { offset: info, text: payload },
            Code::Mem => {
                let data = payload.try_into().map_err(|_| Error::Invalid("payload of MEM"))?;
                if info.checked_rem(CHUNK_LEN as u32) != Some(0) {
                    return Err(Error::Invalid("offset of MEM"));
                }
                Body::Mem { offset: info, data }
            }
            Code::Reserved => Body::Reserved { next: (info != 0).then_some(Pfn(u64::from(info))) },
            Code::Hello => Body::Hello { version: info },
            Code::NrPages => Body::NrPages(info),
            Code::PageSize => {
                if !info.is_power_of_two() || info < CHUNK_LEN as u32 {
                    return Err(Error::Invalid("page size"));
                }
                Body::PageSize(info)
            }
            Code::Start => {
                let start = Start::parse(nr, info, payload)?;
                nr = RequestId(0); // it held the machine
                Body::Start(start)
            }
            Code::End => Body::End,
            Code::Regs => {
                let (_, block) = payload.split_at_checked(REGS_TEXT.len()).ok_or(Error::Truncated("registers"))?;
                Body::Regs { total_ram_pages: info, block }
            }
            Code::ShowState => Body::ShowState,
            Code::Ext => {
                let mut r = Reader::new(payload);
                let total = r.u32("item length")?;
                let data = r.rest();
                // Whole or to the end: anything else would let a broken client feed us byte by byte.
                if data.len() != (total.saturating_sub(info) as usize).min(MAX_EXT_DATA) {
                    return Err(Error::Invalid("item data length"));
                }
                Body::Ext { offset: info, total, data }
            }
            Code::Unknown(code) => Body::Unknown { code, info, payload },
        };
        Ok(Reply { version, nr, body })
    }

    /// Bytes that [`emit`](Self::emit) writes at most; exact for all but the texts that hold a number.
    pub fn buffer_len(&self) -> usize {
        let payload = match self.body {
            Body::Error { text, .. } | Body::Log { text, .. } => text.len(),
            Body::Mem { .. } => CHUNK_LEN,
            Body::Reserved { .. } | Body::ShowState => 0,
            Body::Hello { .. } => HELLO_TEXT.len(),
            Body::NrPages(_) | Body::PageSize(_) => 28,
            Body::Start(Start::V4) => START_V4_TEXT.len(),
            Body::Start(Start::V5 { .. }) => 96,
            Body::End => END_TEXT.len(),
            Body::Regs { block, .. } => REGS_TEXT.len().saturating_add(block.len()),
            Body::Ext { data, .. } => data.len().saturating_add(4),
            Body::Unknown { payload, .. } => payload.len(),
        };
        payload.saturating_add(REPLY_HEADER_LEN)
    }

    /// Writes the reply to the front of `buf` and returns its length.
    pub fn emit(&self, buf: &mut [u8]) -> Result<usize> {
        let (code, info) = match self.body {
            Body::Error { info, .. } => (Code::Error, info),
            Body::Log { offset, .. } => (Code::Log, offset),
            Body::Mem { offset, .. } => (Code::Mem, offset),
            Body::Reserved { next } => {
                let next = next.map_or(Ok(0), |pfn| u32::try_from(pfn.0));
                (Code::Reserved, next.map_err(|_| Error::Invalid("pfn"))?)
            }
            Body::Hello { version } => (Code::Hello, version),
            Body::NrPages(pages) => (Code::NrPages, pages),
            Body::PageSize(bytes) => (Code::PageSize, bytes),
            Body::Start(Start::V4) => (Code::Start, 0),
            Body::Start(Start::V5 { max_version, .. }) => (Code::Start, max_version),
            Body::End => (Code::End, 0),
            Body::Regs { total_ram_pages, .. } => (Code::Regs, total_ram_pages),
            Body::ShowState => (Code::ShowState, 0),
            Body::Ext { offset, .. } => (Code::Ext, offset),
            Body::Unknown { code, info, .. } => (Code::Unknown(code), info),
        };
        let nr = match self.body {
            Body::Start(Start::V5 { machine, .. }) => RequestId(u32::from(machine.0)),
            _ => self.nr,
        };
        let payload = ReplyHeader { version: self.version, nr, code, info }.emit(buf)?;
        let mut w = Writer::new(payload);
        match self.body {
            Body::Error { text, .. } | Body::Log { text, .. } => w.bytes(text)?,
            Body::Mem { data, .. } => w.bytes(data)?,
            Body::Reserved { .. } | Body::ShowState => {}
            Body::Hello { .. } => w.bytes(HELLO_TEXT)?,
            Body::NrPages(pages) => {
                w.bytes(b"Number of pages: ")?;
                w.decimal(u64::from(pages))?;
                w.u8(b'\n')?;
            }
            Body::PageSize(bytes) => {
                w.bytes(b"PAGE_SIZE: ")?;
                w.decimal(u64::from(bytes))?;
                w.u8(b'\n')?;
            }
            Body::Start(Start::V4) => w.bytes(START_V4_TEXT)?,
            Body::Start(Start::V5 { task_struct, page_offset, magic, .. }) => {
                w.bytes(b"task_struct:0x")?;
                w.hex(task_struct, 1)?;
                w.bytes(b" page_offset:0x")?;
                w.hex(page_offset, 1)?;
                w.bytes(b" netdump_magic:0x")?;
                w.hex(magic.expose(), 1)?;
                w.u8(b'\n')?;
            }
            Body::End => w.bytes(END_TEXT)?,
            Body::Regs { block, .. } => {
                w.bytes(REGS_TEXT)?;
                w.bytes(block)?;
            }
            Body::Ext { total, data, .. } => {
                w.u32(total)?;
                w.bytes(data)?;
            }
            Body::Unknown { payload, .. } => w.bytes(payload)?,
        }
        Ok(REPLY_HEADER_LEN.saturating_add(w.written()))
    }
}

/// Writes the text of a REPLY_ERROR about a page number at or above the number of pages.
pub fn bad_page_text(buf: &mut [u8], pfn: Pfn, nr_pages: u64) -> Result<usize> {
    let mut w = Writer::new(buf);
    w.bytes(b"page ")?;
    w.hex(pfn.0, 8)?;
    w.bytes(b" is bigger than max page # ")?;
    w.hex(nr_pages, 8)?;
    w.bytes(b"!\n")?;
    Ok(w.written())
}

/// Writes the text of a REPLY_ERROR about a command number. The original printed it as a signed number.
pub fn unknown_command_text(buf: &mut [u8], command: u32) -> Result<usize> {
    let signed = i32::from_ne_bytes(command.to_ne_bytes());
    let mut w = Writer::new(buf);
    w.bytes(b"Got unknown command code ")?;
    if signed < 0 {
        w.u8(b'-')?;
    }
    w.decimal(u64::from(signed.unsigned_abs()))?;
    w.bytes(b"!\n")?;
    Ok(w.written())
}
