// SPDX-License-Identifier: GPL-2.0-or-later
//! ELF core headers, byte by byte, in either class and byte order. Only what core files need.

use netdump_core::wire::classic::Machine;
use netdump_core::wire::ext::ByteOrder;

/// `ET_CORE`.
pub(crate) const ET_CORE: u16 = 4;
/// Program header types.
pub(crate) const PT_LOAD: u32 = 1;
pub(crate) const PT_NOTE: u32 = 4;
/// `PF_R | PF_W | PF_X`, as kdump marks its segments.
pub(crate) const PF_ALL: u32 = 7;
/// Note types of name `CORE`.
pub(crate) const NT_PRSTATUS: u32 = 1;
pub(crate) const NT_PRPSINFO: u32 = 3;
pub(crate) const NT_TASKSTRUCT: u32 = 4;
/// makedumpfile's bit of `e_flags`, which crash shows as `[PARTIAL DUMP]`: the file is not finished.
pub(crate) const DUMP_ELF_INCOMPLETE: u32 = 1;

/// Width of addresses and offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// 32 bits.
    Elf32,
    /// 64 bits.
    Elf64,
}

impl Class {
    pub(crate) const fn header_len(self) -> usize {
        match self {
            Class::Elf32 => 52,
            Class::Elf64 => 64,
        }
    }

    pub(crate) const fn program_header_len(self) -> usize {
        match self {
            Class::Elf32 => 32,
            Class::Elf64 => 56,
        }
    }
}

/// A program header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// `PT_LOAD`, `PT_NOTE`.
    pub(crate) kind: u32,
    /// Place in the file.
    pub offset: u64,
    /// Virtual address.
    pub vaddr: u64,
    /// Physical address.
    pub paddr: u64,
    /// Bytes in the file (and in memory: core files have no other kind).
    pub len: u64,
    /// As stored; crash tells file kinds by it.
    pub align: u64,
}

/// Appends fields in a byte order.
#[derive(Debug)]
pub(crate) struct Out {
    pub(crate) bytes: Vec<u8>,
    order: ByteOrder,
    class: Class,
}

impl Out {
    pub(crate) fn new(class: Class, order: ByteOrder) -> Self {
        Out { bytes: Vec::new(), order, class }
    }

    fn u16(&mut self, value: u16) {
        match self.order {
            ByteOrder::Little => self.bytes.extend_from_slice(&value.to_le_bytes()),
            ByteOrder::Big => self.bytes.extend_from_slice(&value.to_be_bytes()),
        }
    }

    pub(crate) fn u32(&mut self, value: u32) {
        match self.order {
            ByteOrder::Little => self.bytes.extend_from_slice(&value.to_le_bytes()),
            ByteOrder::Big => self.bytes.extend_from_slice(&value.to_be_bytes()),
        }
    }

    pub(crate) fn u64(&mut self, value: u64) {
        match self.order {
            ByteOrder::Little => self.bytes.extend_from_slice(&value.to_le_bytes()),
            ByteOrder::Big => self.bytes.extend_from_slice(&value.to_be_bytes()),
        }
    }

    /// An address or offset. What does not fit 32 bits saturates: readers of such files look only at the start.
    pub(crate) fn word(&mut self, value: u64) {
        match self.class {
            Class::Elf32 => self.u32(u32::try_from(value).unwrap_or(u32::MAX)),
            Class::Elf64 => self.u64(value),
        }
    }

    pub(crate) fn zeros(&mut self, count: usize) {
        self.bytes.resize(self.bytes.len() + count, 0);
    }

    /// The file header; program headers follow it at once.
    pub(crate) fn header(&mut self, machine: Machine, flags: u32, segments: u16) {
        self.bytes.extend_from_slice(b"\x7fELF");
        self.bytes.push(match self.class {
            Class::Elf32 => 1,
            Class::Elf64 => 2,
        });
        self.bytes.push(match self.order {
            ByteOrder::Little => 1,
            ByteOrder::Big => 2,
        });
        self.bytes.push(1); // EV_CURRENT
        self.zeros(9); // ELFOSABI_NONE and padding
        self.u16(ET_CORE);
        self.u16(machine.0);
        self.u32(1); // EV_CURRENT
        self.word(0); // e_entry
        self.word(self.class.header_len() as u64);
        self.word(0); // e_shoff
        self.u32(flags);
        self.u16(self.class.header_len() as u16);
        self.u16(self.class.program_header_len() as u16);
        self.u16(segments);
        self.zeros(6); // no sections
    }

    pub(crate) fn program_header(&mut self, segment: &Segment) {
        let flags = if segment.kind == PT_LOAD { PF_ALL } else { 0 };
        let memory = if segment.kind == PT_LOAD { segment.len } else { 0 };
        self.u32(segment.kind);
        if self.class == Class::Elf64 {
            self.u32(flags);
        }
        self.word(segment.offset);
        self.word(segment.vaddr);
        self.word(segment.paddr);
        self.word(segment.len);
        self.word(memory);
        if self.class == Class::Elf32 {
            self.u32(flags);
        }
        self.word(segment.align);
    }

    /// A note; `name` with its NUL, if it is to have one.
    pub(crate) fn note(&mut self, kind: u32, name: &[u8], desc: &[u8]) {
        self.u32(name.len() as u32);
        self.u32(desc.len() as u32);
        self.u32(kind);
        for field in [name, desc] {
            self.bytes.extend_from_slice(field);
            self.zeros(field.len().next_multiple_of(4) - field.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_64_little() {
        let mut out = Out::new(Class::Elf64, ByteOrder::Little);
        out.header(Machine::X86_64, 1, 3);
        let expected = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x04\0\x3e\0\x01\0\0\0\
            \0\0\0\0\0\0\0\0\x40\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x40\0\x38\0\x03\0\0\0\0\0\0\0";
        assert_eq!(out.bytes, expected);
    }

    #[test]
    fn header_32_big() {
        let mut out = Out::new(Class::Elf32, ByteOrder::Big);
        out.header(Machine(20), 0, 2);
        let expected = b"\x7fELF\x01\x02\x01\0\0\0\0\0\0\0\0\0\0\x04\0\x14\0\0\0\x01\
            \0\0\0\0\0\0\0\x34\0\0\0\0\0\0\0\0\0\x34\0\x20\0\x02\0\0\0\0\0\0";
        assert_eq!(out.bytes, expected);
    }

    #[test]
    fn program_header_in_both_classes() {
        let load =
            Segment { kind: PT_LOAD, offset: 0x1000, vaddr: 0x2_0000_0000, paddr: 0x3000, len: 0x4000, align: 0 };
        let mut out = Out::new(Class::Elf64, ByteOrder::Little);
        out.program_header(&load);
        let expected = b"\x01\0\0\0\x07\0\0\0\0\x10\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\0\x30\0\0\0\0\0\0\
            \0\x40\0\0\0\0\0\0\0\x40\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        assert_eq!(out.bytes, expected);
        let mut out = Out::new(Class::Elf32, ByteOrder::Little);
        out.program_header(&load);
        let expected = b"\x01\0\0\0\0\x10\0\0\xff\xff\xff\xff\0\x30\0\0\0\x40\0\0\0\x40\0\0\x07\0\0\0\0\0\0\0";
        assert_eq!(out.bytes, expected);
    }

    #[test]
    fn notes_are_padded() {
        let mut out = Out::new(Class::Elf64, ByteOrder::Little);
        out.note(0, b"VMCOREINFO\0", b"abcde");
        assert_eq!(out.bytes, b"\x0b\0\0\0\x05\0\0\0\0\0\0\0VMCOREINFO\0\0abcde\0\0\0");
    }
}
