// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Page selection: what the kernel uses a page frame for, and whether a level leaves that out.
//!
//! The rules are those of makedumpfile's `-d` (`__exclude_unnecessary_pages` in its makedumpfile.c), applied to the
//! struct pages of the machine while it is dumped. They may be damaged: nothing that they say is believed without a
//! check, and what is in doubt is kept.
//!
//! Panic path: nothing here allocates or can panic, and each call looks at a few struct pages only.

use super::wire::v6::{Level, Reason};

/// Bytes of the struct pages that this knows.
pub const PAGE_STRUCT_LEN: usize = 64;
/// The largest folio: 16 GiB.
const MAX_FOLIO_ORDER: u64 = 22;

/// A struct page, as far as it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Page {
    /// `flags`.
    pub flags: u64,
    /// `compound_info`, which is something else in pages that are no tail.
    pub compound: u64,
    /// `mapping`.
    pub mapping: u64,
    /// `private`: the order of a free block.
    pub private: u64,
    /// `page_type`, or a count of mappings.
    pub page_type: u32,
    /// `_refcount`.
    pub refcount: u32,
}

impl Page {
    /// From the bytes of a struct page (`include/linux/mm_types.h`).
    pub fn parse(bytes: &[u8; PAGE_STRUCT_LEN]) -> Self {
        let word = |n: usize| {
            let at = n.wrapping_mul(8);
            bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()).map_or(0, |word| u64::from_le_bytes(*word))
        };
        let counts = word(6);
        Page {
            flags: word(0),
            compound: word(1),
            mapping: word(3),
            private: word(5),
            page_type: counts as u32,
            refcount: (counts >> 32) as u32,
        }
    }

    fn kind(&self) -> u8 {
        (self.page_type >> 24) as u8
    }

    fn has(&self, bit: u8) -> bool {
        self.flags & 1u64.wrapping_shl(u32::from(bit)) != 0
    }
}

/// How this kernel lays out what is looked at: bit numbers of `flags`, and values of the upper byte of `page_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the kernel's names
pub struct Layout {
    pub head: u8,
    pub lru: u8,
    pub private: u8,
    pub swapbacked: u8,
    pub swapcache: u8,
    /// `None` where the kernel does not know of broken memory.
    pub hwpoison: Option<u8>,
    pub buddy: u8,
    pub offline: u8,
    pub hugetlb: u8,
    pub slab: u8,
    /// Page tables.
    pub table: u8,
    pub unaccepted: u8,
    /// The largest block of the buddy allocator.
    pub max_order: u8,
    /// `compound_info` of a tail is a mask for its own address, not the address of the head.
    pub tail_has_mask: bool,
    /// Address of the struct page of frame 0.
    pub vmemmap: u64,
}

/// The kernel's struct pages.
pub trait Memmap {
    /// That of a frame; `None` if it cannot be read.
    fn page(&mut self, pfn: u64) -> Option<Page>;
}

/// What is to become of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It belongs into the dump.
    Keep,
    /// It does not, nor do those in front of `to`.
    Leave {
        /// Greater than the frame.
        to: u64,
        /// Why.
        reason: Reason,
    },
}

/// Page frames one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frames {
    /// The first.
    pub start: u64,
    /// The first behind them.
    pub end: u64,
}

/// Whether a page that is kept is one of those without which a reader of the dump is of no use: one of `early` (ascending,
/// disjoint), a page table, or objects of the kernel such as tasks. And the frame behind those of which the same is true.
pub fn comes_first(layout: &Layout, memmap: &mut impl Memmap, early: &[Frames], pfn: u64) -> (bool, u64) {
    let next = pfn.saturating_add(1);
    let after = early.partition_point(|frames| frames.end <= pfn);
    let begins = match early.get(after) {
        Some(frames) if frames.start <= pfn => return (true, frames.end),
        Some(frames) => frames.start,
        None => u64::MAX,
    };
    let Some(page) = memmap.page(pfn) else { return (false, next) };
    let folio = folio(layout, memmap, pfn, page);
    let kind = folio.head.kind();
    let end = folio.first.saturating_add(1u64.wrapping_shl(folio.order as u32)).max(next);
    if kind == layout.slab || kind == layout.table {
        return (true, end);
    }
    (false, end.min(begins).max(next))
}

/// The folio that a frame is in.
struct Folio {
    first: u64,
    order: u64,
    head: Page,
}

/// What is to become of frame `pfn`, which is memory and online.
pub fn select(layout: &Layout, level: Level, memmap: &mut impl Memmap, pfn: u64) -> Fate {
    let leave = |to: u64, reason| Fate::Leave { to: to.max(pfn.saturating_add(1)), reason };
    let one = |reason| leave(0, reason);
    let Some(page) = memmap.page(pfn) else {
        // Without a struct page nothing is known, and nothing was ever allocated from it.
        return one(Reason::Unreadable);
    };
    if page.flags == u64::MAX {
        return one(Reason::Unreadable);
    }
    let broken = |page: &Page| layout.hwpoison.is_some_and(|bit| page.has(bit));
    if broken(&page) {
        return one(Reason::HwPoison);
    }
    if page.kind() == layout.offline {
        return one(Reason::Unreadable);
    }
    let folio = folio(layout, memmap, pfn, page);
    let end = folio.first.saturating_add(1u64.wrapping_shl(folio.order as u32));
    let head = folio.head;
    if head.kind() == layout.hugetlb && broken(&head) {
        // The flag is on the head, whichever of its pages it is.
        return leave(end, Reason::HwPoison);
    }
    // A free block marks its first page only, and its other pages have no users.
    if page.refcount == 0 && page.compound & 1 == 0 {
        if let Some((to, reason)) = free_block(layout, memmap, pfn) {
            if reason != Reason::Free || level.leaves_out(Level::FREE) {
                return leave(to, reason);
            }
            return Fate::Keep;
        }
    }
    // page_type and the count of mappings share their place: typed pages have neither cache nor users of their own.
    let is_slab = head.kind() == layout.slab;
    let is_anon = head.mapping & 1 != 0 && !is_slab;
    let is_cache = head.has(layout.lru) || (head.has(layout.swapbacked) && head.has(layout.swapcache));
    if is_cache && !is_anon {
        let private = head.has(layout.private);
        if !private && level.leaves_out(Level::CACHE | Level::PRIVATE_CACHE) {
            return leave(end, Reason::Cache);
        }
        if private && level.leaves_out(Level::PRIVATE_CACHE) {
            return leave(end, Reason::PrivateCache);
        }
    }
    if (is_anon || head.kind() == layout.hugetlb) && level.leaves_out(Level::USER) {
        return leave(end, Reason::User);
    }
    Fate::Keep
}

/// The folio of a frame; the frame alone where that does not add up.
fn folio(layout: &Layout, memmap: &mut impl Memmap, pfn: u64, page: Page) -> Folio {
    let alone = Folio { first: pfn, order: 0, head: page };
    let (first, head) = if page.compound & 1 == 0 {
        (pfn, page)
    } else {
        let address = layout.vmemmap.wrapping_add(pfn.wrapping_mul(PAGE_STRUCT_LEN as u64));
        let head = if layout.tail_has_mask { address & page.compound } else { page.compound & !1 };
        let offset = head.wrapping_sub(layout.vmemmap);
        let first = offset >> PAGE_STRUCT_LEN.trailing_zeros();
        if offset & (PAGE_STRUCT_LEN as u64).wrapping_sub(1) != 0 || first > pfn {
            return alone;
        }
        match memmap.page(first) {
            Some(head) => (first, head),
            None => return alone,
        }
    };
    if !head.has(layout.head) {
        return alone;
    }
    // The first tail holds the order, in the lowest byte of its flags.
    let order = memmap.page(first.saturating_add(1)).map_or(u64::MAX, |tail| tail.flags & 0xff);
    if order > MAX_FOLIO_ORDER {
        return alone;
    }
    let size = 1u64.wrapping_shl(order as u32);
    if first & size.wrapping_sub(1) != 0 || pfn.wrapping_sub(first) >= size {
        return alone;
    }
    Folio { first, order, head }
}

/// The end of the block of free, or not accepted, memory that a frame is in, and which of the two.
fn free_block(layout: &Layout, memmap: &mut impl Memmap, pfn: u64) -> Option<(u64, Reason)> {
    for order in 0..=u32::from(layout.max_order) {
        let size = 1u64.wrapping_shl(order);
        let first = pfn & !size.wrapping_sub(1);
        let head = memmap.page(first)?;
        if head.kind() == layout.buddy {
            // What is smaller than the way to it does not hold this frame.
            let holds = head.private <= u64::from(layout.max_order) && head.private >= u64::from(order);
            let block = 1u64.wrapping_shl(head.private as u32);
            let aligned = first & block.wrapping_sub(1) == 0;
            if holds && aligned {
                return Some((first.saturating_add(block), Reason::Free));
            }
        }
        if head.kind() == layout.unaccepted && order == u32::from(layout.max_order) {
            return Some((first.saturating_add(size), Reason::Unreadable));
        }
    }
    None
}

#[cfg(test)]
mod tests;
