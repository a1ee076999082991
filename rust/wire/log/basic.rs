// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Basic format: the text itself, cut anywhere (upstream: drivers/net/netconsole.c, `send_msg_udp()`).

use super::super::{Error, Result};
use super::Datagrams;

/// The most text in one datagram, in bytes.
pub const MAX_TEXT: usize = 1000;

/// Text on its way into datagrams of [`MAX_TEXT`] bytes. Panic path.
#[derive(Debug, Clone)]
pub struct Basic<'a> {
    rest: &'a [u8],
}

impl<'a> Basic<'a> {
    /// A cursor at the start of `text`.
    pub fn new(text: &'a [u8]) -> Self {
        Basic { rest: text }
    }
}

impl Datagrams for Basic<'_> {
    fn emit_next(&mut self, buf: &mut [u8]) -> Result<Option<usize>> {
        let mut after = self.clone();
        let Some(text) = after.next_in_place() else { return Ok(None) };
        let len = text.len();
        buf.get_mut(..len).ok_or(Error::NoRoom)?.copy_from_slice(text);
        *self = after;
        Ok(Some(len))
    }

    fn next_in_place(&mut self) -> Option<&[u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let (text, rest) = self.rest.split_at_checked(MAX_TEXT).unwrap_or((self.rest, &[]));
        self.rest = rest;
        Some(text)
    }
}
