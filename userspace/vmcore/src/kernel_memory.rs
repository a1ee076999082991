// SPDX-License-Identifier: GPL-2.0-or-later
//! The kernel's own addresses in a dump of an x86-64 machine: by its page tables, which VMCOREINFO says where to find.
//!
//! A dump is not to be trusted: every step is bounded, and an address that leads nowhere is an error.

use std::cell::Cell;

use netdump_core::wire::classic::Machine;
use netdump_core::wire::PhysAddr;

use crate::reader::{ReadError, Reader};
use crate::vmcoreinfo::Vmcoreinfo;

/// Where the kernel's image is linked to (`__START_KERNEL_map`).
pub(crate) const IMAGE: u64 = 0xffff_ffff_8000_0000;
const PAGE: u64 = 4096;
/// The bits of an entry that hold an address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;

/// Why kernel memory cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The dump itself.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Only x86-64 is understood.
    #[error("the dump is not of an x86-64 machine")]
    OtherMachine,
    /// VMCOREINFO lacks something.
    #[error("VMCOREINFO has no {0}")]
    Missing(&'static str),
    /// The page tables have nothing there.
    #[error("kernel address {0:#x} is not mapped")]
    NotMapped(u64),
    /// A number in the kernel's memory makes no sense.
    #[error("the kernel's {0} makes no sense")]
    Nonsense(&'static str),
}

/// Kernel memory of a dump.
#[derive(Debug)]
pub struct KernelMemory<'a> {
    reader: &'a Reader,
    root: PhysAddr,
    levels: u32,
    encryption: u64,
    /// The page that was translated last: neighbours are read one after the other.
    last: Cell<Option<(u64, PhysAddr)>>,
}

impl<'a> KernelMemory<'a> {
    /// Finds the page tables.
    pub fn new(reader: &'a Reader, info: &Vmcoreinfo<'_>) -> Result<Self, MemoryError> {
        if reader.machine() != Machine::X86_64 {
            return Err(MemoryError::OtherMachine);
        }
        let table = info.symbol("swapper_pg_dir").ok_or(MemoryError::Missing("SYMBOL(swapper_pg_dir)"))?;
        let base = info.number("phys_base").ok_or(MemoryError::Missing("NUMBER(phys_base)"))?;
        // Numbers of the dump may be anything; the arithmetic of addresses wraps.
        let root = PhysAddr(table.wrapping_sub(IMAGE).wrapping_add_signed(base));
        let levels = if info.number("pgtable_l5_enabled") == Some(1) { 5 } else { 4 };
        let encryption = info.number("sme_mask").unwrap_or(0) as u64;
        Ok(KernelMemory { reader, root, levels, encryption, last: Cell::new(None) })
    }

    /// Where a kernel address is.
    pub fn translate(&self, address: u64) -> Result<PhysAddr, MemoryError> {
        let (page, within) = (address & !(PAGE - 1), address & (PAGE - 1));
        if let Some((_, start)) = self.last.get().filter(|(last, _)| *last == page) {
            return Ok(PhysAddr(start.0 | within));
        }
        let start = self.walk(page)?;
        self.last.set(Some((page, start)));
        Ok(PhysAddr(start.0 | within))
    }

    /// Where a page is.
    fn walk(&self, page: u64) -> Result<PhysAddr, MemoryError> {
        // Above what the tables take apart there are only copies of the highest bit.
        if !matches!(page as i64 >> (11 + 9 * self.levels), 0 | -1) {
            return Err(MemoryError::NotMapped(page));
        }
        let mut table = self.root;
        for level in (1..=self.levels).rev() {
            let shift = 12 + 9 * (level - 1);
            let index = page >> shift & 0x1ff;
            let mut entry = [0; 8];
            self.reader.read(PhysAddr(table.0.wrapping_add(8 * index)), &mut entry)?;
            let entry = u64::from_le_bytes(entry) & !self.encryption;
            if entry & PRESENT == 0 {
                return Err(MemoryError::NotMapped(page));
            }
            if level == 1 || level <= 3 && entry & LARGE != 0 {
                let within = (1u64 << shift) - 1;
                return Ok(PhysAddr(entry & ADDRESS & !within | page & within));
            }
            table = PhysAddr(entry & ADDRESS);
        }
        Err(MemoryError::NotMapped(page))
    }

    /// Fills `out` from a kernel address on.
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), MemoryError> {
        let mut address = address;
        let mut rest = out;
        while !rest.is_empty() {
            let room = (PAGE - address % PAGE).min(rest.len() as u64);
            let (now, later) = rest.split_at_mut(room as usize);
            self.reader.read(self.translate(address)?, now)?;
            address = address.wrapping_add(room);
            rest = later;
        }
        Ok(())
    }

    /// A `u64` at a kernel address.
    pub fn u64(&self, address: u64) -> Result<u64, MemoryError> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// A `u32` at a kernel address.
    pub fn u32(&self, address: u64) -> Result<u32, MemoryError> {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }
}
