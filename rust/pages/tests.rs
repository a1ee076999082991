// SPDX-License-Identifier: GPL-2.0-only OR MIT
use super::*;
use std::collections::BTreeMap;

const LAYOUT: Layout = Layout {
    head: 6,
    lru: 5,
    private: 14,
    swapbacked: 17,
    swapcache: 10,
    hwpoison: Some(21),
    buddy: 0xf0,
    offline: 0xf1,
    hugetlb: 0xf4,
    slab: 0xf5,
    table: 0xf2,
    unaccepted: 0xf7,
    max_order: 10,
    tail_has_mask: true,
    vmemmap: 0xffff_ea00_0000_0000,
};

const USED: Page = Page { flags: 0, compound: 0, mapping: 0, private: 0, page_type: u32::MAX, refcount: 1 };
const INNER_FREE: Page = Page { refcount: 0, ..USED };

/// Struct pages that are not all like [`USED`].
#[derive(Default)]
struct Map(BTreeMap<u64, Page>);

impl Memmap for Map {
    fn page(&mut self, pfn: u64) -> Option<Page> {
        (pfn < 1 << 20).then(|| self.0.get(&pfn).copied().unwrap_or(USED))
    }
}

impl Map {
    /// A folio of `1 << order` pages.
    fn folio(&mut self, first: u64, order: u64, head: Page) -> &mut Self {
        self.0.insert(first, Page { flags: head.flags | 1 << LAYOUT.head, ..head });
        for pfn in first + 1..first + (1 << order) {
            let mask = !0u64 << (order + 6) | 1;
            let flags = if pfn == first + 1 { order } else { 0 };
            self.0.insert(pfn, Page { flags, compound: mask, refcount: 0, ..USED });
        }
        self
    }

    fn free(&mut self, first: u64, order: u64) -> &mut Self {
        for pfn in first..first + (1 << order) {
            self.0.insert(pfn, INNER_FREE);
        }
        self.0.insert(first, Page { page_type: 0xf0 << 24 | 0x12, private: order, ..INNER_FREE });
        self
    }

    fn fate(&mut self, level: u8, pfn: u64) -> Fate {
        select(&LAYOUT, Level::new(level).unwrap(), self, pfn)
    }
}

fn leave(to: u64, reason: Reason) -> Fate {
    Fate::Leave { to, reason }
}

#[test]
fn free_blocks_are_found_from_any_of_their_pages() {
    let mut map = Map::default();
    map.free(1024, 10).free(3072, 0).free(3076, 2);
    for pfn in [1024, 1025, 1500, 2047] {
        assert_eq!(map.fate(16, pfn), leave(2048, Reason::Free), "{pfn}");
        assert_eq!(map.fate(15, pfn), Fate::Keep);
    }
    assert_eq!(map.fate(31, 3072), leave(3073, Reason::Free));
    assert_eq!(map.fate(31, 3073), Fate::Keep);
    assert_eq!(map.fate(31, 3079), leave(3080, Reason::Free));
    // A block whose order cannot be: nothing but doubt.
    map.0.insert(4096, Page { page_type: 0xf0 << 24, private: 11, ..INNER_FREE });
    assert_eq!(map.fate(31, 4096), Fate::Keep);
    // Nobody uses the page, but it is no block either: a page on a CPU's list.
    map.0.insert(5000, INNER_FREE);
    assert_eq!(map.fate(31, 5000), Fate::Keep);
}

#[test]
fn cache_and_user_pages() {
    let cache = Page { flags: 1 << LAYOUT.lru, mapping: 0xffff_8880_0000_1000, ..USED };
    let private = Page { flags: cache.flags | 1 << LAYOUT.private, ..cache };
    let anon = Page { mapping: cache.mapping | 1, ..cache };
    let ksm = Page { mapping: cache.mapping | 3, ..cache };
    let swapcache = Page { flags: 1 << LAYOUT.swapbacked | 1 << LAYOUT.swapcache, mapping: 0, ..USED };
    let slab = Page { page_type: 0xf5 << 24, mapping: 1, ..USED };
    let table = [
        (cache, 2, Some(Reason::Cache)),
        (cache, 4, Some(Reason::Cache)),
        (cache, 25, None),
        (private, 2, None),
        (private, 4, Some(Reason::PrivateCache)),
        (anon, 6, None),
        (anon, 8, Some(Reason::User)),
        (ksm, 8, Some(Reason::User)),
        (swapcache, 2, Some(Reason::Cache)),
        (slab, 31, None),
        (USED, 31, None),
    ];
    for (page, level, reason) in table {
        let mut map = Map::default();
        map.0.insert(77, page);
        let expected = reason.map_or(Fate::Keep, |reason| leave(78, reason));
        assert_eq!(map.fate(level, 77), expected, "{page:?} at level {level}");
        map.folio(512, 9, page);
        let expected = reason.map_or(Fate::Keep, |reason| leave(1024, reason));
        for pfn in [512, 513, 514, 1023] {
            assert_eq!(map.fate(level, pfn), expected, "{page:?} at level {level}, folio");
        }
    }
}

#[test]
fn what_must_not_be_touched_is_not() {
    let mut map = Map::default();
    map.0.insert(5, Page { flags: 1 << 21, ..USED });
    map.0.insert(6, Page { page_type: 0xf1 << 24, ..USED });
    map.0.insert(7, Page { flags: u64::MAX, ..USED });
    assert_eq!(map.fate(0, 5), leave(6, Reason::HwPoison));
    assert_eq!(map.fate(0, 6), leave(7, Reason::Unreadable));
    assert_eq!(map.fate(0, 7), leave(8, Reason::Unreadable));
    assert_eq!(map.fate(0, 1 << 20), leave((1 << 20) + 1, Reason::Unreadable));
    for pfn in 2048..3072 {
        map.0.insert(pfn, INNER_FREE);
    }
    map.0.insert(2048, Page { page_type: 0xf7 << 24, ..INNER_FREE });
    assert_eq!(map.fate(0, 2500), leave(3072, Reason::Unreadable), "not accepted");
    map.folio(512, 9, Page { page_type: 0xf4 << 24, flags: 1 << 21, ..USED });
    assert_eq!(map.fate(0, 700), leave(1024, Reason::HwPoison), "a huge page says it for all of its pages");
    map.folio(1024, 9, Page { page_type: 0xf4 << 24, ..USED });
    assert_eq!(map.fate(8, 1030), leave(1536, Reason::User));
}

#[test]
fn damaged_struct_pages_are_kept_one_by_one() {
    let cache = Page { flags: 1 << LAYOUT.lru, mapping: 0x1000, ..USED };
    let mut map = Map::default();
    // An order that cannot be, and one that the alignment forbids.
    map.folio(512, 9, cache);
    map.0.insert(513, Page { flags: 60, compound: !0 << 15 | 1, ..INNER_FREE });
    assert_eq!(map.fate(2, 512), leave(513, Reason::Cache), "the head alone");
    assert_eq!(map.fate(2, 600), Fate::Keep);
    map.0.insert(513, Page { flags: 10, compound: !0 << 15 | 1, ..INNER_FREE });
    assert_eq!(map.fate(2, 512), leave(513, Reason::Cache));
    // A tail that leads nowhere.
    for compound in [1, u64::MAX, 0x7777_7777_7777_7777] {
        map.0.insert(9000, Page { compound, ..USED });
        assert_eq!(map.fate(31, 9000), Fate::Keep, "{compound:#x}");
    }
}

#[test]
fn whatever_stands_there_it_goes_on() {
    let mut state = 1u64;
    let mut random = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        state ^ state >> 29
    };
    for round in 0..200 {
        let mut map = Map::default();
        for pfn in 0..200 {
            let mut bytes = [0; PAGE_STRUCT_LEN];
            bytes.chunks_mut(8).for_each(|word| {
                let value = if random() % 3 == 0 { 0 } else { random() };
                word.copy_from_slice(&value.to_le_bytes());
            });
            map.0.insert(pfn, Page::parse(&bytes));
        }
        for pfn in 0..200 {
            if let Fate::Leave { to, .. } = map.fate((round % 32) as u8, pfn) {
                assert!(to > pfn);
            }
        }
    }
}

#[test]
fn what_a_reader_needs_first() {
    let mut map = Map::default();
    map.folio(512, 3, Page { page_type: 0xf5 << 24, ..USED });
    map.folio(1024, 2, USED);
    map.0.insert(600, Page { page_type: 0xf2 << 24, ..USED });
    let early = [Frames { start: 100, end: 110 }, Frames { start: 1026, end: 1030 }];
    let table = [
        (99, (false, 100)),
        (100, (true, 110)),
        (109, (true, 110)),
        (110, (false, 111)),
        (512, (true, 520)),
        (519, (true, 520)),
        (600, (true, 601)),
        (1024, (false, 1026)),
        (1026, (true, 1030)),
        (1 << 20, (false, (1 << 20) + 1)),
        (u64::MAX, (false, u64::MAX)),
    ];
    for (pfn, expected) in table {
        assert_eq!(comes_first(&LAYOUT, &mut map, &early, pfn), expected, "{pfn}");
    }
}
