# SPDX-License-Identifier: GPL-2.0-or-later
"""A drgn script: what the kernel uses each page frame for, by its own lists and struct pages.

    judge_selection.py RANGES OUT

RANGES is JSON, [[first frame, end], …]. Into OUT goes one byte for each frame from 0 on: a number of CLASSES and flags
(selection_classes.py). Prints JSON: what was counted, and what contradicts itself.

The rules are those of makedumpfile(8) for -d, put in terms of the kernel's headers (page-flags.h, mm_types.h, mmzone.h); nothing of
netdump's own selection is looked at. They take other ways, where there are any: free blocks are those of the zones' lists, folios
are walked forwards from their heads, and caches are walked from their inodes. Struct pages are read in bulk; what is concluded for
some of them is asked of drgn's helpers, one by one.
"""

import json
import random
import sys
from pathlib import Path

from drgn import FaultError
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.fs import inode_for_each_page
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mm import PageHead, PageHWPoison, PageLRU, PagePrivate, PageReserved, PageSlab, PageSwapBacked, PageTail
from drgn.helpers.linux.mm import compound_head, compound_order, page_to_pfn, pfn_to_page, virt_to_pfn
from drgn.helpers.linux.mmzone import for_each_online_pgdat
from drgn.helpers.linux.percpu import per_cpu_ptr
from selection_classes import BY_NAME, CLASS, IN_CACHE, ODD, TAIL

ASKED = 3000  # frames that drgn's helpers are asked about
MAX_FOLIO_ORDER = 22
STRUCT = prog.type("struct page")
SIZE = STRUCT.size
VMEMMAP = pfn_to_page(prog, 0).value_()


def offset(name):
    """Where a member of struct page is."""
    return prog.type("struct page").member(name).bit_offset // 8 if STRUCT.has_member(name) else None


def bit(name):
    """A flag of a page."""
    return 1 << prog.constant("PG_" + name).value_()


def kind(name):
    """The upper byte of page_type of a typed page."""
    return prog.constant("PGTY_" + name).value_()


class Pages:
    """The struct pages of some ranges of frames, by columns."""

    def __init__(self, ranges):
        self.end = max(end for _, end in ranges)
        self.known = bytearray(self.end)
        self.flags, self.mapping, self.private, self.info = ([0] * self.end for _ in range(4))
        self.type, self.refcount = [0] * self.end, [0] * self.end
        self.unreadable = 0
        for first, end in ranges:
            # A section at a time: a hole has no struct pages.
            for start in range(first, end, 1 << 15):
                self.read(start, min(start + (1 << 15), end))

    def read(self, first, end):
        """Takes over the struct pages of some frames."""
        try:
            data = memoryview(prog.read(VMEMMAP + first * SIZE, (end - first) * SIZE))
        except FaultError:
            self.unreadable += end - first
            return
        words, halves = data.cast("Q"), data.cast("I")
        for column, name in ((self.flags, "flags"), (self.mapping, "mapping"), (self.private, "private"), (self.info, "compound_info")):
            column[first:end] = words[offset(name) // 8 :: SIZE // 8].tolist()
        for column, name in ((self.type, "page_type"), (self.refcount, "_refcount")):
            column[first:end] = halves[offset(name) // 4 :: SIZE // 4].tolist()
        self.known[first:end] = b"\1" * (end - first)


def zones():
    """All zones with memory."""
    for node in for_each_online_pgdat(prog):
        for zone in node.node_zones:
            if zone.present_pages:
                yield zone


def blocks(zone):
    """The free blocks of a zone: (order, first frame)."""
    for order, area in enumerate(zone.free_area):
        count = 0
        for head in area.free_list:
            for page in list_for_each_entry("struct page", head.address_of_(), "buddy_list"):
                count += 1
                yield order, page_to_pfn(page).value_()
        if count != area.nr_free.value_():
            wrong.append(f"zone {zone.name.string_().decode()} has {area.nr_free.value_()} free blocks of order {order}, {count} in its lists")


def own_blocks(zone):
    """What CPUs keep of free pages for themselves: (order, first frame)."""
    by_order = prog.constant("MIGRATE_PCPTYPES").value_()
    costly = 3  # PAGE_ALLOC_COSTLY_ORDER
    for cpu in for_each_possible_cpu(prog):
        own = per_cpu_ptr(zone.per_cpu_pageset, cpu)
        count = 0
        for number, head in enumerate(own.lists):
            order = number // by_order if number < by_order * (costly + 1) else 9
            for page in list_for_each_entry("struct page", head.address_of_(), "pcp_list"):
                count += 1 << order
                yield order, page_to_pfn(page).value_()
        if count != own.count.value_():
            wrong.append(f"CPU {cpu} has {own.count.value_()} free pages of zone {zone.name.string_().decode()}, {count} in its lists")


def cached():
    """Frames that are in the cache of an inode."""
    for sb in list_for_each_entry("struct super_block", prog["super_blocks"].address_of_(), "s_list"):
        for inode in list_for_each_entry("struct inode", sb.s_inodes.address_of_(), "i_sb_list"):
            if inode.i_mapping.nrpages:
                for _, page in inode_for_each_page(inode):
                    # An entry of a shadow or of swap is no pointer.
                    if not page.value_() & 1:
                        first = page_to_pfn(page).value_()
                        yield from range(first, first + (1 << compound_order(page).value_()))


def classify(pages, free, own):
    """The class of each frame, and the folios: head -> order."""
    out, folios = bytearray(pages.end), {}
    head_bit, lru, private = bit("head"), bit("lru"), bit("private")
    swap = bit("swapbacked") | bit("swapcache")
    reserved, poison = bit("reserved"), bit("hwpoison")
    typed = {kind(name): BY_NAME[name] for name in ("table", "guard", "slab", "zsmalloc", "unaccepted", "large_kmalloc", "offline", "hugetlb")}
    buddy = kind("buddy")

    def use(first):
        """What a folio, or a page that is none, is used for."""
        flags, mapping, page_type = pages.flags[first], pages.mapping[first], pages.type[first] >> 24
        if page_type in typed:
            return typed[page_type]
        if page_type == buddy:
            wrong.append(f"frame {first:#x} is marked as free and in no list")
        if mapping & 3 == 3:
            return BY_NAME["ksm"]
        if mapping & 1:
            return BY_NAME["anonymous"]
        if flags & lru or flags & swap == swap:
            return BY_NAME["private cache" if flags & private else "cache"]
        if flags & reserved:
            return BY_NAME["reserved"]
        if pages.refcount[first] == 0:
            return BY_NAME["nobody's"]
        return BY_NAME["kernel"]

    pfn = 0
    while pfn < pages.end:
        if not pages.known[pfn]:
            out[pfn], pfn = BY_NAME["no struct page"], pfn + 1
            continue
        order = 0
        if pfn in free or pfn in own:
            order = free[pfn] if pfn in free else own[pfn]
            what = BY_NAME["free" if pfn in free else "free, a CPU's"]
            if pfn in free and (pages.type[pfn] >> 24 != buddy or pages.private[pfn] != order):
                wrong.append(f"frame {pfn:#x} is in the list of order {order} and not marked so")
        else:
            if pages.flags[pfn] & head_bit:
                order = pages.flags[pfn + 1] & 0xFF
                folios[pfn] = order
            elif pages.info[pfn] & 1:
                wrong.append(f"frame {pfn:#x} is a tail of nothing")
            what = use(pfn)
        size = 1 << order
        if order > MAX_FOLIO_ORDER or pfn % size or pfn + size > pages.end:
            wrong.append(f"frame {pfn:#x} cannot be of order {order}")
            size = 1
        out[pfn : pfn + size] = bytes([what]) * size
        for n in range(pfn, pfn + size):
            if pages.flags[n] & poison:
                out[n] = BY_NAME["broken"]
        pfn += size
    return out, folios


def ask(pages, classes, folios):
    """Holds what was read in bulk against drgn's helpers, for some frames of each class."""
    by_class = {}
    for pfn in range(pages.end):
        if pages.known[pfn]:
            by_class.setdefault(classes[pfn], []).append(pfn)
    chooser = random.Random(31)
    asked = 0
    heads = {n: first for first, order in folios.items() for n in range(first, first + (1 << order))}
    for frames in by_class.values():
        for pfn in chooser.sample(frames, min(len(frames), ASKED // len(by_class))):
            page, flags = pfn_to_page(prog, pfn), pages.flags[pfn]
            first = heads.get(pfn, pfn)
            asked += 1
            facts = [
                (PageLRU(page), flags & bit("lru")), (PagePrivate(page), flags & bit("private")), (PageReserved(page), flags & bit("reserved")),
                (PageHWPoison(page), flags & bit("hwpoison")), (PageSwapBacked(page), flags & bit("swapbacked")),
                (PageSlab(compound_head(page)), pages.type[first] >> 24 == kind("slab")), (PageHead(page), pfn in folios),
                (PageTail(page), first != pfn), (page_to_pfn(compound_head(page)).value_() == first, True),
                (compound_order(page).value_() == folios.get(pfn, 0), True),
            ]  # fmt: skip
            if any(bool(theirs) != bool(mine) for theirs, mine in facts):
                wrong.append(f"drgn's helpers see frame {pfn:#x} in another way: {facts}")
    return asked


def secrets():
    """The frame with netdump's keys."""
    places = [symbol.address for symbol in prog.symbols() if "sys4keys4PAGE" in symbol.name]
    return [virt_to_pfn(prog, prog.read_u64(place)).value_() for place in places]


def main():
    ranges = json.loads(sys.argv[1])
    pages = Pages(ranges)
    free, own = {}, {}
    for zone in zones():
        free.update({first: order for order, first in blocks(zone)})
        own.update({first: order for order, first in own_blocks(zone)})
    classes, folios = classify(pages, free, own)
    assert max(classes) <= CLASS
    asked = ask(pages, classes, folios)
    for first, order in folios.items():
        for pfn in range(first + 1, first + (1 << order)):
            classes[pfn] |= TAIL
    for pfn, mapping in enumerate(pages.mapping):
        classes[pfn] |= ODD * (mapping & 1)
    in_cache = 0
    for pfn in cached():
        if pfn < pages.end and pages.known[pfn]:
            classes[pfn] |= IN_CACHE
            in_cache += 1
    Path(sys.argv[2]).write_bytes(classes)
    facts = {"frames": sum(pages.known), "free_blocks": len(free), "folios": len(folios), "asked": asked, "in_cache": in_cache,
             "unreadable": pages.unreadable, "secrets": secrets(), "wrong": wrong}  # fmt: skip
    print(json.dumps(facts))


wrong = []
main()
