// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Extended format, the sending side: a record as printk makes it for extended consoles, with the target's own data
//! behind it, whole or in fragments.
//!
//! Byte for byte what upstream sends (drivers/net/netconsole.c, `send_ext_msg_udp()`): at most [`MAX_DATAGRAM`] bytes
//! in all go out as they are; what is longer goes out in pieces, each with the record's header and
//! `,ncfrag=<offset>/<total>` at its end, where offset and total count the bytes behind the header.

use super::super::{Error, Result, Writer};
use super::number::cut;
use super::Datagrams;

/// The longest datagram of this format, in bytes.
pub const MAX_DATAGRAM: usize = 1000;
/// The most bytes that the fields of one entry of user data or system data take (` key=value\n`).
pub const MAX_ENTRY: usize = 256;
/// The most entries of user data.
pub const MAX_USERDATA_ENTRIES: usize = 256;

/// What one target sends for one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extended<'a> {
    /// The kernel's release, to stand before the header; empty for none.
    pub release: &'a [u8],
    /// The record as printk formatted it: `level,seq,time,flag[,…];text\n` and ` key=value\n` lines.
    pub record: &'a [u8],
    /// What the administrator attached to the target: ` key=value\n` lines.
    pub userdata: &'a [u8],
    /// What the kernel attaches to each record: ` key=value\n` lines.
    pub sysdata: &'a [u8],
}

impl<'a> Extended<'a> {
    /// A cursor over the datagrams of this record. Panic path.
    pub fn datagrams(self) -> Fragments<'a> {
        let parts = [self.record, self.userdata, self.sysdata];
        let len = parts.iter().fold(self.prefix_len(), |sum, part| sum.saturating_add(part.len()));
        let next = if len <= MAX_DATAGRAM { Next::Whole } else { Next::Fragment { offset: 0 } };
        Fragments { message: self, next }
    }

    /// Bytes that the release takes, with its comma.
    fn prefix_len(&self) -> usize {
        if self.release.is_empty() {
            0
        } else {
            self.release.len().saturating_add(1)
        }
    }

    fn prefix(&self, w: &mut Writer<'_>) -> Result<()> {
        if self.release.is_empty() {
            return Ok(());
        }
        w.bytes(self.release)?;
        w.u8(b',')
    }

    fn whole(&self, w: &mut Writer<'_>) -> Result<()> {
        self.prefix(w)?;
        w.bytes(self.record)?;
        w.bytes(self.userdata)?;
        w.bytes(self.sysdata)
    }
}

#[derive(Debug, Clone, Copy)]
enum Next {
    /// Everything in one datagram.
    Whole,
    /// The fragment that begins at this byte of what is behind the header.
    Fragment { offset: usize },
    /// Nothing any more.
    Done,
}

/// A record on its way into datagrams. Panic path.
#[derive(Debug, Clone)]
pub struct Fragments<'a> {
    message: Extended<'a>,
    next: Next,
}

impl Fragments<'_> {
    /// Writes the fragment that begins at `offset`; returns its length and where the next one begins.
    fn fragment(&self, offset: usize, buf: &mut [u8]) -> Result<(usize, Next)> {
        let message = &self.message;
        let (header, text) = cut(message.record, b';').ok_or(Error::Invalid("record header"))?;
        let parts = [text, message.userdata, message.sysdata];
        let total = parts.iter().fold(0usize, |sum, part| sum.saturating_add(part.len()));

        // The header alone may be so long that nothing fits behind it; upstream would not end there.
        let mut w = Writer::new(buf.get_mut(..MAX_DATAGRAM).ok_or(Error::NoRoom)?);
        let too_long = |_| Error::Invalid("record header");
        message.prefix(&mut w).map_err(too_long)?;
        w.bytes(header).map_err(too_long)?;
        w.bytes(b",ncfrag=").map_err(too_long)?;
        w.decimal(offset as u64).map_err(too_long)?;
        w.u8(b'/').map_err(too_long)?;
        w.decimal(total as u64).map_err(too_long)?;
        w.u8(b';').map_err(too_long)?;
        if w.room() == 0 {
            return Err(Error::Invalid("record header"));
        }

        let mut skip = offset;
        let mut sent = offset;
        for part in parts {
            let Some(left) = part.get(skip..) else {
                skip = skip.saturating_sub(part.len());
                continue;
            };
            skip = 0;
            let piece = left.get(..w.room()).unwrap_or(left);
            w.bytes(piece)?;
            sent = sent.saturating_add(piece.len());
        }
        let next = if sent < total { Next::Fragment { offset: sent } } else { Next::Done };
        Ok((w.written(), next))
    }
}

impl Datagrams for Fragments<'_> {
    fn emit_next(&mut self, buf: &mut [u8]) -> Result<Option<usize>> {
        let (len, next) = match self.next {
            Next::Done => return Ok(None),
            Next::Whole => {
                let mut w = Writer::new(buf);
                self.message.whole(&mut w)?;
                (w.written(), Next::Done)
            }
            Next::Fragment { offset } => self.fragment(offset, buf)?,
        };
        self.next = next;
        Ok(Some(len))
    }

    fn next_in_place(&mut self) -> Option<&[u8]> {
        let Extended { release, record, userdata, sysdata } = self.message;
        let bare = release.is_empty() && userdata.is_empty() && sysdata.is_empty();
        if !bare || !matches!(self.next, Next::Whole) {
            return None;
        }
        self.next = Next::Done;
        Some(record)
    }
}
