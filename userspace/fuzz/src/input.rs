// SPDX-License-Identifier: GPL-2.0-or-later
//! The fuzzer's bytes as a row of choices.

/// Takes choices from the front; at the end all are `None`.
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Input(data)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// A run of bytes with its length in front; shorter at the end.
    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(self.u8()?);
        let (head, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        Some(head)
    }
}
