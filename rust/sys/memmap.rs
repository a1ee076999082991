// SPDX-License-Identifier: GPL-2.0-only

//! The kernel's struct pages, read without being hurt.

use super::bindings;
use super::volatile::Changed;
use crate::pages::{Layout, Memmap, Page, PAGE_STRUCT_LEN};
use kernel::prelude::*;

const _: () = assert!(size_of::<bindings::page>() == PAGE_STRUCT_LEN);

/// Struct pages that are read at a time: those of 256 KiB of memory.
const BATCH: usize = 64;
/// Batches that are kept: a page, its folio's head, and blocks that it may be part of.
const BATCHES: usize = 4;

#[derive(Clone, Copy)]
struct Batch {
    /// Number of its first frame, divided by [`BATCH`]; `None` while it is empty.
    number: Option<u64>,
    bytes: [u8; BATCH * PAGE_STRUCT_LEN],
    readable: bool,
}

/// A window on the struct pages.
pub struct StructPages {
    layout: Layout,
    batches: KVec<Batch>,
    next: usize,
}

impl StructPages {
    /// Process context.
    pub fn new() -> Result<Self> {
        let empty = Batch { number: None, bytes: [0; BATCH * PAGE_STRUCT_LEN], readable: false };
        let mut batches = KVec::with_capacity(BATCHES, GFP_KERNEL)?;
        for _ in 0..BATCHES {
            batches.push(empty, GFP_KERNEL)?;
        }
        Ok(Self { layout: layout(), batches, next: 0 })
    }

    /// How this kernel lays them out.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Says what is written to. Panic path.
    pub fn report(&self, changed: &mut Changed) {
        changed.object(self.batches.as_ptr().cast(), size_of::<Batch>() * BATCHES, "state");
    }
}

impl Memmap for StructPages {
    fn page(&mut self, pfn: u64) -> Option<Page> {
        let number = pfn / BATCH as u64;
        let known = self.batches.iter().position(|batch| batch.number == Some(number));
        let at = match known {
            Some(at) => at,
            None => {
                self.next = (self.next + 1) % BATCHES;
                let batch = self.batches.get_mut(self.next)?;
                let from = self.layout.vmemmap.checked_add(number.checked_mul((BATCH * PAGE_STRUCT_LEN) as u64)?)?;
                // SAFETY: The destination is a live array. What is not mapped at the source is survived: there are no
                // struct pages for holes.
                let failed = unsafe {
                    let from = from as *const core::ffi::c_void;
                    bindings::copy_from_kernel_nofault(batch.bytes.as_mut_ptr().cast(), from, batch.bytes.len())
                };
                batch.readable = failed == 0;
                batch.number = Some(number);
                self.next
            }
        };
        let batch = self.batches.get(at).filter(|batch| batch.readable)?;
        let offset = (pfn % BATCH as u64) as usize * PAGE_STRUCT_LEN;
        Some(Page::parse(batch.bytes.get(offset..)?.first_chunk()?))
    }
}

fn layout() -> Layout {
    Layout {
        head: bindings::ND_PG_HEAD as u8,
        lru: bindings::ND_PG_LRU as u8,
        private: bindings::ND_PG_PRIVATE as u8,
        swapbacked: bindings::ND_PG_SWAPBACKED as u8,
        swapcache: bindings::ND_PG_SWAPCACHE as u8,
        hwpoison: if cfg!(CONFIG_MEMORY_FAILURE) { Some(bindings::ND_PG_HWPOISON as u8) } else { None },
        buddy: bindings::ND_PGTY_BUDDY as u8,
        offline: bindings::ND_PGTY_OFFLINE as u8,
        hugetlb: bindings::ND_PGTY_HUGETLB as u8,
        slab: bindings::ND_PGTY_SLAB as u8,
        unaccepted: bindings::ND_PGTY_UNACCEPTED as u8,
        max_order: bindings::ND_MAX_PAGE_ORDER as u8,
        tail_has_mask: cfg!(CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP),
        // SAFETY: A word that does not change after boot.
        vmemmap: unsafe { bindings::nd_vmemmap() as u64 },
    }
}
