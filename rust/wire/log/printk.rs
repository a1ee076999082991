// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What printk gives a message: its priority, and for extended consoles the escapes in its text.

use super::super::{Result, Writer};
use super::number::decimal;

/// Facility and level of a message, as in `<N>` of syslog and in the first field of a record: `facility * 8 + level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(u8);

impl Priority {
    /// `<5>`: the kernel's facility, level notice. The original gave it to every line.
    pub const KERN_NOTICE: Priority = Priority(5);
    /// The highest that RFC 5424 knows: facility 23, level 7.
    pub const MAX: u8 = 191;

    /// A message of the kernel itself with this level, 0 (emergency) to 7 (debug); `None` for other numbers.
    pub const fn kern(level: u8) -> Option<Self> {
        if level < 8 {
            Some(Priority(level))
        } else {
            None
        }
    }

    /// The priority of a record whose first field is `field`. A facility that syslog does not have (printk takes any
    /// from user space) is reported as the kernel's, with the true level.
    pub const fn from_record(field: u32) -> Self {
        if field <= Self::MAX as u32 {
            Priority(field as u8)
        } else {
            Priority((field & 7) as u8)
        }
    }

    /// As in `<N>`.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// 0 (emergency) to 7 (debug).
    pub const fn level(self) -> u8 {
        self.0 & 7
    }
}

/// The header of a record for extended consoles: `priority,sequence,time,flag` (kernel/printk/printk.c,
/// `info_print_ext_header()`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// Facility and level as one number; see [`Priority::from_record`].
    pub priority: u32,
    /// Number of the record since the kernel was started.
    pub sequence: u64,
    /// Time since the kernel was started, in µs.
    pub time_us: u64,
    /// Whether the record continues the line before it, or may be continued.
    pub flag: Flag,
}

/// The flag in the header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flag {
    /// `-`: a line of its own.
    Whole,
    /// `c`: text that further records may continue.
    Continued,
    /// `+`: continues the record before it, as older kernels said.
    Continuation,
}

impl Flag {
    /// As it stands in the header.
    pub const fn to_wire(self) -> u8 {
        match self {
            Flag::Whole => b'-',
            Flag::Continued => b'c',
            Flag::Continuation => b'+',
        }
    }

    /// The flag of that character.
    pub const fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            b'-' => Some(Flag::Whole),
            b'c' => Some(Flag::Continued),
            b'+' => Some(Flag::Continuation),
            _ => None,
        }
    }
}

impl RecordHeader {
    /// Reads the four fields; `None` if they are not such.
    pub(super) fn from_fields(fields: [&[u8]; 4]) -> Option<Self> {
        let [priority, sequence, time, flag] = fields;
        let [flag] = flag else { return None };
        Some(RecordHeader {
            priority: u32::try_from(decimal(priority)?).ok()?,
            sequence: decimal(sequence)?,
            time_us: decimal(time)?,
            flag: Flag::from_wire(*flag)?,
        })
    }

    /// Writes the header without the `;` at its end.
    ///
    /// # Errors
    ///
    /// [`NoRoom`](super::super::Error::NoRoom).
    pub fn emit(&self, w: &mut Writer<'_>) -> Result<()> {
        w.decimal(u64::from(self.priority))?;
        w.u8(b',')?;
        w.decimal(self.sequence)?;
        w.u8(b',')?;
        w.decimal(self.time_us)?;
        w.u8(b',')?;
        w.u8(self.flag.to_wire())
    }
}

/// The bytes of text in which printk has escaped what is not printable ASCII as `\xNN`; anything else stands for itself.
#[derive(Debug, Clone)]
pub struct Unescaped<'a> {
    rest: &'a [u8],
}

impl<'a> Unescaped<'a> {
    /// Reads `text` from its start.
    pub fn new(text: &'a [u8]) -> Self {
        Unescaped { rest: text }
    }

    /// What has not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl Iterator for Unescaped<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        if let [b'\\', b'x', high, low, rest @ ..] = self.rest {
            if let (Some(high), Some(low)) = (char::from(*high).to_digit(16), char::from(*low).to_digit(16)) {
                self.rest = rest;
                return Some(((high << 4) | low) as u8);
            }
        }
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }
}

/// Writes `text` as printk does for extended consoles: what is not printable ASCII, and the backslash, as `\xNN`.
///
/// # Errors
///
/// [`NoRoom`](super::super::Error::NoRoom); part of the text is written then.
pub fn escape(text: &[u8], w: &mut Writer<'_>) -> Result<()> {
    for byte in text {
        if (b' '..0x7f).contains(byte) && *byte != b'\\' {
            w.u8(*byte)?;
        } else {
            w.bytes(b"\\x")?;
            w.hex(u64::from(*byte), 2)?;
        }
    }
    Ok(())
}

/// The lines of a text, without their newline. A text that ends in one has no empty line behind it.
#[derive(Debug, Clone)]
pub struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Lines<'a> {
    /// Reads `text` from its start.
    pub fn new(text: &'a [u8]) -> Self {
        Lines { rest: text }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let (line, rest) = super::number::cut(self.rest, b'\n').unwrap_or((self.rest, &[]));
        self.rest = rest;
        Some(line)
    }
}
