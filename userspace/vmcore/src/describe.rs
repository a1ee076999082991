// SPDX-License-Identifier: GPL-2.0-or-later
//! What is known about a dump besides the memory itself: everything that its headers are made of.

use std::collections::BTreeMap;

use netdump_core::wire::classic::Machine;
use netdump_core::wire::ext::{ByteOrder, PhysRange};
use netdump_core::wire::{Pfn, PhysAddr};

/// Bytes in a page: a power of two from 4 KiB to 64 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageSize {
    shift: u8,
}

impl PageSize {
    /// 4 KiB, the page of x86.
    pub const KIB4: PageSize = PageSize { shift: 12 };

    /// The page size of that many bytes, if it is one that we take.
    pub fn from_bytes(bytes: u32) -> Option<Self> {
        let shift = bytes.trailing_zeros() as u8;
        (bytes.is_power_of_two() && (12..=16).contains(&shift)).then_some(PageSize { shift })
    }

    /// In bytes.
    pub fn bytes(self) -> usize {
        1 << self.shift
    }

    /// log2 of it.
    pub fn shift(self) -> u8 {
        self.shift
    }

    /// Physical address of the first byte of a page; saturates far beyond any real machine.
    pub fn addr(self, pfn: Pfn) -> PhysAddr {
        PhysAddr(pfn.0.saturating_mul(1 << self.shift))
    }

    /// The page that an address is in.
    pub fn pfn(self, addr: PhysAddr) -> Pfn {
        Pfn(addr.0 >> self.shift)
    }
}

/// One CPU when it was stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cpu {
    /// Its number.
    pub cpu: u32,
    /// The task that ran on it.
    pub pid: u32,
    /// Address of that task's `task_struct`.
    pub task_struct: u64,
    /// The panic ran here.
    pub crashing: bool,
    /// It was online before the CPUs were stopped.
    pub was_online: bool,
    /// The registers were taken by an NMI.
    pub by_nmi: bool,
    /// `elf_gregset` in the client's byte order; `None` when the client could not get them.
    pub regs: Option<Vec<u8>>,
}

/// The kernel image mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ktext {
    /// Kernel virtual address.
    pub vaddr: u64,
    /// Physical address behind it.
    pub paddr: PhysAddr,
    /// Bytes.
    pub length: u64,
}

/// Bytes that a reader should see instead of the memory at `paddr`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Where they belong.
    pub paddr: PhysAddr,
    /// The bytes.
    pub data: Vec<u8>,
}

/// Everything that the headers of a dump are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpInfo {
    /// As in an ELF header.
    pub machine: Machine,
    /// Of memory and registers.
    pub byte_order: ByteOrder,
    /// Of the client.
    pub page_size: PageSize,
    /// Highest page frame number + 1, holes included; at most 2^32.
    pub nr_pages: u64,
    /// Pages of RAM as the client counts them (low 32 bits).
    pub total_ram_pages: u32,
    /// Address of the task that crashed, from START_NETDUMP; 0 when unknown.
    pub task_struct: u64,
    /// Virtual address of physical 0 in the direct map; 0 when unknown.
    pub page_offset: u64,
    /// Registers of the CPU that crashed, from REPLY_REGS; empty when unknown.
    pub regs: Vec<u8>,
    /// The CPU that the panic ran on.
    pub crashing_cpu: Option<u32>,
    /// CPUs that could ever be online; 0 when unknown.
    pub cpus_possible: u32,
    /// The CPUs, ascending. Empty for a client without the extension.
    pub cpus: Vec<Cpu>,
    /// VMCOREINFO as the kernel holds it.
    pub vmcoreinfo: Option<Vec<u8>>,
    /// System RAM: page aligned, ascending, disjoint, below `nr_pages`. `None` for a client without the extension.
    pub ranges: Option<Vec<PhysRange>>,
    /// Kernel image mapping.
    pub ktext: Option<Ktext>,
    /// hostname, release, version, machine, boot_id, module version; printable text only.
    pub identity: BTreeMap<String, String>,
    /// The panic message; printable text only.
    pub panic: Option<String>,
    /// What to show instead of memory.
    pub overlays: Vec<Overlay>,
}

impl DumpInfo {
    /// Bytes of memory that the client may be asked for: its RAM, or everything up to the last page when that is unknown.
    pub fn memory_bytes(&self) -> u64 {
        match &self.ranges {
            Some(ranges) => ranges.iter().map(|r| r.end.0.saturating_sub(r.start.0)).sum(),
            None => self.page_size.addr(Pfn(self.nr_pages)).0,
        }
    }
}
