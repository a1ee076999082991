// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Remote syslog: one line of console text is one datagram.
//!
//! - [`Original`]: `<5> ` and the line, as Red Hat's netconsole sent it.
//! - [`Rfc5424`]: `<priority>1 time host kernel - - [meta sequenceId="…"] line`, RFC 5424 over UDP (RFC 5426).

use super::super::{Error, Result, Writer};
use super::printk::{Lines, Priority, Unescaped};
use super::{Datagrams, UnixTime, MAX_DATAGRAM};

/// The longest datagram of [`Original`], in bytes.
pub const MAX_ORIGINAL: usize = 1000;
/// The longest host name, in bytes (RFC 5424, section 6).
pub const MAX_HOSTNAME: usize = 255;

/// Text on its way out in the original's form: `<5> `, the line, its newline. A line that is too long loses its end, as
/// it did in the original. Panic path.
#[derive(Debug, Clone)]
pub struct Original<'a> {
    lines: Lines<'a>,
}

impl<'a> Original<'a> {
    /// A cursor at the start of `text`. Text without a newline at its end gets one.
    pub fn new(text: &'a [u8]) -> Self {
        Original { lines: Lines::new(text) }
    }
}

impl Datagrams for Original<'_> {
    fn emit_next(&mut self, buf: &mut [u8]) -> Result<Option<usize>> {
        let mut lines = self.lines.clone();
        let Some(line) = lines.next() else { return Ok(None) };
        let mut w = Writer::new(buf);
        w.bytes(b"<5> ")?;
        let room = MAX_ORIGINAL.saturating_sub(w.written()).saturating_sub(1);
        w.bytes(line.get(..room).unwrap_or(line))?;
        w.u8(b'\n')?;
        self.lines = lines;
        Ok(Some(w.written()))
    }
}

/// The number of a message to one syslog server: 1 to 2147483647, then 1 again (RFC 5424, section 7.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SequenceId(u32);

impl SequenceId {
    /// Of the first message.
    pub const FIRST: SequenceId = SequenceId(1);
    /// Of the last message before the numbers begin again.
    pub const LAST: SequenceId = SequenceId(i32::MAX as u32);

    /// The number itself.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Of the message behind this one.
    pub const fn next(self) -> Self {
        if self.0 >= Self::LAST.0 {
            Self::FIRST
        } else {
            SequenceId(self.0.wrapping_add(1))
        }
    }
}

impl Default for SequenceId {
    fn default() -> Self {
        Self::FIRST
    }
}

/// What stands before a line in RFC 5424.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// Facility and level.
    pub priority: Priority,
    /// When the line was written, if the machine knows the time of day.
    pub time: Option<UnixTime>,
    /// Name of the machine. What RFC 5424 does not allow in it (blanks, controls, more than ASCII) becomes `?`; what is
    /// empty becomes `-`.
    pub hostname: &'a [u8],
}

/// How the text of a record is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escapes {
    /// As it is: what a basic console gets.
    None,
    /// With printk's escapes: what an extended console gets. A newline may hide behind one and then ends a line.
    Printk,
}

/// The text of a record on its way out in RFC 5424. Panic path.
///
/// Control bytes, which RFC 5424 warns of, become `\xNN`, as printk writes them; bytes above ASCII are left as they are.
/// A line that does not fit [`MAX_DATAGRAM`] loses its end.
#[derive(Debug)]
pub struct Rfc5424<'a> {
    header: Header<'a>,
    sequence: &'a mut SequenceId,
    text: Text<'a>,
}

impl<'a> Rfc5424<'a> {
    /// A cursor over the lines of `text`; `sequence` counts on with each.
    pub fn new(header: Header<'a>, sequence: &'a mut SequenceId, text: &'a [u8], escapes: Escapes) -> Self {
        Rfc5424 { header, sequence, text: Text { rest: text, escapes } }
    }

    fn emit_header(&self, w: &mut Writer<'_>) -> Result<()> {
        w.u8(b'<')?;
        w.decimal(u64::from(self.header.priority.number()))?;
        w.bytes(b">1 ")?;
        match self.header.time {
            Some(time) => time.emit(w)?,
            None => w.u8(b'-')?,
        }
        w.u8(b' ')?;
        if self.header.hostname.is_empty() {
            w.u8(b'-')?;
        }
        for byte in self.header.hostname.iter().take(MAX_HOSTNAME) {
            w.u8(if byte.is_ascii_graphic() { *byte } else { b'?' })?;
        }
        w.bytes(b" kernel - - [meta sequenceId=\"")?;
        w.decimal(u64::from(self.sequence.number()))?;
        w.bytes(b"\"] ")
    }
}

impl Datagrams for Rfc5424<'_> {
    fn emit_next(&mut self, buf: &mut [u8]) -> Result<Option<usize>> {
        let mut text = self.text.clone();
        if text.rest.is_empty() {
            return Ok(None);
        }
        let mut w = Writer::new(buf.get_mut(..MAX_DATAGRAM).ok_or(Error::NoRoom)?);
        self.emit_header(&mut w)?;
        // A line that is too long is read to its end all the same: the next one begins there.
        let mut fits = true;
        while let Some(byte) = text.next_in_line() {
            fits = fits && emit_byte(byte, &mut w).is_ok();
        }
        self.text = text;
        *self.sequence = self.sequence.next();
        Ok(Some(w.written()))
    }
}

/// A byte of the line, or all four of its escape.
fn emit_byte(byte: u8, w: &mut Writer<'_>) -> Result<()> {
    if byte >= b' ' && byte != 0x7f {
        return w.u8(byte);
    }
    let mut escape = [0; 4];
    let mut escaped = Writer::new(&mut escape);
    escaped.bytes(b"\\x")?;
    escaped.hex(u64::from(byte), 2)?;
    w.bytes(&escape)
}

/// Text as bytes, whatever its escapes.
#[derive(Debug, Clone)]
struct Text<'a> {
    rest: &'a [u8],
    escapes: Escapes,
}

impl Text<'_> {
    /// The next byte of the line; at its end `None`, once, and the next line begins.
    fn next_in_line(&mut self) -> Option<u8> {
        let byte = match self.escapes {
            Escapes::None => {
                let (first, rest) = self.rest.split_first()?;
                self.rest = rest;
                *first
            }
            Escapes::Printk => {
                let mut text = Unescaped::new(self.rest);
                let byte = text.next()?;
                self.rest = text.rest();
                byte
            }
        };
        (byte != b'\n').then_some(byte)
    }
}
