// SPDX-License-Identifier: GPL-2.0-or-later
//! Reading a dump file back: what it claims to be, its notes, and physical memory.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use netdump_core::wire::classic::Machine;
use netdump_core::wire::PhysAddr;

use nix::unistd::Whence;

use crate::elf::{Class, Segment, DUMP_ELF_INCOMPLETE, ET_CORE, NT_PRSTATUS, PT_LOAD, PT_NOTE};
use crate::notes::{prstatus_places, MAX_VMCOREINFO};
use crate::vmcoreinfo::{Vmcoreinfo, VmcoreinfoError};

/// Longest notes that are read, bytes, all together. 8192 CPUs take 3 MB.
const MAX_NOTES: u64 = 16 << 20;

/// What crash takes the file for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// As kdump writes it.
    Kdump,
    /// The layout of 2005: first segment at a multiple of 4096 with an alignment.
    Netdump,
}

/// One note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Name, without NUL.
    pub name: String,
    /// Type; its meaning depends on the name.
    pub kind: u32,
    /// Contents.
    pub desc: Vec<u8>,
}

/// Why a file is no dump, or part of it cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The operating system says no.
    #[error("cannot read the dump")]
    Io(#[from] io::Error),
    /// It is something else, or damaged.
    #[error("not an ELF core dump: {0}")]
    NotADump(&'static str),
    /// No segment holds this address.
    #[error("physical address {:#x} is not in the dump", .0 .0)]
    NotInDump(PhysAddr),
    /// A segment says that the file holds this address, and the file ends before it.
    #[error("the file ends before physical address {:#x}: it was cut off", .0 .0)]
    CutOff(PhysAddr),
    /// The VMCOREINFO note makes no sense.
    #[error("VMCOREINFO: {0}")]
    Vmcoreinfo(#[from] VmcoreinfoError),
}

/// A dump file.
#[derive(Debug)]
pub struct Reader {
    file: File,
    class: Class,
    little: bool,
    machine: Machine,
    flags: u32,
    segments: Vec<Segment>,
    pieces: Vec<Piece>,
    notes: Vec<Note>,
}

/// A stretch of physical memory and where the file has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// First byte's physical address.
    pub paddr: u64,
    /// Bytes.
    pub len: u64,
    /// Place in the file.
    pub offset: u64,
}

/// Takes fields from bytes in the file's order; reads beyond the end give 0, lengths are checked before.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
    little: bool,
    class: Class,
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut field = [0; N];
        if let Some(bytes) = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>()) {
            field = *bytes;
        }
        if !self.little {
            field.reverse();
        }
        self.at += N;
        field
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn word(&mut self) -> u64 {
        match self.class {
            Class::Elf32 => u64::from(self.u32()),
            Class::Elf64 => u64::from_le_bytes(self.take()),
        }
    }
}

impl Reader {
    /// Opens a dump by name.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        Self::new(File::open(path)?)
    }

    /// Reads headers and notes.
    pub fn new(file: File) -> Result<Self, ReadError> {
        let mut ident = [0; 16];
        file.read_exact_at(&mut ident, 0).map_err(|_| ReadError::NotADump("too short"))?;
        if ident.starts_with(b"KDUMP   ") || ident.starts_with(b"DISKDUMP") || ident.starts_with(b"makedump") {
            return Err(ReadError::NotADump("it is in makedumpfile's own format; crash and drgn read it"));
        }
        let (class, little) = match ident {
            [0x7f, b'E', b'L', b'F', class @ 1..=2, order @ 1..=2, 1, ..] => {
                (if class == 1 { Class::Elf32 } else { Class::Elf64 }, order == 1)
            }
            _ => return Err(ReadError::NotADump("no ELF magic")),
        };
        let mut header = vec![0; class.header_len()];
        file.read_exact_at(&mut header, 0).map_err(|_| ReadError::NotADump("too short"))?;
        let mut f = Fields { bytes: &header, at: 16, little, class };
        let (kind, machine, version) = (f.u16(), Machine(f.u16()), f.u32());
        let (_entry, phoff, _shoff, flags) = (f.word(), f.word(), f.word(), f.u32());
        let (_ehsize, phentsize, count) = (f.u16(), f.u16(), f.u16());
        if kind != ET_CORE || version != 1 {
            return Err(ReadError::NotADump("not a core file"));
        }
        if phentsize as usize != class.program_header_len() {
            return Err(ReadError::NotADump("program header size"));
        }
        let mut table = vec![0; phentsize as usize * count as usize];
        file.read_exact_at(&mut table, phoff).map_err(|_| ReadError::NotADump("program headers"))?;
        let mut f = Fields { bytes: &table, at: 0, little, class };
        let segments: Vec<_> = (0..count).map(|_| segment(&mut f)).collect();
        let pieces = pieces(segments.iter().filter(|s| s.kind == PT_LOAD));
        let mut reader = Reader { file, class, little, machine, flags, segments, pieces, notes: Vec::new() };
        reader.notes = reader.read_notes()?;
        Ok(reader)
    }

    fn read_notes(&self) -> Result<Vec<Note>, ReadError> {
        let mut notes = Vec::new();
        // Many headers may name the same bytes: what counts is their sum.
        let mut room = MAX_NOTES;
        for segment in self.segments.iter().filter(|s| s.kind == PT_NOTE) {
            room = room.checked_sub(segment.len).ok_or(ReadError::NotADump("notes too long"))?;
            let mut bytes = vec![0; segment.len as usize];
            self.file.read_exact_at(&mut bytes, segment.offset).map_err(|_| ReadError::NotADump("notes"))?;
            let mut rest = bytes.as_slice();
            while rest.len() >= 12 {
                let mut f = Fields { bytes: rest, at: 0, little: self.little, class: self.class };
                let (name_len, desc_len, kind) = (f.u32() as usize, f.u32() as usize, f.u32());
                let desc_at = 12 + name_len.next_multiple_of(4);
                let (Some(name), Some(desc)) = (rest.get(12..12 + name_len), rest.get(desc_at..desc_at + desc_len))
                else {
                    return Err(ReadError::NotADump("a note runs out of its segment"));
                };
                let name = name.strip_suffix(b"\0").unwrap_or(name);
                let name = String::from_utf8_lossy(name).into_owned();
                notes.push(Note { name, kind, desc: desc.to_vec() });
                rest = rest.get(desc_at + desc_len.next_multiple_of(4)..).unwrap_or_default();
            }
        }
        Ok(notes)
    }

    /// Width of its addresses.
    pub fn class(&self) -> Class {
        self.class
    }

    /// Whose memory it is.
    pub fn machine(&self) -> Machine {
        self.machine
    }

    /// What crash takes it for.
    pub fn kind(&self) -> Kind {
        match self.loads().next() {
            Some(first) if first.offset % 4096 == 0 && first.align != 0 => Kind::Netdump,
            _ => Kind::Kdump,
        }
    }

    /// It was finished, as far as its header can say (the layout of 2005 cannot).
    pub fn is_complete(&self) -> bool {
        self.flags & DUMP_ELF_INCOMPLETE == 0
    }

    /// Segments with memory, in file order.
    pub fn loads(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|s| s.kind == PT_LOAD)
    }

    /// All notes.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// `pr_pid` and registers of each CPU.
    pub fn registers(&self) -> Vec<(u32, Vec<u8>)> {
        let narrow = self.machine == Machine::I386;
        let (pid_at, regs_at) = prstatus_places(if narrow { Class::Elf32 } else { self.class });
        let status = self.notes.iter().filter(|n| n.name == "CORE" && n.kind == NT_PRSTATUS);
        status
            .map(|note| {
                let mut f = Fields { bytes: &note.desc, at: pid_at, little: self.little, class: self.class };
                let end = self.machine.regs_len().map_or(note.desc.len(), |len| regs_at + len);
                let end = end.min(note.desc.len());
                (f.u32(), note.desc.get(regs_at..end).unwrap_or_default().to_vec())
            })
            .collect()
    }

    /// The VMCOREINFO note, if there is one. No kernel fills even one page with it.
    pub fn vmcoreinfo(&self) -> Result<Option<Vmcoreinfo<'_>>, ReadError> {
        let Some(note) = self.notes.iter().find(|n| n.name == "VMCOREINFO") else { return Ok(None) };
        if note.desc.len() > MAX_VMCOREINFO {
            return Err(ReadError::NotADump("VMCOREINFO too long"));
        }
        Ok(Some(Vmcoreinfo::parse(&note.desc)?))
    }

    /// All memory that there is, each address once, ascending. Where segments overlap the first in the file counts.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Fills `out` with physical memory from `addr` on.
    pub fn read(&self, addr: PhysAddr, out: &mut [u8]) -> Result<(), ReadError> {
        let mut at = addr.0;
        let mut rest = out;
        while !rest.is_empty() {
            let missing = ReadError::NotInDump(PhysAddr(at));
            let next = self.pieces.partition_point(|piece| piece.paddr <= at);
            let Some(piece) = next.checked_sub(1).and_then(|n| self.pieces.get(n)) else { return Err(missing) };
            let within = at - piece.paddr;
            let room = piece.len.saturating_sub(within).min(rest.len() as u64);
            if room == 0 {
                return Err(missing);
            }
            let (now, later) = rest.split_at_mut(room as usize);
            self.file.read_exact_at(now, piece.offset.saturating_add(within)).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => ReadError::CutOff(PhysAddr(at)),
                _ => ReadError::Io(error),
            })?;
            at = at.saturating_add(room);
            rest = later;
        }
        Ok(())
    }

    /// The file's length.
    pub fn file_len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// The first stretch within `range` of the file that is no hole. A file system that knows no holes has none.
    pub fn stored(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
        let seek = |from: u64, whence| {
            let Ok(from) = i64::try_from(from) else { return Ok(None) };
            // The file's position is used by nobody: all reads say where.
            match nix::unistd::lseek(&self.file, from, whence) {
                Ok(at) => Ok(u64::try_from(at).ok()),
                Err(nix::Error::ENXIO) => Ok(None),
                Err(error) => Err(io::Error::from(error)),
            }
        };
        if range.is_empty() {
            return Ok(None);
        }
        let Some(start) = seek(range.start, Whence::SeekData)?.filter(|start| *start < range.end) else {
            return Ok(None);
        };
        let end = seek(start, Whence::SeekHole)?.unwrap_or(range.end);
        Ok(Some(start..end.min(range.end)))
    }
}

/// The segments without their overlaps. A stranger may have made them: it takes n log n steps for n of them.
fn pieces<'a>(segments: impl Iterator<Item = &'a Segment>) -> Vec<Piece> {
    let mut starts: Vec<_> = segments.enumerate().map(|(order, segment)| (segment.paddr, order, segment)).collect();
    starts.sort_unstable_by_key(|(paddr, order, _)| (*paddr, *order));
    let end = |segment: &Segment| segment.paddr.saturating_add(segment.len);
    let mut edges: Vec<u64> = starts.iter().flat_map(|(paddr, _, segment)| [*paddr, end(segment)]).collect();
    edges.sort_unstable();
    edges.dedup();
    let mut starts = starts.into_iter().peekable();
    // Those that have begun: the first in the file on top.
    let mut open: BinaryHeap<Reverse<(usize, u64, u64, u64)>> = BinaryHeap::new();
    let mut pieces: Vec<Piece> = Vec::new();
    for edge in edges.windows(2) {
        let [from, to] = *edge else { continue };
        while let Some((paddr, order, segment)) = starts.next_if(|(paddr, ..)| *paddr <= from) {
            open.push(Reverse((order, paddr, end(segment), segment.offset)));
        }
        while open.peek().is_some_and(|Reverse((_, _, end, _))| *end <= from) {
            open.pop();
        }
        let Some(Reverse((_, paddr, _, offset))) = open.peek() else { continue };
        let offset = offset.saturating_add(from - paddr);
        match pieces.last_mut() {
            Some(last) if last.paddr + last.len == from && last.offset.checked_add(last.len) == Some(offset) => {
                last.len += to - from;
            }
            _ => pieces.push(Piece { paddr: from, len: to - from, offset }),
        }
    }
    pieces
}

fn segment(f: &mut Fields<'_>) -> Segment {
    let kind = f.u32();
    if f.class == Class::Elf64 {
        f.u32(); // p_flags
    }
    let (offset, vaddr, paddr, len) = (f.word(), f.word(), f.word(), f.word());
    f.word(); // p_memsz
    if f.class == Class::Elf32 {
        f.u32(); // p_flags
    }
    Segment { kind, offset, vaddr, paddr, len, align: f.word() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Each address is where the first segment that has it says, and what no segment has is in no piece.
        #[test]
        fn pieces_are_the_segments_without_overlaps(
            segments in proptest::collection::vec((0u64..48, 0u64..24, 0u64..200), 0..12),
            high in any::<bool>(),
        ) {
            // At the end of all addresses nothing may wrap.
            let base = if high { u64::MAX - 64 } else { 0 };
            let segments: Vec<_> = segments
                .into_iter()
                .map(|(start, len, offset)| {
                    Segment { kind: PT_LOAD, offset, vaddr: 0, paddr: base + start, len, align: 0 }
                })
                .collect();
            let pieces = pieces(segments.iter());
            prop_assert!(pieces.windows(2).all(|pair| pair[0].paddr + pair[0].len <= pair[1].paddr));
            prop_assert!(pieces.len() < 2 * segments.len().max(1));
            for at in base..base + 64 {
                let found = pieces.iter().find(|piece| piece.paddr <= at && at - piece.paddr < piece.len);
                let first = segments.iter().find(|segment| segment.paddr <= at && at - segment.paddr < segment.len);
                prop_assert_eq!(
                    found.map(|piece| piece.offset + (at - piece.paddr)),
                    first.map(|segment| segment.offset + (at - segment.paddr))
                );
            }
        }
    }
}
