// SPDX-License-Identifier: GPL-2.0-or-later
//! Where everything lies in a dump file.
//!
//! ```text
//! ELF header | program headers | notes | pad to a page | memory
//! ```
//!
//! `Format::Elf` is what crash takes for a kdump (peers of the project tell it from a netdump by `p_align` 0):
//! PT_NOTE, one PT_LOAD per piece of the kernel image mapping, one per range of RAM; ranges follow each
//! other without gaps. The kernel image's segment points into the range that it lies in.
//! When the ranges are not known beforehand, memory lies at its physical address behind a larger header,
//! and the segments are written at the end.
//!
//! `Format::Netdump` is the file of 2005: PT_NOTE and one PT_LOAD from physical 0, header in one page,
//! `p_align` the page size, holes in memory holes in the file.

use netdump_core::wire::classic::Machine;
use netdump_core::wire::ext::PhysRange;
use netdump_core::wire::{Pfn, PhysAddr};

use crate::describe::DumpInfo;
use crate::elf::{Class, Out, Segment, DUMP_ELF_INCOMPLETE, PT_LOAD, PT_NOTE};
use crate::notes;

/// Header room where the number of segments is not known beforehand, bytes.
const OPEN_HEADER: u64 = 64 * 1024;
/// Segments that fit there beside the notes of a client without the extension.
pub(crate) const MAX_FOUND: usize = 1024;

/// Which kind of file to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// For today's tools.
    Elf,
    /// The 2005 layout.
    Netdump,
}

/// A piece of physical memory and its place in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) offset: u64,
}

/// The plan of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    class: Class,
    format: Format,
    notes: Vec<u8>,
    /// Memory, ascending.
    pieces: Vec<Piece>,
    data: u64,
    len: u64,
    /// The segments come from what was found, at the end.
    open: bool,
}

impl Layout {
    /// Plans the file for a dump.
    pub fn new(info: &DumpInfo, format: Format) -> Self {
        let page = info.page_size.bytes() as u64;
        let whole = PhysRange { start: PhysAddr(0), end: info.page_size.addr(Pfn(info.nr_pages)) };
        match format {
            Format::Netdump => {
                let class = if info.machine == Machine::I386 { Class::Elf32 } else { Class::Elf64 };
                let notes = notes::netdump(class, info);
                let head = class.header_len() + 2 * class.program_header_len() + notes.len();
                let data = (head as u64).next_multiple_of(page);
                Self::placed(class, format, notes, data, &[whole], false)
            }
            Format::Elf => {
                let class = Class::Elf64;
                let (notes, _) = notes::kdump(class, info);
                let Some(ranges) = &info.ranges else {
                    let head = OPEN_HEADER + notes.len() as u64;
                    return Self::placed(class, format, notes, head.next_multiple_of(page), &[whole], true);
                };
                let kernel = kernel_pieces(info, ranges).count();
                let segments = 1 + kernel + ranges.len();
                let head = class.header_len() + segments * class.program_header_len() + notes.len();
                Self::placed(class, format, notes, (head as u64).next_multiple_of(page), ranges, false)
            }
        }
    }

    fn placed(class: Class, format: Format, notes: Vec<u8>, data: u64, ranges: &[PhysRange], open: bool) -> Self {
        let mut len = data;
        let mut pieces = Vec::with_capacity(ranges.len());
        for range in ranges {
            pieces.push(Piece { start: range.start.0, end: range.end.0, offset: len });
            len = len.saturating_add(range.end.0.saturating_sub(range.start.0));
        }
        Layout { class, format, notes, pieces, data, len, open }
    }

    /// Length of the file, holes included, bytes.
    pub fn file_len(&self) -> u64 {
        self.len
    }

    /// Bytes in front of the memory.
    pub fn header_len(&self) -> u64 {
        self.data
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// The piece of memory that holds an address.
    pub(crate) fn piece(&self, addr: u64) -> Option<&Piece> {
        let at = self.pieces.partition_point(|piece| piece.end <= addr);
        self.pieces.get(at).filter(|piece| piece.start <= addr)
    }

    /// The bytes in front of the memory. `found`: the memory that is there, for a file without ranges.
    pub(crate) fn header(&self, info: &DumpInfo, complete: bool, found: &[PhysRange]) -> Vec<u8> {
        let align = match self.format {
            Format::Elf => 0,
            Format::Netdump => info.page_size.bytes() as u64,
        };
        let found_pieces: Vec<_> =
            found.iter().map(|r| Piece { start: r.start.0, end: r.end.0, offset: self.data + r.start.0 }).collect();
        let pieces = if self.open && !found.is_empty() { &found_pieces } else { &self.pieces };
        let load = |piece: &Piece, vaddr: u64| Segment {
            kind: PT_LOAD,
            offset: piece.offset,
            vaddr,
            paddr: piece.start,
            len: piece.end - piece.start,
            align,
        };
        let mut loads = Vec::new();
        if self.format == Format::Elf {
            if let Some(ranges) = &info.ranges {
                for (range, vaddr) in kernel_pieces(info, ranges) {
                    let offset = self.piece(range.start.0).map_or(0, |p| p.offset + (range.start.0 - p.start));
                    loads.push(load(&Piece { start: range.start.0, end: range.end.0, offset }, vaddr));
                }
            }
        }
        loads.extend(pieces.iter().map(|piece| load(piece, info.page_offset.wrapping_add(piece.start))));

        let segments = 1 + loads.len();
        let notes_at = self.class.header_len() + segments * self.class.program_header_len();
        let mut out = Out::new(self.class, info.byte_order);
        // The layout of 2005 knows no flags.
        let flags = if complete || self.format == Format::Netdump { 0 } else { DUMP_ELF_INCOMPLETE };
        out.header(info.machine, flags, segments as u16);
        out.program_header(&Segment {
            kind: PT_NOTE,
            offset: notes_at as u64,
            vaddr: 0,
            paddr: 0,
            len: self.notes.len() as u64,
            align: 0,
        });
        for segment in &loads {
            out.program_header(segment);
        }
        out.bytes.extend_from_slice(&self.notes);
        out.bytes
    }
}

/// The parts of the kernel image mapping that lie in RAM, with their virtual addresses.
fn kernel_pieces<'a>(info: &'a DumpInfo, ranges: &'a [PhysRange]) -> impl Iterator<Item = (PhysRange, u64)> + 'a {
    info.ktext.into_iter().flat_map(move |text| {
        let (start, end) = (text.paddr.0, text.paddr.0.saturating_add(text.length));
        ranges.iter().filter_map(move |range| {
            let (from, to) = (range.start.0.max(start), range.end.0.min(end));
            let piece = PhysRange { start: PhysAddr(from), end: PhysAddr(to) };
            (from < to).then(|| (piece, text.vaddr.wrapping_add(from - start)))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::info;

    #[test]
    fn ranges_follow_each_other() {
        let layout = Layout::new(&info(), Format::Elf);
        assert_eq!(layout.header_len(), 4096);
        assert_eq!(
            layout.pieces,
            [
                Piece { start: 0x1000, end: 0x9_f000, offset: 0x1000 },
                Piece { start: 0x10_0000, end: 0x20_0000, offset: 0x9_f000 },
            ]
        );
        assert_eq!(layout.file_len(), 0x19_f000);
        assert_eq!(layout.piece(0xfff), None);
        assert_eq!(layout.piece(0x9_efff).unwrap().start, 0x1000);
        assert_eq!(layout.piece(0x9_f000), None);
        assert_eq!(layout.piece(0x20_0000), None);
    }

    #[test]
    fn netdump_is_physical_memory_behind_one_page() {
        let layout = Layout::new(&info(), Format::Netdump);
        assert_eq!((layout.header_len(), layout.file_len()), (0x1000, 0x20_1000));
        assert_eq!(layout.piece(0x5000).unwrap().offset, 0x1000);
    }

    #[test]
    fn a_kernel_image_across_two_ranges_has_two_segments() {
        let mut info = info();
        info.ktext.as_mut().unwrap().paddr = PhysAddr(0x9_e000);
        info.ktext.as_mut().unwrap().length = 0x10_0000;
        let ranges = info.ranges.clone().unwrap();
        let pieces: Vec<_> = kernel_pieces(&info, &ranges).map(|(r, v)| (r.start.0, r.end.0, v)).collect();
        assert_eq!(
            pieces,
            [(0x9_e000, 0x9_f000, 0xffff_ffff_8100_0000), (0x10_0000, 0x19_e000, 0xffff_ffff_8106_2000)]
        );
    }
}
