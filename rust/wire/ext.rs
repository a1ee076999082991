// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The items that our extension of the classic protocol carries (docs/protocol.md, "Extension").
//!
//! Item NOTES is a sequence of `type u16 | flags u16 | length u32 | value`, unpadded, unknown types skipped:
//! [`Tlvs`] walks over it, [`Note`] gives one its type, [`NotesWriter`] writes it.
//! Item VOLATILE is an array of [`VolatileRange`]. Item LOG is plain text.

use super::{Error, PhysAddr, Reader, Result, Writer};

/// Bytes in front of the value of a note.
pub const TLV_HEADER_LEN: usize = 8;
/// The longest patch of an OVERLAY.
pub const MAX_OVERLAY: usize = 4096 - 8;
/// Bytes of one entry of item VOLATILE.
pub const VOLATILE_LEN: usize = 32;

const MACHINE: u16 = 1;
const CPU: u16 = 2;
const VMCOREINFO: u16 = 3;
const RANGES: u16 = 4;
const KTEXT: u16 = 5;
const LAYOUT: u16 = 6;
const IDENTITY: u16 = 7;
const PANIC: u16 = 8;
const OVERLAY: u16 = 9;

/// One note, type not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tlv<'a> {
    /// What the value is.
    pub kind: u16,
    /// 0.
    pub flags: u16,
    /// The value.
    pub value: &'a [u8],
}

/// Walks over the notes of an item; ends at its end or after the first error.
#[derive(Debug, Clone)]
pub struct Tlvs<'a> {
    rest: Reader<'a>,
    done: bool,
}

impl<'a> Tlvs<'a> {
    /// The notes in `item`.
    pub fn new(item: &'a [u8]) -> Self {
        Tlvs { rest: Reader::new(item), done: false }
    }

    fn take(&mut self) -> Result<Tlv<'a>> {
        let r = &mut self.rest;
        let (kind, flags, len) = (r.u16("note type")?, r.u16("note flags")?, r.u32("note length")?);
        let len = usize::try_from(len).map_err(|_| Error::Invalid("note length"))?;
        Ok(Tlv { kind, flags, value: r.bytes(len, "note value")? })
    }
}

impl<'a> Iterator for Tlvs<'a> {
    type Item = Result<Tlv<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done || self.rest.rest().is_empty() {
            return None;
        }
        let tlv = self.take();
        self.done = tlv.is_err();
        Some(tlv)
    }
}

/// Byte order of the client's memory and registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteOrder {
    /// Least significant byte first.
    Little,
    /// Most significant byte first.
    Big,
}

/// MACHINE: what kind of machine the memory is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineNote {
    /// As in an ELF header.
    pub e_machine: u16,
    /// log2 of the page size in bytes; 10 to 16.
    pub page_shift: u8,
    /// Of memory and registers.
    pub byte_order: ByteOrder,
    /// CPUs that could ever be online.
    pub cpus_possible: u32,
    /// The CPU that the panic ran on.
    pub crashing_cpu: u32,
}

/// CPU: one CPU at the moment of the stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuNote<'a> {
    /// Its number.
    pub cpu: u32,
    /// The task that ran on it.
    pub pid: u32,
    /// See [`CpuFlags`].
    pub flags: CpuFlags,
    /// Address of that task's `task_struct`.
    pub task_struct: u64,
    /// `elf_gregset` in the client's byte order, when the registers are known.
    pub regs: Option<&'a [u8]>,
}

/// Flags of a [`CpuNote`]. Whether registers are there is told by the note's `regs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuFlags {
    /// The panic ran here.
    pub crashing: bool,
    /// It was online before the CPUs were stopped.
    pub was_online: bool,
    /// The registers were taken by an NMI.
    pub by_nmi: bool,
}

const CPU_CRASHING: u32 = 1;
const CPU_WAS_ONLINE: u32 = 1 << 1;
const CPU_REGS_VALID: u32 = 1 << 2;
const CPU_BY_NMI: u32 = 1 << 3;

/// A run of physical memory, end exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhysRange {
    /// First byte.
    pub start: PhysAddr,
    /// First byte behind it.
    pub end: PhysAddr,
}

/// RANGES: System RAM, ascending and disjoint (checked when parsed).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranges<'a> {
    raw: &'a [u8],
}

impl<'a> Ranges<'a> {
    fn parse(raw: &'a [u8]) -> Result<Self> {
        if raw.len().checked_rem(16) != Some(0) {
            return Err(Error::Truncated("range"));
        }
        let ranges = Ranges { raw };
        let mut floor = 0;
        for range in ranges.iter() {
            if range.start.0 < floor || range.end.0 <= range.start.0 {
                return Err(Error::Invalid("order of ranges"));
            }
            floor = range.end.0;
        }
        Ok(ranges)
    }

    /// The ranges in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = PhysRange> + 'a {
        self.raw.chunks_exact(16).filter_map(|entry| {
            let mut r = Reader::new(entry);
            let (start, end) = (r.u64("start").ok()?, r.u64("end").ok()?);
            Some(PhysRange { start: PhysAddr(start), end: PhysAddr(end) })
        })
    }

    /// Whether all bounds are multiples of the page size `1 << page_shift`.
    pub fn is_page_aligned(&self, page_shift: u8) -> bool {
        let mask = 1u64.checked_shl(u32::from(page_shift)).unwrap_or(0).wrapping_sub(1);
        self.iter().all(|range| (range.start.0 | range.end.0) & mask == 0)
    }
}

/// KTEXT: where the kernel image is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KtextNote {
    /// Kernel virtual address.
    pub vaddr: u64,
    /// Physical address behind it.
    pub paddr: PhysAddr,
    /// Bytes.
    pub length: u64,
}

/// A note with its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note<'a> {
    /// One per dump.
    Machine(MachineNote),
    /// One per CPU that was online, ascending.
    Cpu(CpuNote<'a>),
    /// The text that the kernel keeps for crash dumps.
    Vmcoreinfo(&'a [u8]),
    /// Memory that may be asked for.
    Ranges(Ranges<'a>),
    /// Kernel image mapping.
    Ktext(KtextNote),
    /// Virtual address of physical 0 in the direct map.
    Layout {
        /// That address.
        page_offset: u64,
    },
    /// Lines of `key=value`: hostname, release, version, machine; others may come.
    Identity(&'a [u8]),
    /// The panic message.
    Panic(&'a [u8]),
    /// Bytes that a reader of the dump should see instead of the memory at `paddr`.
    Overlay {
        /// Where.
        paddr: PhysAddr,
        /// At most [`MAX_OVERLAY`] bytes.
        data: &'a [u8],
    },
    /// A type that we do not know.
    Unknown {
        /// The type.
        kind: u16,
        /// Its value.
        value: &'a [u8],
    },
}

impl<'a> Note<'a> {
    /// Reads the value of `tlv`. Fixed-size values may grow at their end in later versions.
    pub fn parse(tlv: &Tlv<'a>) -> Result<Self> {
        let value = tlv.value;
        let mut r = Reader::new(value);
        Ok(match tlv.kind {
            MACHINE => {
                let e_machine = r.u16("e_machine")?;
                let page_shift = r.u8("page shift")?;
                if !(10..=16).contains(&page_shift) {
                    return Err(Error::Invalid("page shift"));
                }
                let byte_order = match r.u8("byte order")? {
                    1 => ByteOrder::Little,
                    2 => ByteOrder::Big,
                    _ => return Err(Error::Invalid("byte order")),
                };
                let (cpus_possible, crashing_cpu) = (r.u32("cpus possible")?, r.u32("crashing cpu")?);
                r.u32("machine flags")?;
                Note::Machine(MachineNote { e_machine, page_shift, byte_order, cpus_possible, crashing_cpu })
            }
            CPU => {
                let (cpu, pid, bits) = (r.u32("cpu")?, r.u32("pid")?, r.u32("cpu flags")?);
                let task_struct = r.u64("task_struct")?;
                let regs = (bits & CPU_REGS_VALID != 0).then_some(r.rest());
                if regs.is_some_and(<[u8]>::is_empty) {
                    return Err(Error::Truncated("registers"));
                }
                let flags = CpuFlags {
                    crashing: bits & CPU_CRASHING != 0,
                    was_online: bits & CPU_WAS_ONLINE != 0,
                    by_nmi: bits & CPU_BY_NMI != 0,
                };
                Note::Cpu(CpuNote { cpu, pid, flags, task_struct, regs })
            }
            VMCOREINFO => Note::Vmcoreinfo(value),
            RANGES => Note::Ranges(Ranges::parse(value)?),
            KTEXT => {
                let (vaddr, paddr, length) = (r.u64("ktext vaddr")?, r.u64("ktext paddr")?, r.u64("ktext length")?);
                if paddr.checked_add(length).is_none() || vaddr.checked_add(length).is_none() {
                    return Err(Error::Invalid("ktext length"));
                }
                Note::Ktext(KtextNote { vaddr, paddr: PhysAddr(paddr), length })
            }
            LAYOUT => Note::Layout { page_offset: r.u64("page_offset")? },
            IDENTITY => Note::Identity(value),
            PANIC => Note::Panic(value),
            OVERLAY => {
                let paddr = r.u64("overlay paddr")?;
                let data = r.rest();
                if data.len() > MAX_OVERLAY || paddr.checked_add(data.len() as u64).is_none() {
                    return Err(Error::Invalid("overlay length"));
                }
                Note::Overlay { paddr: PhysAddr(paddr), data }
            }
            kind => Note::Unknown { kind, value },
        })
    }
}

/// Writes item NOTES into a buffer, note by note. A note that does not fit leaves what was written as it is.
#[derive(Debug)]
pub struct NotesWriter<'a> {
    out: Writer<'a>,
}

impl<'a> NotesWriter<'a> {
    /// Writes to the front of `buf`.
    pub fn new(buf: &'a mut [u8]) -> Self {
        NotesWriter { out: Writer::new(buf) }
    }

    /// Length of the item so far, bytes.
    #[allow(clippy::len_without_is_empty)] // a length of what was written, not a container
    pub fn len(&self) -> usize {
        self.out.written()
    }

    /// Room for a note with `len` bytes of value: its header is written, its value is the caller's to write, all of it.
    fn begin(&mut self, kind: u16, len: usize) -> Result<Writer<'a>> {
        let wire_len = u32::try_from(len).map_err(|_| Error::NoRoom)?;
        let mut note = Writer::new(self.out.claim(len.checked_add(TLV_HEADER_LEN).ok_or(Error::NoRoom)?)?);
        note.u16(kind)?;
        note.u16(0)?;
        note.u32(wire_len)?;
        Ok(note)
    }

    /// A note of any type.
    pub fn raw(&mut self, kind: u16, value: &[u8]) -> Result<()> {
        self.begin(kind, value.len())?.bytes(value)
    }

    /// MACHINE.
    pub fn machine(&mut self, note: &MachineNote) -> Result<()> {
        let mut w = self.begin(MACHINE, 16)?;
        w.u16(note.e_machine)?;
        w.u8(note.page_shift)?;
        w.u8(match note.byte_order {
            ByteOrder::Little => 1,
            ByteOrder::Big => 2,
        })?;
        w.u32(note.cpus_possible)?;
        w.u32(note.crashing_cpu)?;
        w.u32(0)
    }

    /// CPU.
    pub fn cpu(&mut self, note: &CpuNote<'_>) -> Result<()> {
        let regs = note.regs.unwrap_or(&[]);
        let flag = |set: bool, bit: u32| if set { bit } else { 0 };
        let mut w = self.begin(CPU, regs.len().saturating_add(20))?;
        w.u32(note.cpu)?;
        w.u32(note.pid)?;
        w.u32(
            flag(note.flags.crashing, CPU_CRASHING)
                | flag(note.flags.was_online, CPU_WAS_ONLINE)
                | flag(!regs.is_empty(), CPU_REGS_VALID)
                | flag(note.flags.by_nmi, CPU_BY_NMI),
        )?;
        w.u64(note.task_struct)?;
        w.bytes(regs)
    }

    /// VMCOREINFO.
    pub fn vmcoreinfo(&mut self, text: &[u8]) -> Result<()> {
        self.raw(VMCOREINFO, text)
    }

    /// RANGES; they must be ascending and disjoint.
    pub fn ranges(&mut self, ranges: &[PhysRange]) -> Result<()> {
        let mut w = self.begin(RANGES, ranges.len().saturating_mul(16))?;
        for range in ranges {
            w.u64(range.start.0)?;
            w.u64(range.end.0)?;
        }
        Ok(())
    }

    /// KTEXT.
    pub fn ktext(&mut self, note: &KtextNote) -> Result<()> {
        let mut w = self.begin(KTEXT, 24)?;
        w.u64(note.vaddr)?;
        w.u64(note.paddr.0)?;
        w.u64(note.length)
    }

    /// LAYOUT.
    pub fn layout(&mut self, page_offset: u64) -> Result<()> {
        self.begin(LAYOUT, 8)?.u64(page_offset)
    }

    /// IDENTITY: `key=value` lines. A line break in a value becomes a blank, so that it cannot make up a key.
    pub fn identity(&mut self, pairs: &[(&str, &[u8])]) -> Result<()> {
        let mut len = 0usize;
        for (key, value) in pairs {
            len = len.saturating_add(key.len()).saturating_add(value.len()).saturating_add(2);
        }
        let mut w = self.begin(IDENTITY, len)?;
        for (key, value) in pairs {
            w.bytes(key.as_bytes())?;
            w.u8(b'=')?;
            for (out, byte) in w.claim(value.len())?.iter_mut().zip(*value) {
                *out = if *byte == b'\n' { b' ' } else { *byte };
            }
            w.u8(b'\n')?;
        }
        Ok(())
    }

    /// PANIC.
    pub fn panic_text(&mut self, text: &[u8]) -> Result<()> {
        self.raw(PANIC, text)
    }

    /// OVERLAY; at most [`MAX_OVERLAY`] bytes.
    pub fn overlay(&mut self, paddr: PhysAddr, data: &[u8]) -> Result<()> {
        if data.len() > MAX_OVERLAY {
            return Err(Error::Invalid("overlay length"));
        }
        let mut w = self.begin(OVERLAY, data.len().saturating_add(8))?;
        w.u64(paddr.0)?;
        w.bytes(data)
    }
}

/// One entry of item VOLATILE: memory that the client changed while it dumped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolatileRange {
    /// Where.
    pub range: PhysRange,
    /// What it is, ASCII padded with NUL.
    pub label: [u8; 16],
}

impl VolatileRange {
    /// An entry; of a label longer than 16 bytes the rest is dropped.
    pub fn new(range: PhysRange, label: &str) -> Self {
        let mut padded = [0u8; 16];
        for (out, byte) in padded.iter_mut().zip(label.as_bytes()) {
            *out = *byte;
        }
        VolatileRange { range, label: padded }
    }

    /// The label without its padding, if it is printable ASCII.
    pub fn label(&self) -> Option<&str> {
        let text = self.label.split(|b| *b == 0).next()?;
        let text = core::str::from_utf8(text).ok()?;
        text.bytes().all(|b| b.is_ascii_graphic() || b == b' ').then_some(text)
    }

    /// Reads one entry.
    pub fn parse(entry: &[u8]) -> Result<Self> {
        let mut r = Reader::new(entry);
        let (start, end) = (r.u64("start")?, r.u64("end")?);
        if end < start {
            return Err(Error::Invalid("order of ranges"));
        }
        let range = PhysRange { start: PhysAddr(start), end: PhysAddr(end) };
        Ok(VolatileRange { range, label: *r.array("label")? })
    }

    /// Writes the entry to the front of `buf` and returns [`VOLATILE_LEN`].
    pub fn emit(&self, buf: &mut [u8]) -> Result<usize> {
        let mut w = Writer::new(buf);
        w.u64(self.range.start.0)?;
        w.u64(self.range.end.0)?;
        w.bytes(&self.label)?;
        Ok(w.written())
    }

    /// The entries of a whole item.
    pub fn iter(item: &[u8]) -> impl Iterator<Item = Result<VolatileRange>> + '_ {
        item.chunks(VOLATILE_LEN).map(VolatileRange::parse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn item(fill: impl Fn(&mut NotesWriter<'_>) -> Result<()>) -> Vec<u8> {
        let mut buf = [0xeeu8; 8192];
        let mut w = NotesWriter::new(&mut buf);
        fill(&mut w).unwrap();
        let len = w.len();
        buf[..len].to_vec()
    }

    fn only(item: &[u8]) -> Result<Note<'_>> {
        let mut tlvs = Tlvs::new(item);
        let tlv = tlvs.next().unwrap()?;
        assert!(tlvs.next().is_none());
        Note::parse(&tlv)
    }

    #[test]
    fn machine_bytes() {
        let note = MachineNote {
            e_machine: 62,
            page_shift: 12,
            byte_order: ByteOrder::Little,
            cpus_possible: 4,
            crashing_cpu: 1,
        };
        let wire = item(|w| w.machine(&note));
        assert_eq!(wire, [0, 1, 0, 0, 0, 0, 0, 16, 0, 62, 12, 1, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(only(&wire), Ok(Note::Machine(note)));
        let mut bad = wire.clone();
        bad[11] = 3;
        assert_eq!(only(&bad), Err(Error::Invalid("byte order")));
        bad = wire;
        bad[10] = 64;
        assert_eq!(only(&bad), Err(Error::Invalid("page shift")));
    }

    #[test]
    fn cpu_bytes() {
        let flags = CpuFlags { crashing: true, was_online: true, by_nmi: false };
        let note = CpuNote { cpu: 1, pid: 0x0203, flags, task_struct: 0xffff_8880_0000_1000, regs: Some(&[7, 8]) };
        let wire = item(|w| w.cpu(&note));
        assert_eq!(
            wire,
            [0, 2, 0, 0, 0, 0, 0, 22, 0, 0, 0, 1, 0, 0, 2, 3, 0, 0, 0, 7, 0xff, 0xff, 0x88, 0x80, 0, 0, 0x10, 0, 7, 8]
        );
        assert_eq!(only(&wire), Ok(Note::Cpu(note)));
        let without = CpuNote { regs: None, ..note };
        let wire = item(|w| w.cpu(&without));
        assert_eq!(wire[19], 3);
        assert_eq!(only(&wire), Ok(Note::Cpu(without)));
    }

    #[test]
    fn other_notes_come_back() {
        let ktext = KtextNote { vaddr: 0xffff_ffff_8100_0000, paddr: PhysAddr(0x100_0000), length: 0x200_0000 };
        let wire = item(|w| {
            w.vmcoreinfo(b"OSRELEASE=7.3\n")?;
            w.ktext(&ktext)?;
            w.layout(0xffff_8880_0000_0000)?;
            w.identity(&[("hostname", b"a\nb"), ("release", b"7.3")])?;
            w.panic_text(b"sysrq")?;
            w.overlay(PhysAddr(0x1234), &[1, 2, 3])?;
            w.raw(500, b"future")
        });
        let notes: Vec<_> = Tlvs::new(&wire).map(|tlv| Note::parse(&tlv.unwrap()).unwrap()).collect();
        assert_eq!(
            notes,
            [
                Note::Vmcoreinfo(b"OSRELEASE=7.3\n"),
                Note::Ktext(ktext),
                Note::Layout { page_offset: 0xffff_8880_0000_0000 },
                Note::Identity(b"hostname=a b\nrelease=7.3\n"),
                Note::Panic(b"sysrq"),
                Note::Overlay { paddr: PhysAddr(0x1234), data: &[1, 2, 3] },
                Note::Unknown { kind: 500, value: b"future" },
            ]
        );
    }

    #[test]
    fn ranges_must_ascend() {
        let range = |start, end| PhysRange { start: PhysAddr(start), end: PhysAddr(end) };
        let good = [range(0x1000, 0x9f000), range(0x10_0000, 0x2000_0000)];
        let wire = item(|w| w.ranges(&good));
        let Ok(Note::Ranges(parsed)) = only(&wire) else { panic!("not RANGES") };
        assert!(parsed.iter().eq(good));
        assert!(parsed.is_page_aligned(12));
        assert!(!parsed.is_page_aligned(13));
        for bad in [[range(0x1000, 0x3000), range(0x2000, 0x4000)], [range(0x1000, 0x1000), range(0x2000, 0x4000)]] {
            assert_eq!(only(&item(|w| w.ranges(&bad))), Err(Error::Invalid("order of ranges")));
        }
    }

    #[test]
    fn walking_ends_at_the_first_error() {
        let mut wire = item(|w| w.panic_text(b"text"));
        wire[7] = 5;
        let mut tlvs = Tlvs::new(&wire);
        assert_eq!(tlvs.next(), Some(Err(Error::Truncated("note value"))));
        assert_eq!(tlvs.next(), None);
        assert_eq!(Tlvs::new(&[0, 1, 0]).next(), Some(Err(Error::Truncated("note flags"))));
        assert_eq!(Tlvs::new(&[]).next(), None);
    }

    #[test]
    fn a_note_that_does_not_fit_is_not_begun() {
        let mut buf = [0u8; 20];
        let mut w = NotesWriter::new(&mut buf);
        w.panic_text(b"ab").unwrap();
        assert_eq!(w.panic_text(b"abc"), Err(Error::NoRoom));
        assert_eq!(w.len(), 10);
        w.panic_text(b"cd").unwrap();
        assert_eq!(w.len(), 20);
    }

    #[test]
    fn volatile_bytes() {
        let entry = VolatileRange::new(PhysRange { start: PhysAddr(0x1000), end: PhysAddr(0x3000) }, "pool");
        let mut wire = [0u8; VOLATILE_LEN];
        assert_eq!(entry.emit(&mut wire), Ok(32));
        assert_eq!(wire, *b"\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\x30\0pool\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(VolatileRange::parse(&wire), Ok(entry));
        assert_eq!(entry.label(), Some("pool"));
        assert_eq!(VolatileRange::iter(&wire[..31]).next(), Some(Err(Error::Truncated("label"))));
    }
}
