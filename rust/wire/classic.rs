// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Classic netdump, versions 4 and 5, as RHEL 3 and RHEL 4 spoke it (docs/protocol.md, "Classic").
//!
//! The server sends 24-byte requests; the client answers with a 13-byte header and a payload:
//!
//! ```text
//! request   0 cookie u64 | 8 nr u32 | 12 command u32 | 16 from u32 | 20 to u32
//! reply     0 version u8 | 1 nr u32 |  5 code u32    |  9 info u32 | 13 payload …
//! ```

use super::{Cookie, Error, Pfn, Reader, RequestId, Result, Writer};

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
/// Memory bytes in one reply to [`Command::Ext`]: its payload less the total length in front.
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

/// Which item of the extension is asked for; their formats are in [`super::ext`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ItemId {
    /// What the client knew when it took over.
    Notes,
    /// The kernel log as text.
    Log,
    /// The memory that the client itself changed while it dumped.
    Volatile,
    /// An item that we do not know.
    Unknown(u32),
}

impl ItemId {
    /// As it stands in `from`.
    pub const fn to_wire(self) -> u32 {
        match self {
            ItemId::Notes => 1,
            ItemId::Log => 2,
            ItemId::Volatile => 3,
            ItemId::Unknown(n) => n,
        }
    }

    /// The item of that number.
    pub const fn from_wire(number: u32) -> Self {
        match number {
            1 => ItemId::Notes,
            2 => ItemId::Log,
            3 => ItemId::Volatile,
            n => ItemId::Unknown(n),
        }
    }
}

/// What the server wants, with the arguments that the command has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// 0: nothing; it is not answered.
    None,
    /// 1: the memory of one page. At most 32 bits of it fit.
    SendMem(Pfn),
    /// 2: end of the dump, the client goes on with its panic.
    Exit,
    /// 3: restart the machine. Never answered.
    Reboot,
    /// 4: say hello.
    Hello,
    /// 5: the number of page frames.
    GetNrPages,
    /// 6: the size of a page.
    GetPageSize,
    /// 7: ends the handshake; holds the highest version that the server speaks.
    StartAck {
        /// 0 is a server from before versions were negotiated.
        max_version: u32,
    },
    /// 8: the registers of the CPU that crashed.
    GetRegs,
    /// 9: write the task listing to the log.
    ShowState,
    /// [`EXT`]: bytes of an item, from an offset on.
    Ext {
        /// Which item.
        item: ItemId,
        /// First byte wanted.
        offset: u32,
    },
    /// Any other number.
    Unknown {
        /// The number.
        code: u32,
        /// First argument.
        from: u32,
        /// Second argument.
        to: u32,
    },
}

impl Command {
    /// The command of number `code` with the arguments `from` and `to`; every number has one.
    pub const fn from_wire(code: u32, from: u32, to: u32) -> Self {
        match code {
            0 => Command::None,
            1 => Command::SendMem(Pfn(from as u64)),
            2 => Command::Exit,
            3 => Command::Reboot,
            4 => Command::Hello,
            5 => Command::GetNrPages,
            6 => Command::GetPageSize,
            7 => Command::StartAck { max_version: from },
            8 => Command::GetRegs,
            9 => Command::ShowState,
            EXT => Command::Ext { item: ItemId::from_wire(from), offset: to },
            code => Command::Unknown { code, from, to },
        }
    }

    /// The number of the command on the wire.
    pub const fn code(self) -> u32 {
        match self {
            Command::None => 0,
            Command::SendMem(_) => 1,
            Command::Exit => 2,
            Command::Reboot => 3,
            Command::Hello => 4,
            Command::GetNrPages => 5,
            Command::GetPageSize => 6,
            Command::StartAck { .. } => 7,
            Command::GetRegs => 8,
            Command::ShowState => 9,
            Command::Ext { .. } => EXT,
            Command::Unknown { code, .. } => code,
        }
    }
}

/// A request as it lies in a datagram.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    cookie: &'a [u8; 8],
    nr: &'a [u8; 4],
    command: &'a [u8; 4],
    from: &'a [u8; 4],
    to: &'a [u8; 4],
}

impl<'a> RequestView<'a> {
    /// Checks that all fields are there. Their values are anything.
    pub fn new_checked(datagram: &'a [u8]) -> Result<Self> {
        let mut r = Reader::new(datagram);
        Ok(RequestView {
            cookie: r.array("cookie")?,
            nr: r.array("nr")?,
            command: r.array("command")?,
            from: r.array("from")?,
            to: r.array("to")?,
        })
    }

    /// The secret that the sender knows, or pretends to.
    pub fn cookie(&self) -> Cookie {
        Cookie::new(u64::from_be_bytes(*self.cookie))
    }

    /// The number of the request.
    pub fn nr(&self) -> RequestId {
        RequestId(u32::from_be_bytes(*self.nr))
    }

    /// The number of the command.
    pub fn command(&self) -> u32 {
        u32::from_be_bytes(*self.command)
    }

    /// The first argument.
    pub fn from(&self) -> u32 {
        u32::from_be_bytes(*self.from)
    }

    /// The second argument. Only the extension reads it.
    pub fn to(&self) -> u32 {
        u32::from_be_bytes(*self.to)
    }
}

/// A request, server to client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The shared secret.
    pub cookie: Cookie,
    /// Echoed in every answer.
    pub nr: RequestId,
    /// What is asked for.
    pub command: Command,
}

impl Request {
    /// Reads a datagram; any command number has a meaning, so only a short one fails.
    pub fn parse(datagram: &[u8]) -> Result<Self> {
        Ok(Self::from_view(&RequestView::new_checked(datagram)?))
    }

    /// Gives the fields of `view` their types.
    pub fn from_view(view: &RequestView<'_>) -> Self {
        let command = Command::from_wire(view.command(), view.from(), view.to());
        Request { cookie: view.cookie(), nr: view.nr(), command }
    }

    /// Bytes that [`emit`](Self::emit) writes.
    pub const fn buffer_len(&self) -> usize {
        REQUEST_LEN
    }

    /// Writes the request to the front of `buf` and returns its length.
    pub fn emit(&self, buf: &mut [u8]) -> Result<usize> {
        let (from, to) = match self.command {
            Command::SendMem(pfn) => (u32::try_from(pfn.0).map_err(|_| Error::Invalid("pfn"))?, 0),
            Command::StartAck { max_version } => (max_version, 0),
            Command::Ext { item, offset } => (item.to_wire(), offset),
            Command::Unknown { from, to, .. } => (from, to),
            _ => (0, 0),
        };
        if buf.len() < REQUEST_LEN {
            return Err(Error::NoRoom);
        }
        let mut w = Writer::new(buf);
        w.bytes(&self.cookie.to_be_bytes())?;
        w.u32(self.nr.0)?;
        w.u32(self.command.code())?;
        w.u32(from)?;
        w.u32(to)?;
        Ok(w.written())
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    const COOKIE: Cookie = Cookie::new(0x0102_0304_0506_0708);

    fn emit(reply: &Reply<'_>) -> std::vec::Vec<u8> {
        let mut buf = [0u8; 2048];
        let len = reply.emit(&mut buf).unwrap();
        assert!(len <= reply.buffer_len());
        buf[..len].to_vec()
    }

    fn v5(nr: u32, body: Body<'_>) -> Reply<'_> {
        Reply { version: Version::V5, nr: RequestId(nr), body }
    }

    #[test]
    fn request_bytes() {
        let request = Request { cookie: COOKIE, nr: RequestId(0x1122_3344), command: Command::SendMem(Pfn(0xabcd)) };
        let wire = [1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x22, 0x33, 0x44, 0, 0, 0, 1, 0, 0, 0xab, 0xcd, 0, 0, 0, 0];
        let mut buf = [0xffu8; 24];
        assert_eq!(request.emit(&mut buf), Ok(24));
        assert_eq!(buf, wire);
        assert_eq!(Request::parse(&wire), Ok(request));
    }

    #[test]
    fn request_numbers_are_those_of_the_original() {
        let commands = [
            (0, Command::None),
            (1, Command::SendMem(Pfn(7))),
            (2, Command::Exit),
            (3, Command::Reboot),
            (4, Command::Hello),
            (5, Command::GetNrPages),
            (6, Command::GetPageSize),
            (7, Command::StartAck { max_version: 7 }),
            (8, Command::GetRegs),
            (9, Command::ShowState),
            (0x4e44_0001, Command::Ext { item: ItemId::Unknown(7), offset: 0 }),
            (10, Command::Unknown { code: 10, from: 7, to: 0 }),
        ];
        for (code, command) in commands {
            let mut wire = [0u8; 24];
            wire[12..16].copy_from_slice(&u32::to_be_bytes(code));
            wire[19] = 7;
            assert_eq!(Request::parse(&wire).unwrap().command, command);
            assert_eq!(command.code(), code);
        }
    }

    #[test]
    fn request_for_the_extension() {
        let request = Request {
            cookie: Cookie::new(0),
            nr: RequestId(9),
            command: Command::Ext { item: ItemId::Log, offset: 1020 },
        };
        let mut buf = [0u8; 24];
        request.emit(&mut buf).unwrap();
        assert_eq!(buf[8..], [0, 0, 0, 9, 0x4e, 0x44, 0, 1, 0, 0, 0, 2, 0, 0, 3, 0xfc]);
        assert_eq!(Request::parse(&buf), Ok(request));
    }

    #[test]
    fn request_short_long_and_too_far() {
        assert_eq!(Request::parse(&[0; 23]), Err(Error::Truncated("to")));
        assert_eq!(Request::parse(&[0; 11]), Err(Error::Truncated("nr")));
        assert!(Request::parse(&[0; 25]).is_ok());
        let far = Request { cookie: COOKIE, nr: RequestId(1), command: Command::SendMem(Pfn(1 << 32)) };
        assert_eq!(far.emit(&mut [0; 24]), Err(Error::Invalid("pfn")));
        let near = Request { cookie: COOKIE, nr: RequestId(1), command: Command::Hello };
        assert_eq!(near.emit(&mut [0; 23]), Err(Error::NoRoom));
    }

    #[test]
    fn start_bytes() {
        let start = Reply {
            version: Version::V4,
            nr: RequestId(0),
            body: Body::Start(Start::V5 {
                machine: Machine::X86_64,
                max_version: 5,
                task_struct: 0xffff_8880_0123_4540,
                page_offset: 0xffff_8880_0000_0000,
                magic: Cookie::new(0),
            }),
        };
        let mut wire = b"\x04\0\0\0\x3e\0\0\0\x08\0\0\0\x05".to_vec();
        wire.extend_from_slice(b"task_struct:0xffff888001234540 page_offset:0xffff888000000000 netdump_magic:0x0\n");
        assert_eq!(emit(&start), wire);
        assert_eq!(Reply::parse(&wire), Ok(start));
    }

    #[test]
    fn start_of_version_4() {
        let wire = b"\x04\0\0\0\0\0\0\0\x08\0\0\0\0NETDUMP start, waiting for start-ACK.\n";
        let start = Reply { version: Version::V4, nr: RequestId(0), body: Body::Start(Start::V4) };
        assert_eq!(Reply::parse(wire), Ok(start));
        assert_eq!(emit(&start), wire);
    }

    #[test]
    fn start_must_be_whole() {
        let parse = |text: &str| {
            let mut wire = b"\x04\0\0\0\x3e\0\0\0\x08\0\0\0\x05".to_vec();
            wire.extend_from_slice(text.as_bytes());
            Reply::parse(&wire).map(|_| ())
        };
        assert_eq!(parse("task_struct:0x1 page_offset:0x2 netdump_magic:0x3\n"), Ok(()));
        assert_eq!(parse("task_struct:0x1 page_offset:0x2\n"), Err(Error::Truncated("netdump_magic")));
        assert_eq!(parse("task_struct:0x page_offset:0x2 netdump_magic:0x3\n"), Err(Error::Invalid("task_struct")));
        assert_eq!(
            parse("task_struct:0x1 page_offset:0x12345678901234567 netdump_magic:0x3\n"),
            Err(Error::Invalid("page_offset"))
        );
        assert_eq!(parse("task_struct:0x1 page_offset:0x2 netdump_magic:0xg\n"), Err(Error::Invalid("netdump_magic")));
        assert_eq!(Reply::parse(b"\x04\0\x01\0\0\0\0\0\x08\0\0\0\x05"), Err(Error::Invalid("machine")));
        assert_eq!(Reply::parse(b"\x04\0\0\0\x3e\0\0\0\x08\0\0\0\x03"), Err(Error::Invalid("info of START_NETDUMP")));
    }

    #[test]
    fn mem_bytes() {
        let data = [0x5a; CHUNK_LEN];
        let mem = v5(0x0102_0304, Body::Mem { offset: 3072, data: &data });
        let wire = emit(&mem);
        assert_eq!(wire.len(), 1037);
        assert_eq!(wire[..14], [5, 1, 2, 3, 4, 0, 0, 0, 3, 0, 0, 0x0c, 0, 0x5a]);
        assert_eq!(Reply::parse(&wire), Ok(mem));
        assert_eq!(Reply::parse(&wire[..1036]), Err(Error::Invalid("payload of MEM")));
        let mut skew = wire;
        skew[12] = 1;
        assert_eq!(Reply::parse(&skew), Err(Error::Invalid("offset of MEM")));
    }

    #[test]
    fn replies_with_text() {
        let cases: [(Body<'_>, &[u8]); 8] = [
            (
                Body::Hello { version: BASE_VERSION },
                b"\x05\0\0\0\x07\0\0\0\x05\0\0\0\x04Hello, this is netdump version 0.04\n",
            ),
            (Body::NrPages(131_072), b"\x05\0\0\0\x07\0\0\0\x06\0\x02\0\0Number of pages: 131072\n"),
            (Body::PageSize(4096), b"\x05\0\0\0\x07\0\0\0\x07\0\0\x10\0PAGE_SIZE: 4096\n"),
            (Body::Reserved { next: Some(Pfn(256)) }, b"\x05\0\0\0\x07\0\0\0\x04\0\0\x01\0"),
            (Body::Reserved { next: None }, b"\x05\0\0\0\x07\0\0\0\x04\0\0\0\0"),
            (Body::End, b"\x05\0\0\0\x07\0\0\0\x09\0\0\0\0NETDUMP end.\n"),
            (Body::ShowState, b"\x05\0\0\0\x07\0\0\0\x0c\0\0\0\0"),
            (
                Body::Regs { total_ram_pages: 2, block: b"\x01\x02" },
                b"\x05\0\0\0\x07\0\0\0\x0a\0\0\0\x02Sending register info.\n\x01\x02",
            ),
        ];
        for (body, wire) in cases {
            let reply = v5(7, body);
            assert_eq!(emit(&reply), wire);
            assert_eq!(Reply::parse(wire), Ok(reply));
        }
    }

    #[test]
    fn error_texts() {
        let mut buf = [0u8; 96];
        let len = bad_page_text(&mut buf, Pfn(0x1f_ffff), 0x2_0000).unwrap();
        assert_eq!(&buf[..len], b"page 001fffff is bigger than max page # 00020000!\n");
        let len = unknown_command_text(&mut buf, 7).unwrap();
        assert_eq!(&buf[..len], b"Got unknown command code 7!\n");
        let len = unknown_command_text(&mut buf, 0xffff_fffe).unwrap();
        assert_eq!(&buf[..len], b"Got unknown command code -2!\n");
    }

    #[test]
    fn registers_may_have_garbage_behind_them() {
        let mut wire = b"\x05\0\0\0\x07\0\0\0\x0a\0\0\0\x02Sending register info.\n".to_vec();
        wire.extend_from_slice(&[9; 216 + 3]);
        let Body::Regs { block, .. } = Reply::parse(&wire).unwrap().body else { panic!("not REGS") };
        assert!(block.len() >= Machine::X86_64.regs_len().unwrap());
        assert_eq!(Reply::parse(&wire[..13 + 22]), Err(Error::Truncated("registers")));
    }

    #[test]
    fn extension_bytes() {
        let reply = v5(7, Body::Ext { offset: 1020, total: 1022, data: b"ab" });
        let wire = b"\x05\0\0\0\x07\x4e\x44\0\x01\0\0\x03\xfc\0\0\x03\xfeab";
        assert_eq!(emit(&reply), wire);
        assert_eq!(Reply::parse(wire), Ok(reply));
        assert_eq!(Reply::parse(&wire[..18]), Err(Error::Invalid("item data length")));
        assert_eq!(Reply::parse(&wire[..16]), Err(Error::Truncated("item length")));
        let none = v5(7, Body::Ext { offset: 0, total: 0, data: b"" });
        assert_eq!(Reply::parse(&emit(&none)), Ok(none));
    }

    #[test]
    fn replies_that_are_none() {
        assert_eq!(Reply::parse(&[4; 12]), Err(Error::Truncated("info")));
        assert_eq!(Reply::parse(&[6; 13]), Err(Error::Version(6)));
        assert_eq!(Reply::parse(&[4; 1473]), Err(Error::Invalid("payload length")));
        assert_eq!(Reply::parse(b"\x05\0\0\0\x07\0\0\0\x07\0\0\x10\x01"), Err(Error::Invalid("page size")));
    }
}
