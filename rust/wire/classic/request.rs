// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Requests: what the server asks of the client.

use super::super::{Cookie, Error, Pfn, Reader, RequestId, Result, Writer};
use super::{EXT, REQUEST_LEN};

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
