# SPDX-License-Identifier: GPL-2.0-or-later
"""A drgn script: whose a physical page is. Reads a JSON list of {page, runs}, prints one line for each."""

import json
import sys
from pathlib import Path

from drgn import FaultError, Object, cast
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.mm import (
    decode_page_flags,
    follow_phys,
    pfn_to_page,
    page_to_phys,
    phys_to_virt,
)
from drgn.helpers.linux.mmzone import for_each_online_pgdat
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.slab import find_containing_slab_cache, for_each_slab_cache, slab_object_info

PAGE = 4096


def task_stacks():
    """Physical page -> the task whose kernel stack it is."""
    found = {}
    for task in for_each_task(prog):
        try:
            area = task.stack_vm_area
            for i in range(area.nr_pages.value_()):
                page = area.pages[i]
                found[page_to_phys(page).value_()] = f"stack of {task.comm.string_().decode()}[{task.pid.value_()}] + {i * PAGE:#x}"
        except (FaultError, AttributeError, LookupError):
            continue
    return found


def image_symbol(physical):
    """The kernel symbol over a physical address of the kernel's image, or None."""
    try:
        text = prog.symbol("_text").address
        base = follow_phys(prog["init_mm"].address_of_(), text).value_()
        end = prog.symbol("_end").address
    except (LookupError, FaultError):
        return None
    virtual = physical - base + text
    if not text <= virtual < end:
        return None
    try:
        symbol = prog.symbol(virtual)
        return f"{symbol.name}+{virtual - symbol.address:#x}/{symbol.size:#x}"
    except LookupError:
        return f"kernel image {virtual:#x}"


def percpu_base():
    """Physical ranges of each CPU's static per-CPU area."""
    found = []
    try:
        start = prog.symbol("__per_cpu_start").address
        size = prog.symbol("__per_cpu_end").address - start
        for cpu in for_each_possible_cpu(prog):
            offset = prog["__per_cpu_offset"][cpu].value_()
            virtual = (start + offset) & (2**64 - 1)
            physical = follow_phys(prog["init_mm"].address_of_(), virtual).value_()
            found.append((physical, physical + size, cpu, start))
    except (LookupError, FaultError):
        pass
    return found


STACKS, PERCPU = task_stacks(), percpu_base()


def map_entry(virtual):
    """Which struct page an address of the direct map belongs to, if it is memory of the memory map."""
    size = prog.type("struct page").size
    for section in SECTIONS:
        if section[0] <= virtual < section[1]:
            frame = section[2] + (virtual - section[0]) // size
            page = pfn_to_page(prog, frame)
            kind = f"{decode_page_flags(page) or 'no flags'}, type {page.page_type.value_() & 0xFFFFFFFF:#x}"
            return f"struct page of {frame * PAGE:#x} +{(virtual - section[0]) % size:#x} ({kind})"
    return None


def memory_map():
    """Where the memory map lies in the direct map: (first, end, first page frame) for each of its pages."""
    size, found = prog.type("struct page").size, []
    for node in for_each_online_pgdat(prog):
        first = node.node_start_pfn.value_()
        for frame in range(first // 64 * 64, first + node.node_spanned_pages.value_(), PAGE // size):
            try:
                at = follow_phys(prog["init_mm"].address_of_(), pfn_to_page(prog, frame).value_()).value_()
            except (FaultError, LookupError):
                continue
            found.append((phys_to_virt(prog, at).value_(), phys_to_virt(prog, at).value_() + PAGE, frame))
    return found


SECTIONS = memory_map()
SLABS = {cache.value_(): cache.name.string_().decode() for cache in for_each_slab_cache(prog)}


def sheaf_of(info):
    """Whether an object is the list of free objects of another cache."""
    try:
        cache = Object(prog, "struct slab_sheaf *", info.address).cache.value_()
    except (FaultError, LookupError, AttributeError):
        return ""
    return f" (free list of {SLABS[cache]})" if cache in SLABS else ""


def owner(physical):
    """Whose the byte at a physical address is."""
    symbol = image_symbol(physical)
    if symbol:
        return symbol
    for start, end, cpu, base in PERCPU:
        if start <= physical < end:
            link = base + physical - start
            try:
                symbol = prog.symbol(link)
                return f"per-CPU {cpu} {symbol.name}+{link - symbol.address:#x}"
            except LookupError:
                return f"per-CPU {cpu} +{physical - start:#x}"
    if physical // PAGE * PAGE in STACKS:
        return STACKS[physical // PAGE * PAGE]
    virtual = phys_to_virt(prog, physical)
    entry = map_entry(virtual.value_())
    if entry:
        return entry
    try:
        cache = find_containing_slab_cache(virtual)
        if cache:
            info = slab_object_info(virtual)
            state = f"object {info.address:#x}+{virtual.value_() - info.address:#x} {'allocated' if info.allocated else 'free'}" if info else ""
            return f"slab {cache.name.string_().decode()} {state}{sheaf_of(info)}"
    except (FaultError, LookupError, AttributeError, ValueError) as error:
        return f"slab? ({type(error).__name__})"
    return "no slab"


for item in json.loads(Path(sys.argv[1]).read_text()):
    page, runs = item["page"], item["runs"]
    try:
        struct_page = pfn_to_page(prog, page // PAGE)
        flags = decode_page_flags(struct_page) or "no flags"
        extra = f"type {struct_page.page_type.value_() & 0xFFFFFFFF:#x} mapping {cast('unsigned long', struct_page.mapping).value_():#x}"
    except (FaultError, LookupError, AttributeError) as error:
        flags, extra = "?", str(error)
    whose = list(dict.fromkeys(owner(page + first) for first, _ in runs[:12]))
    words = " ".join(f"{offset:#x}:{ours:#x}->{real:#x}" for offset, ours, real in item["words"])
    spans = " ".join(f"{first:#x}-{last:#x}" for first, last in runs[:8]) + (" …" if len(runs) > 8 else "")
    print(f"{page:#x} (direct map {phys_to_virt(prog, page).value_():#x}) {flags} {extra}: {'; '.join(whose)}; bytes {spans}; {words}")
