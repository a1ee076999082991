// SPDX-License-Identifier: GPL-2.0-only

//! The kernel's struct pages, read without being hurt.

use super::bindings;
use super::memory;
use super::stop_cpus;
use super::system;
use super::volatile::{pages_of, Changed, PhysRange, PAGE_SIZE};
use crate::pages::{Frames, Layout, Memmap, Page, PAGE_STRUCT_LEN};
use core::mem::offset_of;
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

/// Of the kernel's image.
const IMAGE_PARTS: usize = 3;
/// Pages of this module.
const MAX_OWN_PAGES: usize = 512;
/// Pages that a `struct module` may lie in.
const MODULE_PAGES: usize = size_of::<bindings::module>() / PAGE_SIZE as usize + 2;
/// So many modules are followed.
const MAX_MODULES: usize = 512;
/// The stacks of so many CPUs are looked for: putting them in order takes its time.
const MAX_STACKS: u32 = 1024;
/// Pages of a stack, at most.
const STACK_PAGES: usize = 8;
/// So much on both sides of a variable of a CPU is taken for that CPU's: the runqueue, the stacks of its interrupts.
const AROUND_CPU: u64 = 256 << 10;

/// Where the pages lie that no struct page marks and that a reader of the dump needs before all others: the kernel's
/// variables and those of the CPUs, the list of modules, and the stacks of what ran.
pub struct Early {
    frames: KVec<Frames>,
}

impl Early {
    /// Those that are known beforehand, and room for the others. Process context.
    pub fn new() -> Result<Self> {
        let cpus = system::cpus_possible() as usize;
        let room = IMAGE_PARTS + cpus * (1 + STACK_PAGES) + MAX_MODULES * 2 + MAX_OWN_PAGES;
        let mut early = Self { frames: KVec::with_capacity(room, GFP_KERNEL)? };
        for part in memory::image_without_code() {
            early.add(part.start, part.end);
        }
        for cpu in 0..cpus as u32 {
            // SAFETY: Arithmetic on the address of a CPU's variable; CPUs that are possible have theirs.
            let place = unsafe { bindings::nd_cpu_variable(cpu) };
            if let Some(page) = PhysRange::of_page(place as usize) {
                early.add(page.start.saturating_sub(AROUND_CPU), page.end.saturating_add(AROUND_CPU));
            }
        }
        Ok(early)
    }

    /// Adds what is where it is only now: the stacks of what ran when the CPUs were stopped, and the list of modules, without
    /// which a stack with one of them on it cannot be read. Panic path.
    pub fn complete(&mut self) {
        self.add_modules();
        self.add_stack(system::current_task().0);
        for cpu in (0..system::cpus_possible().min(MAX_STACKS)).filter(|cpu| *cpu != system::cpu()) {
            if let Some(state) = stop_cpus::cpu_state(cpu) {
                self.add_stack(state.task);
            }
        }
        let mut kept = 0usize;
        for at in 0..self.frames.len() {
            let Some(frames) = self.frames.get(at).copied() else { break };
            let last = kept.checked_sub(1).and_then(|last| self.frames.get_mut(last));
            match last {
                Some(last) if frames.start <= last.end => last.end = last.end.max(frames.end),
                _ => {
                    if let Some(place) = self.frames.get_mut(kept) {
                        *place = frames;
                    }
                    kept += 1;
                }
            }
        }
        self.frames.truncate(kept);
    }

    fn add_modules(&mut self) {
        let list = offset_of!(bindings::module, list);
        // SAFETY: The address of a field of this module.
        let own = unsafe { bindings::nd_this_module_list() } as usize;
        // This one is on the stack of the CPU that panicked: all of it is needed to read that.
        // SAFETY: The list's entry is a field of this module, whose memory does not change any more.
        let parts = unsafe { &(*((own - list) as *const bindings::module)).mem };
        for part in parts {
            self.add_object(part.base as usize, part.size as usize, MAX_OWN_PAGES);
        }
        let mut at = own;
        for _ in 0..MAX_MODULES {
            // The list's head is no module, but lies in memory all the same.
            self.add_object(at.wrapping_sub(list), size_of::<bindings::module>(), MODULE_PAGES);
            let mut next = 0usize;
            // SAFETY: Writes one word of ours; what cannot be read is survived.
            let failed = unsafe {
                let from = at as *const core::ffi::c_void;
                bindings::copy_from_kernel_nofault((&raw mut next).cast(), from, size_of::<usize>())
            };
            if failed != 0 || next == own {
                return;
            }
            at = next;
        }
    }

    fn add_stack(&mut self, task: u64) {
        // SAFETY: The address of the current task or of one that a CPU ran when it was stopped: it is not gone.
        let (start, len) = unsafe {
            let task = task as *mut bindings::task_struct;
            if task.is_null() {
                return;
            }
            ((*task).stack as usize, bindings::nd_thread_size() as usize)
        };
        self.add_object(start, len, STACK_PAGES);
    }

    /// Adds the first pages of an object at a mapped address.
    fn add_object(&mut self, addr: usize, len: usize, most: usize) {
        for page in pages_of(addr, len).take(most).flatten() {
            self.add(page.start, page.end);
        }
    }

    fn add(&mut self, start: u64, end: u64) {
        let added = Frames { start: start / PAGE_SIZE, end: end.div_ceil(PAGE_SIZE) };
        // There is room for all of them: more than that are none of what is meant.
        if self.frames.push_within_capacity(added).is_err() {
            return;
        }
        // The library's sorting can panic, if only over an order that is none.
        for at in (1..self.frames.len()).rev() {
            let Some(before) = self.frames.get(at - 1).copied().filter(|before| before.start > added.start) else {
                return;
            };
            if let Some(place) = self.frames.get_mut(at) {
                *place = before;
            }
            if let Some(place) = self.frames.get_mut(at - 1) {
                *place = added;
            }
        }
    }

    /// They, ascending and disjoint once [`Self::complete`] was called. Panic path.
    pub fn frames(&self) -> &[Frames] {
        &self.frames
    }

    /// Says what is written to. Panic path.
    pub fn report(&self, changed: &mut Changed) {
        changed.object(self.frames.as_ptr().cast(), size_of::<Frames>() * self.frames.capacity(), "state");
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
        table: bindings::ND_PGTY_TABLE as u8,
        unaccepted: bindings::ND_PGTY_UNACCEPTED as u8,
        max_order: bindings::ND_MAX_PAGE_ORDER as u8,
        tail_has_mask: cfg!(CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP),
        // SAFETY: A word that does not change after boot.
        vmemmap: unsafe { bindings::nd_vmemmap() as u64 },
    }
}
