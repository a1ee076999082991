// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! netlog: console text in REPLY_LOG packets, each with the place of its text in the stream.
//!
//! The receiver reads them with [`Reply::parse`](super::super::classic::Reply::parse).

use super::super::classic::{Code, ReplyHeader, Version, MAX_LOG_TEXT, REPLY_HEADER_LEN};
use super::super::{Error, RequestId, Result};
use super::Datagrams;

/// The stream of one target: how many bytes it has been given since it was switched on, as a `u32` that wraps.
///
/// It counts what was handed over, not what arrived, so that the receiver sees what is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stream {
    offset: u32,
}

impl Stream {
    /// A stream whose next byte has the place `offset`; 0 begins a new one.
    pub const fn new(offset: u32) -> Self {
        Stream { offset }
    }

    /// The place of the next byte.
    pub const fn offset(&self) -> u32 {
        self.offset
    }

    /// Leaves out `bytes` of the text: the receiver sees a gap of that size.
    pub fn skip(&mut self, bytes: usize) {
        // The place is modulo 2^32, so the low half of the length is all that counts.
        self.offset = self.offset.wrapping_add(bytes as u32);
    }

    /// A cursor that sends `text` as the next bytes of the stream. Panic path.
    pub fn send<'a>(&'a mut self, text: &'a [u8]) -> Netlog<'a> {
        Netlog { stream: self, rest: text }
    }
}

/// Text on its way into REPLY_LOG packets of at most [`MAX_LOG_TEXT`] bytes of text. Panic path.
#[derive(Debug)]
pub struct Netlog<'a> {
    stream: &'a mut Stream,
    rest: &'a [u8],
}

impl Datagrams for Netlog<'_> {
    fn emit_next(&mut self, buf: &mut [u8]) -> Result<Option<usize>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (text, rest) = self.rest.split_at_checked(MAX_LOG_TEXT).unwrap_or((self.rest, &[]));
        let header = ReplyHeader { version: Version::V4, nr: RequestId(0), code: Code::Log, info: self.stream.offset };
        let payload = header.emit(buf)?;
        payload.get_mut(..text.len()).ok_or(Error::NoRoom)?.copy_from_slice(text);
        self.stream.skip(text.len());
        self.rest = rest;
        Ok(Some(REPLY_HEADER_LEN.saturating_add(text.len())))
    }
}
