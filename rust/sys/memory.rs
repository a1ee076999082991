// SPDX-License-Identifier: GPL-2.0-only

//! The machine's memory: where it is, and how to read it without being hurt.

use super::bindings;
use super::volatile::{PhysRange, PAGE_SIZE};
use core::ffi::{c_int, c_uint, c_void, CStr};
use kernel::ffi::c_ulong;
use kernel::prelude::*;

/// A page cannot be read: poisoned, not backed, or not mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unreadable;

/// System RAM, as it was when this was made.
pub struct MemoryMap {
    ranges: KVec<PhysRange>,
    copy: Copy,
    window: Option<Window>,
}

/// One page of address space that can be pointed at any frame.
///
/// Some memory has no mapping in the direct map: secret memory, guard pages, and for some seconds the init section of
/// every module that was loaded. It is memory all the same.
struct Window {
    page: *mut c_void,
    entry: *mut u64,
}

// SAFETY: Process context makes and frees it; only the panicking CPU uses it.
unsafe impl Send for Window {}
// SAFETY: As above.
unsafe impl Sync for Window {}

/// The bits of a page table entry that hold the frame. Panic path.
pub(super) fn entry_frame() -> u64 {
    const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    // One of them says instead that memory is encrypted, where it is (AMD SME, SEV).
    // SAFETY: Reads a word that does not change after boot.
    ADDRESS & !unsafe { bindings::nd_encryption_bits() }
}

impl Window {
    /// Process context. None where page tables are not ours to write, or memory is short: then such pages are left
    /// out.
    fn new() -> Option<Self> {
        if boot_cpu_has(bindings::X86_FEATURE_XENPV) {
            return None;
        }
        // SAFETY: Process context. The entry of a vmalloc page stays where it is for as long as the page is ours.
        unsafe {
            let page = bindings::vmalloc_noprof(PAGE_SIZE as usize);
            if page.is_null() {
                return None;
            }
            // Touched, so that the entry is there and valid.
            page.cast::<u8>().write_volatile(0);
            let mut level = 0u32;
            let entry = bindings::lookup_address(page as usize, &raw mut level).cast::<u64>();
            const LEVEL_4K: u32 = 1;
            if entry.is_null() || level != LEVEL_4K {
                bindings::vfree(page);
                return None;
            }
            Some(Self { page, entry })
        }
    }

    /// Copies from a frame through the window. Panic path.
    fn copy(&self, pfn: u64, offset: usize, out: &mut [u8]) -> bool {
        // SAFETY: The other CPUs are stopped, and nothing else uses this page: its entry can be changed and put back.
        // `offset` and length stay within the page (see `MemoryMap::copy`). The frame is RAM that is not poisoned.
        unsafe {
            let saved = self.entry.read_volatile();
            self.entry.write_volatile((saved & !entry_frame()) | (pfn * PAGE_SIZE & entry_frame()));
            bindings::nd_invlpg(self.page as usize);
            let from = self.page.byte_add(offset);
            let left = bindings::copy_from_kernel_nofault(out.as_mut_ptr().cast(), from, out.len());
            self.entry.write_volatile(saved);
            bindings::nd_invlpg(self.page as usize);
            left == 0
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: Made by `new`, and its entry is as it was.
        unsafe { bindings::vfree(self.page) };
    }
}

fn boot_cpu_has(feature: u32) -> bool {
    // SAFETY: `boot_cpu_data` does not change after boot.
    unsafe { bindings::nd_boot_cpu_has(feature) }
}

#[derive(Clone, Copy)]
enum Copy {
    /// `copy_mc_to_kernel()`: survives a machine check too, but only where the CPU has ERMS.
    MachineCheckSafe,
    /// `copy_from_kernel_nofault()`: survives a page fault.
    NoFault,
}

/// How many ranges a report may hold.
const MAX_RANGES: usize = 4096;

impl MemoryMap {
    /// Reads the kernel's resource tree. Process context.
    pub fn read() -> Result<Self> {
        let mut ranges = walk(bindings::IORES_DESC_NONE as c_ulong, bindings::IORESOURCE_SYSTEM_RAM as c_ulong)?;
        // Memory set aside for a crash kernel is no part of this one, and may be write-protected.
        for hole in walk(bindings::IORES_DESC_CRASH_KERNEL as c_ulong, bindings::IORESOURCE_MEM as c_ulong)? {
            subtract(&mut ranges, hole)?;
        }
        if ranges.is_empty() || ranges.len() > MAX_RANGES {
            return Err(ENODATA);
        }
        Ok(Self { ranges, copy: choose_copy(), window: None })
    }

    /// Adds what is needed to read memory that the kernel has not mapped. Process context.
    pub fn with_window(mut self) -> Self {
        self.window = Window::new();
        self
    }

    /// Reports the page table that reading such memory changes for a moment. Panic path.
    pub fn report(&self, changed: &mut super::volatile::Changed) {
        if let Some(window) = &self.window {
            changed.object(window.entry.cast(), size_of::<u64>(), "page table");
        }
    }

    /// The ranges, ascending and disjoint.
    pub fn ranges(&self) -> &[PhysRange] {
        &self.ranges
    }

    /// One more than the highest frame number of RAM.
    pub fn frames(&self) -> u64 {
        self.ranges.last().map_or(0, |range| range.end / PAGE_SIZE)
    }

    /// Whether frame `pfn` may be read; if not, the next one that is RAM. Panic path.
    pub fn classify(&self, pfn: u64) -> Result<(), Option<u64>> {
        let paddr = pfn.saturating_mul(PAGE_SIZE);
        let after = self.ranges.partition_point(|range| range.end <= paddr);
        match self.ranges.get(after) {
            Some(range) if range.start <= paddr => {
                if readable(pfn) {
                    return Ok(());
                }
                let next = paddr + PAGE_SIZE;
                if next < range.end {
                    return Err(Some(next / PAGE_SIZE));
                }
                Err(self.ranges.get(after + 1).map(|range| range.start / PAGE_SIZE))
            }
            Some(range) => Err(Some(range.start / PAGE_SIZE)),
            None => Err(None),
        }
    }

    /// Copies `out.len()` bytes from frame `pfn`, from `offset` on. Panic path.
    ///
    /// The frame must have been found readable by [`MemoryMap::classify`]; what a fault cuts off is an error.
    pub fn copy(&self, pfn: u64, offset: usize, out: &mut [u8]) -> Result<(), Unreadable> {
        if offset.saturating_add(out.len()) > PAGE_SIZE as usize || self.frames() <= pfn {
            return Err(Unreadable);
        }
        let paddr = pfn * PAGE_SIZE + offset as u64;
        // SAFETY: The destination is a live slice. The source is an address of the direct map; both functions
        // survive its not being mapped, and read nothing else.
        let complete = unsafe {
            let from = bindings::nd_phys_to_virt(paddr);
            match self.copy {
                Copy::NoFault => bindings::copy_from_kernel_nofault(out.as_mut_ptr().cast(), from, out.len()) == 0,
                Copy::MachineCheckSafe => {
                    bindings::copy_mc_to_kernel(out.as_mut_ptr().cast(), from, out.len() as c_uint) == 0
                }
            }
        };
        if complete || self.window.as_ref().is_some_and(|window| window.copy(pfn, offset, out)) {
            Ok(())
        } else {
            Err(Unreadable)
        }
    }
}

/// Machine checks reach us only on bare metal; a hypervisor that passes them on does so for poisoned pages, which
/// are not read anyway. Under emulation a plain loop is far faster than `rep movsb`.
fn choose_copy() -> Copy {
    if boot_cpu_has(bindings::X86_FEATURE_ERMS) && !boot_cpu_has(bindings::X86_FEATURE_HYPERVISOR) {
        Copy::MachineCheckSafe
    } else {
        Copy::NoFault
    }
}

/// Panic path.
fn readable(pfn: u64) -> bool {
    // SAFETY: Looks the frame's section up without locks; null for holes, offline memory and device memory.
    let page = unsafe { bindings::pfn_to_online_page(pfn as c_ulong) };
    if page.is_null() {
        return false;
    }
    // SAFETY: An online page's struct page is mapped; the flags are only read.
    unsafe {
        !bindings::nd_page_hwpoison(page) && !bindings::nd_page_offline(page) && !bindings::nd_page_unaccepted(page)
    }
}

fn walk(desc: c_ulong, flags: c_ulong) -> Result<KVec<PhysRange>> {
    let mut ranges: KVec<PhysRange> = KVec::new();
    let flags = flags | bindings::IORESOURCE_BUSY as c_ulong;
    // SAFETY: `collect` gets the vector back, which lives longer than the call.
    let error =
        unsafe { bindings::walk_iomem_res_desc(desc, flags, 0, u64::MAX, (&raw mut ranges).cast(), Some(collect)) };
    match error {
        0 => Ok(ranges),
        // What the walk says when nothing matched.
        -22 => Ok(ranges),
        error => Err(Error::from_errno(error)),
    }
}

/// Adds one resource to the list.
///
/// # Safety
///
/// For `walk_iomem_res_desc()` alone: `resource` is valid for the call, and `arg` is the `KVec<PhysRange>` of [`walk`],
/// which nobody else uses meanwhile.
unsafe extern "C" fn collect(resource: *mut bindings::resource, arg: *mut c_void) -> c_int {
    // SAFETY: By this function's contract.
    let (ranges, resource) = unsafe { (&mut *arg.cast::<KVec<PhysRange>>(), &*resource) };
    let start = resource.start.next_multiple_of(PAGE_SIZE);
    let end = (resource.end + 1) & !(PAGE_SIZE - 1);
    if start >= end {
        return 0;
    }
    match ranges.push(PhysRange { start, end }, GFP_KERNEL) {
        Ok(()) => 0,
        Err(_) => ENOMEM.to_errno(),
    }
}

fn subtract(ranges: &mut KVec<PhysRange>, hole: PhysRange) -> Result {
    let mut left = KVec::with_capacity(ranges.len() + 1, GFP_KERNEL)?;
    for range in ranges.iter() {
        for piece in [
            PhysRange { start: range.start, end: range.end.min(hole.start) },
            PhysRange { start: range.start.max(hole.end), end: range.end },
        ] {
            if piece.start < piece.end {
                left.push(piece, GFP_KERNEL)?;
            }
        }
    }
    *ranges = left;
    Ok(())
}

/// The kernel's own description of itself for debuggers.
pub fn vmcoreinfo() -> Result<KVec<u8>> {
    const HEADER: usize = 12;
    // SAFETY: The note lies in the direct map and is constant after boot; its header says how long it is.
    unsafe {
        let note = bindings::nd_phys_to_virt(bindings::paddr_vmcoreinfo_note()).cast::<u32>();
        let name = (note.read() as usize).next_multiple_of(4);
        let len = note.add(1).read() as usize;
        if name > 64 || len == 0 || len > PAGE_SIZE as usize {
            return Err(ENODATA);
        }
        let text = core::slice::from_raw_parts(note.cast::<u8>().add(HEADER + name), len);
        let mut copy = KVec::with_capacity(len, GFP_KERNEL)?;
        copy.extend_from_slice(text, GFP_KERNEL)?;
        Ok(copy)
    }
}

/// How the kernel's own image and all memory are mapped.
#[derive(Clone, Copy)]
pub struct Layout {
    /// Virtual address of physical address 0 in the direct map.
    pub page_offset: u64,
    /// Virtual address of the kernel image, its physical address and its length in bytes.
    pub image: Option<(u64, u64, u64)>,
}

/// Reads the layout. Process context.
pub fn layout() -> Layout {
    // SAFETY: Constants after boot.
    let (page_offset, phys_base, map_start) = unsafe {
        (bindings::page_offset_base as u64, bindings::phys_base as u64, bindings::nd_kernel_map_start() as u64)
    };
    let image = image(b"Kernel ").map(|range| (range.start.wrapping_sub(phys_base).wrapping_add(map_start), range));
    Layout { page_offset, image: image.map(|(vaddr, range)| (vaddr, range.start, range.end - range.start)) }
}

/// What of the kernel's image a reader of a dump does not find in the kernel's file: all that is not code. Process context.
pub(super) fn image_without_code() -> impl Iterator<Item = PhysRange> {
    [&b"Kernel rodata"[..], b"Kernel data", b"Kernel bss"].into_iter().filter_map(image)
}

/// From the first to the last of the entries below System RAM whose names begin so.
fn image(name_begins: &[u8]) -> Option<PhysRange> {
    let mut found: Option<PhysRange> = None;
    // SAFETY: The top of the tree and the entries of the kernel image exist from boot on and are never removed.
    // System RAM may come and go by hotplug, below which there is no kernel image: siblings are followed only as
    // far as the range that has one.
    unsafe {
        let mut range = bindings::iomem_resource.child;
        for _ in 0..MAX_RANGES {
            if range.is_null() || found.is_some() {
                break;
            }
            let mut part = (*range).child;
            while !part.is_null() {
                let name = (*part).name;
                if !name.is_null() && CStr::from_char_ptr(name).to_bytes().starts_with(name_begins) {
                    let (start, end) = ((*part).start, (*part).end + 1);
                    let so_far = found.unwrap_or(PhysRange { start, end });
                    found = Some(PhysRange { start: so_far.start.min(start), end: so_far.end.max(end) });
                }
                part = (*part).sibling;
            }
            range = (*range).sibling;
        }
    }
    found.map(|range| PhysRange { start: range.start & !(PAGE_SIZE - 1), end: range.end.next_multiple_of(PAGE_SIZE) })
}

/// Pages of RAM that the kernel manages.
pub fn total_pages() -> u64 {
    // SAFETY: Reads a counter.
    unsafe { bindings::nd_total_ram_pages() as u64 }
}

/// Which CPUs were online, as it stood in memory: the stop empties it, and debuggers want it as it was.
pub struct OnlineCpus {
    mask: [u8; ONLINE_MASK_LEN],
    count: [u8; 4],
}

/// Bytes of the mask of online CPUs.
pub const ONLINE_MASK_LEN: usize = size_of::<bindings::cpumask>();

impl OnlineCpus {
    /// None yet.
    pub const fn empty() -> Self {
        Self { mask: [0; ONLINE_MASK_LEN], count: [0; 4] }
    }

    /// As of now. Panic path.
    pub fn read(&mut self) {
        // SAFETY: Statics of the kernel, read as plain memory.
        unsafe {
            let mask = &raw const bindings::__cpu_online_mask;
            core::ptr::copy_nonoverlapping(mask.cast::<u8>(), self.mask.as_mut_ptr(), ONLINE_MASK_LEN);
            let count = &raw const bindings::__num_online_cpus;
            core::ptr::copy_nonoverlapping(count.cast::<u8>(), self.count.as_mut_ptr(), self.count.len());
        }
    }

    /// Physical addresses, and what stood there.
    pub fn places(&self) -> [(u64, &[u8]); 2] {
        [
            (image_paddr((&raw const bindings::__cpu_online_mask).cast()), &self.mask),
            (image_paddr((&raw const bindings::__num_online_cpus).cast()), &self.count),
        ]
    }
}

fn image_paddr(symbol: *const u8) -> u64 {
    // SAFETY: Constants after boot.
    let (base, map_start) = unsafe { (bindings::phys_base as u64, bindings::nd_kernel_map_start() as u64) };
    (symbol as u64).wrapping_sub(map_start).wrapping_add(base)
}
