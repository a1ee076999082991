// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Extended format, the receiving side: what a datagram says, or that it is not of this format (and so text of the basic
//! one).

use super::super::{Error, Result, Writer};
use super::extended::{MAX_ENTRY, MAX_USERDATA_ENTRIES};
use super::number::{cut, decimal};
use super::printk::{Lines, RecordHeader};

/// The longest release that is taken for one: the kernel's `__NEW_UTS_LEN`.
pub const MAX_RELEASE: usize = 64;
/// The most bytes behind the header of one record that any kernel can send: 8 KiB of text and keys (kernels before 6.2;
/// now it is 2 KiB), and all entries of user data and of system data.
pub const MAX_BODY: u32 = (8192 + MAX_ENTRY * (MAX_USERDATA_ENTRIES + 4)) as u32;

/// Which part of a record's body a datagram holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Its first byte.
    pub offset: u32,
    /// Bytes in the whole body.
    pub total: u32,
}

/// A datagram of the extended format. The body is not empty, and a fragment lies within its total.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// The sender's kernel release, if it sends it in front.
    pub release: Option<&'a [u8]>,
    /// Number, level, time, flag.
    pub header: RecordHeader,
    /// Further fields of the header, `,key=value` each, without `ncfrag`.
    pub fields: &'a [u8],
    /// Where `body` belongs, if the record came in pieces.
    pub fragment: Option<Fragment>,
    /// Text, keys, user data and system data, or the part of them that `fragment` says.
    pub body: &'a [u8],
}

const NCFRAG: &[u8] = b"ncfrag=";

impl<'a> Record<'a> {
    /// Reads a datagram.
    ///
    /// # Errors
    ///
    /// [`Truncated`](Error::Truncated) or [`Invalid`](Error::Invalid) `record header`: this is not the extended format.
    /// [`Invalid`](Error::Invalid) of another field: it is, but what it says cannot be.
    pub fn parse(datagram: &'a [u8]) -> Result<Self> {
        let (head, body) = cut(datagram, b';').ok_or(Error::Truncated("record header"))?;
        let Header { release, header, fields } = Header::parse(head).ok_or(Error::Invalid("record header"))?;
        let (fields, fragment) = split_ncfrag(fields)?;
        if body.is_empty() {
            return Err(Error::Truncated("record body"));
        }
        let len = u32::try_from(body.len()).map_err(|_| Error::Invalid("record body"))?;
        if let Some(Fragment { offset, total }) = fragment {
            if total > MAX_BODY || offset.checked_add(len).is_none_or(|end| end > total) {
                return Err(Error::Invalid("ncfrag"));
            }
        }
        Ok(Record { release, header, fields, fragment, body })
    }

    /// The lines of the message: the body up to its first newline, with printk's escapes. Only of a whole record.
    pub fn text(&self) -> &'a [u8] {
        Lines::new(self.body).next().unwrap_or(&[])
    }

    /// The ` key=value` lines behind the text: printk's dictionary, user data and system data. Only of a whole record.
    pub fn pairs(&self) -> Pairs<'a> {
        let mut lines = Lines::new(self.body);
        lines.next();
        Pairs { lines }
    }

    /// Writes the header as a record that is whole has it, with the `;` at its end.
    ///
    /// # Errors
    ///
    /// [`NoRoom`](Error::NoRoom).
    pub fn emit_header(&self, w: &mut Writer<'_>) -> Result<()> {
        if let Some(release) = self.release {
            w.bytes(release)?;
            w.u8(b',')?;
        }
        self.header.emit(w)?;
        w.bytes(self.fields)?;
        w.u8(b';')
    }
}

/// The pairs of key and value behind the text of a record; lines that are none are left out.
#[derive(Debug, Clone)]
pub struct Pairs<'a> {
    lines: Lines<'a>,
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.lines.by_ref().find_map(|line| cut(line.strip_prefix(b" ")?, b'='))
    }
}

/// What stands before the first `;`.
struct Header<'a> {
    release: Option<&'a [u8]>,
    header: RecordHeader,
    /// What follows the fixed fields, with the comma in front.
    fields: &'a [u8],
}

impl<'a> Header<'a> {
    fn parse(head: &'a [u8]) -> Option<Self> {
        if let Some((header, fields)) = fixed_fields(head) {
            return Some(Header { release: None, header, fields });
        }
        let (release, head) = cut(head, b',')?;
        let (header, fields) = fixed_fields(head)?;
        let is_release = (1..=MAX_RELEASE).contains(&release.len()) && release.iter().all(u8::is_ascii_graphic);
        is_release.then_some(Header { release: Some(release), header, fields })
    }
}

fn fixed_fields(head: &[u8]) -> Option<(RecordHeader, &[u8])> {
    let (priority, rest) = cut(head, b',')?;
    let (sequence, rest) = cut(rest, b',')?;
    let (time, rest) = cut(rest, b',')?;
    let (flag, fields) = rest.split_at_checked(1)?;
    if !fields.is_empty() && !fields.starts_with(b",") {
        return None;
    }
    Some((RecordHeader::from_fields([priority, sequence, time, flag])?, fields))
}

/// The fields without `ncfrag`, which a sender puts last and once, and what it says.
fn split_ncfrag(fields: &[u8]) -> Result<(&[u8], Option<Fragment>)> {
    let last = fields.iter().rposition(|byte| *byte == b',').and_then(|comma| fields.split_at_checked(comma));
    let value = last.and_then(|(before, field)| Some((before, field.strip_prefix(b",")?.strip_prefix(NCFRAG)?)));
    let Some((fields, value)) = value else {
        return if has_ncfrag(fields) { Err(Error::Invalid("ncfrag")) } else { Ok((fields, None)) };
    };
    let number = |text| decimal(text).and_then(|value| u32::try_from(value).ok()).ok_or(Error::Invalid("ncfrag"));
    let (offset, total) = cut(value, b'/').ok_or(Error::Invalid("ncfrag"))?;
    if has_ncfrag(fields) {
        return Err(Error::Invalid("ncfrag"));
    }
    Ok((fields, Some(Fragment { offset: number(offset)?, total: number(total)? })))
}

fn has_ncfrag(fields: &[u8]) -> bool {
    fields.split(|byte| *byte == b',').any(|field| field.starts_with(NCFRAG))
}
