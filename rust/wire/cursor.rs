// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Reading and writing of fields one after another, without a way to run off the end.

use super::{Error, Result};

/// Takes fields from the front of a message.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the first byte of `message`.
    pub fn new(message: &'a [u8]) -> Self {
        Reader { rest: message }
    }

    /// The next `N` bytes; `field` names them in the error.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<&'a [u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Error::Truncated(field))?;
        self.rest = rest;
        Ok(head)
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize, field: &'static str) -> Result<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(Error::Truncated(field))?;
        self.rest = rest;
        Ok(head)
    }

    /// One byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8> {
        let [byte] = *self.array(field)?;
        Ok(byte)
    }

    /// A big-endian `u16`.
    pub fn u16(&mut self, field: &'static str) -> Result<u16> {
        Ok(u16::from_be_bytes(*self.array(field)?))
    }

    /// A big-endian `u32`.
    pub fn u32(&mut self, field: &'static str) -> Result<u32> {
        Ok(u32::from_be_bytes(*self.array(field)?))
    }

    /// A big-endian `u64`.
    pub fn u64(&mut self, field: &'static str) -> Result<u64> {
        Ok(u64::from_be_bytes(*self.array(field)?))
    }

    /// Everything not yet taken.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

/// Puts fields at the front of a buffer and knows how many bytes it has put.
#[derive(Debug)]
pub struct Writer<'a> {
    rest: &'a mut [u8],
    written: usize,
}

impl<'a> Writer<'a> {
    /// A writer at the first byte of `buf`.
    pub fn new(buf: &'a mut [u8]) -> Self {
        Writer { rest: buf, written: 0 }
    }

    /// Bytes written so far.
    pub fn written(&self) -> usize {
        self.written
    }

    /// Bytes still free.
    pub fn room(&self) -> usize {
        self.rest.len()
    }

    /// The next `len` bytes of the buffer, for the caller to fill.
    pub fn claim(&mut self, len: usize) -> Result<&'a mut [u8]> {
        if len > self.rest.len() {
            return Err(Error::NoRoom);
        }
        let (head, rest) = core::mem::take(&mut self.rest).split_at_mut_checked(len).ok_or(Error::NoRoom)?;
        self.rest = rest;
        self.written = self.written.saturating_add(len);
        Ok(head)
    }

    /// The unwritten end of the buffer.
    pub fn into_rest(self) -> &'a mut [u8] {
        self.rest
    }

    /// Copies `bytes`.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.claim(bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) -> Result<()> {
        self.bytes(&[value])
    }

    /// A big-endian `u16`.
    pub fn u16(&mut self, value: u16) -> Result<()> {
        self.bytes(&value.to_be_bytes())
    }

    /// A big-endian `u32`.
    pub fn u32(&mut self, value: u32) -> Result<()> {
        self.bytes(&value.to_be_bytes())
    }

    /// A big-endian `u64`.
    pub fn u64(&mut self, value: u64) -> Result<()> {
        self.bytes(&value.to_be_bytes())
    }

    /// `value` in decimal, as C's `%llu`.
    pub fn decimal(&mut self, value: u64) -> Result<()> {
        self.digits::<10>(value, 1)
    }

    /// `value` in lower-case hexadecimal with at least `width` digits, as C's `%0*llx`.
    pub fn hex(&mut self, value: u64, width: usize) -> Result<()> {
        self.digits::<16>(value, width)
    }

    fn digits<const BASE: u8>(&mut self, mut value: u64, width: usize) -> Result<()> {
        // 20 digits hold any u64 in decimal.
        let mut text = [b'0'; 20];
        let mut used = 0usize;
        for slot in text.iter_mut().rev() {
            let digit = value.checked_rem(u64::from(BASE)).unwrap_or(0) as u8;
            *slot = if digit < 10 { b'0'.wrapping_add(digit) } else { b'a'.wrapping_add(digit.wrapping_sub(10)) };
            used = used.saturating_add(1);
            value = value.checked_div(u64::from(BASE)).unwrap_or(0);
            if value == 0 && used >= width {
                break;
            }
        }
        let start = text.len().saturating_sub(used);
        self.bytes(text.get(start..).unwrap_or(&[]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(fill: impl Fn(&mut Writer<'_>) -> Result<()>) -> std::vec::Vec<u8> {
        let mut buf = [0u8; 64];
        let mut w = Writer::new(&mut buf);
        fill(&mut w).unwrap();
        let len = w.written();
        buf[..len].to_vec()
    }

    #[test]
    fn numbers_print_as_in_c() {
        assert_eq!(written(|w| w.decimal(0)), b"0");
        assert_eq!(written(|w| w.decimal(u64::MAX)), b"18446744073709551615");
        assert_eq!(written(|w| w.hex(0, 1)), b"0");
        assert_eq!(written(|w| w.hex(0x12ab, 8)), b"000012ab");
        assert_eq!(written(|w| w.hex(0x1_2345_6789, 8)), b"123456789");
        assert_eq!(written(|w| w.hex(u64::MAX, 1)), b"ffffffffffffffff");
    }

    #[test]
    fn reader_names_the_field_it_ran_out_in() {
        let mut r = Reader::new(&[0, 1, 2]);
        assert_eq!(r.u16("first"), Ok(1));
        assert_eq!(r.u16("second"), Err(Error::Truncated("second")));
        assert_eq!(r.u8("third"), Ok(2), "a failed read takes nothing");
    }

    #[test]
    fn a_failed_write_leaves_the_room_as_it_was() {
        let mut buf = [0u8; 3];
        let mut w = Writer::new(&mut buf);
        w.u16(7).unwrap();
        assert_eq!(w.u16(8), Err(Error::NoRoom));
        assert_eq!((w.written(), w.room()), (2, 1));
        w.u8(9).unwrap();
        assert_eq!(buf, [0, 7, 9]);
    }
}
