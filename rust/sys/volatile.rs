// SPDX-License-Identifier: GPL-2.0-only

//! Which memory this module itself changes while it dumps, for the report that goes with the dump.

use super::bindings;
use core::ffi::c_void;
use kernel::prelude::*;

/// Bytes of a page.
pub const PAGE_SIZE: u64 = 4096;

/// A run of physical memory, in whole pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PhysRange {
    /// First byte.
    pub start: u64,
    /// First byte behind it.
    pub end: u64,
}

impl PhysRange {
    /// The pages that hold `len` bytes at a linearly mapped address.
    pub(super) fn of_linear(addr: *const u8, len: usize) -> Self {
        // SAFETY: Arithmetic on the address only.
        let start = unsafe { bindings::nd_virt_to_phys(addr.cast()) } as u64;
        Self { start: start & !(PAGE_SIZE - 1), end: (start + len as u64).next_multiple_of(PAGE_SIZE) }
    }

    /// The page that holds a mapped kernel address of any kind. None if it is not mapped. Panic path.
    pub(super) fn of_page(addr: usize) -> Option<Self> {
        // SAFETY: Constants after boot: between the two lies the direct map.
        let linear = unsafe { bindings::page_offset_base..bindings::vmalloc_base };
        if linear.contains(&addr) {
            let start = (addr - linear.start) as u64 & !(PAGE_SIZE - 1);
            return Some(Self { start, end: start + PAGE_SIZE });
        }
        let mut level = 0u32;
        // SAFETY: Walks the kernel's page tables without locks; the entry is read at once.
        let entry = unsafe {
            let pte = bindings::lookup_address(addr, &raw mut level);
            if pte.is_null() {
                return None;
            }
            pte.cast::<u64>().read_volatile()
        };
        const PRESENT: u64 = 1;
        if entry & PRESENT == 0 {
            return None;
        }
        // 1: 4 KiB, 2: 2 MiB, 3: 1 GiB (enum pg_level).
        let shift = match level {
            1 => 12,
            2 => 21,
            3 => 30,
            _ => return None,
        };
        let within = (1u64 << shift) - 1;
        let start = ((entry & super::memory::entry_frame() & !within) | (addr as u64 & within)) & !(PAGE_SIZE - 1);
        Some(Self { start, end: start + PAGE_SIZE })
    }
}

/// The pages that hold `len` bytes at a mapped kernel address of any kind; None for those that are not mapped. Panic path.
pub(super) fn pages_of(addr: usize, len: usize) -> impl Iterator<Item = Option<PhysRange>> {
    let first = addr & !(PAGE_SIZE as usize - 1);
    (first..addr.saturating_add(len)).step_by(PAGE_SIZE as usize).map(PhysRange::of_page)
}

/// Most single pages that are remembered: the report must stay small, and so must what a flood can fill.
const MAX_PAGES: usize = 2048;
const SLOTS: usize = MAX_PAGES * 2;
/// Most ranges that are known beforehand.
const MAX_RANGES: usize = 16;
/// Most different labels: what the low bits of a page's address have room for, and more than there are.
const MAX_LABELS: usize = 32;
/// Bytes of one entry on the wire.
pub const ENTRY_LEN: usize = 32;
const LABEL_LEN: usize = 16;

/// What a range is for; at most 16 ASCII bytes.
pub type Label = &'static str;

/// The report: ranges known beforehand, and single pages noted while the dump runs.
pub struct Changed {
    ranges: KVec<(PhysRange, Label)>,
    /// Page numbers, with the place of their label in `labels` in the low bits.
    pages: KVec<u64>,
    labels: KVec<Label>,
    /// Open-addressed set over `pages`: index + 1, or 0.
    slots: KVec<u16>,
    /// Pages that found no room.
    overflow: u32,
}

impl Changed {
    /// An empty report with room for all it may hold. Process context.
    pub fn new() -> Result<Self> {
        Ok(Self {
            ranges: KVec::with_capacity(MAX_RANGES, GFP_KERNEL)?,
            pages: KVec::with_capacity(MAX_PAGES, GFP_KERNEL)?,
            labels: KVec::with_capacity(MAX_LABELS, GFP_KERNEL)?,
            slots: KVec::from_elem(0, SLOTS, GFP_KERNEL)?,
            overflow: 0,
        })
    }

    /// Adds a range. Panic path.
    pub fn range(&mut self, range: PhysRange, label: Label) {
        if self.ranges.push_within_capacity((range, label)).is_err() {
            self.overflow = self.overflow.saturating_add(1);
        }
    }

    /// Adds the pages of an object at any mapped kernel address. Panic path.
    pub(super) fn object(&mut self, addr: *const c_void, len: usize, label: Label) {
        for page in pages_of(addr as usize, len).flatten() {
            self.page(page.start, label);
        }
    }

    /// Adds the pages at a place. Panic path.
    pub fn place<T>(&mut self, place: *const T, label: Label) {
        self.object(place.cast(), size_of::<T>(), label);
    }

    /// Adds the pages of a value. Panic path.
    pub fn value<T: ?Sized>(&mut self, value: &T, label: Label) {
        self.object((&raw const *value).cast(), core::mem::size_of_val(value), label);
    }

    /// Adds one page by its physical address. Panic path; a page that is there already costs one look.
    pub fn page(&mut self, paddr: u64, label: Label) {
        let start = paddr & !(PAGE_SIZE - 1);
        let Err(free) = self.find(start) else { return };
        let label = self.label(label);
        if self.pages.push_within_capacity(start | label).is_err() {
            self.overflow = self.overflow.saturating_add(1);
        } else if let Some(slot) = self.slots.get_mut(free) {
            *slot = self.pages.len() as u16;
        }
    }

    /// Which of the pages begins there, or the slot that is free for it.
    fn find(&self, start: u64) -> core::result::Result<usize, usize> {
        let mut at = ((start / PAGE_SIZE).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize % SLOTS;
        for _ in 0..SLOTS {
            let Some(index) = self.slots.get(at).and_then(|slot| usize::from(*slot).checked_sub(1)) else { break };
            if self.pages.get(index).is_some_and(|page| page & !(PAGE_SIZE - 1) == start) {
                return Ok(index);
            }
            at = (at + 1) % SLOTS;
        }
        Err(at)
    }

    fn label(&mut self, label: Label) -> u64 {
        let known = self.labels.iter().position(|known| *known == label);
        match known {
            Some(at) => at as u64,
            None if self.labels.push_within_capacity(label).is_ok() => (self.labels.len() - 1) as u64,
            None => MAX_LABELS as u64,
        }
    }

    /// Whether a page was noted when there were `since` ([`Self::pages`]) already. Panic path; costs one look.
    pub fn noted_since(&self, pfn: u64, since: usize) -> bool {
        self.find(pfn.wrapping_mul(PAGE_SIZE)).is_ok_and(|index| index >= since)
    }

    /// How many single pages there are now.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// How many entries there are now.
    pub fn len(&self) -> usize {
        self.ranges.len() + self.pages.len()
    }

    /// How many places found no room in the report.
    pub fn overflow(&self) -> u32 {
        self.overflow
    }

    /// Entry `index` as it goes onto the wire: start and end (big-endian), label padded with NUL.
    pub fn entry(&self, index: usize) -> Option<[u8; ENTRY_LEN]> {
        let (range, label) = match self.ranges.get(index) {
            Some(entry) => *entry,
            None => {
                let page = *self.pages.get(index.checked_sub(self.ranges.len())?)?;
                let start = page & !(PAGE_SIZE - 1);
                let label = self.labels.get((page & (PAGE_SIZE - 1)) as usize).copied().unwrap_or("");
                (PhysRange { start, end: start.saturating_add(PAGE_SIZE) }, label)
            }
        };
        let mut bytes = [0; ENTRY_LEN];
        let (start, rest) = bytes.split_first_chunk_mut::<8>()?;
        let (end, text) = rest.split_first_chunk_mut::<8>()?;
        *start = range.start.to_be_bytes();
        *end = range.end.to_be_bytes();
        for (to, from) in text.iter_mut().take(LABEL_LEN).zip(label.bytes()) {
            *to = from;
        }
        Some(bytes)
    }

    /// Adds the pages of this report itself, and of everything that holds it.
    pub fn itself(&mut self, label: Label) {
        let lists: [(*const c_void, usize); 4] = [
            (self.ranges.as_ptr().cast(), size_of::<(PhysRange, Label)>() * MAX_RANGES),
            (self.pages.as_ptr().cast(), size_of::<u64>() * MAX_PAGES),
            (self.labels.as_ptr().cast(), size_of::<Label>() * MAX_LABELS),
            (self.slots.as_ptr().cast(), size_of::<u16>() * SLOTS),
        ];
        for (start, len) in lists {
            self.object(start, len, label);
        }
    }
}
