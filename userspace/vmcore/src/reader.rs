// SPDX-License-Identifier: GPL-2.0-or-later
//! Reading a dump file back: what it claims to be, its notes, and physical memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use netdump_core::wire::classic::Machine;
use netdump_core::wire::PhysAddr;

use crate::elf::{Class, Segment, DUMP_ELF_INCOMPLETE, ET_CORE, NT_PRSTATUS, PT_LOAD, PT_NOTE};
use crate::notes::prstatus_places;
use crate::vmcoreinfo::{Vmcoreinfo, VmcoreinfoError};

/// Longest notes that are read, bytes. 8192 CPUs take 3 MB.
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
    notes: Vec<Note>,
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
        let mut reader = Reader { file, class, little, machine, flags, segments, notes: Vec::new() };
        reader.notes = reader.read_notes()?;
        Ok(reader)
    }

    fn read_notes(&self) -> Result<Vec<Note>, ReadError> {
        let mut notes = Vec::new();
        for segment in self.segments.iter().filter(|s| s.kind == PT_NOTE) {
            if segment.len > MAX_NOTES {
                return Err(ReadError::NotADump("notes too long"));
            }
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

    /// The VMCOREINFO note, if there is one.
    pub fn vmcoreinfo(&self) -> Result<Option<Vmcoreinfo<'_>>, ReadError> {
        let note = self.notes.iter().find(|n| n.name == "VMCOREINFO");
        Ok(note.map(|n| Vmcoreinfo::parse(&n.desc)).transpose()?)
    }

    /// Fills `out` with physical memory from `addr` on. It must lie in one segment.
    pub fn read(&self, addr: PhysAddr, out: &mut [u8]) -> Result<(), ReadError> {
        let fits = |s: &&Segment| {
            s.paddr <= addr.0 && addr.0.saturating_add(out.len() as u64) <= s.paddr.saturating_add(s.len)
        };
        let segment = self.loads().find(fits).ok_or(ReadError::NotInDump(addr))?;
        let offset = segment.offset.saturating_add(addr.0 - segment.paddr);
        Ok(self.file.read_exact_at(out, offset)?)
    }
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
